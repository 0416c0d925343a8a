"""A hundred scrapes of /metrics in the very moment in which all students come: do the students notice?

Rounds with and without scrapes take turns on the same processes; each pair of neighbours gives one ratio. One
percentile of one burst is noise, which is why the lowest and the highest pair stand beside the median.
"""

import math
from typing import Final

from bench.arrivals import at_once
from bench.burst import WARM_UP, Burst, Stage
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table, tell
from bench.load import Job, Outcome
from bench.processes import CpuWatch
from bench.rig import open_rig
from bench.samples import median

STUDENTS: Final = 300
SCRAPES: Final = 100
ROUNDS: Final = 9
PROCESSES: Final = (1, 2)
ALONE: Final = 200
REQUEST: Final = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def run(options: Options) -> Result:
    """Pairs of bursts, the first of each without scrapes in one round and with them in the next."""
    students, scrapes, rounds, alone = (20, 10, 2, 5) if options.quick else (STUDENTS, SCRAPES, ROUNDS, ALONE)
    found = Table(
        f"{students} students at once, without and with {scrapes} scrapes meanwhile (medians of the rounds)",
        [
            Column("processes"),
            Column("p50 ms"),
            Column("with scrapes"),
            Column("p99 ms"),
            Column("with scrapes "),
            Column("p99 with / without", ".3f"),
            Column("lowest", ".3f"),
            Column("highest", ".3f"),
            Column("slowest scrape ms"),
            Column("CPU ms of one scrape", ".2f"),
        ],
        notes=[
            "Goal: a ratio under 1.05. CPU of one scrape: where nothing else is asked. All of them take so many "
            "times that, whatever the noise of a percentile.",
        ],
    )
    result = Result([found])
    for processes in PROCESSES[:1] if options.quick else PROCESSES:
        async with open_rig() as rig:
            stage = await Stage.open(rig, processes)
            await stage.burst(WARM_UP * processes)
            job = Job(
                ports=[api.port for api in stage.apis],
                connections=scrapes,
                request=REQUEST,
                arrivals=at_once(scrapes),
            )
            pairs: list[dict[bool, Burst]] = []
            for number in range(rounds):
                pair = {}
                for scraped in (False, True) if number % 2 else (True, False):
                    pair[scraped] = await stage.burst(students, meanwhile=job if scraped else None)
                pairs.append(pair)
                times = ", ".join(f"{'with' if s else 'without'} {pair[s].percentile_ms(99):.0f} ms" for s in pair)
                tell(f"{processes} processes, round {number + 1} of {rounds}: p99 {times}")
            one = Job(ports=[stage.apis[0].port], connections=1, request=REQUEST, count=alone)
            async with rig.loading(one) as go:
                with CpuWatch(api=[stage.apis[0].pid]) as cpu:
                    answered = len((await go()).statuses)
            found.add(processes, *_row(pairs), 1000 * cpu.used_s["api"] / answered)
            result.wrong += stage.wrong + _wrong(pairs, scrapes)
    result.plots = [_plot(found)]
    return result


def _row(pairs: list[dict[bool, Burst]]) -> tuple[float, ...]:
    def of(percent: float) -> list[float]:
        return [median([pair[scraped].percentile_ms(percent) for pair in pairs]) for scraped in (False, True)]

    ratios = [pair[True].percentile_ms(99) / (pair[False].percentile_ms(99) or math.nan) for pair in pairs]
    slowest_s = median([max(scrapes.latencies_s, default=math.nan) for scrapes in _scrapes(pairs)])
    return *of(50), *of(99), median(ratios), min(ratios), max(ratios), 1000 * slowest_s


def _scrapes(pairs: list[dict[bool, Burst]]) -> list[Outcome]:
    return [pair[True].beside or Outcome() for pair in pairs]


def _wrong(pairs: list[dict[bool, Burst]], scrapes: int) -> list[str]:
    """Scrapes that were not answered were none."""
    answered = [outcome.count(200) for outcome in _scrapes(pairs)]
    return [f"of {scrapes} scrapes {number} were answered" for number in answered if number != scrapes]


def _plot(found: Table) -> Plot:
    names = [f"{row[0]} API processes" for row in found.rows]
    return Plot(
        name="scrape",
        title=f"p99 of {STUDENTS} students at once, without and with {SCRAPES} scrapes at the same moment",
        x_label="",
        y_label="ms",
        series=[
            Series("without", names, [float(row[3] or 0) for row in found.rows]),
            Series("with scrapes", names, [float(row[4] or 0) for row in found.rows]),
        ],
    )


BENCH = Bench(name="scrape", question="Do students notice that /metrics is scraped while they all come?", run=run)
