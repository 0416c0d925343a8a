"""C7, A5: a broker that is drained hands out nothing new, and everything else goes on; on every process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.errors import (
    AllocationEnded,
    BrokerDrained,
    IdempotencyKeyReused,
    StoreThrottled,
    StoreUnavailable,
)
from broker.sandbox import State
from broker.store import table
from broker.store.events import Cause
from broker.store.known import REMEMBER_S
from broker.store.modes import MAX_TRIES, Mode, ModeName
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, attempt, codes, fill, release
from tests.audit import audit, items_of
from tests.builders import TEST_CAUSE, a_sandbox
from tests.conftest import a_broker
from tests.store.conftest import Clock

SHUT = [ModeName.DRAINED, ModeName.MAINTENANCE]


@pytest.fixture
def clock() -> Clock:
    """The monotonic clock of the core under test."""
    return Clock(1000.0)


@pytest.fixture
async def core(proxy: StoreProxy, table_name: str, clock: Clock) -> AsyncIterator[Broker]:
    async with a_broker(proxy.url, table_name, monotonic=clock, STORE_TIMEOUT_SEC="1") as broker:
        yield broker


@pytest.fixture
async def other(ministack: str, table_name: str, core: Broker) -> AsyncIterator[Broker]:
    """Another process, which reaches the store beside the proxy's faults."""
    async with a_broker(ministack, table_name) as broker:
        yield broker


async def set_mode(broker: Broker, name: ModeName, reason: str = "INC-4711") -> Mode:
    cause = Cause(actor="olga", action="set_mode", request_id="req-7", reason=reason)
    return await broker.operations.set_mode("acme", name, cause=cause)


@pytest.mark.parametrize("mode", SHUT)
async def test_nothing_new_is_handed_out_and_the_reason_is_told(core: Broker, mode: ModeName) -> None:
    await fill(core, 1)
    await set_mode(core, mode)

    with pytest.raises(BrokerDrained) as refused:
        await allocate(core, "student-1")

    assert refused.value.details == {"mode": mode.value, "reason": "INC-4711"}
    assert refused.value.retry_after_s
    assert await audit(core) == {"available": 1}
    await set_mode(core, ModeName.OPEN)
    assert (await allocate(core, "student-1")).created


@pytest.mark.parametrize("mode", SHUT)
@pytest.mark.parametrize("key", [None, "second"], ids=["plain", "keyed"])
async def test_whoever_holds_a_sandbox_gets_it_and_may_release_it(
    core: Broker, mode: ModeName, key: str | None
) -> None:
    await fill(core, 2)
    held = await allocate(core, "student-1", key=key)
    await set_mode(core, mode)

    again = await allocate(core, "student-1", key=key)
    await release(core, held.sandbox_id, "student-1")

    assert (again.sandbox_id, again.expires_at, again.created) == (held.sandbox_id, held.expires_at, False)
    assert await audit(core) == {"available": 1, "pending_deletion": 1}
    assert codes([await attempt(core, "student-1")]) == {"BROKER_DRAINED"}


async def test_the_rules_of_idempotency_keys_hold_on(core: Broker) -> None:
    await fill(core, 3)
    ended = await allocate(core, "student-1", key="ended")
    await release(core, ended.sandbox_id, "student-1")
    await allocate(core, "student-1", key="held", track="k8s")
    await set_mode(core, ModeName.DRAINED)

    with pytest.raises(AllocationEnded):
        await allocate(core, "student-1", key="ended")
    with pytest.raises(IdempotencyKeyReused):
        await allocate(core, "student-1", key="held", track="git")
    with pytest.raises(BrokerDrained):
        await allocate(core, "student-1", key="new")


async def test_a_drained_broker_answers_with_one_claim_read_a_request(core: Broker, proxy: StoreProxy) -> None:
    await fill(core, 1)
    await set_mode(core, ModeName.DRAINED)
    await core.modes.current()
    proxy.counts.reset()

    answers = await asyncio.gather(*(attempt(core, f"student-{n}") for n in range(40)))

    assert codes(answers) == {"BROKER_DRAINED"}
    assert dict(proxy.counts.calls) == {"GetItem:consistent": 40}


async def test_every_other_process_goes_by_it_a_second_later(core: Broker, other: Broker, clock: Clock) -> None:
    await fill(core, 4)
    await allocate(core, "student-1")
    await set_mode(other, ModeName.DRAINED)

    clock.now += REMEMBER_S - 0.01
    still = await attempt(core, "student-2")
    clock.now += 0.01
    drained = await attempt(core, "student-3")
    await set_mode(other, ModeName.OPEN)
    clock.now += REMEMBER_S

    assert codes([still]) == set(), "a second old is as old as it gets"
    assert codes([drained]) == {"BROKER_DRAINED"}
    assert (await allocate(core, "student-3")).created


async def test_the_mode_costs_no_read_a_request_and_none_of_its_own(
    core: Broker, proxy: StoreProxy, clock: Clock
) -> None:
    """Mode and tenant are read in one call, once a second, however many ask."""
    await fill(core, 60)
    await allocate(core, "first")
    proxy.counts.reset()

    for _ in range(3):
        clock.now += REMEMBER_S
        await asyncio.gather(*(core.modes.current() for _ in range(50)))
        await asyncio.gather(*(core.tenants.shards("acme") for _ in range(50)))

    assert dict(proxy.counts.calls) == {"BatchGetItem": 3}


async def test_while_the_store_is_silent_the_last_mode_holds(
    core: Broker, proxy: StoreProxy, clock: Clock
) -> None:
    await set_mode(core, ModeName.DRAINED)
    assert (await core.modes.current()).name is ModeName.DRAINED
    clock.now += REMEMBER_S
    for fault in ({"down": True}, {"down": False, "throttle_rate": 1}):
        proxy.faults.change(fault)
        clock.now += REMEMBER_S
        assert (await core.modes.current()).name is ModeName.DRAINED


async def test_a_process_that_never_read_the_mode_does_not_take_it_for_open(
    core: Broker, proxy: StoreProxy
) -> None:
    proxy.faults.throttle_rate = 1
    with pytest.raises(StoreThrottled):
        await core.modes.current()
    proxy.faults.change({"throttle_rate": 0, "down": True})
    with pytest.raises(StoreUnavailable):
        await core.modes.current()


async def test_a_read_that_fails_fails_for_all_who_wait_for_it_together(core: Broker, proxy: StoreProxy) -> None:
    """Not one after another: on a store that hangs the last of them would wait a hundred deadlines."""
    proxy.faults.change({"hang_next": 1000, "hang_s": 30})

    answers = await asyncio.gather(*(core.tenants.shards("acme") for _ in range(100)), return_exceptions=True)

    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert proxy.counts.calls["BatchGetItem"] == 1
    proxy.faults.change({"hang_next": 0})
    assert await core.tenants.shards("acme") == 4, "the next one asks anew"


async def test_what_was_set_here_is_in_force_here_at_once_though_a_read_was_under_way(
    core: Broker, proxy: StoreProxy
) -> None:
    began = asyncio.Event()

    async def late(_: dict[str, Any]) -> None:
        began.set()
        await asyncio.sleep(0.3)

    holding = proxy.after("BatchGetItem", late)
    before = asyncio.create_task(core.modes.current())
    await began.wait()
    holding.remove()
    await set_mode(core, ModeName.DRAINED)

    assert (await before).name is ModeName.OPEN, "it was asked before"
    assert (await core.modes.current()).name is ModeName.DRAINED


async def test_a_change_is_kept_with_who_when_and_why_and_leaves_its_event(other: Broker) -> None:
    assert await other.modes.current() == Mode()

    first = await set_mode(other, ModeName.DRAINED)
    again = await set_mode(other, ModeName.DRAINED)
    second = await set_mode(other, ModeName.MAINTENANCE, "the table moves")

    assert first == again
    assert (second.name, second.reason, second.by, second.version) == (
        ModeName.MAINTENANCE, "the table moves", "olga", 2,
    )  # fmt: skip
    assert await other.modes.current() == second
    events = [table.decode(item) for item in await items_of(other) if item["pk"]["S"].startswith("EVT#acme#")]
    facts = {(e["version"], e["before"], e["after"], e["actor"], e["reason"], e["request_id"]) for e in events}
    assert facts == {
        (1, '{"mode": "open"}', '{"mode": "drained"}', "olga", "INC-4711", "req-7"),
        (2, '{"mode": "drained"}', '{"mode": "maintenance"}', "olga", "the table moves", "req-7"),
    }
    await audit(other)


async def test_operators_who_change_it_at_once_come_one_after_another(core: Broker, other: Broker) -> None:
    await asyncio.gather(set_mode(core, ModeName.DRAINED, "one"), set_mode(other, ModeName.MAINTENANCE, "two"))

    async with asyncio.timeout(5):
        mode = Mode()
        while mode.version < 2:
            mode = await other.modes.current()
            await asyncio.sleep(0.05)
    assert (mode.name, mode.reason) in {(ModeName.DRAINED, "one"), (ModeName.MAINTENANCE, "two")}


async def test_a_lost_answer_to_a_change_is_found_again_and_endless_conflict_is_trouble(
    core: Broker, proxy: StoreProxy
) -> None:
    await core.tenants.shards("acme")
    proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]})
    assert (await set_mode(core, ModeName.DRAINED)).version == 1

    proxy.faults.change({"conflict_rate": 1, "conflict_slots": [0]})
    proxy.counts.reset()
    with pytest.raises(StoreUnavailable, match="contention"):
        await set_mode(core, ModeName.OPEN)
    assert proxy.counts.calls["TransactWriteItems"] == MAX_TRIES
    assert (await core.modes.current()).name is ModeName.DRAINED


async def test_a_mode_that_only_a_newer_release_knows_is_read_with_care(core: Broker) -> None:
    item = table.encode({"v": 1, "mode": "half-open", "version": 9}) | table.mode_key()
    await core.client.call("put_item", TableName=core.client.table.name, Item=item)

    mode = await core.modes.current()

    assert (mode.allocates, mode.works) == (False, False)


@pytest.mark.parametrize(
    ("mode", "allocates", "works"),
    [(ModeName.OPEN, True, True), (ModeName.DRAINED, False, True), (ModeName.MAINTENANCE, False, False)],
)
async def test_the_mode_in_force_is_a_gauge(core: Broker, mode: ModeName, allocates: bool, works: bool) -> None:
    await set_mode(core, mode)

    now = await core.modes.current()

    assert (now.allocates, now.works) == (allocates, works)
    shown = {m: core.metrics.registry.get_sample_value("broker_mode", {"mode": m.value}) for m in ModeName}
    assert shown == {m: float(m is mode) for m in ModeName}


async def test_operators_move_sandboxes_while_the_broker_is_drained(core: Broker) -> None:
    await fill(core, 1)
    await set_mode(core, ModeName.MAINTENANCE)

    moved = await core.operations.quarantine("acme", a_sandbox().id, cause=TEST_CAUSE)

    assert moved.state is State.QUARANTINED
