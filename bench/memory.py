"""Resident memory of API and worker: after their boot, after much work, and whether work makes it grow.

The line is that of the second half of the samples. An API fills what it may keep, and no more than that: what was
proved taken (50,000 sandboxes) and the counters of its limits (100,000 students), some hundred bytes each. Past
that its line must be level: `--pairs 150000` goes there, and takes long.
"""

from collections.abc import Sequence
from typing import Final

from bench.frame import Bench, Column, Most, Options, Plot, Result, Series, Table, tell
from bench.large_sync import SETTINGS, until_synced
from bench.load import Job
from bench.processes import family, memory_mb
from bench.rig import RELEASE, Rig, Served, allocate_as, leads, open_rig
from bench.samples import slope
from bench.verdict import wrong

GOAL_MB: Final = 150
PAIRS: Final = 20_000
SAMPLES: Final = 20
CONNECTIONS: Final = 16
SHARDS: Final = 16
ACCOUNTS: Final = 10_000
SYNCS: Final = 6


async def run(options: Options) -> Result:
    pairs, samples = (40, 4) if options.quick else (PAIRS, SAMPLES)
    pairs = max(samples, options.pairs or pairs)
    accounts, syncs = (20, 2) if options.quick else (ACCOUNTS, SYNCS)
    accounts = options.most or accounts
    found = Table(
        "Resident memory",
        [
            Column("process"),
            Column("when"),
            Column("MB"),
            Column("peak MB"),
            Column("with its supervisor MB"),
            Column("goal"),
        ],
        notes=[f"Goal: {GOAL_MB} MB each, with the supervisor."],
    )
    lines = Table(
        "Does it grow? The line through the second half of the samples",
        [Column("process"), Column("by"), Column("samples"), Column("first MB", ".1f"), Column("middle MB", ".1f"),
         Column("last MB", ".1f"), Column("MB for each 1,000")],
    )  # fmt: skip
    result = Result([found, lines])
    async with open_rig() as rig:
        series = [await _api(rig, pairs, samples, result), await _worker(rig, accounts, syncs, result)]
    result.plots = [
        Plot(
            name="memory",
            title="Resident memory of API and worker, each with its supervisor",
            x_label="allocations, each released (API); accounts synced (worker)",
            y_label="resident memory, MB",
            series=series,
            goal=GOAL_MB,
            goal_label=f"goal: {GOAL_MB} MB",
        )
    ]
    return result


async def _api(rig: Rig, pairs: int, samples: int, result: Result) -> Series:
    """Students come and go; after each batch of them it is looked how large the process is."""
    table_name = await rig.table()
    api = await rig.api(table_name, store=rig.engine.url, shards=SHARDS)
    _add(result, "API", "after boot", api)
    batch, taken = pairs // samples, set[str]()
    done, sizes, whole = [0.0], [_working_mb(api)], [memory_mb(api.pid)]
    for number in range(samples):
        await rig.fill(table_name, number * batch + 1, (number + 1) * batch + 1, shards=SHARDS)
        result.wrong += await _come_and_go(rig, api, f"student-{number}", batch, taken)
        done.append(float((number + 1) * batch))
        sizes.append(_working_mb(api))
        whole.append(memory_mb(api.pid))
        tell(f"API after {done[-1]:,.0f} allocations and releases: {sizes[-1]:.1f} MB")
    _add(result, "API", f"after {done[-1]:,.0f} allocations and releases", api)
    _add_line(result.tables[1], "API", "an allocation and its release", done, sizes)
    await rig.stop(api)
    return Series("API", done, whole)


async def _come_and_go(rig: Rig, api: Served, students: str, count: int, taken: set[str]) -> list[str]:
    """So many students allocate, then each releases; what was wrong with the answers."""
    job = Job(
        ports=[api.port], connections=CONNECTIONS, request=allocate_as(students), count=count, keep="sandbox_id"
    )
    outcome = await rig.load(job)
    values = [
        {"sandbox": str(id_), "student": f"{students}-{n}"}
        for n, id_ in zip(outcome.numbers, outcome.kept, strict=True)
    ]
    released = await rig.load(Job(ports=[api.port], connections=CONNECTIONS, request=RELEASE, values=values))
    missing = count - released.count(200)
    return wrong(outcome, "API", taken) + ([f"API: {missing} of {count} were not released"] if missing else [])


async def _worker(rig: Rig, accounts: int, syncs: int, result: Result) -> Series:
    worker = await rig.worker(
        await rig.table(), store=rig.engine.url, provider=await rig.provider(accounts), shards=SHARDS, **SETTINGS
    )
    _add(result, "worker", "as soon as it leads", await leads(worker))
    done: list[float] = []
    sizes: list[float] = []
    whole: list[float] = []
    for number in range(1, syncs + 1):
        await until_synced(worker, number)
        done.append(float(number * accounts))
        sizes.append(_working_mb(worker))
        whole.append(memory_mb(worker.pid))
        tell(f"worker after {number} syncs of {accounts:,} accounts: {sizes[-1]:.1f} MB")
    _add(result, "worker", f"after {syncs} syncs of {accounts:,} accounts", worker)
    _add_line(result.tables[1], "worker", "an account synced", done, sizes)
    return Series("worker", done, whole)


def _working_mb(served: Served) -> float:
    """The process that works; the first one is its supervisor."""
    return memory_mb(family(served.pid)[-1])


def _add(result: Result, process: str, when: str, served: Served) -> None:
    peak_mb, whole_mb = memory_mb(family(served.pid)[-1], peak=True), memory_mb(served.pid)
    goal = result.judge(f"{process} {when}: at most {GOAL_MB} MB, {whole_mb:.0f} MB", whole_mb <= GOAL_MB)
    result.tables[0].add(process, when, _working_mb(served), peak_mb, whole_mb, goal)


def _add_line(lines: Table, process: str, what: str, done: Sequence[float], sizes: Sequence[float]) -> None:
    middle = len(done) // 2
    per_1000 = 1000 * slope(done[middle:], sizes[middle:]) if len(done) > middle + 1 else 0.0
    lines.add(process, what, len(done), sizes[0], sizes[middle], sizes[-1], f"{per_1000:+.3f}")


BENCH = Bench(
    name="memory",
    question="How large are API and worker, and do they grow with what they have done?",
    run=run,
    takes=("pairs",),
    most=Most("accounts that the worker syncs", ACCOUNTS),
)
