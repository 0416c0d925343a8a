"""C5 in trouble: operators beside students, the worker and other operators, and a store that misbehaves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.errors import NoSandboxAvailable, StoreThrottled, StoreUnavailable, WrongState
from broker.insist import MAX_TRIES
from broker.sandbox import EndedBy, Sandbox, State
from broker.store.events import Cause
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, attempt, codes, fill, release, winners
from tests.audit import audit
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker

WHY = Cause(actor="olga", action="by_hand", request_id="req-7", reason="INC-4711")
ID = a_sandbox().id


@pytest.fixture
async def core(proxy: StoreProxy, table_name: str) -> AsyncIterator[Broker]:
    async with a_broker(proxy.url, table_name, STORE_TIMEOUT_SEC="1") as broker:
        yield broker


@pytest.fixture
async def other(ministack: str, table_name: str, core: Broker) -> AsyncIterator[Broker]:
    """Another process, which reaches the store beside the proxy's faults."""
    async with a_broker(ministack, table_name) as broker:
        yield broker


async def stored(broker: Broker) -> Sandbox:
    sandbox = await broker.sandboxes.get("acme", ID)
    assert sandbox is not None
    return sandbox


async def test_what_is_quarantined_is_handed_out_by_no_process_that_had_it_at_hand(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    """This process has all six on its shelf and its index stands still: only the version check can refuse."""
    await fill(core, 6)
    proxy.faults.freeze_indexes = True
    await allocate(core, "first")
    left = [row.id async for row in other.sandboxes.walk("acme", State.AVAILABLE)]
    await asyncio.gather(*(other.operations.quarantine("acme", id_, cause=WHY) for id_ in left[:4]))

    answers = await asyncio.gather(*(attempt(core, f"student-{n}") for n in range(5)))

    assert len(winners(answers)) == 1
    assert codes(answers) == {"NO_SANDBOXES_AVAILABLE"}
    assert await audit(other) == {"allocated": 2, "quarantined": 4}


async def test_what_was_reinstated_elsewhere_is_handed_out_here(core: Broker, other: Broker) -> None:
    """This process has proved the row taken; a later version is another matter."""
    await fill(core, 1)
    await other.operations.quarantine("acme", ID, cause=WHY)
    with pytest.raises(NoSandboxAvailable):
        await allocate(core, "student-1")
    await other.operations.reinstate("acme", ID, cause=WHY)
    await asyncio.sleep(1.01)  # as long as "empty" is remembered

    assert (await allocate(core, "student-1")).sandbox_id == ID


async def test_a_student_and_a_quarantine_at_once_end_in_one_of_both(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 1)
    proxy.faults.latency_ms = 5

    student, operator = await asyncio.gather(
        attempt(core, "student-1"), core.operations.quarantine("acme", ID, cause=WHY), return_exceptions=True
    )

    given = len(winners([student]))
    assert isinstance(operator, WrongState if given else Sandbox)
    assert await audit(core) == ({"allocated": 1} if given else {"quarantined": 1})


async def test_the_student_who_comes_between_an_operators_look_and_write_keeps_it(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 1)
    given: list[str] = []

    async def student(_: dict[str, Any]) -> None:
        if not given:
            given.append((await allocate(other, "student-1")).sandbox_id)

    with proxy.before("TransactWriteItems", student), pytest.raises(WrongState):
        await core.operations.quarantine("acme", ID, cause=WHY)

    assert given == [ID]
    assert (await stored(core)).holder == "student-1"
    assert await audit(core) == {"allocated": 1}


async def test_the_quarantine_that_comes_between_a_students_look_and_write_stands(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 1)
    done: list[Sandbox] = []

    async def operator(_: dict[str, Any]) -> None:
        if not done:
            done.append(await other.operations.quarantine("acme", ID, cause=WHY))

    with proxy.before("TransactWriteItems", operator), pytest.raises(NoSandboxAvailable):
        await allocate(core, "student-1")

    assert await stored(core) == done[0]
    assert await audit(core) == {"quarantined": 1}


async def test_the_release_that_comes_between_a_forced_ones_look_and_write_stands(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    """Else the next holder's claim would be ended for the one before."""
    await fill(core, 1)
    await allocate(core, "student-1")
    released: list[str] = []

    async def student(_: dict[str, Any]) -> None:
        if not released:
            released.append(ID)
            await release(other, ID, "student-1")

    with proxy.before("TransactWriteItems", student), pytest.raises(WrongState):
        await core.operations.force_release("acme", ID, cause=WHY)

    assert (await stored(core)).ended_by is EndedBy.RELEASE
    assert await audit(core) == {"pending_deletion": 1}


async def test_two_operators_at_once_do_it_once_and_both_get_the_answer(core: Broker, other: Broker) -> None:
    await fill(core, 1)

    answers = await asyncio.gather(
        *(broker.operations.quarantine("acme", ID, cause=WHY) for broker in (core, other) for _ in range(3))
    )

    assert answers == [await stored(core)] * 6
    assert await audit(core) == {"quarantined": 1}


@pytest.mark.parametrize("races", [1, MAX_TRIES - 1])
async def test_a_lost_race_is_run_again_from_what_is_there_now(
    core: Broker, other: Broker, proxy: StoreProxy, races: int
) -> None:
    """Each time the write is on its way, a sync changes the sandbox; its state stays what it was."""
    await fill(core, 1)
    changed = []

    async def sync(_: dict[str, Any]) -> None:
        if len(changed) < races:
            row = await stored(other)
            changed.append(row)
            described = row.described(name=f"n-{len(changed)}", external_id=row.external_id, attributes={})
            await other.sandboxes.touch(row, described)

    with proxy.before("TransactWriteItems", sync):
        quarantined = await core.operations.quarantine("acme", ID, cause=WHY)

    assert len(changed) == races
    assert (quarantined.state, quarantined.name) == (State.QUARANTINED, f"n-{races}")
    assert await stored(core) == quarantined


async def test_a_race_that_is_lost_every_time_is_given_up_as_trouble(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 1)
    proxy.faults.change({"conflict_rate": 1, "conflict_slots": [0]})
    proxy.counts.reset()

    with pytest.raises(StoreUnavailable, match="contention") as refused:
        await core.operations.quarantine("acme", ID, cause=WHY)

    assert refused.value.retry_after_s
    assert proxy.counts.calls["TransactWriteItems"] == MAX_TRIES
    assert (await stored(core)).state is State.AVAILABLE


@pytest.mark.parametrize("name", ["quarantine", "force_release", "remove_stale"])
async def test_an_answer_that_was_lost_is_found_again(core: Broker, proxy: StoreProxy, name: str) -> None:
    await fill(core, 1, state=State.STALE if name == "remove_stale" else State.AVAILABLE)
    if name == "force_release":
        await allocate(core, "student-1")
    await core.tenants.shards("acme")
    proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]})

    done = await getattr(core.operations, name)("acme", ID, cause=WHY)

    assert proxy.faults.lose_answer_next == 0
    left = await core.sandboxes.get("acme", ID)
    assert left == (None if name == "remove_stale" else done)
    await audit(core)


async def test_a_store_that_answers_twice_with_trouble_is_asked_no_third_time(
    core: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 1)
    await core.tenants.shards("acme")
    proxy.counts.reset()

    async def trouble(_: dict[str, Any]) -> None:
        proxy.faults.change({"internal_error_next": 1})

    with proxy.before("GetItem", trouble), pytest.raises(StoreUnavailable, match="Internal"):
        await core.operations.quarantine("acme", ID, cause=WHY)

    assert proxy.counts.calls["TransactWriteItems"] == 2
    assert (await stored(core)).state is State.AVAILABLE


async def test_what_the_purge_took_meanwhile_is_removed_all_the_same(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    await fill(core, 1, state=State.STALE)

    async def purge(_: dict[str, Any]) -> None:
        if (row := await other.sandboxes.get("acme", ID)) is not None:
            await other.sandboxes.remove(row, TEST_CAUSE, now=NOW)

    with proxy.before("TransactWriteItems", purge):
        removed = await core.operations.remove_stale("acme", ID, cause=WHY)

    assert removed.id == ID
    assert await audit(core) == {}


@pytest.mark.parametrize(
    ("faults", "error"),
    [({"throttle_rate": 1}, StoreThrottled), ({"down": True}, StoreUnavailable)],
    ids=["throttled", "down"],
)
async def test_a_store_in_trouble_is_told_as_such(
    core: Broker, proxy: StoreProxy, faults: dict[str, Any], error: type[Exception]
) -> None:
    await fill(core, 1)
    proxy.faults.change(faults)

    with pytest.raises(error):
        await core.operations.quarantine("acme", ID, cause=WHY)


async def test_operations_are_counted_by_outcome(core: Broker) -> None:
    await fill(core, 1)
    await core.operations.quarantine("acme", ID, cause=WHY)
    with pytest.raises(WrongState):
        await core.operations.retry("acme", ID, cause=WHY)

    def counted(operation: str, outcome: str) -> float | None:
        labels = {"tenant": "acme", "operation": operation, "outcome": outcome}
        return core.metrics.registry.get_sample_value("broker_operations_total", labels)

    assert (counted("quarantine", "done"), counted("retry", "sandbox_wrong_state")) == (1, 1)
