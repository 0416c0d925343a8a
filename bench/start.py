"""A cold start: from the call of the process until it is ready, with the store up and bytecode compiled.

Bytecode goes to a directory of the bench's own, so that it is there whatever this machine's settings are, as it
is in the image. Each start is a process anew; the operating system has its files in memory.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from bench import metrics_page
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table, tell
from bench.processes import cpu_s
from bench.rig import Rig, Served, leads, open_rig
from bench.samples import median

STARTS: Final = 9
GOAL_S: Final = 2.0
PHASES: Final = "broker_boot_phase_seconds"


async def run(options: Options) -> Result:
    starts = 1 if options.quick else STARTS
    found = Table(
        f"From the call of the process until it serves (median of {starts}, after one that compiled)",
        [
            Column("process"),
            Column("until"),
            Column("wall s", ".2f"),
            Column("fastest", ".2f"),
            Column("slowest", ".2f"),
            Column("CPU s", ".2f"),
        ],
        notes=[
            f"Goal: {GOAL_S:g} s. CPU: of the process and its supervisor until then, user and system.",
            "wall has a resolution of 20 ms.",
        ],
    )
    phases = Table(
        "Where the time goes, by the processes' own clocks (medians)",
        [Column("process"), Column("phase"), Column("s", ".3f")],
        notes=["start: interpreter and imports. The supervisor's own start comes before."],
    )
    async with open_rig() as rig:
        table_name, provider = await rig.table(), await rig.provider(20)
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(rig.directory / "bytecode")}
        if options.quick:
            bytecode = {}  # to compile all of it takes longer than all the rest

        async def api() -> Served:
            return await rig.api(table_name, store=rig.engine.url, shards=4, **bytecode)

        async def worker() -> Served:
            served = await rig.worker(table_name, store=rig.engine.url, provider=provider, shards=4, **bytecode)
            return await leads(served)

        for name, until, begin in (("API", "ready", api), ("worker", "leading", worker)):
            if bytecode:
                await _started(rig, begin)
            runs = [await _started(rig, begin) for _ in range(starts)]
            walls, cpus, all_phases = zip(*runs, strict=True)
            tell(f"{name}: {median(walls):.2f} s")
            found.add(name, until, median(walls), min(walls), max(walls), median(cpus))
            for phase in all_phases[0]:
                phases.add(name, phase, median([took.get(phase, 0.0) for took in all_phases]))
    return Result([found, phases], [_plot(phases)])


async def _started(rig: Rig, begin: Callable[[], Awaitable[Served]]) -> tuple[float, float, dict[str, float]]:
    """Wall and processor seconds until then, and the seconds of each phase; it is ended again."""
    began = time.perf_counter()
    served = await begin()
    wall_s, used_s = time.perf_counter() - began, cpu_s(served.pid)
    phases = await asyncio.to_thread(metrics_page.series, served.port, PHASES)
    await rig.stop(served)
    return wall_s, used_s, {labels["phase"]: took_s for labels, took_s in phases}


def _plot(phases: Table) -> Plot:
    names = list(dict.fromkeys(str(row[1]) for row in phases.rows))
    took = {(row[0], row[1]): float(row[2] or 0) for row in phases.rows}
    return Plot(
        name="start",
        title="A cold start, phase by phase",
        x_label="",
        y_label="s",
        series=[Series(who, names, [took.get((who, name), 0.0) for name in names]) for who in ("API", "worker")],
    )


BENCH = Bench(name="start", question="How long from the call of a process until it serves?", run=run)
