"""What each operation costs as the pool grows: round trips, rows examined and our processor time must stay flat.

Wall times are shown because one looks for them; they are the local engine's, which walks a whole index
partition for each query. DynamoDB finds a page by its key.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from prometheus_client.exposition import generate_latest

from app.pool_gauges import CACHE_S, PoolGauges
from bench import pool
from bench.core import LEASE_S, open_core
from bench.frame import Bench, Column, Most, Options, Plot, Result, Table, tell
from bench.meter import READ, WRITE, Meter, Spent
from bench.rig import Rig, RigFailed, open_rig
from broker.action import Action
from broker.allocation import Wish
from broker.store.events import Cause
from broker.wiring import Broker
from worker.jobs.expire import expire
from worker.jobs.gauges import count_pool

SHARDS: Final = 4
SIZES: Final = (100, 1_000, 10_000, 100_000)
USUAL: Final = 10_000
MANY: Final = 200
PREFIXES: Final = 40
"""Each is new to the process, which lets a tenant bring up 100 of them in a second."""
DUE: Final = 25
TICKS: Final = 50
SCRAPES: Final = 100
FEWER_FROM: Final = 20_000
"""In a pool of so many times n, one in n is measured: the local engine takes up to a second for a query there."""
SLOW_MS: Final = 50.0
SLOWER_BY: Final = 5
"""One in so many is measured where the store is slow."""
FAR: Final = 10_000_000
"""From here on are numbered the sandboxes that are looked for by a prefix, the last ones by name."""
TEN_YEARS_S: Final = 10 * 365 * 24 * 3600
CAUSE: Final = Cause(actor="bench", action=Action.ALLOCATE, request_id="bench")
SLACK: Final = {"round trips": 0.5, "rows examined": 3.0, "RCU": 0.5, "WCU": 0.5}
"""Counts may be so much above those of the smallest pool, and a quarter: what a page holds depends on the hurry,
and a page that has grown old on a slow engine is read anew."""


@dataclass(slots=True)
class Counts:
    """Store calls, by the meter between."""

    meter: Meter
    found: dict[str, tuple[int, Spent]] = field(default_factory=dict)

    @contextmanager
    def measuring(self, operation: str, number: int) -> Iterator[None]:
        self.meter.look()
        yield
        self.found[operation] = number, self.meter.look()


@dataclass(slots=True)
class Times:
    """Processor time of this process, which is the broker's core, and wall time, each of one operation in ms."""

    cpu_ms: dict[str, float] = field(default_factory=dict)
    wall_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measuring(self, operation: str, number: int) -> Iterator[None]:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        yield
        self.cpu_ms[operation] = 1000 * (time.process_time() - cpu_s) / number
        self.wall_ms[operation] = 1000 * (time.perf_counter() - wall_s) / number


async def run(options: Options) -> Result:
    """Rows of one operation stand together, so that one sees whether they are flat."""
    most = options.most or (SIZES[0] if options.quick else USUAL)
    share = 20 if options.quick else 1
    found: dict[int, tuple[Counts, Times]] = {}
    async with open_rig() as rig:
        grown = Grown(rig, await rig.table(), share)
        for size in (size for size in SIZES if size <= most):
            tell(f"filling the pool up to {size:,}")
            await grown.to(size)
            found[size] = await grown.measure()
        near, far = await _control(rig, share, 20 if options.quick else SLOW_MS)
    result = Result()
    table = _table(found, result)
    result.tables = [table, _control_table(near, far)]
    result.plots = _plots(table)
    return result


async def _control(rig: Rig, share: int, slow_ms: float) -> tuple[Times, Times]:
    """The smallest pool on a store that answers at once, and on one that is slow for another reason than size."""
    grown = Grown(rig, await rig.table(), max(share, SLOWER_BY))
    await grown.to(SIZES[0])
    near, far = Times(), Times()
    await grown.drill(rig.engine.url, near)
    await grown.drill(await rig.delayed(slow_ms), far)
    return near, far


def _control_table(near: Times, far: Times) -> Table:
    table = Table(
        f"For comparison: our processor time in a pool of {SIZES[0]}, where only the store is slow",
        [Column("operation"), Column("CPU ms", ",.2f"), Column("wall ms", ",.1f"),
         Column("slow: CPU ms", ",.2f"), Column("slow: wall ms", ",.1f")],
        notes=["What processor time rises by here comes of waiting for the store, not of the size of the pool."],
    )  # fmt: skip
    for operation, cpu_ms in near.cpu_ms.items():
        table.add(operation, cpu_ms, near.wall_ms[operation], far.cpu_ms[operation], far.wall_ms[operation])
    return table


class Grown:
    """A table whose pool grows: half of it is available, half is allocated and not due for ten years."""

    def __init__(self, rig: Rig, table_name: str, share: int) -> None:
        self._rig = rig
        self._table = table_name
        self._size = 0
        self._share = share
        self._numbers = count(FAR)
        self._runs = count(1)

    async def to(self, size: int) -> None:
        if not self._size:
            async with open_core(self._rig.engine.url, self._table, shards=SHARDS):
                pass  # the table is marked as the broker's while it is empty
        now = int(time.time())
        free = (pool.a_row(number) for number in range(self._size + 1, size + 1, 2))
        held = (
            pool.a_row(number).allocate(
                holder=f"held-{number}", claim_key=None, track=None, now=now, lease_s=TEN_YEARS_S
            )
            for number in range(self._size + 2, size + 1, 2)
        )
        for rows in (free, held):
            await pool.put(self._rig.dynamodb, self._table, rows, shards=SHARDS)
        self._size = size

    async def measure(self) -> tuple[Counts, Times]:
        """Twice the same: with a meter between, which counts, and without, which is timed."""
        meter = Meter(self._rig.engine.url, pool.indexes(self._table))
        meter.ignore("MODE", "TEN#")  # read about once a second, whatever there is to do
        counts, times = Counts(meter), Times()
        async with meter.running():
            await self.drill(meter.url, counts)
        await self.drill(self._rig.engine.url, times)
        return counts, times

    async def drill(self, store: str, gauge: Counts | Times) -> None:
        share = max(self._share, self._size // FEWER_FROM)
        many, prefixes, due, ticks = (max(2, n // share) for n in (MANY, PREFIXES, DUE, TICKS))
        run = next(self._runs)
        async with open_core(store, self._table, shards=SHARDS) as broker:
            await self._add(many + due)
            await broker.tenants.shards(pool.TENANT)
            held = []
            with gauge.measuring("allocate", many):
                for number in range(many):
                    held.append(await _allocate(broker, f"student-{run}-{number}"))
            with gauge.measuring("release", many):
                for number, sandbox_id in enumerate(held):
                    await broker.lifecycle.release(
                        pool.TENANT, sandbox_id, holder=f"student-{run}-{number}", cause=CAUSE
                    )
            names = await self._add_named(prefixes)
            with gauge.measuring("allocate, first by a prefix", prefixes):
                for name in names:
                    await _allocate(broker, f"of-{name}", prefix=name)
            await _expire(broker, due=prefixes)
            for number in range(due):
                await _allocate(broker, f"late-{run}-{number}")
            with gauge.measuring("expire, each that is due", due):
                await _expire(broker, due=due)
            with gauge.measuring("expire tick, nothing due", ticks):
                for _ in range(ticks):
                    await _expire(broker, due=0)
            await self._scrapes(broker, gauge, max(2, SCRAPES // share))

    async def _scrapes(self, broker: Broker, gauge: Counts | Times, scrapes: int) -> None:
        """The page as the API makes it, each time with the worker's snapshot read anew."""
        await count_pool(broker.sandboxes, broker.gauges, tenant=pool.TENANT, now=int(time.time()))
        minutes = count()
        gauges = PoolGauges(
            broker.gauges, broker.tenants, broker.metrics, tenant=pool.TENANT,
            monotonic=lambda: CACHE_S * next(minutes),
        )  # fmt: skip
        with gauge.measuring("scrape", scrapes):
            for _ in range(scrapes):
                await gauges.refresh()
                generate_latest(broker.metrics.registry)

    async def _add(self, number: int) -> None:
        """What this run will use up, so that the pool stays as large as it is."""
        rows = (pool.a_row(next(self._numbers), name=f"lab-{self._size:06d}-{n}") for n in range(number + 1))
        await pool.put(self._rig.dynamodb, self._table, rows, shards=SHARDS)

    async def _add_named(self, number: int) -> list[str]:
        """Sandboxes of which each is the only one by its prefix."""
        rows = [pool.a_row(n, name=f"zz-{n}-") for n, _ in zip(self._numbers, range(number), strict=False)]
        await pool.put(self._rig.dynamodb, self._table, rows, shards=SHARDS)
        return [row.name for row in rows]


async def _allocate(broker: Broker, holder: str, *, prefix: str = "") -> str:
    return (await broker.allocator.allocate(pool.TENANT, Wish(holder=holder, prefix=prefix), CAUSE)).sandbox_id


async def _expire(broker: Broker, *, due: int) -> None:
    """A tick of the worker, some hours on: what students of this bench hold is due, what the pool holds is not.

    Raises:
        RigFailed: another number expired than was due.
    """
    now = int(time.time()) + 2 * LEASE_S
    outcome = await expire(
        broker.sandboxes, broker.lifecycle, tenant=pool.TENANT, now=now, grace_s=0, request_id="bench"
    )
    if outcome != Counter(expired=due):
        raise RigFailed(f"{dict(outcome)} where {due} were due to expire")


def _table(found: dict[int, tuple[Counts, Times]], result: Result) -> Table:
    table = Table(
        "One operation, by the size of the pool",
        [
            Column("operation"),
            Column("pool"),
            Column("measured"),
            Column("round trips", ",.2f"),
            Column("rows examined", ",.2f"),
            Column("RCU", ",.2f"),
            Column("WCU", ",.2f"),
            Column("CPU ms", ",.2f"),
            Column("wall ms", ",.1f"),
            Column("goal"),
        ],
        notes=[
            "Goal: round trips, rows and units of an operation do not rise with the pool, but by a quarter and "
            + ", ".join(f"{slack:g} {what}" for what, slack in SLACK.items())
            + ".",
            "Half of the pool is available, half is allocated. CPU: of the broker's core, without HTTP.",
            "wall: the local engine walks a whole partition of an index for a query; DynamoDB finds it by key.",
            "scrape: with the worker's snapshot read anew each time, which a process does once a minute.",
        ],
    )
    for operation in next(iter(found.values()))[0].found if found else ():
        smallest: tuple[float, ...] = ()
        for size, (counts, times) in found.items():
            number, spent = counts.found[operation]
            of_one = (
                spent.calls.total() / number, spent.examined / number,
                spent.total(None, READ) / number, spent.total(None, WRITE) / number,
            )  # fmt: skip
            smallest = smallest or of_one
            rises = risen(smallest, of_one)
            goal = f"{operation} as in a small pool in one of {size:,}{': ' * bool(rises)}{', '.join(rises)}"
            table.add(
                operation, size, number, *of_one, times.cpu_ms[operation], times.wall_ms[operation],
                result.judge(goal, not rises),
            )  # fmt: skip
    return table


def risen(smallest: Sequence[float], now: Sequence[float]) -> list[str]:
    """Which counts of an operation are above those in the smallest pool: they are the same on a busy machine."""
    return [
        f"{what} rose from {before:.2f} to {after:.2f}"
        for (what, slack), before, after in zip(SLACK.items(), smallest, now, strict=True)
        if after > 1.25 * before + slack
    ]


def _plots(table: Table) -> list[Plot]:
    """What the pool must not change, and our processor time."""
    operations = list(dict.fromkeys(str(row[0]) for row in table.rows))
    return [
        Plot(
            name=name,
            title=f"{what} of one operation, by the size of the pool",
            x_label="sandboxes in the pool",
            y_label=label,
            series=[table.line(each, "pool", column, where={"operation": each}) for each in operations],
            log_x=True,
        )
        for name, what, label, column in (
            ("growth", "Round trips", "round trips of one operation", "round trips"),
            ("growth-cpu", "Our processor time", "processor time of one operation, ms", "CPU ms"),
        )
    ]


BENCH = Bench(
    name="growth",
    question="What does each operation cost as the pool grows?",
    run=run,
    most=Most("sandboxes in the pool", USUAL, among=SIZES),
)
