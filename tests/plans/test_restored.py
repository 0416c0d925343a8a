"""K3: out of a restored table nothing is handed out that a student has got since, and the rest comes back."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from broker.action import Action
from broker.allocation import Allocation, Wish
from broker.errors import BrokerDrained
from broker.restored import HELD
from broker.sandbox import State
from broker.store import table
from broker.store.modes import ModeName
from broker.store.reports import SILENT_S, WorkerReport
from broker.wiring import Broker
from tests.allocation.students import TENANT, attempt, winners
from tests.builders import TEST_CAUSE
from tests.cli.shell import Done, Shell
from tests.conftest import a_broker
from tests.plans.point_in_time import restore
from tests.worker.conftest import Provider, a_provider, a_worker

REASON = ("--reason", "INC-4711")


@dataclass(frozen=True)
class Restored:
    """An old table, which goes on, and one that was restored from it."""

    url: str
    old: Broker
    core: Broker
    old_name: str
    name: str
    since: int

    async def run(self, what: str, *more: str) -> Done:
        """`restored …`, as an operator would."""
        environment = {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "BROKER_ENV": "development",
            "BROKER_TENANT": TENANT,
            "DDB_ENDPOINT_URL": self.url,
            "DDB_TABLE_NAME": self.name,
        }
        if self.name == "":
            del environment["DDB_TABLE_NAME"]
        command = ("restored", what, "--since", str(self.since), "--old-table", self.old_name, *REASON, *more)
        return await Shell("http://127.0.0.1:1").run(*command, **environment)

    async def state(self, sandbox_id: str) -> State:
        sandbox = await self.core.sandboxes.get(TENANT, sandbox_id)
        assert sandbox is not None
        return sandbox.state


@asynccontextmanager
async def restored(url: str, table_name: str, provider: Provider) -> AsyncIterator[Restored]:
    """Of ten accounts the first two came after the instant of the restore. One student had a sandbox before it."""
    name = f"{table_name}-restored"
    late = [int(id_) for id_ in (await provider.sandbox_ids())[:2]]
    async with a_broker(url, table_name) as old, a_broker(url, name) as core:
        await old.tenants.ensure(TENANT, shards=4, now=int(time.time()))
        await provider.faults(hidden_accounts=late)
        await sync(old, provider)
        await get(old, "early")
        since = int(time.time())
        await restore(url, table_name, name)
        await provider.faults(hidden_accounts=[])
        await sync(old, provider)
        yield Restored(url, old, core, table_name, name, since)


@pytest.fixture
async def tables(ministack: str, table_name: str, provider: Provider) -> AsyncIterator[Restored]:
    async with restored(ministack, table_name, provider) as both:
        yield both


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider(sandboxes=10, noise=0) as running:
        yield running


async def sync(core: Broker, provider: Provider) -> None:
    async with a_worker(core, provider, time.time) as worker:
        await worker.sync("sync-1")


async def get(core: Broker, student: str) -> Allocation:
    wish = Wish(holder=student)
    return await core.allocator.allocate(TENANT, wish, replace(TEST_CAUSE, action=Action.ALLOCATE))


async def spoil(core: Broker, sandbox_id: str) -> None:
    """What a restore is for: the table says what is not so. Its events are as they were."""
    await core.client.call(
        "update_item",
        TableName=core.client.table.name,
        Key=table.sandbox_key(TENANT, sandbox_id),
        UpdateExpression="SET #state = :state REMOVE holder",
        ExpressionAttributeNames={"#state": "state"},
        ExpressionAttributeValues=table.encode({":state": State.AVAILABLE.value}),
    )


async def set_mode(core: Broker, to: ModeName) -> None:
    await core.operations.set_mode(TENANT, to, cause=TEST_CAUSE)


async def test_no_sandbox_is_given_to_two_students_after_a_restore(tables: Restored, provider: Provider) -> None:
    theirs = {(await get(tables.old, f"since-{n}")).sandbox_id for n in range(8)}
    await spoil(tables.old, next(iter(theirs)))

    held = await tables.run("hold")
    mode = await tables.core.modes.current()
    nothing = await tables.core.sandboxes.count(TENANT, State.AVAILABLE)
    with pytest.raises(BrokerDrained):
        await get(tables.core, "too-early")
    await set_mode(tables.core, ModeName.DRAINED)
    await sync(tables.core, provider)
    shown = await tables.run("clear", "--dry-run")
    still = await tables.core.sandboxes.count(TENANT, State.QUARANTINED)
    cleared = await tables.run("clear", "--yes", "--json")
    await set_mode(tables.core, ModeName.OPEN)
    early = await get(tables.core, "early")
    new = winners([await attempt(tables.core, f"new-{n}") for n in range(4)])

    assert (held.code, "7 held" in held.out) == (0, True), held.err
    assert (mode.name, mode.reason, nothing) == (ModeName.MAINTENANCE, f"{HELD}INC-4711", 0)
    assert (shown.code, "8 kept" in shown.out, "since-0" in shown.out, still) == (0, True, True, 7)
    assert (cleared.code, cleared.json["outcome"]["kept"]) == (0, 8), cleared.err
    assert {kept["sandbox_id"] for kept in cleared.json["kept"]} == theirs
    assert {kept["holder"] for kept in cleared.json["kept"]} == {f"since-{n}" for n in range(8)}
    assert not early.created
    assert len(new) == 1
    assert not {a.sandbox_id for a in [early, *new]} & theirs


async def test_what_was_free_all_the_while_comes_back_and_a_persons_quarantine_stays(
    tables: Restored, provider: Provider
) -> None:
    free = [s.id async for s in tables.core.sandboxes.walk(TENANT, State.AVAILABLE)]
    await tables.core.operations.quarantine(TENANT, free[0], cause=replace(TEST_CAUSE, reason="INC-9: odd"))
    await provider.faults(hidden_accounts=[int(free[1])])

    await tables.run("hold")
    again = await tables.run("hold")
    await set_mode(tables.core, ModeName.DRAINED)
    await sync(tables.core, provider)
    cleared = await tables.run("clear", "--yes")

    assert "0 held" in again.out
    assert (cleared.code, "5 cleared, 1 kept" in cleared.out, "not listed" in cleared.out) == (0, True, True)
    assert [await tables.state(id_) for id_ in free] == [State.QUARANTINED] * 2 + [State.AVAILABLE] * 5


async def test_what_students_did_since_is_done_again_and_what_the_worker_did_is_not(
    ministack: str, table_name: str, tables: Restored, provider: Provider
) -> None:
    released, extended, expired = [await get(tables.old, f"student-{n}") for n in range(3)]
    second = replace(tables, name=f"{table_name}-second")
    await restore(ministack, table_name, second.name)
    await tables.old.lifecycle.release(
        TENANT, released.sandbox_id, holder="student-0", cause=replace(TEST_CAUSE, action=Action.RELEASE)
    )
    longer = await tables.old.lifecycle.extend(
        TENANT,
        extended.sandbox_id,
        holder="student-1",
        generation=extended.generation,
        for_s=6 * 3600,
        cause=replace(TEST_CAUSE, action=Action.EXTEND),
    )
    going = await tables.old.sandboxes.get(TENANT, expired.sandbox_id)
    assert going is not None
    await tables.old.lifecycle.expire(going, replace(TEST_CAUSE, action=Action.EXPIRE))

    done = await second.run("hold")

    async with a_broker(ministack, second.name) as core:
        found = await core.sandboxes.find(TENANT, [a.sandbox_id for a in (released, extended, expired)])
    assert (done.code, "1 released, 1 extended" in done.out) == (0, True), done.err
    assert found[released.sandbox_id].state is State.PENDING_DELETION
    assert found[extended.sandbox_id].expires_at == longer.expires_at
    assert found[expired.sandbox_id].state is State.ALLOCATED


async def test_what_a_listing_names_only_after_the_clearing_is_not_handed_out_either(
    tables: Restored, provider: Provider
) -> None:
    """Two came after the instant, one was stale at it; students have all of them, and an operator one more."""
    free = [s async for s in tables.core.sandboxes.walk(TENANT, State.AVAILABLE)]
    late = (await provider.sandbox_ids())[:2]
    stale = free[0]
    await tables.core.sandboxes.move(stale, stale.go_stale(now=tables.since), TEST_CAUSE, now=tables.since)
    await tables.old.operations.quarantine(TENANT, late[0], cause=replace(TEST_CAUSE, reason="INC-9: odd"))
    theirs = {(await get(tables.old, f"since-{n}")).sandbox_id for n in range(8)}
    away = {*late, stale.id}
    await provider.faults(hidden_accounts=[int(id_) for id_ in away])

    await tables.run("hold")
    await set_mode(tables.core, ModeName.DRAINED)
    await sync(tables.core, provider)
    shown = await tables.run("clear", "--dry-run", "--json")
    unwritten = await tables.core.sandboxes.find(TENANT, away)
    cleared = await tables.run("clear", "--yes", "--json")
    again = await tables.run("clear", "--yes", "--json")
    await provider.faults(hidden_accounts=[])
    await sync(tables.core, provider)
    await set_mode(tables.core, ModeName.OPEN)
    new = winners([await attempt(tables.core, f"new-{n}") for n in range(3)])
    listed = await tables.core.sandboxes.find(TENANT, away)

    assert [s.state for s in unwritten.values()] == [State.STALE]
    assert {k["sandbox_id"] for k in cleared.json["kept"]} == theirs | {late[0]}
    assert shown.json["kept"] == cleared.json["kept"]
    assert {k["sandbox_id"] for k in again.json["kept"]} == theirs | {late[0]}
    assert new == []
    assert {s.state for s in listed.values()} == {State.QUARANTINED}
    assert {s.missing_since for s in listed.values()} == {None}, "listed again: who looks at it may reinstate it"


async def test_what_went_to_another_tenant_since_is_not_handed_out_by_the_one_that_had_it(
    tables: Restored, provider: Provider
) -> None:
    """One that was free at the instant, and one that only the first sync on the restored table takes for ours."""
    free = [s async for s in tables.core.sandboxes.walk(TENANT, State.AVAILABLE)]
    late = (await provider.sandbox_ids())[0]
    gone = await tables.old.sandboxes.find(TENANT, [free[0].id, late])
    for before in gone.values():
        stale = before.go_stale(now=tables.since)
        await tables.old.sandboxes.move(before, stale, TEST_CAUSE, now=tables.since)
        await tables.old.sandboxes.remove(stale, TEST_CAUSE, now=tables.since)
        await tables.old.tenants.ensure("north", shards=1, now=tables.since)
        theirs = replace(before, tenant="north", id=f"n-{before.id}")
        await tables.old.sandboxes.add(theirs, TEST_CAUSE, now=tables.since)

    await tables.run("hold")
    await set_mode(tables.core, ModeName.DRAINED)
    await sync(tables.core, provider)
    cleared = await tables.run("clear", "--yes", "--json")

    told = {kept["sandbox_id"]: kept["why"] for kept in cleared.json["kept"]}
    assert told == {id_: f"its account is n-{id_} of tenant north in the old table" for id_ in (free[0].id, late)}
    assert {await tables.state(id_) for id_ in told} == {State.QUARANTINED}


async def test_an_account_that_another_sandbox_has_here_is_told_of(tables: Restored, provider: Provider) -> None:
    late = (await provider.sandbox_ids())[0]
    theirs = {(await get(tables.old, f"since-{n}")).sandbox_id for n in range(9)}
    then = await tables.old.sandboxes.get(TENANT, late)
    assert then is not None
    other = replace(then, id="9999", state=State.QUARANTINED, holder=None, claim_key=None, reason="INC-9: odd")
    await tables.core.sandboxes.add(other, TEST_CAUSE, now=tables.since)

    await tables.run("hold")
    await set_mode(tables.core, ModeName.DRAINED)
    await sync(tables.core, provider)
    cleared = await tables.run("clear", "--yes", "--json")

    assert cleared.code == 0, cleared.err
    told = {kept["sandbox_id"]: kept["why"] for kept in cleared.json["kept"]}
    assert told.keys() == theirs
    assert "another sandbox's" in told[late]


async def test_what_an_operator_held_and_a_student_got_since_is_told_of(
    tables: Restored, provider: Provider
) -> None:
    free = [s.id async for s in tables.core.sandboxes.walk(TENANT, State.AVAILABLE)]
    for id_ in free:
        await tables.core.operations.quarantine(TENANT, id_, cause=replace(TEST_CAUSE, reason="INC-9: odd"))
    theirs = {(await get(tables.old, f"since-{n}")).sandbox_id for n in range(9)}

    await tables.run("hold")
    await set_mode(tables.core, ModeName.DRAINED)
    await sync(tables.core, provider)
    cleared = await tables.run("clear", "--yes", "--json")

    assert {kept["sandbox_id"] for kept in cleared.json["kept"]} == theirs
    assert set(free) < theirs


async def test_nothing_is_cleared_before_a_sync_or_after_one_that_is_not_believed_or_while_the_broker_is_open(
    tables: Restored, provider: Provider
) -> None:
    await tables.run("hold")
    unsynced = await tables.run("clear", "--yes")
    await set_mode(tables.core, ModeName.DRAINED)
    await provider.faults(hidden_accounts=[int(id_) for id_ in await provider.sandbox_ids()])
    await sync(tables.core, provider)
    doubted = await tables.run("clear", "--yes")
    await provider.faults(hidden_accounts=[])
    await sync(tables.core, provider)
    await set_mode(tables.core, ModeName.OPEN)
    open_ = await tables.run("clear", "--yes")

    assert (unsynced.code, "has not been synced since" in unsynced.err) == (1, True)
    assert (doubted.code, "was not believed" in doubted.err) == (1, True)
    assert (open_.code, "The broker is open" in open_.err) == (1, True)
    assert await tables.core.sandboxes.count(TENANT, State.QUARANTINED) == 7


async def test_the_old_table_is_not_taken_for_the_restored_one(tables: Restored) -> None:
    swapped = await replace(tables, name=tables.old_name).run("hold")
    unknown = await replace(tables, old_name="no-such-table").run("clear", "--yes")

    assert (swapped.code, unknown.code) == (78, 78)
    assert (await tables.old.modes.current()).allocates
    assert await tables.old.sandboxes.count(TENANT, State.AVAILABLE) == 9


async def test_a_table_that_a_worker_uses_is_not_held(tables: Restored) -> None:
    """A forgotten variable at night would take every sandbox of the table away that students use."""
    now = int(time.time())
    report = WorkerReport(at=now - 5, holder="host/1", fence=1, version="1", provider={}, alerts={})
    await tables.core.reports.write(TENANT, report)
    refused = await tables.run("hold")
    used = (
        (await tables.core.modes.current()).allocates,
        await tables.core.sandboxes.count(TENANT, State.AVAILABLE),
    )
    await tables.core.reports.write(TENANT, replace(report, at=now - SILENT_S - 5))
    idle = await tables.run("hold")

    assert (refused.code, "host/1" in refused.err, "Nothing was changed" in refused.err) == (1, True, True)
    assert used == (True, 7)
    assert (idle.code, "7 held" in idle.out) == (0, True), idle.err
    assert f"{tables.name} is in maintenance" in idle.err


async def test_the_restored_table_has_to_be_named_and_its_instant_to_be_past(tables: Restored) -> None:
    unnamed = await replace(tables, name="").run("hold")
    to_come = await replace(tables, since=int(time.time()) + 3600).run("hold")

    assert (unnamed.code, "DDB_TABLE_NAME is not set" in unnamed.err) == (78, True)
    assert (to_come.code, "still to come" in to_come.err) == (2, True)
    assert await tables.core.sandboxes.count(TENANT, State.AVAILABLE) == 7
