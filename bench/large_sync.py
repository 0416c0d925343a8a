"""What a sync costs as the listing grows: bounded memory in the worker, nothing written for what did not change.

Everything is a process: the engine, the provider, the worker whose memory is read from /proc (Linux). Times are
the local engine's; DynamoDB's differ.
"""

from bench import metrics_page
from bench.frame import Bench, Column, Most, Options, Result, Table, tell
from bench.processes import memory_mb
from bench.rig import Served, open_rig, until

SHARDS = 64
RUNS = "worker_job_runs_total"
SIZES = (1_000, 10_000, 50_000, 100_000)
USUAL = 10_000
SETTINGS = {
    "STORE_TIMEOUT_SEC": "30",
    "SYNC_INTERVAL_SEC": "1",
    "GAUGES_INTERVAL_SEC": "3600",
    "LEADER_LEASE_SEC": "60",
}


async def run(options: Options) -> Result:
    """One row a size of the listing: the first sync, which writes all of it, and the second."""
    found = Table(
        "Sync of a listing: the first one adds all of it, the second finds nothing changed",
        [
            Column("accounts"),
            Column("first s", ",.1f"),
            Column("transactions", key="first transactions"),
            Column("second s", ",.1f"),
            Column("transactions", key="second transactions"),
            Column("worker MB"),
        ],
        notes=["worker MB: the most that was resident. The largest listing of 100,000 takes some 20 minutes."],
    )
    most = options.most or (20 if options.quick else USUAL)
    for size in sorted({most, *(size for size in SIZES if size < most)}):
        tell(f"sync of {size:,} accounts")
        found.add(size, *await _measure(size, shards=4 if options.quick else SHARDS))
    return Result([found])


async def _measure(size: int, *, shards: int) -> tuple[float, ...]:
    """Seconds and transactions of the first and of the second sync; the worker's peak of memory."""
    async with open_rig() as rig:
        table_name = await rig.table()
        provider = await rig.provider(size)
        worker = await rig.worker(table_name, store=rig.engine.url, provider=provider, shards=shards, **SETTINGS)
        first = await until_synced(worker, 1)
        both = await until_synced(worker, 2)
        second = (after - before for after, before in zip(both, first, strict=True))
        return *first, *second, memory_mb(worker.pid, peak=True)


async def until_synced(worker: Served, number: int) -> tuple[float, float]:
    """Wait for that many syncs; the seconds and transactions of all of them."""
    await until(lambda: metrics_page.value(worker.port, RUNS, duty="sync", outcome="ok") >= number)
    seconds = metrics_page.value(worker.port, "worker_job_seconds_sum", duty="sync")
    writes = metrics_page.value(worker.port, "broker_store_call_seconds_count", operation="transact_write_items")
    return seconds, writes


BENCH = Bench(
    name="sync",
    question="What does a sync cost as the listing grows?",
    run=run,
    most=Most("accounts that are listed", USUAL),
)
