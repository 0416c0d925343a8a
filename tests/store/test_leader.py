"""E1: one leader at a time, judged without comparing clocks; the late one's writes are refused."""

import asyncio
from typing import Any

import pytest

from broker.errors import LeadershipLost, WriteConflict
from broker.leadership import BELIEF, Leadership
from broker.sandbox import State
from broker.store.batches import Change
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker
from tests.store.conftest import Clock

LEASE_S = 15.0


def a_candidate(
    broker: Broker, name: str, *, monotonic: Clock | None = None, wall: float = NOW, lease_s: float = LEASE_S
) -> Leadership:
    more: dict[str, Any] = {} if monotonic is None else {"monotonic": monotonic}
    return Leadership(
        broker.leader, broker.metrics, scope="acme", holder=name, lease_s=lease_s, clock=lambda: wall, **more
    )


async def test_of_many_that_stand_by_one_leads(broker: Broker) -> None:
    candidates = [a_candidate(broker, f"worker-{n}") for n in range(6)]

    won = await asyncio.gather(*(candidate._try() for candidate in candidates))

    assert sum(won) == 1
    assert sum(candidate.leading for candidate in candidates) == 1


@pytest.mark.parametrize("skew_s", [-30, 0, 30, 10**6])
async def test_a_standby_waits_the_whole_lease_by_its_own_clock_whatever_the_walls_say(
    broker: Broker, skew_s: int
) -> None:
    leader = a_candidate(broker, "leader")
    await leader._try()
    clock = Clock(5.0)
    standby = a_candidate(broker, "standby", monotonic=clock, wall=NOW + skew_s)

    assert not await standby._try()
    clock.now += LEASE_S - 0.1
    assert not await standby._try()
    clock.now += 0.1
    assert await standby._try()


async def test_a_standby_with_a_shorter_lease_set_waits_as_long_as_the_leader_believes(broker: Broker) -> None:
    leader = a_candidate(broker, "leader")
    await leader._try()
    clock = Clock(5.0)
    hasty = a_candidate(broker, "hasty", monotonic=clock, lease_s=1)

    assert not await hasty._try()
    clock.now += LEASE_S - 0.1
    assert not await hasty._try()
    clock.now += 0.1
    assert await hasty._try()


async def test_a_leader_that_renews_is_never_taken_over(broker: Broker) -> None:
    leader, clock = a_candidate(broker, "leader"), Clock(5.0)
    standby = a_candidate(broker, "standby", monotonic=clock)
    await leader._try()
    for _ in range(4):
        await standby._try()
        clock.now += LEASE_S - 1
        await leader._beat()

    assert not await standby._try()


async def test_a_leader_stops_believing_before_a_standby_may_begin(broker: Broker) -> None:
    clock = Clock(5.0)
    leader = a_candidate(broker, "leader", monotonic=clock)
    await leader._try()

    clock.now += LEASE_S * 0.89
    before = leader.leading
    clock.now += LEASE_S * 0.02

    assert (before, leader.leading) == (True, False)
    with pytest.raises(LeadershipLost):
        leader.fence()


async def test_a_lease_that_was_handed_back_is_free_at_once(broker: Broker) -> None:
    leader, standby = a_candidate(broker, "leader"), a_candidate(broker, "standby")
    await leader._try()
    await leader.step_down()

    assert await standby._try()
    assert not leader.leading


async def test_each_term_has_a_higher_fence(broker: Broker) -> None:
    fences = []
    for name in ("a", "b", "a"):
        candidate = a_candidate(broker, name)
        await candidate._try()
        assert candidate._term is not None
        fences.append(candidate._term.fence)
        await candidate.step_down()

    assert fences == [1, 2, 3]


async def test_a_leader_that_was_taken_over_learns_it_with_its_next_beat(broker: Broker) -> None:
    leader = a_candidate(broker, "leader")
    await leader._try()
    await take_over(broker)

    await leader._beat()

    assert not leader.leading


async def take_over(broker: Broker) -> None:
    seen = await broker.leader.read("acme")
    await broker.leader.take(seen, scope="acme", holder="usurper", now=NOW)


async def test_what_a_late_leader_writes_is_refused_and_nothing_of_it_stands(broker: Broker) -> None:
    """Fencing: it still believes in its term, having slept, say, between the check and the write."""
    leader = a_candidate(broker, "leader")
    await leader._try()
    fence = leader.fence()
    await take_over(broker)

    with pytest.raises(LeadershipLost):
        await broker.batches.write([Change(None, a_sandbox(), TEST_CAUSE)], fence=lambda: fence, now=NOW)

    assert await broker.sandboxes.get("acme", a_sandbox().id) is None


async def test_two_who_saw_the_same_lapsed_lease_do_not_both_take_it(broker: Broker) -> None:
    await take_over(broker)
    seen = await broker.leader.read("acme")

    await broker.leader.take(seen, scope="acme", holder="first", now=NOW)

    with pytest.raises(WriteConflict):
        await broker.leader.take(seen, scope="acme", holder="second", now=NOW)


async def test_a_beat_whose_answer_was_lost_costs_no_term(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name) as broker:
        leader = a_candidate(broker, "leader")
        await leader._try()
        proxy.faults.lose_answer_ops = frozenset({"UpdateItem"})
        proxy.faults.lose_answer_next = 1
        await leader._beat()
        seen = await broker.leader.read("acme")

        await leader._beat()
        after = await broker.leader.read("acme")

    assert leader.leading
    assert seen is not None
    assert after is not None
    assert after.beat == seen.beat + 1


async def test_a_beat_that_the_store_does_not_answer_says_why(
    proxy: StoreProxy, table_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The time that is left to the term runs out before the store's own deadline: that error has no text."""
    async with a_broker(proxy.url, table_name) as broker:
        clock = Clock(5.0)
        leader = a_candidate(broker, "leader", monotonic=clock)
        await leader._try()
        clock.now += LEASE_S * BELIEF - 0.05
        proxy.faults.latency_ms = 1000
        await leader._beat()
        proxy.faults.latency_ms = 0

    [line] = [record for record in caplog.records if "was not renewed" in record.message]
    assert vars(line)["why"] == "TimeoutError"


async def test_beats_go_on_while_batches_check_the_fence(proxy: StoreProxy, table_name: str) -> None:
    """Both touch one item, and a store refuses whoever comes second: neither may take that for the end."""
    async with a_broker(proxy.url, table_name) as broker:
        leader = a_candidate(broker, "leader")
        await leader._try()
        proxy.faults.latency_ms = 4
        changes = [Change(None, a_sandbox(number=n), TEST_CAUSE) for n in range(1, 101)]

        async def beat() -> None:
            while True:
                await leader._beat()

        beating = asyncio.create_task(beat())
        became = await broker.batches.write(changes, fence=leader.fence, now=NOW)
        beating.cancel()

        assert leader.leading
        assert set(became) == {"written"}
        assert await broker.sandboxes.count("acme", State.AVAILABLE) == 100


async def test_a_lease_that_was_renewed_since_it_was_seen_is_not_taken(broker: Broker) -> None:
    """The leader's beat lands between a standby's look and its take-over."""
    leader = a_candidate(broker, "leader")
    await leader._try()
    seen = await broker.leader.read("acme")
    await leader._beat()

    with pytest.raises(WriteConflict):
        await broker.leader.take(seen, scope="acme", holder="standby", now=NOW)


async def test_a_beat_extends_the_term_from_the_moment_it_was_begun(broker: Broker) -> None:
    clock = Clock(5.0)
    leader = a_candidate(broker, "leader", monotonic=clock)
    await leader._try()
    clock.now += LEASE_S * 0.6
    await leader._beat()
    clock.now += LEASE_S * 0.8

    believed = leader.leading
    clock.now += LEASE_S * 0.2

    assert (believed, leader.leading) == (True, False)
