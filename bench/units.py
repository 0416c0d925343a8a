"""What each operation costs DynamoDB: round trips, units of the table and its indexes, the limits of partitions,
sizes of items; and what the worker's duties cost our processor.

Units are computed from the items that were read and written, by DynamoDB's published rules (bench/capacity.py).
The engine's own count of write units stands beside them; its count of read units does not ask how large items are.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final, TypeVar

from bench import pool
from bench.capacity import READS_PER_S, WRITES_PER_S
from bench.core import open_core
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table, tell
from bench.meter import READ, TABLE, WRITE, Meter, Spent
from bench.rig import PROVIDER_TOKEN, Rig, Served, open_rig
from broker.action import Action
from broker.allocation import Wish
from broker.errors import NoSandboxAvailable
from broker.leadership import Leadership
from broker.settings import WorkerSettings
from broker.store.events import Cause
from broker.tenant import Limits, Tenant
from broker.wiring import Broker
from worker.duties import Worker
from worker.provider.door import open_provider

SHARDS: Final = 4
MOST_SHARDS: Final = 64
MANY: Final = 100
PREFIXES: Final = 40
"""Each is new to the process, which lets a tenant bring up 100 of them in a second."""
LISTED: Final = 1_000
CAUSE: Final = Cause(actor="bootstrap-track", action=Action.ALLOCATE, request_id="0123456789abcdef")
BY_THE_CLOCK: Final = ("TEN#", "MODE", "LEA#", "GAU#", "WRK#")
"""Read or written about once a second by each process, whatever there is to do: not an operation's."""
ENTRY_BYTES: Final = 100
"""What DynamoDB adds to each entry of table and index, in storage."""
_NAMES: Final = {"SBX": "sandbox", "CLM": "claim", "EVT": "event", "OWN": "owner", "QTA": "quota slot"}
PLACES: Final = (TABLE, pool.STATUS_INDEX, pool.TRACK_INDEX)
_OF_ONE: Final = re.compile(r"(SBX|CLM|OWN)#|.*#sbx#")
"""Partitions of one sandbox, student or account: as many as there are of these, none is hot."""
_SHARD: Final = re.compile(r"#\d+$")
MATTERS_BELOW: Final = 20_000
"""Operations a second: a partition that would take more is no limit to anybody."""


async def run(options: Options) -> Result:
    """All operations one after the other, by the core and the worker's own duties."""
    found, limits, sizes, times = _units_table(), _limits_table(), _sizes_table(), _times_table()
    many, listed = (5, 20) if options.quick else (MANY, LISTED)

    def note(operation: str, count: int, spent: Spent) -> None:
        tell(f"{operation}: {spent.calls.total()} calls for {count}")
        _add(found, operation, count, spent)
        _add_limits(limits, operation, count, spent)

    async with open_rig() as rig:
        async with _metered(rig) as (meter, broker, table_name):
            await rig.fill(table_name, 1, 4 * many + 1, shards=SHARDS)
            students = Students(broker, meter, many, note)
            named = [pool.a_row(10 * many + n, name=_named(n)) for n in range(students.by_prefix)]
            await pool.put(rig.dynamodb, table_name, named, shards=SHARDS)
            await students.come()
            provider = await rig.provider(0)
            async with _worker(provider, broker) as worker:
                await _of_expiry(worker, meter, many + students.by_prefix, note)
            made = meter
        async with _metered(rig) as (meter, broker, _):
            provider = await rig.provider(listed)
            async with _worker(provider, broker) as worker:
                await _of_provider(worker, broker, meter, listed, note)
            _add_sizes(sizes, meter, made)
        async with open_core(rig.engine.url, await rig.table(), shards=SHARDS) as broker:
            provider = await rig.provider(listed)
            async with _worker(provider, broker) as worker:
                await _timed(worker, broker, listed, times)
    return Result([found, limits, sizes, times], [_plot(found)])


Found = TypeVar("Found")
Note = Callable[[str, int, Spent], None]


@asynccontextmanager
async def _metered(rig: Rig) -> AsyncIterator[tuple[Meter, Broker, str]]:
    """The core on a table of its own, with a meter between."""
    table_name = await rig.table()
    meter = Meter(rig.engine.url, pool.indexes(table_name))
    meter.ignore(*BY_THE_CLOCK)
    async with meter.running(), open_core(meter.url, table_name, shards=SHARDS) as broker:
        yield meter, broker, table_name


class Students:
    """Everything that a student's script asks for, so many times each."""

    def __init__(self, broker: Broker, meter: Meter, many: int, note: Note) -> None:
        self._broker = broker
        self._meter = meter
        self._many = many
        self._note = note
        self.by_prefix = min(many, PREFIXES)

    async def come(self) -> None:
        self._meter.look()
        await self._each(  # while there are the sandboxes of these names, each the only one
            "allocate, the first by a prefix",
            lambda n: self._allocate(f"of-{n}", prefix=_named(n)),
            self.by_prefix,
        )
        plain = await self._each("allocate", lambda n: self._allocate(f"student-{n}"))
        await self._each("allocate, with a track", lambda n: self._allocate(f"pupil-{n}", track="aws-101"))
        await self._each("replay", lambda n: self._allocate(f"student-{n}"))
        await self._refused(0)
        self._meter.look()  # the proof that there is none, which all the others share for a second
        await self._each("refuse", self._refused)
        await self._each("release", lambda n: self._release(f"student-{n}", plain[n]))
        await self._under_a_quota()

    async def _under_a_quota(self) -> None:
        """Of a limit so high that the students do not meet."""
        await self._limit(100 * self._many)
        held = await self._each("allocate, under a quota", lambda n: self._allocate(f"guest-{n}"))
        await self._each("release, under a quota", lambda n: self._release(f"guest-{n}", held[n]))
        await self._limit(None)

    async def _limit(self, most: int | None) -> None:
        def limited(tenant: Tenant) -> Tenant:
            return replace(tenant, limits=Limits(max_live=most))

        await self._broker.tenants.change(pool.TENANT, limited, CAUSE, now=time.time())
        self._meter.look()

    async def _each(
        self, operation: str, act: Callable[[int], Awaitable[Found]], many: int | None = None
    ) -> list[Found]:
        many = self._many if many is None else many
        found = [await act(number) for number in range(many)]
        self._note(operation, many, self._meter.look())
        return found

    async def _allocate(self, name: str, *, track: str | None = None, prefix: str = "") -> str:
        return await _allocate(self._broker, name, track=track, prefix=prefix)

    async def _release(self, name: str, sandbox_id: str) -> None:
        await self._broker.lifecycle.release(pool.TENANT, sandbox_id, holder=name, cause=CAUSE)

    async def _refused(self, number: int) -> None:
        with suppress(NoSandboxAvailable):
            await self._allocate(f"late-{number}", prefix="none-")


def _named(number: int) -> str:
    return f"zz-{number:03d}-"


async def _allocate(broker: Broker, name: str, *, track: str | None = None, prefix: str = "") -> str:
    wish = Wish(holder=name, track=track, prefix=prefix)
    return (await broker.allocator.allocate(pool.TENANT, wish, CAUSE)).sandbox_id


@asynccontextmanager
async def _worker(provider: Served, broker: Broker) -> AsyncIterator[Worker]:
    """One that leads, in this process; for it, every allocation is over by now."""
    settings = WorkerSettings.model_validate(
        {
            "BROKER_ENV": "development",
            "BROKER_TENANT": pool.TENANT,
            "CSP_BASE_URL": provider.url,
            "CSP_API_TOKEN": PROVIDER_TOKEN,
            "CSP_DELETES_PER_SEC": 1000,
        }
    )
    leadership = Leadership(broker.leader, broker.metrics, scope="bench", holder="bench", lease_s=60)
    await leadership.stand_by()
    keeping = asyncio.create_task(leadership.keep())
    try:
        async with open_provider(settings, broker.metrics) as door:
            yield Worker(settings, broker, door, leadership, clock=lambda: time.time() + 24 * 3600)
    finally:
        keeping.cancel()


async def _of_expiry(worker: Worker, meter: Meter, due: int, note: Note) -> None:
    """Of all that is still allocated."""
    meter.look()
    await worker.expire("bench")
    note("expire", due, meter.look())
    await worker.expire("bench")
    note("expire tick, nothing due", 1, meter.look())


async def _of_provider(worker: Worker, broker: Broker, meter: Meter, listed: int, note: Note) -> None:
    """Sync of a pool that is empty, and of the pool that this makes; counting it; deleting of it."""
    meter.look()
    await worker.sync("bench")
    note("first sync, for each account", listed, meter.look())
    await worker.sync("bench")
    note("sync, for each unchanged account", listed, meter.look())
    await worker.gauges("bench")
    note("count for the gauges, each available", listed, meter.look())
    many = listed // 5
    held = await _hold(broker, many)
    meter.look()
    await worker.gauges("bench")
    note("count for the gauges, a fifth allocated", listed, meter.look())
    await _give_back(broker, held)
    meter.look()
    note("delete at the provider", (await worker.cleaner.sweep("bench"))["deleted"], meter.look())
    await worker.cleaner.sweep("bench")
    note("delete tick, nothing due", 1, meter.look())


async def _hold(broker: Broker, many: int) -> dict[str, str]:
    return {name: await _allocate(broker, name, track="aws-101") for name in (f"holder-{n}" for n in range(many))}


async def _give_back(broker: Broker, held: dict[str, str]) -> None:
    for name, sandbox_id in held.items():
        await broker.lifecycle.release(pool.TENANT, sandbox_id, holder=name, cause=CAUSE)


async def _timed(worker: Worker, broker: Broker, listed: int, times: Table) -> None:
    """The worker's duties without a meter between: what they take of our processor."""

    async def note(duty: str, work: Awaitable[object], count: int) -> None:
        before_s = time.process_time()
        await work
        times.add(duty, count, 1000 * (time.process_time() - before_s) / count)

    await note("first sync, for each account", worker.sync("bench"), listed)
    await note("sync, for each unchanged account", worker.sync("bench"), listed)
    await note("count for the gauges, for each", worker.gauges("bench"), listed)
    many = listed // 2
    await _give_back(broker, await _hold(broker, many))
    await note("delete at the provider", worker.cleaner.sweep("bench"), many)
    await _hold(broker, many)
    await note("expire", worker.expire("bench"), many)


def _units_table() -> Table:
    places = [Column(f"{place} {kind}", ",.2f") for place in PLACES for kind in (READ, WRITE)]
    return Table(
        "Consumed units of one operation (reads: RCU, writes: WCU)",
        [
            Column("operation"),
            Column("measured"),
            Column("calls each", ",.2f"),
            *places,
            Column("all reads", ",.2f"),
            Column("all writes", ",.2f"),
            Column("engine: writes", ",.2f"),
        ],
        notes=[
            "Computed from the items by DynamoDB's published rules. A refused transaction is billed as if it had "
            "written, by what it met, which is the worst case; the engine bills none of it.",
            "Not counted: what a process reads about once a second in any case (tenant, mode, leader, gauges).",
        ],
    )


def _add(table: Table, operation: str, count: int, spent: Spent) -> None:
    table.add(
        operation,
        count,
        spent.calls.total() / count,
        *(spent.total(place, kind) / count for place in PLACES for kind in (READ, WRITE)),
        spent.total(None, READ) / count,
        spent.total(None, WRITE) / count,
        spent.engine_writes / count,
    )


def _limits_table() -> Table:
    return Table(
        f"Partitions that operations share, held against {WRITES_PER_S:,} WCU and {READS_PER_S:,} RCU a second",
        [
            Column("operation"),
            Column("place"),
            Column("partition"),
            Column("kind"),
            Column("units each", ",.2f"),
            Column(f"operations/s at {SHARDS} shards"),
            Column(f"at {MOST_SHARDS}"),
        ],
        notes=[
            f"All that take fewer than {MATTERS_BELOW:,} operations/s at {SHARDS} shards, the tightest first, at "
            "their limit and evenly over a tenant's shards (*): plan for two thirds of it.",
            "One track, one tenant, one hour: several share nothing of these.",
        ],
    )


def _add_limits(table: Table, operation: str, count: int, spent: Spent) -> None:
    """The partitions by what they have in common but the shard, the tightest first."""
    if "tick" in operation:  # which is no operation's: it comes by the clock
        return
    shared: Counter[tuple[str, str, str]] = Counter()
    for (place, partition, kind), units in spent.units.items():
        if not _OF_ONE.match(partition):
            shared[place, _family(partition), kind] += units  # type: ignore[assignment]  # Counters add fractions
    rows = []
    for (place, partition, kind), units in shared.items():
        each = units / count
        of_one = (WRITES_PER_S if kind == WRITE else READS_PER_S) / each
        spread = partition.endswith("#*")
        limit, most = (of_one * shards if spread else of_one for shards in (SHARDS, MOST_SHARDS))
        if limit < MATTERS_BELOW:
            rows.append((operation, place, partition, kind, each, limit, most))
    for row in sorted(rows, key=lambda row: row[-2]):
        table.add(*row)


def _sizes_table() -> Table:
    return Table(
        "Sizes of items as they are written",
        [
            Column("item"),
            Column("place"),
            Column("measured"),
            Column("bytes", ",.0f"),
            Column("largest"),
            Column(f"with DynamoDB's {ENTRY_BYTES} of each entry", ",.0f"),
        ],
        notes=[
            "Names and values, as the simulated provider lists them, under a track. "
            "Every character more is a byte, in the item and in each index that shows it.",
        ],
    )


def _add_sizes(table: Table, listed: Meter, made: Meter) -> None:
    """As sync wrote them; and from the other table, whose sandboxes no provider listed, what is only there."""
    found = made.sizes | listed.sizes
    for kind, place in sorted(found, key=lambda each: (each[0], PLACES.index(each[1]))):
        name, _, state = kind.partition(" ")
        if name in _NAMES:
            sizes = found[kind, place]
            shown = f"{_NAMES[name]} {state}".strip()
            table.add(shown, place, sizes.number, sizes.mean, sizes.largest, sizes.mean + ENTRY_BYTES)


def _times_table() -> Table:
    return Table(
        "Processor time of the worker's duties",
        [Column("duty"), Column("measured"), Column("CPU ms each", ",.2f")],
        notes=["Of duties, core and the provider's client in this process, with no meter between."],
    )


def _family(partition: str) -> str:
    """
    >>> [_family(p) for p in ("acme#allocated#3", "EVT#acme#498693#2", "tenants")]
    ['acme#allocated#*', 'EVT#acme#<hour>#*', 'tenants']
    """
    found = _SHARD.sub("#*", partition)
    return re.sub(r"^(EVT#.*)#\d+#\*$", r"\1#<hour>#*", found)


def _plot(table: Table) -> Plot:
    rows = [row for row in table.rows if "tick" not in str(row[0])]
    names = [str(row[0]) for row in rows]
    return Plot(
        name="units",
        title="Consumed units of one operation",
        x_label="",
        y_label="units",
        series=[
            Series("reads (RCU)", names, [float(row[-3] or 0) for row in rows]),
            Series("writes (WCU)", names, [float(row[-2] or 0) for row in rows]),
        ],
    )


BENCH = Bench(name="units", question="What does each operation consume of DynamoDB?", run=run)
