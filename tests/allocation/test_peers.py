"""Processes share each pool out among themselves: without lost races as long as there is enough for each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from broker import peers
from broker.candidates import PEERS_FRESH_S
from broker.errors import NoSandboxAvailable, StoreUnavailable
from broker.metrics import Metrics
from broker.peers import GONE_S, Peers, Share
from broker.sandbox import State
from broker.store.presence import Presence
from broker.store.table import shard_of
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import SHARDS, add, allocate, attempt, fill, numbers_in, winners
from tests.api.service import a_table, an_app, api_settings
from tests.audit import audit
from tests.builders import a_sandbox
from tests.conftest import a_broker
from tests.store.conftest import Clock
from tests.upgrade.old_table import an_old_table


@asynccontextmanager
async def processes(url: str, table_name: str, count: int) -> AsyncIterator[list[Broker]]:
    """So many, which have heard of each other."""
    async with AsyncExitStack() as stack:
        cores = [await stack.enter_async_context(a_broker(url, table_name)) for _ in range(count)]
        for core in [*cores, *cores]:  # the first did not know of the last yet
            await core.peers.beat()
        yield cores


def lost_races(cores: list[Broker]) -> float:
    """Transactions refused for a sandbox that another process had."""
    name = "broker_allocation_transactions_total"
    kinds = ("sandbox_taken", "sandbox_conflict")
    return sum(c.metrics.registry.get_sample_value(name, {"result": kind}) or 0 for c in cores for kind in kinds)


def sizes(ids: list[str]) -> list[int]:
    return [sum(shard_of(id_, SHARDS) == shard for id_ in ids) for shard in range(SHARDS)]


async def available(core: Broker) -> list[str]:
    return [sandbox.id async for sandbox in core.sandboxes.walk("acme", State.AVAILABLE)]


@pytest.mark.parametrize("count", [2, 4])
async def test_no_race_is_lost_while_each_has_enough_of_its_own(
    ministack: str, table_name: str, count: int
) -> None:
    async with processes(ministack, table_name, count) as cores:
        await fill(cores[0], 80)
        each = min(sizes(await available(cores[0]))) * SHARDS // count
        students = [(core, f"{n}-{m}") for n, core in enumerate(cores) for m in range(each)]

        answers = await asyncio.gather(*(allocate(core, student) for core, student in students))

        assert len({answer.sandbox_id for answer in answers}) == each * count > 40
        assert lost_races(cores) == 0


async def test_peers_shards_are_not_read_while_there_is_something_in_ones_own(
    proxy: StoreProxy, table_name: str
) -> None:
    """Read early, it would be out of date by the time it is tried."""
    asked: set[str] = set()

    async def look(body: dict[str, Any]) -> None:
        asked.add(body["ExpressionAttributeValues"][":partition"]["S"])

    async with a_broker(proxy.url, table_name) as core:
        await fill(core, 40)
        core.peers.share = Share(1, 2)
        with proxy.before("Query", look):
            for n in range(8):
                await allocate(core, f"s-{n}")
    assert asked <= {"acme#available#1", "acme#available#3"}


async def test_what_is_a_peers_is_taken_from_its_end(proxy: StoreProxy, table_name: str) -> None:
    """The peer begins at the beginning: the two meet when there is nothing left between them."""
    asked: list[tuple[str, bool]] = []

    async def look(body: dict[str, Any]) -> None:
        partition = body["ExpressionAttributeValues"][":partition"]["S"]
        asked.append((partition.rpartition("#")[2], body["ScanIndexForward"]))

    async with a_broker(proxy.url, table_name) as core:
        theirs = numbers_in({1}, 9)
        await add(core, theirs)
        core.peers.share = Share(0, 2)
        with proxy.before("Query", look):
            got = [(await allocate(core, f"s-{n}")).name for n in range(3)]
        async with a_broker(proxy.url, table_name) as peer:
            peer.peers.share = Share(1, 2)
            first = [(await allocate(peer, f"p-{n}")).name for n in range(3)]
    names = sorted(a_sandbox(number=n).name for n in theirs)
    assert set(asked) == {("0", True), ("2", True), ("1", False), ("3", False)}
    assert got == names[:-4:-1]
    assert first == names[:3]


async def test_before_more_of_a_peers_is_taken_ones_own_are_looked_at_again(
    proxy: StoreProxy, table_name: str
) -> None:
    clock = Clock(1000.0)
    async with a_broker(proxy.url, table_name, monotonic=clock) as core:
        core.peers.share = Share(0, 2)
        await add(core, numbers_in({1, 3}, 80))  # more than a page of each
        await allocate(core, "s-1")
        [own] = numbers_in({0}, 1)
        await add(core, [own])

        proxy.counts.reset()
        clock.now += PEERS_FRESH_S * 0.9
        at_once = await allocate(core, "s-2")
        queries = proxy.counts.calls["Query:StatusIndex"]
        clock.now += PEERS_FRESH_S * 0.2
        later = await allocate(core, "s-3")

    assert (at_once.sandbox_id == a_sandbox(number=own).id, queries) == (False, 0)
    assert later.sandbox_id == a_sandbox(number=own).id


async def test_more_processes_than_shards_share_a_shard(ministack: str, table_name: str) -> None:
    async with processes(ministack, table_name, 6) as cores:
        await fill(cores[0], 90)
        for turn in range(4):
            for n, core in enumerate(cores):
                await allocate(core, f"{n}-{turn}")
        assert lost_races(cores) == 0


async def test_of_a_shard_that_two_have_together_the_others_are_taken_from_the_end(broker: Broker) -> None:
    """Its own first, in the index's order; then the other one's, who begins with what comes first."""
    share = broker.peers.share = Share(0, 8)
    numbers = numbers_in({0}, 12)
    await add(broker, numbers)
    names: dict[bool, list[str]] = {own: [] for own in (True, False)}
    for sandbox in sorted((a_sandbox(number=n) for n in numbers), key=lambda sandbox: sandbox.name):
        names[share.has(sandbox.id, SHARDS)].append(sandbox.name)
    assert len(names[True]) > 1 < len(names[False])

    got = [(await allocate(broker, f"s-{n}")).name for n in range(12)]

    assert got == names[True] + names[False][::-1]


async def test_what_peers_do_not_take_is_there_for_whoever_needs_it(ministack: str, table_name: str) -> None:
    """One process gets all the students, and is no worse off than if it were alone."""
    async with processes(ministack, table_name, 2) as (busy, idle):
        await fill(busy, 40)
        answers = await asyncio.gather(*(attempt(busy, f"s-{n}") for n in range(40)))
        assert len(winners(answers)) == 40
        assert lost_races([busy, idle]) == 0
        for core in (busy, idle):
            with pytest.raises(NoSandboxAvailable):
                await allocate(core, "late")
        assert await audit(busy) == {"allocated": 40}


async def test_a_rush_on_the_last_sandboxes_serves_as_many_as_there_are(ministack: str, table_name: str) -> None:
    async with processes(ministack, table_name, 3) as cores:
        await fill(cores[0], 45)
        answers = await asyncio.gather(*(attempt(cores[n % 3], f"s-{n}") for n in range(60)))
        assert len(winners(answers)) == 45
        assert {type(answer) for answer in answers if isinstance(answer, Exception)} == {NoSandboxAvailable}
        assert await audit(cores[0]) == {"allocated": 45}


@given(st.integers(1, 40), st.integers(1, 64), st.lists(st.text(min_size=1, max_size=8), max_size=5))
def test_each_sandbox_is_exactly_one_processs_own(count: int, shards: int, ids: list[str]) -> None:
    shares = [Share(rank, count) for rank in range(count)]
    for share in shares:
        mine, others = share.order(shards)
        assert mine
        assert sorted(mine + others) == list(range(shards))
    for id_ in ids:
        shard = shard_of(id_, shards)
        owners = [share for share in shares if shard in share.order(shards)[0] and share.has(id_, shards)]
        assert len(owners) == 1


class Process:
    """Peers of one process, with clocks that a test moves."""

    def __init__(self, core: Broker, name: str, now: float = 1_790_000_000) -> None:
        self.wall, self.monotonic = Clock(now), Clock(50.0)
        self.presence = Presence(core.client, "api")
        self.peers = Peers(self.presence, name, core.metrics, clock=self.wall, monotonic=self.monotonic)

    async def later(self, seconds: float) -> Share:
        self.wall.now += seconds
        self.monotonic.now += seconds
        await self.peers.beat()
        return self.peers.share


async def test_a_process_that_was_killed_is_missed_after_three_beats(broker: Broker) -> None:
    one, two = Process(broker, "a"), Process(broker, "b")
    assert await one.later(0) == Share(0, 1)
    assert await two.later(0) == Share(1, 2)
    assert await one.later(5) == Share(0, 2)
    assert await one.later(5) == Share(0, 2)
    assert await one.later(GONE_S - 6) == Share(0, 2)
    assert await one.later(GONE_S) == Share(0, 1)

    assert await two.later(5) == Share(1, 2)
    assert await one.later(5) == Share(0, 2)


@pytest.mark.parametrize("skew_s", [-86_400, 86_400])
async def test_a_wrong_clock_keeps_nobody_out(broker: Broker, skew_s: int) -> None:
    """At first sight it may be what one long gone left behind; that it goes on speaking shows that it is not."""
    one, two = Process(broker, "a"), Process(broker, "b", now=1_790_000_000 + skew_s)
    await two.later(0)
    assert await one.later(0) == Share(0, 1)
    for _ in range(3):
        await two.later(5)
        assert await one.later(5) == Share(0, 2)


async def test_who_ends_says_goodbye(broker: Broker) -> None:
    one, two = Process(broker, "a"), Process(broker, "b")
    await two.later(0)
    async with one.peers.beating():
        async with asyncio.timeout(10):
            while one.peers.share != Share(0, 2):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert list(await one.presence.heard()) == ["b"]


async def test_what_nobody_foresaw_ends_neither_the_hearing_nor_the_end(
    broker: Broker, ministack: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table with other keys: the store calls it invalid, which is no outage."""
    monkeypatch.setattr(peers, "BEAT_S", 0.05)
    one, two = Process(broker, "a"), Process(broker, "b")
    await two.later(0)
    async with an_old_table(ministack, f"{table_name}-old") as old:
        ours, broker.client.table = broker.client.table, replace(broker.client.table, name=old.name)
        with pytest.raises(ClientError):
            await one.peers.beat()
        async with one.peers.beating():
            await asyncio.sleep(0.2)  # some beats, each of them in vain
            broker.client.table = ours
            async with asyncio.timeout(10):
                while one.peers.share != Share(0, 2):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


def test_a_worker_shows_no_number_of_what_it_takes_no_part_in() -> None:
    shown = {worker: generate_latest(Metrics(of_worker=worker).registry) for worker in (False, True)}
    assert {worker: b"broker_api_processes" in page for worker, page in shown.items()} == {
        False: True,
        True: False,
    }


async def test_no_end_waits_for_a_store_that_is_silent(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name, STORE_TIMEOUT_SEC="30") as core:
        one = Process(core, "a")
        async with asyncio.timeout(20):  # less than the call's own time
            async with one.peers.beating():
                proxy.faults.change({"hang_next": 100, "hang_s": 60})
        proxy.faults.change({"hang_next": 0})


async def test_who_does_not_hear_itself_is_there_all_the_same(
    proxy: StoreProxy, table_name: str, broker: Broker
) -> None:
    """The look may be older than the word."""

    async def unheard(_: dict[str, Any]) -> None:
        await Presence(broker.client, "api").leave("a")

    async with a_broker(proxy.url, table_name) as core:
        one = Process(core, "a")
        with proxy.before("Query", unheard):
            assert await one.later(0) == Share(0, 1)


async def test_in_trouble_the_share_stays_as_it_was(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name) as core:
        one, two = Process(core, "a"), Process(core, "b")
        await one.later(0)
        await two.later(0)
        proxy.faults.down = True
        with pytest.raises(StoreUnavailable):
            await two.later(60)
        proxy.faults.down = False
        assert two.peers.share == Share(1, 2)


async def test_the_api_tells_of_itself_and_hears_the_others(ministack: str, table_name: str) -> None:
    async with a_table(ministack, table_name):
        settings = api_settings(ministack, table_name)
        async with an_app(settings) as one:
            async with an_app(settings) as two:
                async with asyncio.timeout(30):
                    while {one.core.peers.share.count, two.core.peers.share.count} != {2}:
                        await one.core.peers.beat()
                        await asyncio.sleep(0.05)
            await one.core.peers.beat()
            assert one.core.peers.share == Share(0, 1)
            assert (await one.metrics())["broker_api_processes"] == 1
