"""A7, A8, A14: "none left" is proved, never guessed; contention costs a next candidate, never a pause."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.candidates import DOUBTS
from broker.errors import NoSandboxAvailable, RateLimited
from broker.peers import Share
from broker.pool import Pool
from broker.sandbox import State
from broker.store import table
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, attempt, codes, fill, release, winners
from tests.audit import audit
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker
from tests.store.conftest import Clock


@pytest.fixture
def clock() -> Clock:
    """The monotonic clock of the core under test."""
    return Clock(1000.0)


@pytest.fixture
async def core(proxy: StoreProxy, table_name: str, clock: Clock) -> AsyncIterator[Broker]:
    async with a_broker(proxy.url, table_name, monotonic=clock) as broker:
        yield broker


@pytest.fixture
async def other(ministack: str, table_name: str, core: Broker) -> AsyncIterator[Broker]:
    """Another process, which reaches the store beside the proxy's faults."""
    async with a_broker(ministack, table_name) as broker:
        yield broker


def calls(proxy: StoreProxy) -> dict[str, int]:
    """How often each operation was called, tenants' items aside."""
    return dict(proxy.counts.calls)


async def freeze(core: Broker, proxy: StoreProxy) -> None:
    """From now on the indexes show what the table holds at this moment."""
    proxy.faults.freeze_indexes = True
    await core.sandboxes.count("acme", State.AVAILABLE)


async def test_seven_lost_races_cost_seven_candidates_and_no_refusal(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 12)
    proxy.faults.conflict_next = {1: 7}

    allocation = await allocate(core, "student-1")

    assert allocation.created
    assert await audit(core) == {"allocated": 1, "available": 11}


async def test_a_store_that_changes_every_candidate_at_the_last_moment_still_serves(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    """The row is still available, at another version: the refusal carries it, and it is tried again."""
    await fill(core, 1)
    raced: list[str] = []

    async def touch_it(_: dict[str, Any]) -> None:
        if not raced:
            row = await other.sandboxes.get("acme", a_sandbox().id)
            assert row is not None
            raced.append(row.id)
            described = row.described(name=row.name, external_id=row.external_id, attributes={"x": "1"})
            await other.sandboxes.touch(row, described)

    with proxy.before("TransactWriteItems", touch_it):
        allocation = await allocate(core, "student-1")

    assert raced
    assert allocation.created
    assert await audit(core) == {"allocated": 1}


async def test_a_candidate_renamed_at_the_last_moment_no_longer_matches_the_prefix(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 1)

    async def rename(_: dict[str, Any]) -> None:
        row = await other.sandboxes.get("acme", a_sandbox().id)
        assert row is not None
        if row.name != "other":
            await other.sandboxes.touch(
                row, row.described(name="other", external_id=row.external_id, attributes={})
            )

    with proxy.before("TransactWriteItems", rename), pytest.raises(NoSandboxAvailable):
        await allocate(core, "student-1", prefix="lab-")


async def test_index_rows_that_were_taken_long_ago_hide_nothing(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    """The indexes stand still and show 60 sandboxes; 57 were taken by another process. Three are left."""
    await fill(core, 60)
    await freeze(core, proxy)
    await asyncio.gather(*(allocate(other, f"other-{n}") for n in range(57)))

    answers = await asyncio.gather(*(attempt(core, f"student-{n}") for n in range(5)))

    assert len(winners(answers)) == 3
    assert codes(answers) == {"NO_SANDBOXES_AVAILABLE"}
    assert await audit(other) == {"allocated": 60}


async def test_a_single_request_walks_through_a_whole_page_of_taken_rows(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    """More taken rows than a request has transactions: they are proved taken in bulk."""
    await fill(core, 80)
    await freeze(core, proxy)
    await asyncio.gather(*(allocate(other, f"other-{n}") for n in range(79)))
    await core.modes.current()
    proxy.counts.reset()

    allocation = await allocate(core, "student-1")

    assert allocation.created
    lucky = proxy.counts.calls["TransactWriteItems"] <= DOUBTS + 1  # one row in eighty is free, and may come first
    assert lucky or proxy.counts.calls["BatchGetItem"] >= 1


async def test_a_sandbox_that_becomes_visible_is_found_within_the_second(core: Broker, clock: Clock) -> None:
    with pytest.raises(NoSandboxAvailable):
        await allocate(core, "student-1")
    await fill(core, 1)

    clock.now += 1.01

    assert (await allocate(core, "student-1")).created


async def test_an_exhausted_pool_costs_no_index_read_and_one_claim_read_a_refusal(
    core: Broker, proxy: StoreProxy, clock: Clock
) -> None:
    """A14, up to a second after the pool was found empty."""
    await attempt(core, "first")
    clock.now += 0.99
    proxy.counts.reset()

    answers = await asyncio.gather(*(attempt(core, f"student-{n}") for n in range(40)))

    assert codes(answers) == {"NO_SANDBOXES_AVAILABLE"}
    assert calls(proxy) == {"GetItem:consistent": 40}


@pytest.mark.parametrize(("processes", "remembered_s"), [(4, 1.0), (6, 1.5), (8, 1.8), (100, 1.8)])
async def test_many_processes_remember_for_longer_that_a_pool_is_empty(
    core: Broker, proxy: StoreProxy, clock: Clock, processes: int, remembered_s: float
) -> None:
    """So that all of them together ask little. Nobody is refused on what is 2 s old (A7)."""
    core.peers.share = Share(0, processes)
    await attempt(core, "first")
    proxy.counts.reset()
    clock.now += remembered_s - 0.01

    await attempt(core, "second")
    assert proxy.counts.calls["Query:StatusIndex"] == 0

    clock.now += 0.02
    await attempt(core, "third")
    assert proxy.counts.calls["Query:StatusIndex"] == 4


async def test_refusals_of_one_student_share_their_claim_read(core: Broker, proxy: StoreProxy) -> None:
    await attempt(core, "first")
    proxy.counts.reset()

    await asyncio.gather(*(attempt(core, "student-1") for _ in range(40)))

    assert calls(proxy) == {"GetItem:consistent": 1}


async def test_whoever_holds_a_sandbox_gets_it_from_a_pool_remembered_as_empty(
    core: Broker, other: Broker
) -> None:
    await fill(core, 1)
    held = await allocate(other, "student-1")
    await attempt(core, "student-2")

    again = await allocate(core, "student-1")

    assert (again.sandbox_id, again.created) == (held.sandbox_id, False)


async def test_the_usual_allocation_is_one_transaction_and_one_index_query_for_many(
    core: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 150)
    await allocate(core, "first")
    proxy.counts.reset()

    for n in range(24):
        await allocate(core, f"student-{n}")

    assert proxy.counts.calls["TransactWriteItems"] == 24
    assert proxy.counts.calls["Query:StatusIndex"] <= 1
    assert proxy.counts.calls["GetItem:consistent"] == 0


async def test_pages_grow_with_the_rush_and_shrink_after_it(core: Broker, proxy: StoreProxy, clock: Clock) -> None:
    """A burst of thousands asks the index a few dozen times; who comes alone reads no more than before."""
    await put_in_bulk(core, 450)
    limits: list[int] = []

    async def look(body: dict[str, Any]) -> None:
        limits.append(body["Limit"])

    with proxy.before("Query", look):
        for n in range(350):
            await allocate(core, f"student-{n}")
        rush, limits[:] = list(limits), []
        clock.now += 10  # all that is on the shelf is too old by then
        await allocate(core, "latecomer")

    assert list(dict.fromkeys(rush)) == [25, 50, 100]
    assert len(rush) <= 10  # 14 pages of 25, or 2 of these and four of 100, each shard's last one short
    assert set(limits) == {25}


async def test_a_refused_transaction_gives_its_candidate_back(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    """A replay found by the transaction uses no candidate up: the next two students need no index read."""
    await fill(core, 3)
    await allocate(other, "student-1")

    again = await allocate(core, "student-1")
    proxy.counts.reset()
    fresh = [await allocate(core, f"student-{n}") for n in (2, 3)]

    assert not again.created
    assert all(allocation.created for allocation in fresh)
    assert proxy.counts.calls["Query:StatusIndex"] == 0


async def test_a_prefix_hands_out_matching_names_only(core: Broker) -> None:
    """A8."""
    await fill(core, 5)
    wanted = a_sandbox(number=90, name="git-lab-01")
    await core.sandboxes.add(wanted, TEST_CAUSE, now=NOW)

    allocation = await allocate(core, "student-1", prefix="git-")
    refused = await attempt(core, "student-2", prefix="git-")

    assert allocation.sandbox_id == wanted.id
    assert codes([refused]) == {"NO_SANDBOXES_AVAILABLE"}
    assert await audit(core) == {"allocated": 1, "available": 5}


async def test_a_prefix_is_found_by_key_in_a_large_pool(core: Broker, proxy: StoreProxy) -> None:
    """A8: nothing is filtered: the index is asked for the prefix, and reads what it answers, no more."""
    await put_in_bulk(core, 3000)
    wanted = a_sandbox(number=9001, name="zz-lab-01")
    await core.sandboxes.add(wanted, TEST_CAUSE, now=NOW)
    seen: list[dict[str, Any]] = []

    async def look(body: dict[str, Any]) -> None:
        seen.append(body)

    with proxy.before("Query", look):
        allocation = await allocate(core, "student-1", prefix="zz-")

    assert allocation.sandbox_id == wanted.id
    assert len(seen) <= 4
    assert all("BETWEEN" in body["KeyConditionExpression"] for body in seen)
    assert all("FilterExpression" not in body for body in seen)


async def put_in_bulk(broker: Broker, count: int) -> None:
    """Items as add() writes them, without their events: only to make a pool large."""
    for first in range(1, count + 1, 25):
        rows = [a_sandbox(number=n) for n in range(first, min(first + 25, count + 1))]
        puts = [{"PutRequest": {"Item": table.sandbox_item(row, 4)}} for row in rows]
        await broker.client.call("batch_write_item", RequestItems={broker.client.table.name: puts})


async def test_made_up_prefixes_are_budgeted_and_a_known_one_is_served_all_the_same(core: Broker) -> None:
    await fill(core, 2)
    await allocate(core, "student-1")

    answers = await asyncio.gather(*(attempt(core, f"prober-{n}", prefix=f"p{n}-") for n in range(120)))
    known = await allocate(core, "student-2")

    assert codes(answers) == {"NO_SANDBOXES_AVAILABLE", RateLimited.code}
    assert known.created


async def test_a_release_and_a_new_allocation_go_on_while_the_indexes_stand_still(
    core: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 3)
    await freeze(core, proxy)

    first = await allocate(core, "student-1")
    await release(core, first.sandbox_id, "student-1")
    second = await allocate(core, "student-1")

    assert second.created
    assert second.sandbox_id != first.sandbox_id


async def test_a_row_that_was_lent_and_came_back_undecided_during_the_walk_is_no_proof(
    core: Broker, proxy: StoreProxy
) -> None:
    """The walk saw it in a sibling's hands; before the walk ends the sibling gives it back, contested."""
    await core.tenants.ensure("acme", shards=2, now=NOW)
    core.peers.share, first_asked = Share(0, 2), 0
    number = next(n for n in range(1, 99) if table.shard_of(a_sandbox(number=n).id, 2) == first_asked)
    await core.sandboxes.add(a_sandbox(number=number), TEST_CAUSE, now=NOW)
    candidates = core.allocator._candidates
    lent = await candidates.take("acme", Pool())
    assert lent is not None

    async def give_back_before_the_last_shard(body: dict[str, Any]) -> None:
        if body["ExpressionAttributeValues"][":partition"]["S"].endswith(f"#{1 - first_asked}"):
            candidates.contested(lent, Pool())

    with proxy.before("Query", give_back_before_the_last_shard):
        found = await candidates.take("acme", Pool())

    assert found == lent


async def test_one_students_wishes_for_two_prefixes_at_once_are_two_questions(
    core: Broker, proxy: StoreProxy
) -> None:
    """The empty prefix answers 409; the other one, asked at the same moment, has a sandbox."""
    await fill(core, 1)
    proxy.faults.latency_ms = 5

    answers = await asyncio.gather(
        attempt(core, "student-1", prefix="none-"), attempt(core, "student-1", prefix="lab-")
    )

    assert len(winners([answers[1]])) == 1
    assert await audit(core) == {"allocated": 1}


async def test_more_requests_than_connections_wait_for_one_and_are_not_told_of_an_outage(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name, STORE_CONNECTIONS="2", STORE_TIMEOUT_SEC="5") as narrow:
        await fill(narrow, 40)
        proxy.faults.latency_ms = 60

        answers = await asyncio.gather(*(attempt(narrow, f"student-{n}") for n in range(40)))

    assert codes(answers) == set()
