"""A16, L8 in trouble: holders beside releases, expiries, operators and each other, and a store that misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from broker.errors import AllocationExpired, BrokerError, StoreThrottled, StoreUnavailable, WriteConflict
from broker.insist import MAX_TRIES
from broker.lifecycle import HEARTBEAT_S
from broker.sandbox import Sandbox, State
from broker.tenant import Tenant
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, fill
from tests.audit import audit
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker
from tests.store.conftest import Clock

ID = a_sandbox().id
HOUR = 3600
UNTIL = NOW + 5 * HOUR


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
async def core(proxy: StoreProxy, table_name: str, clock: Clock) -> AsyncIterator[Broker]:
    async with a_broker(proxy.url, table_name, clock=clock, STORE_TIMEOUT_SEC="1") as broker:
        yield broker


@pytest.fixture
async def other(ministack: str, table_name: str, core: Broker, clock: Clock) -> AsyncIterator[Broker]:
    """Another process, which reaches the store beside the proxy's faults."""
    async with a_broker(ministack, table_name, clock=clock) as broker:
        yield broker


@pytest.fixture
async def generation(core: Broker) -> int:
    """Of the one sandbox, which student-1 holds."""
    await fill(core, 1)
    held = await allocate(core, "student-1")
    assert held.generation is not None
    return held.generation


async def stored(broker: Broker) -> Sandbox:
    sandbox = await broker.sandboxes.get("acme", ID)
    assert sandbox is not None
    return sandbox


async def extend(broker: Broker, generation: int, for_s: int = 5 * HOUR) -> Sandbox:
    return await broker.lifecycle.extend(
        "acme", ID, holder="student-1", generation=generation, for_s=for_s, cause=TEST_CAUSE
    )


async def heartbeat(broker: Broker, generation: int) -> Sandbox:
    return await broker.lifecycle.heartbeat("acme", ID, holder="student-1", generation=generation)


async def release(broker: Broker, generation: int) -> Any:
    return await broker.lifecycle.release("acme", ID, holder="student-1", cause=TEST_CAUSE, generation=generation)


async def expire(broker: Broker, _: int) -> None:
    """As the worker does: of what it read, whatever has happened since."""
    await broker.lifecycle.expire(await stored(broker), TEST_CAUSE)


async def force_release(broker: Broker, _: int) -> Sandbox:
    return await broker.operations.force_release("acme", ID, cause=TEST_CAUSE)


Act = Callable[[Broker, int], Awaitable[Any]]
ENDINGS: dict[str, Act] = {"released": release, "expired": expire, "force_released": force_release}


class Once:
    """Does something the first so many times that it is called."""

    def __init__(self, act: Callable[[], Awaitable[Any]], times: int = 1) -> None:
        self.act = act
        self.left = times

    async def __call__(self, _: Any) -> None:
        if self.left:
            self.left -= 1
            await self.act()


@pytest.mark.parametrize("ended_by", ENDINGS)
async def test_an_ending_that_comes_before_the_extensions_write_wins(
    core: Broker, other: Broker, proxy: StoreProxy, generation: int, ended_by: str
) -> None:
    ending = Once(lambda: ENDINGS[ended_by](other, generation))

    with proxy.before("TransactWriteItems", ending), pytest.raises(AllocationExpired) as refused:
        await extend(core, generation)

    assert refused.value.details == {"ended_by": ended_by, "ended_at": NOW}
    row = await stored(core)
    assert (row.state, row.expires_at) == (State.PENDING_DELETION, NOW + 4 * HOUR)
    assert await audit(core) == {"pending_deletion": 1}


@pytest.mark.parametrize("ended_by", ["released", "force_released"])
async def test_an_ending_whose_write_an_extension_precedes_ends_the_extended_allocation(
    core: Broker, other: Broker, proxy: StoreProxy, generation: int, ended_by: str
) -> None:
    extending = Once(lambda: extend(other, generation))

    with proxy.before("TransactWriteItems", extending):
        await ENDINGS[ended_by](core, generation)

    row = await stored(core)
    assert (row.state, row.ended_by, row.expires_at) == (State.PENDING_DELETION, ended_by, UNTIL)
    assert await audit(core) == {"pending_deletion": 1}


async def test_an_expiry_whose_write_an_extension_precedes_leaves_it_alone(
    core: Broker, other: Broker, proxy: StoreProxy, generation: int
) -> None:
    extending = Once(lambda: extend(other, generation))

    with proxy.before("TransactWriteItems", extending), pytest.raises(WriteConflict):
        await expire(core, generation)

    row = await stored(core)
    assert (row.state, row.expires_at) == (State.ALLOCATED, UNTIL)
    assert (await allocate(core, "student-1")).expires_at == UNTIL
    assert await audit(core) == {"allocated": 1}


@pytest.mark.parametrize("ended_by", ENDINGS)
@pytest.mark.parametrize("latency_ms", [0, 10])
async def test_an_extension_and_an_ending_at_once_end_in_what_one_of_both_made(
    core: Broker, other: Broker, proxy: StoreProxy, generation: int, ended_by: str, latency_ms: int
) -> None:
    proxy.faults.latency_ms = latency_ms

    extended, ended = await asyncio.gather(
        extend(core, generation), ENDINGS[ended_by](core, generation), return_exceptions=True
    )

    row = await stored(other)
    if isinstance(extended, Sandbox):
        assert row.expires_at == UNTIL
    else:
        assert isinstance(extended, AllocationExpired), extended
        assert row.expires_at == NOW + 4 * HOUR
    assert (row.state is State.ALLOCATED) == isinstance(ended, WriteConflict)
    assert not isinstance(ended, BrokerError), ended
    await audit(other)


async def test_extensions_at_once_end_in_the_longest(core: Broker, other: Broker, generation: int) -> None:
    lengths = [4 * HOUR + n * 60 for n in range(1, 6)]

    done = await asyncio.gather(*(extend((core, other)[n % 2], generation, s) for n, s in enumerate(lengths)))

    assert all((row.expires_at or 0) >= NOW + s for row, s in zip(done, lengths, strict=True))
    assert (await stored(core)).expires_at == NOW + max(lengths)
    assert await audit(core) == {"allocated": 1}


@pytest.mark.parametrize("times", [1, MAX_TRIES - 1])
@pytest.mark.parametrize("act", [extend, release, force_release], ids=lambda act: act.__name__)
async def test_signs_of_life_that_come_before_each_write_make_nobody_fail(
    core: Broker, other: Broker, proxy: StoreProxy, clock: Clock, generation: int, act: Act, times: int
) -> None:
    async def beat() -> None:
        clock.now += HEARTBEAT_S
        await heartbeat(other, generation)

    beating = Once(beat, times)
    with proxy.before("TransactWriteItems", beating):
        await act(core, generation)

    row = await stored(core)
    assert beating.left == 0
    assert row.heartbeat_at == NOW + times * HEARTBEAT_S
    assert row.expires_at == UNTIL if act is extend else row.state is State.PENDING_DELETION
    await audit(core)


@pytest.mark.parametrize("times", [1, MAX_TRIES - 1])
async def test_extensions_that_come_before_each_write_of_a_sign_of_life_lose_nothing(
    core: Broker, other: Broker, proxy: StoreProxy, generation: int, times: int
) -> None:
    longer = iter(range(60, 600, 60))

    extending = Once(lambda: extend(other, generation, 4 * HOUR + next(longer)), times)
    with proxy.before("UpdateItem", extending):
        beaten = await heartbeat(core, generation)

    assert extending.left == 0
    assert (beaten.heartbeat_at, beaten.expires_at) == (NOW, NOW + 4 * HOUR + times * 60)
    assert await stored(core) == beaten
    assert await audit(core) == {"allocated": 1}


async def test_a_release_that_comes_before_the_write_of_a_sign_of_life_wins(
    core: Broker, other: Broker, proxy: StoreProxy, generation: int
) -> None:
    releasing = Once(lambda: release(other, generation))

    with proxy.before("UpdateItem", releasing), pytest.raises(AllocationExpired):
        await heartbeat(core, generation)

    assert (await stored(core)).heartbeat_at is None
    assert await audit(core) == {"pending_deletion": 1}


@pytest.mark.parametrize(
    ("act", "operation"), [(extend, "TransactWriteItems"), (heartbeat, "UpdateItem")], ids=["extend", "heartbeat"]
)
async def test_an_answer_that_was_lost_is_found_by_looking(
    core: Broker, proxy: StoreProxy, generation: int, act: Act, operation: str
) -> None:
    before = await stored(core)
    proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": [operation]})
    proxy.counts.reset()

    done = await act(core, generation)

    assert proxy.faults.lose_answer_next == 0
    assert proxy.counts.calls[operation] == 1, "it looked, and wrote no second time"
    assert done == await stored(core)
    assert done.version == before.version + 1
    assert await audit(core) == {"allocated": 1}


async def test_a_lost_answer_and_an_ending_behind_it_is_an_ending(
    core: Broker, other: Broker, proxy: StoreProxy, generation: int
) -> None:
    proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]})
    releasing = Once(lambda: release(other, generation))

    with proxy.after("TransactWriteItems", releasing), pytest.raises(AllocationExpired):
        await extend(core, generation)

    assert (await stored(core)).expires_at == UNTIL
    assert await audit(core) == {"pending_deletion": 1}


@pytest.mark.parametrize(
    ("act", "operation"), [(extend, "TransactWriteItems"), (heartbeat, "UpdateItem")], ids=["extend", "heartbeat"]
)
async def test_a_race_that_is_lost_every_time_is_given_up_as_trouble(
    core: Broker, other: Broker, proxy: StoreProxy, generation: int, act: Act, operation: str
) -> None:
    async def rename() -> None:
        row = await stored(other)
        renamed = row.described(name=f"n-{row.version}", external_id=row.external_id, attributes={})
        await other.sandboxes.touch(row, renamed)

    with (
        proxy.before(operation, Once(rename, times=99)),
        pytest.raises(StoreUnavailable, match="contention") as refused,
    ):
        await act(core, generation)

    row = await stored(core)
    assert refused.value.retry_after_s
    assert row.version == generation + MAX_TRIES
    assert (row.heartbeat_at, row.expires_at) == (None, NOW + 4 * HOUR)


@pytest.mark.parametrize(
    ("faults", "error"),
    [({"throttle_rate": 1}, StoreThrottled), ({"down": True}, StoreUnavailable)],
    ids=["throttled", "down"],
)
@pytest.mark.parametrize("act", [extend, heartbeat], ids=["extend", "heartbeat"])
async def test_an_outage_is_told_as_one_and_changes_nothing(
    core: Broker,
    other: Broker,
    proxy: StoreProxy,
    generation: int,
    act: Act,
    faults: dict[str, Any],
    error: type[BrokerError],
) -> None:
    before = await stored(other)
    proxy.faults.change(faults)

    with pytest.raises(error) as refused:
        await act(core, generation)

    assert refused.value.retry_after_s
    assert await stored(other) == before
    assert await audit(other) == {"allocated": 1}


async def test_what_a_holder_asks_for_costs_a_read_and_a_write_and_what_is_so_already_a_read(
    core: Broker, proxy: StoreProxy, generation: int
) -> None:
    costs = {
        extend: {"GetItem:consistent": 2, "TransactWriteItems": 1},
        heartbeat: {"GetItem:consistent": 2, "UpdateItem": 1},
    }
    for act, cost in costs.items():
        await core.tenants.get("acme")
        proxy.counts.reset()
        for _ in range(2):
            await act(core, generation)
        assert {call: n for call, n in proxy.counts.calls.items() if call != "BatchGetItem"} == cost, act


async def test_a_tenants_own_lease_costs_an_allocation_no_round_trip(core: Broker, proxy: StoreProxy) -> None:
    """Who is asked for the shards is asked for the limits, in the same read of once a second at the most."""
    await core.tenants.create(Tenant(name="acme").limited(lease_s=900), TEST_CAUSE, now=NOW)
    await fill(core, 20)
    await allocate(core, "first")
    proxy.counts.reset()

    given = [await allocate(core, f"student-{n}") for n in range(3)]

    assert {held.expires_at for held in given} == {NOW + 900}
    assert {call: n for call, n in proxy.counts.calls.items() if call != "BatchGetItem"} == {
        "TransactWriteItems": 3
    }
    assert proxy.counts.calls["BatchGetItem"] <= 1
