"""B5: a tenant never holds more than it may, and what ends makes room at once."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from broker.errors import NoSandboxAvailable, QuotaExceeded
from broker.sandbox import EndedBy, State
from broker.store import table
from broker.tenant import Tenant
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, attempt, codes, fill, release, winners
from tests.allocation.test_pools import named
from tests.audit import audit, items_of
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker


@pytest.fixture
async def core(proxy: StoreProxy, table_name: str) -> AsyncIterator[Broker]:
    async with a_broker(proxy.url, table_name) as broker:
        yield broker


@pytest.fixture
async def other(ministack: str, table_name: str, core: Broker) -> AsyncIterator[Broker]:
    """Another process, which reaches the store beside the proxy's faults."""
    async with a_broker(ministack, table_name) as broker:
        yield broker


async def limit(broker: Broker, most: int | None, *others: Broker) -> None:
    """The tenant may hold so many, and these processes know it."""
    await broker.tenants.ensure("acme", shards=4, now=NOW)
    await broker.tenants.change("acme", lambda tenant: tenant.limited(max_live=most), TEST_CAUSE, now=NOW)
    for one in others:
        one.tenants._known.forget(table.tenant_key("acme"))


async def slots_of(broker: Broker) -> list[int]:
    return sorted(int(i["sk"]["S"]) for i in await items_of(broker) if i["pk"]["S"] == "QTA#acme")


async def test_many_students_on_many_processes_get_as_many_as_the_tenant_may_hold(
    proxy: StoreProxy, table_name: str
) -> None:
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(a_broker(proxy.url, table_name)) for _ in range(4)]
        await fill(processes[0], 60)
        await limit(processes[0], 20, *processes)
        proxy.faults.change({"latency_ms": 3, "conflict_rate": 0.05})

        answers = await asyncio.gather(*(attempt(processes[n % 4], f"student-{n // 2}") for n in range(160)))
        proxy.faults.change({"latency_ms": 0, "conflict_rate": 0})
        again = await asyncio.gather(*(attempt(processes[n % 4], f"late-{n}") for n in range(30)))

        held = {answer.sandbox_id for answer in winners([*answers, *again])}
        assert len(held) == 20
        assert codes(again) <= {"QUOTA_EXCEEDED"}
        assert await audit(processes[0]) == {"allocated": 20, "available": 40}
        assert await slots_of(processes[0]) == list(range(20))


async def test_eight_processes_of_which_four_are_killed_never_exceed_the_limit_together(
    core: Broker, proxy: StoreProxy, table_name: str
) -> None:
    """SIGKILL wherever they are: before, in the middle of, or after their transactions."""
    await fill(core, 90)
    await limit(core, 40)
    proxy.faults.latency_ms = 10
    command = [sys.executable, "-m", "tests.allocation.crowd", proxy.url, table_name]
    crowds = [
        await asyncio.create_subprocess_exec(*command, f"crowd-{n}", "10", stdout=asyncio.subprocess.PIPE)
        for n in range(8)
    ]
    for crowd in crowds:
        assert crowd.stdout is not None
        assert await crowd.stdout.readline() == b"ready\n"
    assert crowds[0].stdout is not None
    await crowds[0].stdout.readline()  # they are in the middle of it
    for crowd in crowds[:4]:
        crowd.kill()
    told = b"".join([(await crowd.communicate())[0] for crowd in crowds]).split()
    proxy.faults.latency_ms = 0

    live = (await audit(core))["allocated"]
    assert live <= 40
    assert set(filter(bytes.isupper, told)) <= {b"QUOTA_EXCEEDED"}
    answers = [await attempt(core, f"late-{n}") for n in range(41 - live)]
    assert len(winners(answers)) == 40 - live
    assert codes(answers[-1:]) == {"QUOTA_EXCEEDED"}
    assert await audit(core) == {"allocated": 40, "available": 50}


async def test_the_refusal_says_how_many_and_a_holder_at_the_limit_gets_what_is_held(
    core: Broker, other: Broker
) -> None:
    await fill(core, 3)
    await limit(core, 1, other)
    held = await allocate(core, "student-1")

    with pytest.raises(QuotaExceeded) as refused:
        await allocate(core, "student-2")
    replays = [await allocate(broker, "student-1") for broker in (core, other)]

    assert refused.value.details == {"limit": 1}
    assert refused.value.retry_after_s
    assert [(replay.sandbox_id, replay.created) for replay in replays] == [(held.sandbox_id, False)] * 2


@pytest.mark.parametrize("ending", ["release", "expire", "force_release"])
async def test_what_ends_makes_room_at_once_on_every_process(core: Broker, other: Broker, ending: str) -> None:
    await fill(core, 3)
    await limit(core, 1, other)
    held = await allocate(core, "student-1")
    assert codes([await attempt(other, "student-2"), await attempt(core, "student-2")]) == {"QUOTA_EXCEEDED"}

    row = await core.sandboxes.get("acme", held.sandbox_id)
    assert row is not None
    if ending == "release":
        await release(core, held.sandbox_id, "student-1")
    elif ending == "expire":
        await core.lifecycle.expire(row, TEST_CAUSE)
    else:
        await core.operations.force_release("acme", held.sandbox_id, cause=TEST_CAUSE)

    assert (await allocate(other, "student-2")).created
    assert await audit(core) == {"allocated": 1, "pending_deletion": 1, "available": 1}


async def test_students_who_come_and_go_at_the_limit_are_never_refused_while_there_is_room(core: Broker) -> None:
    """Five at once, a limit of five: each releases before the next comes, so that there always is room."""
    await fill(core, 60)
    await limit(core, 5)

    async def student(seat: int) -> None:
        for turn in range(10):
            held = await allocate(core, f"student-{seat}-{turn}")
            await release(core, held.sandbox_id, f"student-{seat}-{turn}")

    await asyncio.gather(*(student(seat) for seat in range(5)))

    assert await audit(core) == {"pending_deletion": 50, "available": 10}
    assert await slots_of(core) == []


async def test_further_sandboxes_of_one_student_count_as_well(core: Broker) -> None:
    await fill(core, 5)
    await limit(core, 2)
    await allocate(core, "student-1")
    await allocate(core, "student-1", key="second")

    with pytest.raises(QuotaExceeded):
        await allocate(core, "student-1", key="third")


async def test_an_answer_that_was_lost_fills_one_slot(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 5)
    await limit(core, 2)
    proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]})

    held = await allocate(core, "student-1")
    more = [await attempt(core, f"student-{n}") for n in (2, 3)]

    assert proxy.faults.lose_answer_next == 0
    assert len({held.sandbox_id, *(answer.sandbox_id for answer in winners(more))}) == 2
    assert codes(more) == {"QUOTA_EXCEEDED"}
    assert await audit(core) == {"allocated": 2, "available": 3}


async def test_a_conflict_over_a_slot_costs_a_next_slot_and_no_refusal(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 5)
    await limit(core, 5)
    proxy.faults.conflict_next = {3: 3}

    assert (await allocate(core, "student-1")).created
    assert proxy.faults.conflict_next.get(3, 0) == 0
    assert await audit(core) == {"allocated": 1, "available": 4}


async def test_a_slot_that_another_process_filled_costs_a_next_slot(core: Broker, other: Broker) -> None:
    """This process has read the slots when all were empty; the other has filled all but one since then."""
    await fill(core, 12)
    await limit(core, 8, other)
    await allocate(core, "first")
    await asyncio.gather(*(allocate(other, f"student-{n}") for n in range(6)))

    assert (await allocate(core, "last")).created
    assert codes([await attempt(core, "too-late")]) == {"QUOTA_EXCEEDED"}
    assert await slots_of(core) == list(range(8))


async def test_none_left_gives_the_slot_back(core: Broker) -> None:
    await limit(core, 1)
    with pytest.raises(NoSandboxAvailable):
        await allocate(core, "student-1")
    await fill(core, 1)
    await asyncio.sleep(1.01)  # as long as "empty" is remembered

    assert (await allocate(core, "student-1")).created


async def test_a_tenant_without_a_limit_writes_no_slots_and_reads_none(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 2)
    seen: list[int] = []

    async def look(body: dict[str, Any]) -> None:
        seen.append(len(body["TransactItems"]))

    with proxy.before("TransactWriteItems", look):
        await allocate(core, "student-1")

    assert seen == [3]
    assert await slots_of(core) == []


async def test_an_allocation_under_a_limit_is_one_transaction_and_reads_the_slots_seldom(
    core: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 40)
    await limit(core, 100)
    slot_reads: list[Any] = []

    async def look(body: dict[str, Any]) -> None:
        if body["ExpressionAttributeValues"].get(":pk", {}).get("S") == "QTA#acme":
            slot_reads.append(body)

    proxy.counts.reset()
    with proxy.before("Query", look):
        for n in range(40):
            await allocate(core, f"student-{n}")

    assert proxy.counts.calls["TransactWriteItems"] == 40
    assert len(slot_reads) == 1


async def test_a_storm_of_refusals_at_the_limit_reads_the_slots_few_times(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 3)
    await limit(core, 1)
    await allocate(core, "student-0")
    proxy.faults.latency_ms = 20
    slot_reads: list[Any] = []

    async def look(body: dict[str, Any]) -> None:
        if body["ExpressionAttributeValues"].get(":pk", {}).get("S") == "QTA#acme":
            slot_reads.append(body)

    with proxy.before("Query", look):
        answers = await asyncio.gather(*(attempt(core, f"student-{n}") for n in range(1, 101)))

    assert codes(answers) == {"QUOTA_EXCEEDED"}
    assert len(slot_reads) <= 3


async def test_what_was_held_before_there_was_a_limit_counts_once_it_is_seated(core: Broker) -> None:
    await fill(core, 6)
    held = [await allocate(core, f"student-{n}") for n in range(3)]
    await limit(core, 4)
    seated = await core.quota.seat("acme", 4)
    more = [await attempt(core, f"late-{n}") for n in range(2)]

    assert seated == {"seated": 3}
    assert await core.quota.seat("acme", 4) == {}
    assert (len(winners(more)), codes(more)) == (1, {"QUOTA_EXCEEDED"})
    assert (await allocate(core, "student-0")).sandbox_id == held[0].sandbox_id
    assert await audit(core) == {"allocated": 4, "available": 2}


async def test_what_counts_for_nothing_yet_is_seated_before_what_lies_beyond(
    core: Broker,
) -> None:
    await fill(core, 12)
    await limit(core, 6)
    for n in range(6):
        await allocate(core, f"student-{n}")
    await limit(core, None)
    for n in range(4):
        await allocate(core, f"between-{n}")
    await limit(core, 3)

    await core.quota.seat("acme", 3)

    assert len(await slots_of(core)) == 10
    assert await audit(core) == {"allocated": 10, "available": 2}


async def test_a_lowered_limit_takes_nothing_away_and_holds_as_soon_as_enough_have_ended(core: Broker) -> None:
    await fill(core, 12)
    await limit(core, 6)
    held = [await allocate(core, f"student-{n}") for n in range(6)]
    await limit(core, 2)
    for n in range(4):
        assert codes([await attempt(core, f"late-{n}")]) == {"QUOTA_EXCEEDED"}
        await release(core, held[n].sandbox_id, f"student-{n}")
        await core.quota.seat("acme", 2)
    assert codes([await attempt(core, "late")]) == {"QUOTA_EXCEEDED"}
    await release(core, held[4].sandbox_id, "student-4")

    answers = await asyncio.gather(*(attempt(core, f"last-{n}") for n in range(5)))

    assert len(winners(answers)) == 1
    assert await slots_of(core) == [0, 1]
    assert await audit(core) == {"allocated": 2, "pending_deletion": 5, "available": 5}


async def test_a_lowered_limit_is_not_exceeded_out_of_what_processes_have_in_stock(
    core: Broker, other: Broker
) -> None:
    """Ten of twenty end, others lie beyond the new limit: what each process thinks is empty must not add up."""
    await fill(core, 40)
    await limit(core, 20, other)
    held = [await allocate(core, f"student-{n}") for n in range(10)]
    rows = {slot: item for item in held if (slot := (await _slot(core, item.sandbox_id))) is not None}
    await limit(core, 10, other)
    for slot, item in list(rows.items())[:5]:
        await release(core, item.sandbox_id, f"student-{held.index(item)}")
        assert slot >= 0

    answers = [await attempt(broker, f"late-{n}") for n in range(12) for broker in (core, other)]

    assert len(set(answer.sandbox_id for answer in winners(answers))) <= 5
    assert (await audit(core))["allocated"] <= 10


async def _slot(broker: Broker, sandbox_id: str) -> int | None:
    row = await broker.sandboxes.get("acme", sandbox_id)
    return None if row is None else row.slot


async def test_nobody_waits_for_a_slot_with_a_sandbox_in_hand(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    """B loses its slot to another process, and a sibling that has the last slot waits for B's sandbox."""
    await named(core, "lab-a-", 1, first=1)
    await named(core, "lab-b-", 1, first=2)
    await limit(core, 2, other)
    for broker in (core, other):  # both begin with the same slot
        shelf = broker.quota._shelf("acme", 2)
        shelf.empty, shelf.below = [0, 1], 2
    sibling: list[asyncio.Task[Any]] = []

    async def faster(_: dict[str, Any]) -> None:
        if not sibling:
            sibling.append(asyncio.create_task(attempt(core, "a", prefix="lab-a-")))
            await allocate(other, "x", prefix="lab-b-")
            await asyncio.sleep(0.3)

    with proxy.before("TransactWriteItems", faster):
        answers = [await attempt(core, "b", prefix="lab-a-"), await sibling[0]]

    assert len(winners(answers)) == 1
    assert codes(answers) <= {"QUOTA_EXCEEDED", "NO_SANDBOXES_AVAILABLE"}
    assert await audit(core) == {"allocated": 2}


async def test_who_holds_a_sandbox_is_served_while_the_slots_cannot_be_read(
    core: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 2)
    await limit(core, 2)
    held = await allocate(core, "student-1")
    core.quota._shelves.clear()
    proxy.faults.change({"throttle_rate": 1, "throttle_ops": ["Query"]})

    assert (await allocate(core, "student-1")).sandbox_id == held.sandbox_id
    assert codes([await attempt(core, "student-2")]) == {"STORE_THROTTLED"}


async def test_a_limit_that_is_lifted_is_lifted_for_all(core: Broker) -> None:
    await fill(core, 4)
    await limit(core, 1)
    held = await allocate(core, "student-1")
    await limit(core, None)

    assert len(winners([await attempt(core, f"late-{n}") for n in range(3)])) == 3
    await release(core, held.sandbox_id, "student-1")
    assert await slots_of(core) == []


@pytest.mark.parametrize("slot", ["gone", "another's"])
async def test_a_missing_or_foreign_slot_never_stops_an_ending(core: Broker, slot: str) -> None:
    await fill(core, 2)
    await limit(core, 1)
    held = await allocate(core, "student-1")
    at = {"TableName": core.client.table.name}
    if slot == "gone":
        await core.client.call("delete_item", **at, Key=table.slot_key("acme", 0))
    else:
        foreign = table.encode({"v": 1, "tenant": "acme", "sandbox_id": "someone"}) | table.slot_key("acme", 0)
        await core.client.call("put_item", **at, Item=foreign)

    await release(core, held.sandbox_id, "student-1")

    row = await core.sandboxes.get("acme", held.sandbox_id)
    assert row is not None
    assert (row.state, row.ended_by, row.slot) == (State.PENDING_DELETION, EndedBy.RELEASE, None)
    assert await slots_of(core) == ([0] if slot == "another's" else [])


async def test_a_claim_and_a_slot_that_are_both_gone_stop_no_ending_either(core: Broker) -> None:
    await fill(core, 1)
    await limit(core, 1)
    held = await allocate(core, "student-1")
    for key in (table.slot_key("acme", 0), table.claim_key("acme", "student-1", None)):
        await core.client.call("delete_item", TableName=core.client.table.name, Key=key)

    await core.operations.force_release("acme", held.sandbox_id, cause=TEST_CAUSE)

    assert await audit(core) == {"pending_deletion": 1}


async def test_quotas_are_each_tenants_own(core: Broker) -> None:
    await core.tenants.create(Tenant(name="rival"), TEST_CAUSE, now=NOW)
    await fill(core, 2)
    await core.sandboxes.add(a_sandbox(number=1, tenant="rival", external_id="x/1"), TEST_CAUSE, now=NOW)
    await limit(core, 1)
    await allocate(core, "student-1")

    assert (await allocate(core, "student-1", tenant="rival")).created
    assert codes([await attempt(core, "student-2")]) == {"QUOTA_EXCEEDED"}
