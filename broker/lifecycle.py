"""What happens to an allocation after it was made: looked at, released, expired."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.errors import (
    AllocationExpired,
    BrokerError,
    NotSandboxOwner,
    SandboxNotFound,
    StoreUnavailable,
    WriteConflict,
)
from broker.metrics import Metrics
from broker.sandbox import EndedBy, Sandbox, State
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes

MAX_TRIES: Final = 6
_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Release:
    """The answer to a release: the same for every repeat, whatever has happened to the sandbox since."""

    sandbox_id: str
    released_at: int
    status: str = State.PENDING_DELETION.value


class Lifecycle:
    """Ends allocations. The transaction that ends a sandbox's allocation ends its claim."""

    def __init__(self, sandboxes: Sandboxes, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
        self._sandboxes = sandboxes
        self._metrics = metrics
        self._clock = clock

    async def view(self, tenant: str, sandbox_id: str, *, holder: str) -> Sandbox:
        """The sandbox, for the student who holds it or held it last.

        Raises:
            SandboxNotFound: unknown, or another tenant's.
            NotSandboxOwner: not this student's.
        """
        sandbox = await self._sandboxes.get(tenant, sandbox_id)
        if sandbox is None:
            raise SandboxNotFound
        if sandbox.holder != holder:
            raise NotSandboxOwner
        return sandbox

    async def release(self, tenant: str, sandbox_id: str, *, holder: str, cause: Cause) -> Release:
        """End the student's allocation; the sandbox is due for deletion at once. Idempotent for its owner.

        Raises:
            SandboxNotFound, NotSandboxOwner: as for view().
            AllocationExpired: something else had ended it before.
            StoreThrottled, StoreUnavailable: repeat.
        """
        try:
            ended = await self._release(tenant, sandbox_id, holder, cause)
        except BrokerError as error:
            self._metrics.releases.labels(tenant, error.code.lower()).inc()
            raise
        self._metrics.releases.labels(tenant, "released").inc()
        return Release(ended.id, ended.ended_at or 0)

    async def _release(self, tenant: str, sandbox_id: str, holder: str, cause: Cause) -> Sandbox:
        for number in range(MAX_TRIES):
            held = await self.view(tenant, sandbox_id, holder=holder)
            if held.state is not State.ALLOCATED:
                return _as_released(held)
            now = self._clock()
            released = held.end(by=EndedBy.RELEASE, now=int(now))
            try:
                await self._sandboxes.end(held, released, cause, now=now)
            except WriteConflict:
                await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
            except StoreUnavailable:
                if number:  # a lost answer is looked into once
                    raise
            else:
                return released
        raise StoreUnavailable("contention")

    async def expire(self, held: Sandbox, cause: Cause) -> None:
        """End an allocation whose time is over.

        Raises:
            WriteConflict: something else ended or extended it first; that stands.
        """
        now = self._clock()
        await self._sandboxes.end(held, held.end(by=EndedBy.EXPIRY, now=int(now)), cause, now=now)


def _as_released(sandbox: Sandbox) -> Sandbox:
    """A sandbox whose allocation is over, if this student's own release ended it."""
    if sandbox.ended_by is EndedBy.RELEASE:
        return sandbox
    raise AllocationExpired(ended_by=str(sandbox.ended_by), ended_at=sandbox.ended_at or sandbox.since)
