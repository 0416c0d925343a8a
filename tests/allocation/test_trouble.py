"""A15, A5: whatever the store does, the answer is a sandbox, the same one, or "try again"; never "none left"."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aioboto3
import pytest

from broker.allocation import Allocator, Wish
from broker.errors import AllocationInProgress, StoreThrottled, StoreUnavailable
from broker.evidence import Evidence
from broker.peers import Share
from broker.pool import Pool
from broker.walk import Walk
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from local.store_proxy.answers import Dropped, Refused, error
from local.store_proxy.hooks import Hook
from tests.allocation.students import (
    SHARDS,
    add,
    allocate,
    attempt,
    codes,
    fill,
    numbers_in,
    release,
    winners,
)
from tests.audit import audit
from tests.builders import TEST_CAUSE, a_sandbox
from tests.conftest import a_broker


@pytest.fixture
async def core(proxy: StoreProxy, table_name: str) -> AsyncIterator[Broker]:
    async with a_broker(proxy.url, table_name, STORE_TIMEOUT_SEC="1") as broker:
        yield broker


async def test_a_lost_answer_is_found_again_as_the_allocation_it_was(core: Broker, proxy: StoreProxy) -> None:
    """The transaction committed, the connection broke: the claim tells, and it is a 201, not a replay."""
    await fill(core, 3)
    proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]})

    allocation = await allocate(core, "student-1")

    assert allocation.created
    assert await audit(core) == {"allocated": 1, "available": 2}
    assert (await allocate(core, "student-1")).sandbox_id == allocation.sandbox_id


async def test_a_lost_answer_and_a_lost_look_end_in_503_and_the_repeat_gets_the_sandbox(
    core: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 3)

    async def go_down(_: dict[str, Any]) -> None:
        proxy.faults.down = True

    proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]})
    with proxy.after("TransactWriteItems", go_down), pytest.raises(StoreUnavailable) as refused:
        await allocate(core, "student-1")
    proxy.faults.down = False

    again = await allocate(core, "student-1")

    assert refused.value.retry_after_s
    assert not again.created
    assert await audit(core) == {"allocated": 1, "available": 2}


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ({"throttle_rate": 1}, StoreThrottled),
        ({"throttle_rate": 1, "throttle_code": "ThrottlingException"}, StoreThrottled),
        ({"throttle_in_reasons_rate": 1, "throttle_in_reasons_slot": 0}, StoreThrottled),
        ({"throttle_in_reasons_rate": 1, "throttle_in_reasons_slot": 1}, StoreThrottled),
        ({"throttle_in_reasons_rate": 1, "throttle_in_reasons_slot": 2}, StoreThrottled),
        ({"down": True}, StoreUnavailable),
        ({"reset_rate": 1}, StoreUnavailable),
        ({"internal_error_rate": 1}, StoreUnavailable),
        ({"hang_next": 100, "hang_s": 30}, StoreUnavailable),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value.__name__,
)
@pytest.mark.parametrize("pool", [0, 3])
async def test_trouble_is_told_as_trouble_with_a_time_to_retry(
    core: Broker, proxy: StoreProxy, faults: dict[str, Any], error: type[Exception], pool: int
) -> None:
    await fill(core, pool)
    proxy.faults.change(faults)

    if pool == 0 and "throttle_in_reasons_rate" in faults:
        return  # an empty pool makes no transaction: nothing to throttle
    with pytest.raises(error) as refused:
        await allocate(core, "student-1")

    assert refused.value.retry_after_s  # type: ignore[attr-defined]


@pytest.mark.parametrize("operation", ["Query:StatusIndex", "GetItem:consistent"])
async def test_an_index_or_a_claim_that_cannot_be_read_is_no_empty_pool(
    core: Broker, proxy: StoreProxy, operation: str
) -> None:
    """The pool may be empty for all we know; not knowing is not knowing."""
    proxy.faults.change({"throttle_rate": 1, "throttle_ops": [operation]})

    answer = await attempt(core, "student-1")

    assert codes([answer]) == {"STORE_THROTTLED"}


def throttled(name: str, *, where: Callable[[dict[str, Any]], bool]) -> Hook:
    """Refuses the calls that are so, as one hot partition does."""

    async def refuse(body: dict[str, Any]) -> None:
        if where(body):
            raise Refused(error("ProvisionedThroughputExceededException", name))

    return refuse


async def test_a_shard_that_throttles_takes_nothing_from_the_others(core: Broker, proxy: StoreProxy) -> None:
    """Whichever is asked first."""
    await add(core, numbers_in({0}, 12))
    hot = throttled("Query", where=lambda body: "acme#available#2" in str(body["ExpressionAttributeValues"]))
    with proxy.before("Query", hot):
        answers = [await attempt(core, f"s-{n}") for n in range(13)]
    assert codes(answers[-1:]) == {"STORE_THROTTLED"}, "what is in the hot one nobody knows"
    assert len(winners(answers)) == 12


def a_walk(core: Broker) -> Walk:
    evidence = Evidence(core.sandboxes)
    return Walk(core.sandboxes, evidence, tenant="acme", pool=Pool(), share=Share(), shards=SHARDS, began_at=0.0)


async def test_an_index_that_cannot_be_reached_is_not_asked_shard_by_shard(
    core: Broker, proxy: StoreProxy
) -> None:
    """An outage takes a call's whole time: one is enough to know."""
    asked: set[str] = set()

    async def cut(body: dict[str, Any]) -> None:
        asked.add(str(body["ExpressionAttributeValues"]))
        raise Dropped(reset=True)

    with proxy.before("Query", cut), pytest.raises(StoreUnavailable):
        await a_walk(core).step(25, checking=False)
    assert len(asked) == 1


async def test_what_a_walk_found_is_kept_where_another_shards_check_fails(core: Broker, proxy: StoreProxy) -> None:
    """Forgotten, it would be missing in the proof that there is none."""
    seen, hot = numbers_in({1}, 5), numbers_in({2}, 1)
    await add(core, seen + hot)
    walk = a_walk(core)
    refusal = throttled("BatchGetItem", where=lambda body: a_sandbox(number=hot[0]).id in str(body))
    with proxy.before("BatchGetItem", refusal):
        found, _ = await walk.step(25, checking=True)
    assert {row.id for row in found} == {a_sandbox(number=n).id for n in seen}
    assert (walk.found, walk.ended) == (5, False)
    assert [row.id for row in (await walk.step(25, checking=True))[0]] == [a_sandbox(number=hot[0]).id]
    assert (walk.found, walk.ended) == (6, True)


async def test_a_holder_is_served_when_the_index_alone_is_throttled(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 1)
    held = await allocate(core, "student-1")
    proxy.faults.change({"throttle_rate": 1, "throttle_ops": ["Query"]})

    again = await allocate(core, "student-1")

    assert (again.sandbox_id, again.created) == (held.sandbox_id, False)


async def test_who_joins_an_attempt_whose_sandbox_is_released_meanwhile_gets_another(
    core: Broker, proxy: StoreProxy, ministack: str, table_name: str
) -> None:
    """The first answer is late; on another process the same student repeats, releases, and asks again here."""
    await fill(core, 2)

    async def late(_: dict[str, Any]) -> None:
        await asyncio.sleep(0.5)

    async with a_broker(ministack, table_name) as other:
        holding = proxy.after("TransactWriteItems", late)
        first = asyncio.create_task(allocate(core, "student-1"))
        while not (held := await other.claims.get("acme", "student-1", None)):  # noqa: ASYNC110  another process
            await asyncio.sleep(0.01)
        holding.remove()
        await release(other, held.sandbox_id, "student-1")
        again = await allocate(core, "student-1")
        await first

    assert again.created
    assert again.sandbox_id != held.sandbox_id


async def test_one_throttled_transaction_is_tried_again_at_once(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 3)
    proxy.faults.change({"throttle_next": 1, "throttle_ops": ["TransactWriteItems"]})

    assert (await allocate(core, "student-1")).created


async def test_a_conflict_on_the_claim_is_looked_into_and_tried_again(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 3)
    proxy.faults.conflict_next = {0: 1}

    assert (await allocate(core, "student-1")).created


async def test_a_claim_that_stays_in_conflict_is_an_allocation_in_progress(
    core: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 3)
    proxy.faults.change({"conflict_rate": 1, "conflict_slots": [0]})

    with pytest.raises(AllocationInProgress):
        await allocate(core, "student-1")

    proxy.faults.conflict_rate = 0
    assert await audit(core) == {"available": 3}


async def test_sandboxes_that_stay_in_conflict_are_no_empty_pool(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 3)
    proxy.faults.change({"conflict_rate": 1, "conflict_slots": [1]})

    with pytest.raises(AllocationInProgress):
        await allocate(core, "student-1")

    proxy.faults.conflict_rate = 0
    assert (await allocate(core, "student-1")).created


async def test_a_request_makes_eight_transactions_at_the_most(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 30)
    proxy.faults.change({"conflict_rate": 1, "conflict_slots": [1]})
    proxy.counts.reset()

    await attempt(core, "student-1")

    assert proxy.counts.calls["TransactWriteItems"] == 8


async def test_the_process_that_failed_serves_on_once_the_store_is_back(core: Broker, proxy: StoreProxy) -> None:
    """No loan, no walk and no memory of emptiness is left over from an outage."""
    await fill(core, 5)
    proxy.faults.down = True
    refused = await asyncio.gather(*(attempt(core, f"student-{n}") for n in range(5)))
    proxy.faults.down = False

    served = await asyncio.gather(*(allocate(core, f"student-{n}") for n in range(5)))

    assert codes(refused) == {"STORE_UNAVAILABLE"}
    assert {allocation.created for allocation in served} == {True}


@pytest.mark.parametrize(
    "faults",
    [
        {"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]},
        {"reset_next": 1},
        {"conflict_next": {0: 1}},
        {"conflict_next": {2: 2}},
    ],
    ids=lambda faults: next(iter(faults)),
)
async def test_a_release_survives_a_lost_answer_a_reset_and_conflicts(
    core: Broker, proxy: StoreProxy, faults: dict[str, Any]
) -> None:
    await fill(core, 1)
    held = await allocate(core, "student-1")
    proxy.faults.change(faults)

    first = await release(core, held.sandbox_id, "student-1")

    assert first == await release(core, held.sandbox_id, "student-1")
    assert await audit(core) == {"pending_deletion": 1}


async def test_a_release_that_cannot_reach_the_store_is_told_so(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 1)
    held = await allocate(core, "student-1")
    proxy.faults.down = True

    with pytest.raises(StoreUnavailable):
        await release(core, held.sandbox_id, "student-1")


async def test_a_release_and_an_expiry_at_once_end_it_once(core: Broker, proxy: StoreProxy) -> None:
    """Whoever loses tells what happened; the claim and the event are there once."""
    await fill(core, 1)
    held = await allocate(core, "student-1")
    row = await core.sandboxes.get("acme", held.sandbox_id)
    assert row is not None
    proxy.faults.latency_ms = 5

    await asyncio.gather(
        release(core, held.sandbox_id, "student-1"),
        core.lifecycle.expire(row, TEST_CAUSE),
        return_exceptions=True,
    )

    assert await audit(core) == {"pending_deletion": 1}


async def test_a_request_past_its_deadline_is_503_and_its_candidate_is_lent_again(
    proxy: StoreProxy, table_name: str
) -> None:
    """The store hangs; the attempt is cut short in the middle of its transaction. Nothing stays lent."""
    async with a_broker(proxy.url, table_name, STORE_TIMEOUT_SEC="20") as core:
        await fill(core, 1)
        hurried = Allocator(
            core.sandboxes,
            core.claims,
            core.allocator._candidates,
            core.tenants,
            core.quota,
            core.modes,
            core.metrics,
            lease_s=3600,
            max_per_holder=5,
            deadline_s=0.5,
        )

        async def hang(_: dict[str, Any]) -> None:
            await asyncio.sleep(1)

        with proxy.before("TransactWriteItems", hang), pytest.raises(AllocationInProgress):
            await hurried.allocate("acme", Wish(holder="student-1"), TEST_CAUSE)

        again = await allocate(core, "student-1")

    assert again.sandbox_id


async def test_a_table_that_is_gone_is_an_outage_and_no_crash(proxy: StoreProxy, table_name: str) -> None:
    """Deleted, or the rights to it taken away: callers are told to come back, operators read why."""
    async with a_broker(proxy.url, table_name) as core:
        await fill(core, 1)
        async with aioboto3.Session().client(
            "dynamodb", region_name="us-east-1", endpoint_url=proxy.url
        ) as dynamodb:
            await dynamodb.delete_table(TableName=table_name)

        with pytest.raises(StoreUnavailable, match="ResourceNotFoundException"):
            await allocate(core, "student-1")
