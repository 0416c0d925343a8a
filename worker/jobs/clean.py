"""Clean: keep deleting what is due, as many at once as the provider takes.

The index of pending deletions is the queue. A lease moves the sandbox's next attempt to the lease's end. One
try a lease; the queue is the retry. A refusal by the breaker or by pacing comes before the lease: it is no try.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from broker.lapse import Lapses
from broker.metrics import Metrics
from broker.sandbox import Sandbox, State
from worker.jobs.deletion import Deletion, Tools, is_leased
from worker.provider.permits import Permit, Refusal

log = logging.getLogger("worker")

PAGE: Final = 50
MAX_WAIT_S: Final = 5.0


class Cleaner:
    """Runs deletions. `tick` starts what is due and does not wait for it."""

    def __init__(self, tools: Tools, metrics: Metrics, *, tenant: str) -> None:
        self._tools = tools
        self._metrics = metrics
        self._tenant = tenant
        self._lapses = Lapses(lapse_s=tools.rules.lease_s, monotonic=tools.monotonic)
        self._running: dict[str, asyncio.Task[str]] = {}
        self._draining = False
        self._turn = 0  # where the next look at the queue begins
        self._found = False

    @property
    def at_work(self) -> bool:
        """Whether something runs, or the last look found something that waits for its turn."""
        return self._found or bool(self._running)

    async def tick(self, request_id: str) -> Counter[str]:
        """Start deletions that are due, as many as breaker and pacing admit."""
        outcome: Counter[str] = Counter()
        self._found = False
        async for due in self._due():
            self._found = True
            permit = self._tools.provider.admit_deletion(due.external_id)
            if isinstance(permit, Refusal):
                break
            self._start(due, permit, request_id)
            outcome["started"] += 1
        return outcome

    async def sweep(
        self, request_id: str, after_each: Callable[[Counter[str]], Awaitable[None]] | None = None
    ) -> Counter[str]:
        """Try everything that is due now, once, and wait until it is done; counts by outcome.

        `after_each` is awaited between sandboxes and may stop the sweep by raising. With the breaker open
        the rest is `left` to the queue.
        """
        outcome: Counter[str] = Counter()
        mine: set[asyncio.Task[str]] = set()  # what ticks start meanwhile is theirs to wait for
        async for due in self._due():
            permit = await self._admitted(due)
            if permit is None:
                outcome["left"] += 1
                continue
            if due.id in self._running:
                permit.give_back()
                continue
            task = self._start(due, permit, request_id)
            task.add_done_callback(lambda done: outcome.update([_result(done)]))
            mine.add(task)
            task.add_done_callback(mine.discard)
            if after_each is not None:
                await after_each(outcome)
        while mine:
            await asyncio.wait(mine, timeout=1)
            if after_each is not None:
                await after_each(outcome)
        return outcome

    async def _admitted(self, due: Sandbox) -> Permit | None:
        """Wait while pacing asks for patience; None while the breaker is open."""
        while True:
            if not self._may_begin():
                return None
            permit = self._tools.provider.admit_deletion(due.external_id)
            if isinstance(permit, Permit):
                return permit
            if permit.why == "BREAKER_OPEN" or not self._may_begin():
                return None
            pause_s = min(MAX_WAIT_S, max(0.02, permit.retry_in_s))
            if self._running:
                await asyncio.wait(self._running.values(), timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(pause_s)

    async def _due(self) -> AsyncIterator[Sandbox]:
        """What may be begun now: due by the clock, or under a lease that has lapsed before our eyes."""
        now = int(self._tools.clock())
        ahead_s = round(self._tools.rules.lease_s) + 1
        self._turn += 1
        async for row in self._tools.sandboxes.walk(
            self._tenant, State.PENDING_DELETION, up_to=now + ahead_s, page_size=PAGE, first_shard=self._turn
        ):
            if not self._may_begin():
                return
            if row.id in self._running:
                continue
            if is_leased(row):
                if self._lapses.lapsed(row.id, (row.lease_token, row.version)):
                    self._lapses.forget(row.id)
                    yield row
            elif (row.next_attempt_at or 0) <= now:
                yield row

    def _may_begin(self) -> bool:
        """Asked before each deletion: a sweep may go on for long after it was allowed to begin."""
        return not self._draining and self._tools.may_begin()

    async def idle(self) -> None:
        """Wait until nothing runs."""
        while self._running:
            await asyncio.wait(self._running.values())

    def begin_nothing_more(self) -> None:
        """What runs goes on."""
        self._draining = True

    async def drain(self, timeout_s: float) -> None:
        """Begin nothing more, finish what runs within the time; the rest falls back to the queue by its lease."""
        self.begin_nothing_more()
        if self._running:
            _, unfinished = await asyncio.wait(self._running.values(), timeout=timeout_s)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _start(self, due: Sandbox, permit: Permit, request_id: str) -> asyncio.Task[str]:
        task = asyncio.create_task(Deletion(self._tools, due, permit, request_id).run())
        self._running[due.id] = task
        self._metrics.deletions_running.labels(self._tenant).set(len(self._running))
        task.add_done_callback(lambda done: self._finished(due, done))
        return task

    def _finished(self, due: Sandbox, task: asyncio.Task[str]) -> None:
        self._running.pop(due.id, None)
        self._metrics.deletions_running.labels(self._tenant).set(len(self._running))
        self._metrics.job_items.labels(self._tenant, "clean", _result(task)).inc()
        if not task.cancelled() and (error := task.exception()) is not None:
            facts = {"tenant": self._tenant, "sandbox_id": due.id}
            log.error("deletion crashed", extra=facts, exc_info=error)


def _result(task: asyncio.Task[str]) -> str:
    if task.cancelled():
        return "cancelled"
    return "crashed" if task.exception() else task.result()
