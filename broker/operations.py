"""What operators do by hand: to one sandbox, and to the whole broker.

Each operation is one conditional write with its event, and may be repeated: where an operator did the same
before, the answer is how things stand.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from broker.errors import BrokerError, SandboxNotFound, WrongState
from broker.insist import insist
from broker.metrics import Metrics
from broker.sandbox import EndedBy, Sandbox, State
from broker.store.events import Cause
from broker.store.modes import Mode, ModeName, Modes
from broker.store.sandboxes import Sandboxes

Done = TypeVar("Done", Sandbox, Mode)


@dataclass(frozen=True, slots=True)
class _Operation:
    """Where it starts, what it makes of a sandbox, and how one is recognised that it was done to."""

    name: str
    needs: State
    move: Callable[[Sandbox, str | None, int], Sandbox]
    was_done: Callable[[Sandbox], bool]


def _led_to(*states: State) -> Callable[[Sandbox], bool]:
    """An operator's doing: only those leave a reason, and it goes when a student gets the sandbox."""
    return lambda sandbox: sandbox.state in states and sandbox.reason is not None


_RETRY = _Operation(
    "retry",
    State.DELETION_FAILED,
    lambda sandbox, why, now: sandbox.retry_deletion(reason=why, now=now),
    _led_to(State.PENDING_DELETION, State.DELETED),
)
_ABANDON = _Operation(
    "abandon",
    State.DELETION_FAILED,
    lambda sandbox, why, now: sandbox.abandon(reason=why, now=now),
    _led_to(State.DELETED),
)
_QUARANTINE = _Operation(
    "quarantine",
    State.AVAILABLE,
    lambda sandbox, why, now: sandbox.quarantine(reason=why, now=now),
    _led_to(State.QUARANTINED),
)
_REINSTATE = _Operation(
    "reinstate",
    State.QUARANTINED,
    lambda sandbox, why, now: sandbox.reinstate(reason=why, now=now),
    _led_to(State.AVAILABLE),
)
_DISCARD = _Operation(
    "discard",
    State.QUARANTINED,
    lambda sandbox, why, now: sandbox.discard(reason=why, now=now),
    _led_to(State.PENDING_DELETION, State.DELETED),
)
_FORCE_RELEASE = _Operation(
    "force_release",
    State.ALLOCATED,
    lambda sandbox, why, now: sandbox.end(by=EndedBy.FORCE_RELEASE, reason=why, now=now),
    lambda sandbox: sandbox.ended_by is EndedBy.FORCE_RELEASE,
)


class Operations:
    """Safe beside students, the worker and other operators: whoever writes first wins, and the others are told.

    Raises:
        SandboxNotFound: unknown, or another tenant's.
        WrongState: the operation starts from another state.
        StoreThrottled, StoreUnavailable: repeat.
    """

    def __init__(
        self,
        sandboxes: Sandboxes,
        modes: Modes,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sandboxes = sandboxes
        self._modes = modes
        self._metrics = metrics
        self._clock = clock

    async def look(self, tenant: str, sandbox_id: str) -> Sandbox:
        """The sandbox as the table holds it now."""
        return _found(await self._sandboxes.get(tenant, sandbox_id))

    async def retry(self, tenant: str, sandbox_id: str, *, cause: Cause) -> Sandbox:
        """Deletion failed -> pending deletion: due at once, with all its attempts before it."""
        return await self._move(_RETRY, tenant, sandbox_id, cause)

    async def abandon(self, tenant: str, sandbox_id: str, *, cause: Cause) -> Sandbox:
        """Deletion failed -> deleted: a tombstone, although the account may still be there."""
        return await self._move(_ABANDON, tenant, sandbox_id, cause)

    async def quarantine(self, tenant: str, sandbox_id: str, *, cause: Cause) -> Sandbox:
        """Available -> quarantined: from the write on no process can hand it out."""
        return await self._move(_QUARANTINE, tenant, sandbox_id, cause)

    async def reinstate(self, tenant: str, sandbox_id: str, *, cause: Cause) -> Sandbox:
        """Quarantined -> available. WrongState also where the provider no longer lists it: nobody could use it."""
        return await self._move(_REINSTATE, tenant, sandbox_id, cause)

    async def discard(self, tenant: str, sandbox_id: str, *, cause: Cause) -> Sandbox:
        """Quarantined -> pending deletion."""
        return await self._move(_DISCARD, tenant, sandbox_id, cause)

    async def force_release(
        self, tenant: str, sandbox_id: str, *, cause: Cause, begun_by: int | None = None
    ) -> Sandbox:
        """Allocated -> pending deletion, with its claim ended: the student's own release finds it expired.

        An allocation that began after `begun_by` (Unix seconds) is left alone: WrongState.
        """
        return await self._move(_FORCE_RELEASE, tenant, sandbox_id, cause, begun_by=begun_by)

    async def remove_stale(self, tenant: str, sandbox_id: str, *, cause: Cause) -> Sandbox:
        """Stale -> gone, its event stays. Returns the sandbox as it was; SandboxNotFound on a repeat."""
        seen: list[Sandbox] = []

        async def attempt(present: Sandbox | None) -> Sandbox:
            if present is None and seen:
                return seen[-1]  # by our own write, whose answer was lost, or by the purge
            stale = _found(present)
            if stale.state is not State.STALE:
                raise WrongState(stale.state, needs=State.STALE)
            seen.append(stale)
            await self._sandboxes.remove(stale, cause, now=self._clock())
            return stale

        return await self._counted("remove_stale", tenant, self._insist(tenant, sandbox_id, attempt))

    async def set_mode(self, tenant: str, to: ModeName, *, cause: Cause) -> Mode:
        """Open, drain or pause the broker for all tenants; the event is among those of `tenant`, who did it."""
        change = self._modes.change(to, cause, tenant=tenant, now=self._clock())
        return await self._counted("set_mode", tenant, change)

    async def _move(
        self, operation: _Operation, tenant: str, sandbox_id: str, cause: Cause, *, begun_by: int | None = None
    ) -> Sandbox:
        async def attempt(present: Sandbox | None) -> Sandbox:
            before = _found(present)
            if before.state is not operation.needs:
                if operation.was_done(before):
                    return before
                raise WrongState(before.state, needs=operation.needs)
            if begun_by is not None and (before.allocated_at or 0) > begun_by:
                why = "It was allocated after this was ordered."
                raise WrongState(before.state, needs=operation.needs, why=why)
            now = self._clock()
            after = operation.move(before, cause.reason, int(now))
            if after.state is State.AVAILABLE and before.missing_since is not None:
                why = "The provider no longer lists it: discard it, or wait until it is listed."
                raise WrongState(before.state, needs=operation.needs, why=why)
            write = self._sandboxes.end if before.state is State.ALLOCATED else self._sandboxes.move
            await write(before, after, cause, now=now)
            return after

        return await self._counted(operation.name, tenant, self._insist(tenant, sandbox_id, attempt))

    async def _insist(
        self, tenant: str, sandbox_id: str, attempt: Callable[[Sandbox | None], Awaitable[Sandbox]]
    ) -> Sandbox:
        return await insist(lambda: self._sandboxes.get(tenant, sandbox_id), attempt)

    async def _counted(self, name: str, tenant: str, operation: Awaitable[Done]) -> Done:
        try:
            done = await operation
        except BrokerError as error:
            self._metrics.operations.labels(tenant, name, error.code.lower()).inc()
            raise
        self._metrics.operations.labels(tenant, name, "done").inc()
        return done


def _found(sandbox: Sandbox | None) -> Sandbox:
    if sandbox is None:
        raise SandboxNotFound
    return sandbox
