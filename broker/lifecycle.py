"""What happens to an allocation after it was made: looked at, extended, released, expired.

An allocation has a generation, which its answer says and which grows with every allocation of a sandbox. Who
names it acts on that allocation alone: a script that was forgotten, or that hung, touches no later one.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter

from broker.errors import (
    AllocationExpired,
    BrokerError,
    ExtensionLimit,
    NotSandboxOwner,
    SandboxNotFound,
    StaleGeneration,
)
from broker.insist import insist
from broker.metrics import Metrics
from broker.sandbox import EndedBy, Sandbox, State
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes
from broker.store.tenants import Tenants

MAX_EXTENSION_S: Final = 4 * 3600
HEARTBEAT_S: Final = 10
"""A sign of life that comes sooner than this after the last one is not written."""


@dataclass(frozen=True, slots=True)
class Release:
    """The answer to a release: the same for every repeat, whatever has happened to the sandbox since."""

    sandbox_id: str
    released_at: int
    status: str = State.PENDING_DELETION.value


class Lifecycle:
    """Extends and ends allocations. The transaction that does so to a sandbox does it to its claim."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        tenants: Tenants,
        metrics: Metrics,
        *,
        lease_s: int,
        max_extension_s: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sandboxes = sandboxes
        self._tenants = tenants
        self._metrics = metrics
        self._lease_s = lease_s
        self._max_extension_s = max_extension_s
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

    async def extend(
        self, tenant: str, sandbox_id: str, *, holder: str, generation: int | None, for_s: int, cause: Cause
    ) -> Sandbox:
        """Hold the sandbox for at least `for_s` seconds from now. Never shortens; a repeat adds nothing up.

        Raises:
            SandboxNotFound, NotSandboxOwner: as for view().
            StaleGeneration: `generation` is not the present allocation's.
            AllocationExpired: it has ended, by whatever.
            ExtensionLimit: the tenant may not hold it for so long.
            StoreThrottled, StoreUnavailable: repeat.
        """
        until = int(self._clock()) + for_s

        async def attempt(present: Sandbox) -> Sandbox:
            held = _still_held(_of(present, generation))
            if until <= (held.expires_at or 0):
                return held
            await self._check_limit(held, until)
            extended = held.extend(until=until)
            await self._sandboxes.extend(held, extended, cause, now=self._clock())
            return extended

        extending = self._insist(tenant, sandbox_id, holder, attempt)
        return await _counted(self._metrics.extensions, tenant, "extended", extending)

    async def _check_limit(self, held: Sandbox, until: int) -> None:
        limits = (await self._tenants.get(held.tenant)).limits
        lease_s = self._lease_s if limits.lease_s is None else limits.lease_s
        more_s = self._max_extension_s if limits.max_extension_s is None else limits.max_extension_s
        latest = (held.allocated_at or 0) + lease_s + more_s
        if until > latest:
            latest = max(latest, held.expires_at or 0)  # its limits were others when it was allocated
            raise ExtensionLimit(max_expires_at=latest, left_s=latest - int(self._clock()))

    async def heartbeat(self, tenant: str, sandbox_id: str, *, holder: str, generation: int | None) -> Sandbox:
        """Note that the holder lives, once in ten seconds at the most; nothing depends on it.

        Raises:
            SandboxNotFound, NotSandboxOwner, StaleGeneration, AllocationExpired: as for extend().
            StoreThrottled, StoreUnavailable: repeat.
        """

        async def attempt(present: Sandbox) -> Sandbox:
            held = _still_held(_of(present, generation))
            now = int(self._clock())
            if held.heartbeat_at is not None and now - held.heartbeat_at < HEARTBEAT_S:
                return held
            beaten = held.beat(now=now)
            await self._sandboxes.touch(held, beaten)
            return beaten

        beating = self._insist(tenant, sandbox_id, holder, attempt)
        return await _counted(self._metrics.heartbeats, tenant, "beaten", beating)

    async def release(
        self, tenant: str, sandbox_id: str, *, holder: str, cause: Cause, generation: int | None = None
    ) -> Release:
        """End the student's allocation; the sandbox is due for deletion at once. Idempotent for its owner.

        Without a `generation` it is whichever allocation this student has of it.

        Raises:
            SandboxNotFound, NotSandboxOwner: as for view().
            StaleGeneration: `generation` is not the present allocation's.
            AllocationExpired: something else had ended it before.
            StoreThrottled, StoreUnavailable: repeat.
        """

        async def attempt(present: Sandbox) -> Sandbox:
            held = present if generation is None else _of(present, generation)
            if held.state is not State.ALLOCATED:
                return _as_released(held)
            now = self._clock()
            released = held.end(by=EndedBy.RELEASE, now=int(now))
            await self._sandboxes.end(held, released, cause, now=now)
            return released

        releasing = self._insist(tenant, sandbox_id, holder, attempt)
        ended = await _counted(self._metrics.releases, tenant, "released", releasing)
        return Release(ended.id, ended.ended_at or 0)

    async def _insist(
        self, tenant: str, sandbox_id: str, holder: str, attempt: Callable[[Sandbox], Awaitable[Sandbox]]
    ) -> Sandbox:
        return await insist(lambda: self.view(tenant, sandbox_id, holder=holder), attempt)

    async def expire(self, held: Sandbox, cause: Cause) -> None:
        """End an allocation whose time is over.

        Raises:
            WriteConflict: something else ended or extended it first; that stands.
        """
        now = self._clock()
        await self._sandboxes.end(held, held.end(by=EndedBy.EXPIRY, now=int(now)), cause, now=now)


async def _counted(counter: Counter, tenant: str, done: str, doing: Awaitable[Sandbox]) -> Sandbox:
    try:
        sandbox = await doing
    except BrokerError as error:
        counter.labels(tenant, error.code.lower()).inc()
        raise
    counter.labels(tenant, done).inc()
    return sandbox


def _of(sandbox: Sandbox, generation: int | None) -> Sandbox:
    """The sandbox, if `generation` is its allocation's; one from before there were any is of every one."""
    if sandbox.generation not in (None, generation):
        raise StaleGeneration
    return sandbox


def _still_held(sandbox: Sandbox) -> Sandbox:
    if sandbox.state is not State.ALLOCATED:
        raise _ended(sandbox)
    return sandbox


def _as_released(sandbox: Sandbox) -> Sandbox:
    """A sandbox whose allocation is over, if this student's own release ended it."""
    if sandbox.ended_by is EndedBy.RELEASE:
        return sandbox
    raise _ended(sandbox)


def _ended(sandbox: Sandbox) -> AllocationExpired:
    return AllocationExpired(ended_by=str(sandbox.ended_by), ended_at=sandbox.ended_at or sandbox.since)
