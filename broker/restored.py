"""After a restore of the table: nothing is handed out of it that may have been handed out since.

A table that is restored to an instant says `available` of what a student got after that instant. The old table
still has the events of it. `hold` is for before any process runs on the restored table, `clear` for after the
first sync there. Both may be run again, and stopped at any moment.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from broker import exits
from broker.action import Action
from broker.boot import Boot
from broker.errors import (
    ForeignTable,
    ProviderAccountOwned,
    StoreThrottled,
    StoreUnavailable,
    WriteConflict,
    WrongState,
)
from broker.metrics import Metrics
from broker.sandbox import Sandbox, State
from broker.settings import CoreSettings, problems_of
from broker.store.allowed import Guard
from broker.store.event_log import Event, Sought, place
from broker.store.events import Cause
from broker.store.modes import ModeName
from broker.store.reports import SILENT_S
from broker.wiring import Broker, open_broker

HELD: Final = "held after a restore: "
"""The reason of what is held begins so: `clear` touches no other quarantine."""
MARGIN_S: Final = 300
"""How far before the instant of the restore events are read: clocks differ, and one too many does no harm."""
_AT_ONCE: Final = 20
_EVENTS: Final = 500
_WALKS: Final = 10
_PAUSE_S: Final = 1.0
_TRIES: Final = 5
"""Of each step, while the store is in trouble: many sandboxes at once may be throttled."""

Thing = TypeVar("Thing")


class RestoreRefused(Exception):
    """It was not begun, or not ended. The text is for people, and says what to do."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Kept:
    """A sandbox that is not handed out, and why."""

    tenant: str
    sandbox_id: str
    why: str
    holder: str | None = None  # who has got it since
    until: int | None = None  # when that allocation ends in the old table, where it goes on: Unix seconds


@dataclass(slots=True)
class Report:
    """What was done, by outcome, and what stays out of the pool."""

    outcome: Counter[str] = field(default_factory=Counter)
    kept: list[Kept] = field(default_factory=list)


@dataclass(slots=True)
class _Since:
    """What students have done since the instant of the restore, by sandbox. As the old table's events say it."""

    allocated: dict[str, Event] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    extended: set[str] = field(default_factory=set)


async def hold(core: Broker, old: Broker | None, *, tenant: str, since: int, cause: Cause) -> Report:
    """Put the restored table into maintenance, and all that is available in it into quarantine.

    With the old table, what students did themselves since is done here, too: who released is released, who
    extended is extended. What the worker or an operator did is not: it may be what the restore is to undo.
    The mode's event is among those of `tenant`.

    Raises:
        RestoreRefused: a worker is at work on this table; or sandboxes become available while this runs.
        StoreThrottled, StoreUnavailable: run it again.
    """
    await _must_be_idle(core, now=int(time.time()))
    report = Report()
    await core.operations.set_mode(tenant, ModeName.MAINTENANCE, cause=replace(cause, action=Action.SET_MODE))
    async for each in core.tenants.all():
        report.outcome["held"] += await _hold_all(core, each.name, replace(cause, action=Action.QUARANTINE))
        if old is not None:
            events = [event async for event in _events(old, each.name, since)]
            report.outcome["released"] += await _repeat_releases(core, each.name, events, cause)
            report.outcome["extended"] += await _repeat_extensions(core, old, each.name, events, cause)
    return report


async def _must_be_idle(core: Broker, *, now: int) -> None:
    """A table that was just restored is no process's yet: one with a worker is the one that students use."""
    async for each in core.tenants.all():
        report = await core.reports.read(each.name)
        if report is not None and report.at > now - SILENT_S:
            heard = f"it was heard {max(0, now - report.at)} s ago"
            raise RestoreRefused(
                f"A worker, {report.holder}, uses {core.client.table.name}: {heard}. Nothing was changed. "
                "Does DDB_TABLE_NAME name the restored table, which nothing uses yet? "
                f"If so, stop that worker, and run this again {SILENT_S} s later."
            )


async def _hold_all(core: Broker, tenant: str, cause: Cause) -> int:
    """Until the index, which may lag, shows none that is available; how many there were."""

    async def quarantine(sandbox_id: str) -> None:
        await core.operations.quarantine(tenant, sandbox_id, cause=cause)

    held: set[str] = set()
    for _ in range(_WALKS):
        found = [sandbox.id async for sandbox in core.sandboxes.walk(tenant, State.AVAILABLE)]
        if not found:
            return len(held)
        await _each(found, quarantine)
        held.update(found)
        await asyncio.sleep(_PAUSE_S)
    raise RestoreRefused(f"Sandboxes of {tenant} become available while this runs: stop what uses this table.")


async def _repeat_releases(core: Broker, tenant: str, events: list[Event], cause: Cause) -> int:
    released = {e.sandbox_id: e.holder for e in events if e.action == Action.RELEASE and e.sandbox_id and e.holder}
    present = await core.sandboxes.find(tenant, released)
    still = [s for s in present.values() if s.state is State.ALLOCATED and s.holder == released[s.id]]

    async def release(held: Sandbox) -> None:
        await core.lifecycle.release(
            tenant,
            held.id,
            holder=held.holder or "",
            cause=replace(cause, action=Action.RELEASE),
            generation=held.generation,
        )

    await _each(still, release)
    return len(still)


async def _repeat_extensions(core: Broker, old: Broker, tenant: str, events: list[Event], cause: Cause) -> int:
    ids = {event.sandbox_id for event in events if event.action == Action.EXTEND and event.sandbox_id}
    there = await old.sandboxes.find(tenant, ids)
    shorter = [
        (here, until)
        for here in (await core.sandboxes.find(tenant, ids)).values()
        if here.state is State.ALLOCATED
        and (then := there.get(here.id)) is not None
        and then.holder == here.holder
        and (until := then.expires_at or 0) > (here.expires_at or 0)
    ]

    async def extend(pair: tuple[Sandbox, int]) -> None:
        held, until = pair
        longer = held.extend(until=until)
        await core.sandboxes.extend(held, longer, replace(cause, action=Action.EXTEND), now=time.time())

    await _each(shorter, extend)
    return len(shorter)


async def clear(core: Broker, old: Broker, *, since: int, cause: Cause, dry_run: bool = False) -> Report:
    """Back into the pool with what is held, where nothing says that somebody may have it.

    That is: no event of the old table allocated it since, the old table has it available still, its account is
    nobody else's there, and the provider lists it. What a sync has added meanwhile is looked at as well, and
    held where it is not so. So is what this table has as stale, or does not have, and a later listing would put
    into the pool.

    Raises:
        RestoreRefused: the broker is open, or a tenant has not been synced since it was held.
        StoreThrottled, StoreUnavailable: run it again.
    """
    if (await core.modes.current()).allocates:
        raise RestoreRefused("The broker is open, and hands out what is to be looked at. First: mode drain.")
    report = Report()
    async for each in core.tenants.all():
        await _clear_tenant(core, old, each.name, since, cause, report, dry_run=dry_run)
    return report


@dataclass(slots=True)
class _Then:
    """What the old table says of one tenant's sandboxes, by id."""

    tenant: str
    allocated: dict[str, str | None]  # since the instant of the restore, and to whom
    there: dict[str, Sandbox]
    owners: dict[str, tuple[str, str]]  # of their accounts: a tenant, and the id of its sandbox
    owned: set[str] = field(default_factory=set)  # whose account is another sandbox's in the restored table

    def why_not(self, sandbox: Sandbox) -> str | None:
        """Why nobody may get it; None where somebody may."""
        then = self.there.get(sandbox.id)
        if sandbox.id in self.owned:
            return "its account is another sandbox's here: look at that one"
        if sandbox.id in self.allocated:
            return "allocated since"
        if then is not None and then.state is not State.AVAILABLE:
            return f"{then.state.value} in the old table"
        if sandbox.missing_since is not None:
            return "not listed by the provider"
        tenant, id_ = self.owners.get(sandbox.id, (self.tenant, sandbox.id))
        if (tenant, id_) != (self.tenant, sandbox.id):
            return f"its account is {id_} of tenant {tenant} in the old table"
        return None

    def kept(self, sandbox_id: str, why: str) -> Kept:
        then = self.there.get(sandbox_id)
        until = then.expires_at if then is not None and then.state is State.ALLOCATED else None
        return Kept(self.tenant, sandbox_id, why, self.allocated.get(sandbox_id), until)


async def _clear_tenant(
    core: Broker, old: Broker, tenant: str, since: int, cause: Cause, report: Report, *, dry_run: bool
) -> None:
    ids = [
        s.id for state in (State.QUARANTINED, State.AVAILABLE) async for s in core.sandboxes.walk(tenant, state)
    ]
    present = await core.sandboxes.find(tenant, ids)
    held = {i: s for i, s in present.items() if s.state is State.QUARANTINED and (s.reason or "").startswith(HELD)}
    events = _events(old, tenant, since)
    allocated = {e.sandbox_id: e.holder async for e in events if e.action == Action.ALLOCATE and e.sandbox_id}
    in_use = allocated.keys() | {s.id async for s in old.sandboxes.walk(tenant, State.QUARANTINED)}
    there = await old.sandboxes.find(tenant, present.keys() | in_use)
    then = _Then(tenant, allocated, there, await old.sandboxes.owners(present.values()))
    unlisted = await _unlisted(core, tenant, in_use, then.there)
    free = [sandbox for sandbox in held.values() if then.why_not(sandbox) is None]
    await _must_be_synced(core, tenant, after=max((s.since for s in free), default=0))
    added = [s for s in present.values() if s.state is State.AVAILABLE and then.why_not(s) is not None]
    if not dry_run:
        await _clear_out(core, free, added, unlisted, then, cause)
    by_hand = [
        s for i, s in present.items() if s.state is State.QUARANTINED and i in allocated.keys() - held.keys()
    ]
    looked_at = {s.id: then.why_not(s) for s in (*held.values(), *added, *by_hand, *unlisted)}
    nowhere = allocated.keys() - then.there.keys() - present.keys()
    looked_at |= dict.fromkeys(nowhere, "allocated since, and in neither table")
    report.kept += [then.kept(id_, why) for id_, why in sorted(looked_at.items()) if why is not None]
    report.outcome["cleared"] += len(free)
    report.outcome["kept"] = len(report.kept)


async def _clear_out(
    core: Broker, free: list[Sandbox], added: list[Sandbox], unlisted: list[Sandbox], then: _Then, cause: Cause
) -> None:
    """First what must not be handed out, then what may."""

    async def reinstate(sandbox: Sandbox) -> None:
        await core.operations.reinstate(then.tenant, sandbox.id, cause=replace(cause, action=Action.REINSTATE))

    async def quarantine(sandbox: Sandbox) -> None:
        await core.operations.quarantine(then.tenant, sandbox.id, cause=replace(cause, action=Action.QUARANTINE))

    async def hold_unlisted(sandbox: Sandbox) -> None:
        try:
            await _hold_unlisted(core, sandbox, replace(cause, action=Action.QUARANTINE))
        except WriteConflict:  # a sync was faster, and found it
            await quarantine(sandbox)
        except ProviderAccountOwned:
            then.owned.add(sandbox.id)

    await _each(unlisted, hold_unlisted)
    await _each(added, quarantine)
    await _each(free, reinstate)


async def _unlisted(
    core: Broker, tenant: str, in_use: AbstractSet[str], there: Mapping[str, Sandbox]
) -> list[Sandbox]:
    """Of what is in use in the old table, what is stale here or not here at all: the next listing may name it."""
    here = await core.sandboxes.find(tenant, in_use)
    return [
        here.get(id_, there[id_])
        for id_ in in_use & there.keys()
        if id_ not in here or here[id_].state is State.STALE
    ]


async def _hold_unlisted(core: Broker, sandbox: Sandbox, cause: Cause) -> None:
    """Quarantine what is stale here, or add it in quarantine where it is not here.

    Raises:
        WriteConflict: it is here by now, and is not stale.
        ProviderAccountOwned: another sandbox has its account here.
    """
    now = time.time()
    here = await core.sandboxes.get(sandbox.tenant, sandbox.id)
    if here is not None:
        if here.state is not State.STALE:
            raise WriteConflict
        await core.sandboxes.move(here, here.hold(reason=cause.reason, now=int(now)), cause, now=now)
        return
    unknown = Sandbox(
        tenant=sandbox.tenant,
        id=sandbox.id,
        state=State.QUARANTINED,
        version=int(now),
        name=sandbox.name,
        external_id=sandbox.external_id,
        provider=sandbox.provider,
        since=int(now),
        attributes=sandbox.attributes,
        missing_since=int(now),
        reason=cause.reason,
    )
    await core.sandboxes.add(unknown, cause, now=now)


async def _must_be_synced(core: Broker, tenant: str, *, after: int) -> None:
    state = await core.sync_states.read(tenant)
    if after and (state is None or state.at < after):
        raise RestoreRefused(f"{tenant} has not been synced since: mode drain, then sync.")
    if state is not None and state.suspicion is not None:
        raise RestoreRefused(
            f"The last listing of {tenant} was not believed: look at reconcile, then sync --confirm."
        )


async def _events(old: Broker, tenant: str, since: int) -> AsyncIterator[Event]:
    """Those of the old table from shortly before the restore's instant on."""
    now = int(time.time())
    sought = Sought(since=since - MARGIN_S)
    before: str | None = place(now + MARGIN_S)
    shards = await old.tenants.shards(tenant)
    while before is not None:
        part = await old.event_log.part(tenant, sought, before=before, now=now, shards=shards, limit=_EVENTS)
        for event in part.events:
            yield event
        before = part.before


async def _each(things: list[Thing], act: Callable[[Thing], Awaitable[None]]) -> None:
    """Some at a time. One that somebody else has moved by now is left: whoever runs this again sees it."""

    async def insist(thing: Thing) -> None:
        for _ in range(_TRIES - 1):
            try:
                return await act(thing)
            except (StoreThrottled, StoreUnavailable):
                await asyncio.sleep(_PAUSE_S)
        return await act(thing)

    for first in range(0, len(things), _AT_ONCE):
        results = await asyncio.gather(*map(insist, things[first : first + _AT_ONCE]), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, WrongState | WriteConflict):
                raise result


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a person asked for. `since` is the instant that the table was restored to, Unix seconds."""

    old_table: str | None
    since: int
    reason: str
    dry_run: bool = False


def hold_as_set(wanted: Wanted) -> Report:
    """hold() on the table of the environment's settings.

    Raises:
        RestoreRefused: wrong settings, another table, or what hold() refuses.
    """
    return _run(wanted, _hold)


def clear_as_set(wanted: Wanted) -> Report:
    """clear() on the table of the environment's settings.

    Raises:
        RestoreRefused: wrong settings, another table, or what clear() refuses.
    """
    return _run(wanted, _clear)


async def _hold(wanted: Wanted, settings: CoreSettings, core: Broker, old: Broker | None) -> Report:
    return await hold(core, old, tenant=settings.tenant, since=wanted.since, cause=_cause(wanted))


async def _clear(wanted: Wanted, settings: CoreSettings, core: Broker, old: Broker | None) -> Report:
    if old is None:
        raise RestoreRefused("Without the old table nobody knows what was allocated since.")
    return await clear(core, old, since=wanted.since, cause=_cause(wanted), dry_run=wanted.dry_run)


def _cause(wanted: Wanted) -> Cause:
    request_id = f"restore-{secrets.token_hex(6)}"
    return Cause(actor="restore", action=Action.SET_MODE, request_id=request_id, reason=HELD + wanted.reason)


def _run(
    wanted: Wanted, act: Callable[[Wanted, CoreSettings, Broker, Broker | None], Awaitable[Report]]
) -> Report:
    try:
        settings = CoreSettings()
    except ValidationError as error:
        raise RestoreRefused("; ".join(problems_of(error)), exits.CONFIG) from None
    if "table_name" not in settings.model_fields_set:  # its default is the name of the table that students use
        raise RestoreRefused("DDB_TABLE_NAME is not set: export it, it names the restored table.", exits.CONFIG)
    if wanted.old_table == settings.table_name:
        raise RestoreRefused(
            f"{wanted.old_table} is the old table and the restored one: DDB_TABLE_NAME is to be the restored one.",
            exits.CONFIG,
        )
    try:
        return asyncio.run(_on_both(wanted, settings, act))
    except ForeignTable as error:
        raise RestoreRefused(f"{error}.", exits.CONFIG) from None
    except (StoreUnavailable, StoreThrottled, ClientError, BotoCoreError) as error:
        raise RestoreRefused(f"The store does not answer as it should ({error}). Run it again.") from None


async def _on_both(
    wanted: Wanted,
    settings: CoreSettings,
    act: Callable[[Wanted, CoreSettings, Broker, Broker | None], Awaitable[Report]],
) -> Report:
    def table_of(name: str) -> AbstractAsyncContextManager[Broker]:
        there, guard = settings.model_copy(update={"table_name": name}), Guard("api", table_name=name)
        return open_broker(there, metrics=Metrics(of_worker=False), boot=Boot(), guard=guard)

    async with AsyncExitStack() as opened:
        core = await opened.enter_async_context(table_of(settings.table_name))
        old = None
        if wanted.old_table is not None:
            old = await opened.enter_async_context(table_of(wanted.old_table))
        return await act(wanted, settings, core, old)
