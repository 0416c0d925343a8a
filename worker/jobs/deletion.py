"""One deletion: lease the sandbox, clear what runs in it, delete the account, write the outcome.

Wherever this dies, the lease lapses and the next attempt begins anew, counted. What cannot be fenced is the
provider's DELETE: two of one account are harmless, as an account is deleted once and its id never used again.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from broker import tracing
from broker.action import Action
from broker.errors import BrokerError, ProviderAccountOwned, WriteConflict
from broker.policy import retry_delay_s
from broker.sandbox import Sandbox, State
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes
from broker.store.sync_state import SyncStates
from broker.tracing import Life
from worker.provider.client import ProviderClient, ProviderError
from worker.provider.errors import is_no_try, is_refused_credential
from worker.provider.permits import Permit
from worker.provider.services import Services

log = logging.getLogger("worker")

WRITE_PAUSES_S: Final = (0.1, 0.5, 2.0)
BEATS_A_LEASE: Final = 3
REFUSED_PAUSE_S: Final = 60.0
"""How long a deletion waits, at least, after the provider refused our credential."""
UNLISTED_PAUSE_S: Final = 30.0
"""How long a deletion waits for the first listing of a connection that is new."""

_FAILED: Final = (Action.DELETE_ATTEMPT_FAILED, Action.DELETION_FAILED, Action.DELETION_REFUSED, "unwritten")
HANDED_BACK: Final = "HANDED_BACK: the worker ended, or another leads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How often, how long, how far apart."""

    lease_s: float
    max_attempts: int
    retry_base_s: float
    retry_cap_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every deletion works with."""

    sandboxes: Sandboxes
    sync_states: SyncStates
    provider: ProviderClient
    services: Services | None
    leads_to: Callable[[str | None], bool]  # whether `provider` is the one that a sandbox's account is at
    todo: Callable[[str], str]  # for people, about an error of this kind
    rules: Rules
    leading: Callable[[], bool]
    may_begin: Callable[[], bool]  # leading, and not under maintenance
    tried: Callable[[str], None] = lambda _: None  # told of each DELETE: `ok`, or the kind of its error
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Deletion:
    """One try. Run it once."""

    def __init__(self, tools: Tools, due: Sandbox, permit: Permit, request_id: str) -> None:
        self._tools = tools
        self._rules = tools.rules
        self._permit = permit
        self._request_id = request_id
        self._token = secrets.token_hex(8)
        self._held = due  # as this try last wrote it
        self._beat_at = 0.0
        self._facts = {"sandbox_id": due.id, "tenant": due.tenant}

    async def run(self) -> str:
        """Try to delete. Returns the outcome in a word; the sandbox is in a legal state whatever it is."""
        due = self._held
        facts = {f"broker.{name}": fact for name, fact in self._facts.items()}
        with tracing.root("delete", facts, life=Life("sandbox", due.tenant, due.id)) as span:
            outcome = await self._run()
            if span is not None:
                span.note({"broker.outcome": outcome, "broker.request_id": self._request_id})
                span.note({"broker.attempt": self._held.attempt})
                if outcome in _FAILED:
                    span.fail(outcome)
        return outcome

    async def _run(self) -> str:
        try:
            if not self._tools.leads_to(self._held.provider):
                return await self._elsewhere()
            if self._held.attempt >= self._rules.max_attempts:  # it killed its worker each time
                return await self._failed("the attempts ran out before one ended")
            if (refused := await self._lease()) is not None:
                return refused
            beating = asyncio.create_task(self._beat())
            try:
                return await self._delete()
            finally:
                beating.cancel()
        finally:
            self._permit.give_back()

    async def _lease(self) -> str | None:
        """Take the lease, which counts as an attempt. Returns why not, where it was not to be had."""
        due, now = self._held, int(self._tools.clock())
        leased = due.lease(token=self._token, now=now, lease_s=round(self._rules.lease_s))
        began = self._tools.monotonic()
        for pause_s in WRITE_PAUSES_S:
            try:
                await self._tools.sandboxes.lease(due, leased)
            except ProviderAccountOwned as error:
                return await self._refused(str(error))
            except (WriteConflict, BrokerError) as error:
                present = await self._present()
                if present not in (None, due, leased):
                    return "not_leased"
                if present == leased:  # the answer was lost, the lease was not
                    break
                log.warning("a lease is uncertain, trying again", extra=self._facts | {"why": str(error)})
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311  jitter
            else:
                break
        else:
            return "not_leased"
        self._held, self._beat_at = leased, began
        return None

    async def _refused(self, why: str) -> str:
        """Another sandbox has the account: someone must look at it."""
        log.error("not deleted: the account is another sandbox's", extra=self._facts)
        now = int(self._tools.clock())
        failed = partial(Sandbox.fail_deletion, error=why, now=now, retry_at=None)
        return await self._written(failed, Action.DELETION_REFUSED)

    async def _elsewhere(self) -> str:
        """The tenant has another provider by now, who would call this account gone, or delete one of his own."""
        where = self._held.provider or "the installation's own provider"
        why = f"PROVIDER_CHANGED: the account is at {where}: delete it there, or set that connection again"
        log.error("not deleted: the tenant's provider is another now", extra=self._facts | {"why": why})
        now = int(self._tools.clock())
        failed = partial(Sandbox.fail_deletion, error=why, now=now, retry_at=None)
        return await self._written(failed, Action.DELETION_REFUSED)

    async def _beat(self) -> None:
        """Renew the lease while the work goes on. Where it is lost, the work finds out by its age."""
        tools, lease_s = self._tools, self._rules.lease_s
        while True:
            await asyncio.sleep(lease_s / BEATS_A_LEASE)
            began = tools.monotonic()
            renewed = self._held.renew_lease(now=int(tools.clock()), lease_s=round(lease_s))
            try:
                await tools.sandboxes.touch(self._held, renewed)
            except (WriteConflict, BrokerError):
                present = await self._present()
                if present is None:
                    continue
                if present.lease_token != self._token:
                    return
                renewed = present  # our own write, whose answer was lost
            self._held, self._beat_at = renewed, began

    def _is_mine(self) -> bool:
        """Whether the lease certainly still runs: asked before what cannot be taken back."""
        return self._tools.monotonic() - self._beat_at < self._rules.lease_s

    async def _delete(self) -> str:
        cleared = None
        if self._tools.services is not None:
            cleared = (await self._tools.services.clear(self._held.external_id)).text
        if not self._is_mine():
            log.warning("the lease ran out before the provider was called: not deleted", extra=self._facts)
            return "lease_lost"
        if not self._tools.leading():  # whoever leads may have it at once
            now = int(self._tools.clock())
            return await self._written(
                partial(Sandbox.hand_back, error=HANDED_BACK, retry_at=now), Action.HANDED_BACK
            )
        try:
            was_there = await self._tools.provider.delete(self._permit)
        except ProviderError as error:
            self._tools.tried(error.kind)
            return await (self._not_tried(error) if is_no_try(error.kind) else self._failed(str(error)))
        self._tools.tried("ok")
        if not was_there and (doubted := await self._doubted()) is not None:
            return doubted
        now = int(self._tools.clock())
        outcome = await self._written(lambda held: held.finish_deletion(now=now, services=cleared), Action.DELETED)
        if outcome == "deleted":
            told = {**self._facts, "attempt": self._held.attempt, "services": cleared}
            log.info(
                "deleted at the provider", extra={name: fact for name, fact in told.items() if fact is not None}
            )
        return outcome

    async def _doubted(self) -> str | None:
        """Whether "no such account" is no proof that it is gone, as others have listed it. None: it is one.

        The marks are written before the name of the connection whose listing was believed: they are read after it.
        """
        tools, here = self._tools, self._tools.provider.connection
        try:
            believed = await tools.sync_states.connection(self._held.tenant)
        except BrokerError as error:
            return await self._failed(f"gone, they say; whether it was theirs is not known: {error}")
        present = await self._present()
        if present is None:
            return "unwritten"  # the lease lapses, and the next try finds out
        if (present.listed_by or believed) in (None, here):
            return None
        now = int(tools.clock())
        if believed != here:
            why = "NOT_LISTED_YET: the tenant's connection is new, and calls gone what its former one listed"
            log.info("not deleted yet: the tenant's connection is new", extra=self._facts | {"why": why})
            retry_at = now + round(UNLISTED_PAUSE_S * (1 + random.random()))  # noqa: S311  jitter
            return await self._written(
                partial(Sandbox.hand_back, error=why, retry_at=retry_at), Action.TURNED_AWAY
            )
        why = (
            "PROVIDER_CHANGED: the tenant's connection has never listed the account and calls it gone; its former "
            "one listed it: look there, then abandon it, or set that connection again and retry"
        )
        log.error("not deleted: the tenant's connection is another now", extra=self._facts | {"why": why})
        failed = partial(Sandbox.fail_deletion, error=why, now=now, retry_at=None)
        return await self._written(failed, Action.DELETION_REFUSED)

    async def _not_tried(self, error: ProviderError) -> str:
        """We were turned away at the door: that says nothing of this account, and costs it no attempt."""
        facts = self._facts | {"why": str(error)}
        pause_s = max(self._rules.retry_base_s, error.retry_after_s or 0)
        if is_refused_credential(error.kind):
            pause_s = REFUSED_PAUSE_S
            log.error("not deleted, and not counted", extra=facts | {"todo": self._tools.todo(error.kind)})
        else:
            log.info("not deleted yet: the provider asks for patience", extra=facts)
        retry_at = int(self._tools.clock() + max(1.0, pause_s * (1 + random.random())))  # noqa: S311  jitter
        return await self._written(
            partial(Sandbox.hand_back, error=str(error), retry_at=retry_at), Action.TURNED_AWAY
        )

    async def _failed(self, error: str) -> str:
        rules, attempt, now = self._rules, self._held.attempt, int(self._tools.clock())
        draw = random.random()  # noqa: S311  jitter
        delay_s = retry_delay_s(attempt, base_s=rules.retry_base_s, cap_s=rules.retry_cap_s, draw=draw)
        last = attempt >= rules.max_attempts
        retry_at = None if last else now + max(1, round(delay_s))
        facts = self._facts | {"attempt": attempt, "why": error}
        if last:
            todo = "it is tried again by itself later; now: sandbox-broker retry <sandbox_id>"
            log.error("deletion failed for good", extra=facts | {"todo": todo})
        else:
            log.warning("deletion failed, will be tried again", extra=facts | {"retry_at": retry_at})
        return await self._written(
            lambda held: held.fail_deletion(error=error, now=now, retry_at=retry_at),
            Action.DELETION_FAILED if last else Action.DELETE_ATTEMPT_FAILED,
        )

    async def _written(self, move: Callable[[Sandbox], Sandbox], action: Action) -> str:
        """Write the outcome, if the lease is still ours; whoever lost it writes nothing. Not to be cut short."""
        return await asyncio.shield(asyncio.ensure_future(self._write(move, action)))

    async def _write(self, move: Callable[[Sandbox], Sandbox], action: Action) -> str:
        """Write until it is certain what the store holds.

        An answer may be lost after the commit, and the repeat then meets its own success as a conflict; or
        another transaction was at the item for a moment. Only a look tells. Where the store stays silent
        the lease lapses, and that is safe too.
        """
        cause = Cause(actor="worker:clean", action=action, request_id=self._request_id)
        for pause_s in WRITE_PAUSES_S:
            before = self._held
            after = move(before)
            try:
                await self._tools.sandboxes.move(before, after, cause, now=self._tools.clock())
            except (WriteConflict, BrokerError) as error:
                present = await self._present()
                if present == after:
                    return action
                if present is not None and (present.state, present.lease_token) != (
                    before.state,
                    before.lease_token,
                ):
                    return "lease_lost"
                self._held = present or before  # a beat of ours may have landed meanwhile
                log.warning("an outcome is uncertain, trying again", extra=self._facts | {"why": str(error)})
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311  jitter
            else:
                return action
        log.error("the outcome of a deletion was not written: it is tried again", extra=self._facts)
        return "unwritten"

    async def _present(self) -> Sandbox | None:
        """What the store holds now; None where it does not say."""
        with suppress(BrokerError):
            return await self._tools.sandboxes.get(self._held.tenant, self._held.id)
        return None


def is_leased(sandbox: Sandbox) -> bool:
    return sandbox.state is State.PENDING_DELETION and sandbox.lease_token is not None
