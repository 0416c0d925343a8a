"""What an allocation by prefix costs as the pool grows: round trips and rows examined must stay flat.

Times are shown because one looks for them; they are the local engine's, which walks a whole index
partition for each query. DynamoDB finds a prefix by key.
"""

import time

from bench import pool
from bench.core import open_core
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table, tell
from bench.meter import READ, WRITE, Meter
from bench.rig import open_rig
from broker.action import Action
from broker.allocation import Wish
from broker.store import table
from broker.store.events import Cause

SHARDS = 4
SIZES = (100, 1_000, 10_000, 100_000)
FAR = 10_000_000
"""From here on are numbered the sandboxes that are looked for, the last ones by name."""
CAUSE = Cause(actor="bench", action=Action.ALLOCATE, request_id="bench")


async def run(options: Options) -> Result:
    """One row a pool size."""
    found = Table(
        "The first allocation by a prefix that a process makes",
        [
            Column("pool"),
            Column("queries"),
            Column("rows examined"),
            Column("transactions"),
            Column("read units", ",.1f"),
            Column("write units", ",.1f"),
            Column("engine ms"),
        ],
        notes=["engine ms: the local engine walks a whole partition of an index; DynamoDB finds a prefix by key."],
    )
    most = options.most or (100 if options.quick else SIZES[-1])
    async with open_rig() as rig:
        table_name = await rig.table()
        meter = Meter(rig.engine.url, pool.indexes(table_name))
        async with meter.running():
            async with open_core(rig.engine.url, table_name, shards=SHARDS):
                pass  # the table is marked as the broker's while it is empty
            filled = 0
            for size in (size for size in SIZES if size <= most):
                tell(f"filling the pool up to {size:,}")
                await rig.fill(table_name, filled + 1, size + 1, shards=SHARDS)
                filled = size
                wanted = pool.a_row(FAR + size, name=f"zz-{size}")
                await rig.dynamodb.put_item(TableName=table_name, Item=table.sandbox_item(wanted, SHARDS))
                found.add(size, *await _first_by_prefix(meter, table_name, size))
    sizes = [float(row[0] or 0) for row in found.rows]
    counts = [
        Series(str(column.title), sizes, [float(row[n] or 0) for row in found.rows])
        for n, column in enumerate(found.columns)
        if n in (1, 2, 3)
    ]
    plot = Plot(
        name="growth",
        title="The first allocation by a prefix, by size of the pool",
        x_label="sandboxes in the pool",
        y_label="count",
        series=counts,
        log_x=True,
    )
    return Result([found], [plot])


async def _first_by_prefix(meter: Meter, table_name: str, size: int) -> tuple[float, ...]:
    """What a process that has just started spends on one allocation, all reads of the tenant done before."""
    async with open_core(meter.url, table_name, shards=SHARDS) as broker:
        await broker.tenants.shards(pool.TENANT)
        meter.look()
        began = time.perf_counter()
        await broker.allocator.allocate(pool.TENANT, Wish(holder=f"s-{size}", prefix="zz-"), CAUSE)
        took_ms = (time.perf_counter() - began) * 1000
        spent = meter.look()
        queries = spent.calls["Query:StatusIndex"]
        units = (spent.total(None, kind) for kind in (READ, WRITE))
        return queries, spent.examined, spent.calls["TransactWriteItems"], *units, took_ms


BENCH = Bench(name="growth", question="What does an allocation by prefix cost as the pool grows?", run=run)
