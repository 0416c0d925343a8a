"""Clean: delete at the provider what is due, each under its own lease.

The index of pending deletions is the queue. A lease moves the sandbox's next attempt to the lease's end,
so that a worker that dies gives it back by doing nothing. One try a lease; the queue is the retry.
"""

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from broker.errors import BrokerError, ProviderAccountOwned, WriteConflict
from broker.metrics import Metrics
from broker.policy import retry_delay_s
from broker.sandbox import Sandbox, State
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes
from worker.provider.client import ProviderClient, ProviderError

log = logging.getLogger("worker")

LEASE_MARGIN_S: Final = 30
"""A lease outlives the provider's deadline by this: nobody else begins while a slow answer may still come."""

WRITE_PAUSES_S: Final = (0.1, 0.5, 2.0)


class Cleaner:
    """Keeps up to `concurrency` deletions running. `tick` starts what is due and does not wait for it."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        provider: ProviderClient,
        metrics: Metrics,
        *,
        tenant: str,
        concurrency: int,
        max_attempts: int,
        retry_base_s: float,
        retry_cap_s: float,
        delete_timeout_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sandboxes = sandboxes
        self._provider = provider
        self._metrics = metrics
        self._tenant = tenant
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._retry_base_s = retry_base_s
        self._retry_cap_s = retry_cap_s
        self._lease_s = round(delete_timeout_s) + LEASE_MARGIN_S
        self._clock = clock
        self._running: dict[str, asyncio.Task[str]] = {}

    async def tick(self, request_id: str) -> Counter[str]:
        """Start deletions that are due, as many as there are free slots."""
        outcome: Counter[str] = Counter()
        free = self._concurrency - len(self._running)
        if free <= 0:
            outcome["busy"] += 1
            return outcome
        async for due in self._sandboxes.walk(
            self._tenant, State.PENDING_DELETION, up_to=int(self._clock()), page_size=self._concurrency + 5
        ):
            if due.id in self._running:
                continue
            self._start(due, request_id)
            outcome["started"] += 1
            free -= 1
            if not free:
                break
        return outcome

    async def sweep(self, request_id: str) -> Counter[str]:
        """Delete everything that is due now, and wait until it is done."""
        outcome: Counter[str] = Counter()
        async for due in self._sandboxes.walk(self._tenant, State.PENDING_DELETION, up_to=int(self._clock())):
            if due.id in self._running:
                continue
            while len(self._running) >= self._concurrency:
                await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
            self._start(due, request_id).add_done_callback(lambda t: outcome.update([_result(t)]))
        await self.idle()
        return outcome

    async def idle(self) -> None:
        """Wait until nothing runs."""
        while self._running:
            await asyncio.wait(self._running.values())

    async def drain(self, timeout_s: float) -> None:
        """Finish what runs, within the time; what does not finish falls back to the queue with its lease."""
        if self._running:
            _, unfinished = await asyncio.wait(self._running.values(), timeout=timeout_s)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _start(self, due: Sandbox, request_id: str) -> asyncio.Task[str]:
        task = asyncio.create_task(self._delete(due, request_id))
        self._running[due.id] = task
        self._metrics.deletions_running.set(len(self._running))
        task.add_done_callback(lambda done: self._finished(due, done))
        return task

    def _finished(self, due: Sandbox, task: asyncio.Task[str]) -> None:
        self._running.pop(due.id, None)
        self._metrics.deletions_running.set(len(self._running))
        self._metrics.job_items.labels("clean", _result(task)).inc()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("deletion crashed", extra={"sandbox_id": due.id}, exc_info=error)

    async def _delete(self, due: Sandbox, request_id: str) -> str:
        """Lease, delete, finish by the lease's token. Returns the outcome."""
        leased = due.lease(token=secrets.token_hex(8), now=int(self._clock()), lease_s=self._lease_s)
        try:
            if not await self._written(due, leased, lambda: self._sandboxes.lease(due, leased)):
                return "not_leased"
        except ProviderAccountOwned as error:
            log.error("not deleted: the account is another sandbox's", extra={"sandbox_id": due.id})  # noqa: TRY400
            refused = due.fail_deletion(error=str(error), now=int(self._clock()), retry_at=None)
            return await self._write(due, refused, "deletion_refused", request_id)
        try:
            await self._provider.delete(leased.external_id)
        except ProviderError as error:
            return await self._failed(leased, str(error), request_id)
        done = leased.finish_deletion(now=int(self._clock()))
        return await self._write(leased, done, "deleted", request_id)

    async def _failed(self, leased: Sandbox, error: str, request_id: str) -> str:
        now = int(self._clock())
        delay_s = retry_delay_s(
            leased.attempt,
            base_s=self._retry_base_s,
            cap_s=self._retry_cap_s,
            draw=random.random(),  # noqa: S311  jitter
        )
        last = leased.attempt >= self._max_attempts
        retry_at = None if last else now + max(1, round(delay_s))
        action = "deletion_failed" if last else "delete_attempt_failed"
        failed = leased.fail_deletion(error=error, now=now, retry_at=retry_at)
        facts = {"sandbox_id": leased.id, "tenant": leased.tenant, "attempt": leased.attempt, "why": error}
        if last:
            log.error("deletion failed for good: retry or abandon it by hand", extra=facts)
        else:
            log.warning("deletion failed, will be tried again", extra=facts | {"retry_at": retry_at})
        return await self._write(leased, failed, action, request_id)

    async def _write(self, before: Sandbox, after: Sandbox, action: str, request_id: str) -> str:
        """Write the outcome, conditional on the lease's version: whoever lost the lease writes nothing."""
        cause = Cause(actor="worker:clean", action=action, request_id=request_id)
        write = self._written(before, after, lambda: self._sandboxes.move(before, after, cause, now=self._clock()))
        if not await asyncio.shield(write):
            return "lease_lost"
        if after.state is State.DELETED:
            facts = {"sandbox_id": after.id, "tenant": after.tenant, "attempt": after.attempt}
            log.info("deleted at the provider", extra=facts)
        return action

    async def _written(self, before: Sandbox, after: Sandbox, write: Callable[[], Awaitable[None]]) -> bool:
        """Write until it is certain whether `after` is what the store holds.

        An answer may be lost after the commit, and the repeat then meets its own success as a conflict; or
        another transaction was at the item for a moment. Only a look tells. Where the store stays silent
        the lease lapses, and that is safe too.
        """
        for pause_s in WRITE_PAUSES_S:
            try:
                await write()
            except (WriteConflict, BrokerError) as error:
                present = await self._present(after)
                if present == after:
                    return True
                if present not in (None, before):
                    return False
                facts = {"sandbox_id": after.id, "tenant": after.tenant, "why": str(error)}
                log.warning("a write is uncertain, trying again", extra=facts)
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311  jitter
            else:
                return True
        return False

    async def _present(self, sandbox: Sandbox) -> Sandbox | None:
        """What the store holds now; None where it does not say."""
        with suppress(BrokerError):
            return await self._sandboxes.get(sandbox.tenant, sandbox.id)
        return None


def _result(task: asyncio.Task[str]) -> str:
    if task.cancelled():
        return "cancelled"
    return "crashed" if task.exception() else task.result()
