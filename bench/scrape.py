"""A hundred scrapes of /metrics in the very moment in which all students come: do the students notice?

Bursts with and without scrapes take turns on the same processes, in an order that is drawn. The p99 of one burst
of 300 is its third-last answer: noise. So the ratio is the mean over many rounds, each of two neighbours that met
the same machine, and rounds are drawn anew from those there were, to tell within what it lies (bootstrap). The
processor time of a scrape, beside an allocation's, has the least noise: where the ratio stays open, that decides.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from bench.arrivals import at_once
from bench.burst import WARM_UP, Burst, Stage
from bench.frame import Bench, Column, Options, Plot, Result, Table, tell
from bench.load import Job, Outcome
from bench.processes import CpuWatch
from bench.rig import Rig, open_rig
from bench.samples import geometric_mean, interval, mean, median, percentile
from bench.turns import turns

STUDENTS: Final = 300
SCRAPES: Final = 100
ROUNDS: Final = 14
PROCESSES: Final = (1, 2)
ALONE: Final = 2_000
GOAL: Final = 1.05
JUDGED: Final = "p99 ms"
UNDER: Final = "under"
OPEN: Final = "not resolved"
WITH: Final = "with scrapes"
WITHOUT: Final = "without"
REQUEST: Final = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

Statistic = Callable[[Sequence[Burst]], float]


@dataclass(frozen=True, slots=True)
class Sizes:
    students: int = STUDENTS
    scrapes: int = SCRAPES
    rounds: int = ROUNDS
    alone: int = ALONE


@dataclass(frozen=True, slots=True)
class Pair:
    """A round: one burst without scrapes and one with them."""

    without: Burst
    scraped: Burst


def _of_all(statistic: Callable[[list[float]], float]) -> Statistic:
    """Over every answer of 201 of all these bursts, in ms."""
    return lambda bursts: (
        1000 * statistic(sorted(chain.from_iterable(burst.outcome.served_s() for burst in bursts)))
    )


def cpu_ms(bursts: Sequence[Burst]) -> float:
    """Processor time of the API's processes for each allocation: scrapes beside are among it."""
    served = sum(burst.outcome.count(201) for burst in bursts)
    return 1000 * sum(burst.api_cpu_s for burst in bursts) / (served or math.nan)


MEASURES: Final[dict[str, Statistic]] = {
    "mean ms": _of_all(mean),
    "p90 ms": _of_all(lambda ordered: percentile(ordered, 90)),
    JUDGED: _of_all(lambda ordered: percentile(ordered, 99)),
    "CPU ms for each allocation": cpu_ms,
}


def ratios(statistic: Statistic, pairs: Sequence[Pair]) -> list[float]:
    """With scrapes / without, of each round, so that a slow one counts as any other; nan where one has nothing.

    Over all answers together a p99 would be that of the slowest rounds.
    """
    return [(statistic([p.scraped]) or math.nan) / (statistic([p.without]) or math.nan) for p in pairs]


def verdict(low: float, high: float) -> str:
    """What an interval of the ratio says of the goal; where it includes it, nothing."""
    if high < GOAL:
        return UNDER
    return "not under" if low >= GOAL else OPEN


async def run(options: Options) -> Result:
    sizes = Sizes(60, 10, 2, 50) if options.quick else Sizes()
    result = Result([ratio_table(sizes), cost_table(sizes)])
    for processes in PROCESSES[:1] if options.quick else PROCESSES:
        async with open_rig() as rig:
            stage = await Stage.open(rig, processes)
            await stage.burst(WARM_UP * processes)
            pairs = await _pairs(stage, sizes, processes)
            said = add_ratios(result, processes, pairs)
            scrape_ms = await _scrape_ms(rig, stage, sizes)
            add_cost(result, processes, pairs, sizes, scrape_ms=scrape_ms, judged=said == OPEN)
            result.wrong += stage.wrong + _wrong(pairs, sizes.scrapes)
    result.plots = [_plot(result.tables[0], sizes)]
    return result


async def _pairs(stage: Stage, sizes: Sizes, processes: int) -> list[Pair]:
    ports = [api.port for api in stage.apis]
    scrapes = Job(ports=ports, connections=sizes.scrapes, request=REQUEST, arrivals=at_once(sizes.scrapes))
    pairs = []
    for number, order in enumerate(turns((False, True), sizes.rounds), 1):
        found = {s: await stage.burst(sizes.students, meanwhile=scrapes if s else None) for s in order}
        pairs.append(Pair(found[False], found[True]))
        p99 = (
            f"{pairs[-1].without.percentile_ms(99):.0f} ms, with scrapes {pairs[-1].scraped.percentile_ms(99):.0f}"
        )
        tell(f"{processes} processes, round {number} of {sizes.rounds}: p99 {p99} ms")
    return pairs


def ratio_table(sizes: Sizes) -> Table:
    return Table(
        f"{sizes.students} students at once, without and with {sizes.scrapes} scrapes meanwhile ({sizes.rounds} "
        "rounds of both, in an order drawn for each)",
        [
            Column("processes"),
            Column("of an allocation"),
            Column(WITHOUT, ",.2f"),
            Column(WITH, ",.2f"),
            Column("with / without", ".3f"),
            Column("interval from", ".3f"),
            Column("to", ".3f", key="interval to"),
            Column(f"under {GOAL}?"),
        ],
        notes=[
            "without, with scrapes: over the 201s of all rounds. with / without: geometric mean over the rounds.",
            "interval: in nine of ten draws of so many rounds from those there were (bootstrap).",
            f"Judged against {GOAL}: with / without of p99. Where its interval includes {GOAL} it is open, and "
            "the processor time of the scrapes is judged instead, in the table below.",
            "CPU: of the API's processes for each allocation, the scrapes' among it.",
        ],
    )


def add_ratios(result: Result, processes: int, pairs: list[Pair]) -> str:
    """The rows of these rounds; returns what they say of the goal."""
    table = result.tables[0]
    verdicts = {}
    for name, statistic in MEASURES.items():
        each = ratios(statistic, pairs)
        found, (low, high) = geometric_mean(each), interval(each, geometric_mean)
        without, scraped = (statistic([p.without for p in pairs]), statistic([p.scraped for p in pairs]))
        said = verdicts[name] = verdict(low, high)
        if name == JUDGED and said != OPEN:
            what = f"API processes: {processes}, p99 with scrapes / without under {GOAL}: {found:.3f}"
            result.judge(f"{what} ({low:.3f} to {high:.3f})", said == UNDER)
        table.add(processes, name, without, scraped, found, low, high, said)
        table.samples[f"{processes} processes, {name}: with / without"] = each
    return verdicts[JUDGED]


def cost_table(sizes: Sizes) -> Table:
    return Table(
        f"What {sizes.scrapes} scrapes at once cost, beside {sizes.students} allocations",
        [
            Column("processes"),
            Column("CPU ms of one scrape", ".2f"),
            Column("CPU ms of one allocation", ".2f"),
            Column(f"{sizes.scrapes} scrapes / {sizes.students} allocations", ".3f"),
            Column(f"under {GOAL - 1:.2f}?", key="goal"),
            Column("slowest scrape ms"),
        ],
        notes=[
            f"CPU of one scrape: {sizes.scrapes} are asked at a time, and nothing else. The page is written once "
            "for all who ask within 20 ms: what each costs is its request, and its share of that page.",
            "CPU of one allocation: in the bursts without scrapes. Where the API's processor is the limit, the "
            f"last one waits for both at most, by {sizes.scrapes} scrapes / {sizes.students} allocations "
            "longer: scrapes give way to a crowd, and are answered after it.",
        ],
    )


async def _scrape_ms(rig: Rig, stage: Stage, sizes: Sizes) -> float:
    """Processor time of one scrape, where so many are asked at a time and nothing else."""
    job = Job(ports=[stage.apis[0].port], connections=sizes.scrapes, request=REQUEST, count=sizes.alone)
    async with rig.loading(job) as go:
        with CpuWatch(api=[stage.apis[0].pid]) as cpu:
            answered = len((await go()).statuses)
    return 1000 * cpu.used_s["api"] / (answered or math.nan)


def add_cost(
    result: Result, processes: int, pairs: list[Pair], sizes: Sizes, *, scrape_ms: float, judged: bool
) -> None:
    """The row of these rounds; `judged`: the goal, as the rounds' ratios leave it open."""
    allocation_ms = cpu_ms([pair.without for pair in pairs])
    share = sizes.scrapes * scrape_ms / (sizes.students * allocation_ms or math.nan)
    slowest_s = median([max(scrapes.latencies_s, default=math.nan) for scrapes in _scrapes(pairs)])
    under = share < GOAL - 1
    if judged:
        what = f"API processes: {processes}, p99 with scrapes / without under {GOAL}: not resolved; scrapes"
        result.judge(f"{what} take {share:.3f} of the allocations' CPU", under)
    said = "yes" if under else "no"
    result.tables[1].add(processes, scrape_ms, allocation_ms, share, said, 1000 * slowest_s)


def _scrapes(pairs: list[Pair]) -> list[Outcome]:
    return [pair.scraped.beside or Outcome() for pair in pairs]


def _wrong(pairs: list[Pair], scrapes: int) -> list[str]:
    """Scrapes that were not answered were none."""
    answered = [outcome.count(200) for outcome in _scrapes(pairs)]
    return [f"of {scrapes} scrapes {number} were answered" for number in answered if number != scrapes]


def _plot(found: Table, sizes: Sizes) -> Plot:
    return Plot(
        name="scrape",
        title=f"{sizes.students} students at once: with {sizes.scrapes} scrapes of /metrics meanwhile / without",
        x_label="of an allocation",
        y_label="ratio, with its interval",
        series=[
            found.bars(
                f"{processes} API processes",
                "of an allocation",
                "with / without",
                low="interval from",
                high="interval to",
                where={"processes": processes},
            )
            for processes in dict.fromkeys(row[0] for row in found.rows)
            if processes is not None
        ],
        goal=GOAL,
        goal_label=f"goal for {JUDGED}: under {GOAL}",
    )


BENCH = Bench(name="scrape", question="Do students notice that /metrics is scraped while they all come?", run=run)
