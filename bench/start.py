"""A cold start: from the call of the process until it is ready, with the store up and bytecode compiled.

Bytecode goes to a directory of the bench's own, so that it is there whatever this machine's settings are, as it
is in the image. Each start is a process anew; the operating system has its files in memory.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from bench import metrics_page
from bench.frame import Bench, Cell, Column, Options, Plot, Result, Series, Table, tell
from bench.processes import cpu_s
from bench.rig import Rig, Served, leads, open_rig
from bench.samples import median

STARTS: Final = 9
GOAL_S: Final = 2.0
WHOLE: Final = "all together"
PHASES: Final = "broker_boot_phase_seconds"


async def run(options: Options) -> Result:
    starts = 1 if options.quick else STARTS
    before = "" if options.quick else ", after one that compiled"
    found = Table(
        f"From the call of the process until it serves (median of {starts}{before})",
        [
            Column("process"),
            Column("until"),
            Column("wall s", ".2f"),
            Column("fastest", ".2f"),
            Column("slowest", ".2f"),
            Column("CPU s", ".2f"),
            Column("goal"),
        ],
        notes=[
            f"Goal: {GOAL_S:g} s. CPU: of the process and its supervisor until then, user and system.",
            "wall has a resolution of 20 ms.",
        ],
    )
    phases = Table(
        "Where the time goes, by the processes' own clocks (medians)",
        [
            Column("process"),
            Column("phase"),
            Column("s", ".3f"),
            Column("fastest", ".3f"),
            Column("slowest", ".3f"),
        ],
        notes=["start: interpreter and imports. The supervisor's own start comes before."],
    )
    result = Result([found, phases])
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
            goal = f"{name} {until} within {GOAL_S:g} s: {median(walls):.2f} s"
            cell = result.judge(goal, median(walls) <= GOAL_S)
            found.add(name, until, median(walls), min(walls), max(walls), median(cpus), cell)
            found.samples |= {f"{name}, wall s": list(walls), f"{name}, CPU s": list(cpus)}
            for phase in all_phases[0]:
                took = [phase_s.get(phase, 0.0) for phase_s in all_phases]
                phases.add(name, phase, median(took), min(took), max(took))
    result.plots = [_plot(found, phases, starts)]
    return result


async def _started(rig: Rig, begin: Callable[[], Awaitable[Served]]) -> tuple[float, float, dict[str, float]]:
    """Wall and processor seconds until then, and the seconds of each phase; it is ended again."""
    began = time.perf_counter()
    served = await begin()
    wall_s, used_s = time.perf_counter() - began, cpu_s(served.pid)
    phases = await asyncio.to_thread(metrics_page.series, served.port, PHASES)
    await rig.stop(served)
    return wall_s, used_s, {labels["phase"]: took_s for labels, took_s in phases}


def _plot(found: Table, phases: Table, starts: int) -> Plot:
    """Phases of either process, and all together."""
    took = {(row[0], row[1]): row[2:5] for row in phases.rows}
    took |= {(row[0], WHOLE): row[2:5] for row in found.rows}
    names = list(dict.fromkeys(name for _, name in took))

    def bars(who: str) -> Series:
        middle, low, high = zip(*(took.get((who, name), (0, 0, 0)) for name in names), strict=True)
        return Series(who, [str(name) for name in names], _numbers(middle), (_numbers(low), _numbers(high)))

    return Plot(
        name="start",
        title=f"A cold start, phase by phase: median of {starts}, fastest and slowest",
        x_label="phase",
        y_label="time of a phase, s",
        series=[bars("API"), bars("worker")],
        goal=GOAL_S,
        goal_label=f"goal for all together: {GOAL_S:g} s",
    )


def _numbers(cells: Iterable[Cell | None]) -> list[float]:
    return [float(cell or 0) for cell in cells]


BENCH = Bench(name="start", question="How long from the call of a process until it serves?", run=run)
