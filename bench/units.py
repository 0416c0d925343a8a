"""What each operation costs DynamoDB: round trips, units of the table and its indexes, the limits of partitions.

Units are computed from the items that were read and written, by DynamoDB's published rules (bench/capacity.py).
The engine's own count of write units stands beside them; its count of read units does not ask how large items are.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

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
from broker.wiring import Broker
from worker.duties import Worker
from worker.provider.door import open_provider

SHARDS: Final = 4
MANY: Final = 100
LISTED: Final = 1_000
CAUSE: Final = Cause(actor="bootstrap-track", action=Action.ALLOCATE, request_id="0123456789abcdef")
BY_THE_CLOCK: Final = ("TEN#", "MODE", "LEA#", "GAU#", "WRK#")
"""Read or written about once a second by each process, whatever there is to do: not an operation's."""
PLACES: Final = (TABLE, pool.STATUS_INDEX, pool.TRACK_INDEX)
_OF_ONE: Final = re.compile(r"(SBX|CLM|OWN)#|.*#sbx#")
"""Partitions of one sandbox, student or account: as many as there are of these, none is hot."""
_SHARD: Final = re.compile(r"#\d+$")


async def run(options: Options) -> Result:
    """All operations one after the other on one table, by the core and the worker's own duties."""
    found, limits = _units_table(), _limits_table()
    many, listed = (5, 20) if options.quick else (MANY, LISTED)

    def note(operation: str, count: int, spent: Spent) -> None:
        tell(f"{operation}: {spent.calls.total()} calls for {count}")
        _add(found, operation, count, spent)
        _add_limits(limits, operation, count, spent)

    async with open_rig() as rig:
        provider = await rig.provider(listed)
        async with _metered(rig) as (meter, broker, table_name):
            await rig.fill(table_name, 1, 3 * many + 1, shards=SHARDS)
            await _of_students(broker, meter, many, note)
            async with _worker(provider, broker) as worker:
                await _of_worker(worker, meter, many, note)
        async with _metered(rig) as (meter, broker, _), _worker(provider, broker) as worker:
            await _of_sync(worker, meter, listed, note)
    return Result([found, limits], [_plot(found)])


Note = Callable[[str, int, Spent], None]


@asynccontextmanager
async def _metered(rig: Rig) -> AsyncIterator[tuple[Meter, Broker, str]]:
    """The core on a table of its own, with a meter between."""
    table_name = await rig.table()
    meter = Meter(rig.engine.url, pool.indexes(table_name))
    meter.ignore(*BY_THE_CLOCK)
    async with meter.running(), open_core(meter.url, table_name, shards=SHARDS) as broker:
        yield meter, broker, table_name


async def _of_students(broker: Broker, meter: Meter, many: int, note: Note) -> None:
    meter.look()

    async def allocate(name: str, track: str | None = None, prefix: str = "") -> str:
        wish = Wish(holder=name, track=track, prefix=prefix)
        return (await broker.allocator.allocate(pool.TENANT, wish, CAUSE)).sandbox_id

    async def each(operation: str, act: Callable[[int], Awaitable[object]]) -> None:
        for number in range(many):
            await act(number)
        note(operation, many, meter.look())

    held = [await allocate(f"student-{number}") for number in range(many)]
    note("allocate", many, meter.look())
    await each("allocate, with a track", lambda n: allocate(f"pupil-{n}", "aws-101"))
    await each("replay", lambda n: allocate(f"student-{n}"))

    async def refused(number: int) -> None:
        with suppress(NoSandboxAvailable):
            await allocate(f"late-{number}", prefix="none-")

    await refused(many)
    meter.look()  # the proof that there is none, which all the others share for a second
    await each("refuse", refused)
    await each(
        "release",
        lambda n: broker.lifecycle.release(pool.TENANT, held[n], holder=f"student-{n}", cause=CAUSE),
    )


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


async def _of_worker(worker: Worker, meter: Meter, many: int, note: Note) -> None:
    """Deletions of what was released, expiry of what was allocated under a track."""
    meter.look()
    await worker.cleaner.sweep("bench")
    note("delete at the provider", many, meter.look())
    await worker.cleaner.sweep("bench")
    note("delete tick, nothing due", 1, meter.look())
    await worker.expire("bench")
    note("expire", many, meter.look())
    await worker.expire("bench")
    note("expire tick, nothing due", 1, meter.look())


async def _of_sync(worker: Worker, meter: Meter, listed: int, note: Note) -> None:
    """Of a pool that is empty, and of the pool that this makes."""
    meter.look()
    await worker.sync("bench")
    note("first sync, for each account", listed, meter.look())
    await worker.sync("bench")
    note("sync, for each unchanged account", listed, meter.look())


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
            Column("over shards"),
            Column("operations/s at the limit"),
        ],
        notes=[
            f"Evenly over the {SHARDS} shards of a tenant by default; the limit rises with its shards, up to 64.",
        ],
    )


def _add_limits(table: Table, operation: str, count: int, spent: Spent) -> None:
    """The partitions by what they have in common but the shard, the tightest first."""
    shared: Counter[tuple[str, str, str]] = Counter()
    for (place, partition, kind), units in spent.units.items():
        if not _OF_ONE.match(partition):
            shared[place, _family(partition), kind] += units  # type: ignore[assignment]  # Counters add fractions
    rows = []
    for (place, partition, kind), units in shared.items():
        each = units / count
        shards = SHARDS if partition.endswith("#*") else 1
        rows.append(
            (
                operation, place, partition, kind, each, shards,
                (WRITES_PER_S if kind == WRITE else READS_PER_S) * shards / each,
            )
        )  # fmt: skip
    for row in sorted(rows, key=lambda row: row[-1])[:3]:
        table.add(*row)


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
