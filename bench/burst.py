"""The first minute of a workshop: everybody at once, and exactly as many sandboxes as students."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final, Self

from bench import metrics_page
from bench.arrivals import at_once
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table, tell
from bench.load import Job, Outcome
from bench.processes import CpuWatch
from bench.rig import Rig, Served, allocate_as, open_rig
from bench.samples import median, percentile
from bench.verdict import wrong

STUDENTS: Final = (300, 2_000)
PROCESSES: Final = (1, 2, 4)
ROUNDS: Final = 3
SHARDS: Final = 4
"""The broker's default: how processes share the shards is part of what is measured."""
WARM_UP: Final = 20
TRANSACTIONS: Final = "broker_allocation_transactions_total"
ANY: Final = "any sandbox"
SCRIPTED: Final = "track and prefix"
MISSING: Final = "not served"
LOST_GOAL: Final = 0.1
LOWEST: Final = "last 201 s, lowest round"
HIGHEST: Final = "last 201 s, highest round"
TRACK_AND_PREFIX: Final = "X-Instruqt-Track-ID: intro-to-dns\r\nX-Sandbox-Name-Prefix: lab-\r\n"
"""As examples/instruqt/setup-sandbox.sh sends them: all students of one lab the same."""


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst: all that the load saw, and what the processes counted."""

    outcome: Outcome
    transactions: Counter[str]
    engine_busy: float
    api_cpu_s: float = 0.0  # of all API processes
    beside: Outcome | None = None  # of what else was asked meanwhile

    @property
    def asked(self) -> int:
        return self.outcome.asked + self.outcome.unsent

    def percentile_ms(self, percent: float) -> float:
        """Over those who were served."""
        return 1000 * percentile(self.outcome.served_s(), percent)


async def run(options: Options) -> Result:
    students = (20,) if options.quick else STUDENTS
    table = burst_table(students, rounds := 1 if options.quick else ROUNDS)
    result = Result(tables=[table])
    kinds = [*((count, ANY) for count in students), (students[-1], SCRIPTED)]
    for processes in PROCESSES[1:2] if options.quick else PROCESSES:
        async with open_rig() as rig:
            stage = await Stage.open(rig, processes)
            for asking in (ANY, SCRIPTED):  # so that no burst meets code that was never run
                await stage.burst(WARM_UP * processes, asking=asking)
            for count, asking in kinds:
                bursts = []
                for _ in range(rounds):
                    bursts.append(await stage.burst(count, asking=asking))
                    last_s, p99_ms = bursts[-1].outcome.last_served_s(), bursts[-1].percentile_ms(99)
                    tell(f"{count} students, {processes} processes, {asking}: {last_s:.2f} s, p99 {p99_ms:.0f} ms")
                add(result, count, processes, asking, bursts)
            result.wrong += stage.wrong
    result.plots = [burst_plot(table, kinds)]
    return result


def burst_table(students: Sequence[int], rounds: int) -> Table:
    return Table(
        f"{' and '.join(f'{count:,}' for count in students)} students at once, each on a connection of their own, "
        f"exact pool ({rounds} rounds: medians; counts summed)",
        [
            Column("students"),
            Column("processes"),
            Column("asks for"),
            Column("served"),
            Column(MISSING),
            Column("last 201 s", ".2f"),
            Column("lowest", ".2f", key=LOWEST),
            Column("highest", ".2f", key=HIGHEST),
            Column("p50 ms"),
            Column("p90 ms"),
            Column("p99 ms"),
            Column("lost races each", ".3f"),
            Column("lost to"),
            Column("5xx"),
            Column("false 409"),
            Column("goal"),
            Column("API CPU ms each", ".2f"),
            Column("engine busy", ".0%"),
        ],
        notes=[
            "served: answers of 201. last 201: until it came, median of the rounds, lowest and highest round. "
            "Percentiles are of the 201s alone.",
            "lost races each: transactions refused because another's was there first, for one allocation, by the "
            "processes' counters; lost to: what all refused transactions met.",
            "false 409: NO_SANDBOXES_AVAILABLE while a sandbox was free; here any 409, as there is a sandbox for "
            "each student.",
            f"Goal: lost races each under {LOST_GOAL:g}, no 5xx, no false 409.",
            "Headroom: the API gives an attempt up after 12 s (ALLOCATION_IN_PROGRESS) and a request after 15 s "
            "(REQUEST_TIMEOUT_SEC: DEADLINE_EXCEEDED), both 503 and to be repeated. 5xx: by these codes.",
            "Connections are open before the clock starts, as behind a load balancer.",
            f"{SCRIPTED}: as the setup script of examples/instruqt asks; all students of the lab by one prefix.",
            "CPU: all API processes', user and system. engine busy: share of one core; near 100% it is the limit.",
        ],
    )


def burst_plot(table: Table, kinds: list[tuple[int, str]]) -> Plot:
    return Plot(
        name="burst",
        title="Everybody at once, exact pool: until the last one is served (median, lowest and highest round)",
        x_label="API processes",
        y_label="time of the last 201, s",
        series=[_bars(table, count, asking) for count, asking in kinds],
    )


def _bars(table: Table, students: int, asking: str) -> Series:
    """With who was not served in its label: a bar of those who were would hide them."""
    where = {"students": students, "asks for": asking}
    bars = table.bars("", "processes", "last 201 s", low=LOWEST, high=HIGHEST, where=where)
    missing = table.bars("", "processes", MISSING, where=where)
    lost = [f"{n:.0f} not served on {x}" for x, n in zip(missing.x, missing.y, strict=True) if n]
    return replace(bars, label=", ".join([f"{students:,} students, {asking}", *lost]))


class Stage:
    """API processes on a table of their own."""

    def __init__(self, rig: Rig, apis: list[Served], table_name: str) -> None:
        self._rig = rig
        self.apis = apis
        self._ports = [api.port for api in apis]
        self._table = table_name
        self._filled = 0
        self._bursts = 0
        self._taken: set[str] = set()
        self.wrong: list[str] = []

    @classmethod
    async def open(cls, rig: Rig, count: int) -> Self:
        """So many processes, on a table of their own."""
        table_name = await rig.table()
        return cls(rig, await rig.apis(count, table_name, store=rig.engine.url, shards=SHARDS), table_name)

    async def burst(self, count: int, *, asking: str = ANY, meanwhile: Job | None = None) -> Burst:
        """Fill the pool with as many sandboxes as students come, and let them come; ask `meanwhile` beside."""
        self._bursts += 1
        await self._rig.fill(self._table, self._filled + 1, self._filled + count + 1, shards=SHARDS)
        self._filled += count
        before = metrics_page.by("result", TRANSACTIONS, *self._ports)
        job = Job(
            ports=self._ports,
            connections=count,
            request=request_of(f"student-{self._bursts}", asking),
            arrivals=at_once(count),
            keep="sandbox_id",
        )
        async with AsyncExitStack() as stack:
            go = [await stack.enter_async_context(self._rig.loading(each)) for each in (job, meanwhile) if each]
            with CpuWatch(engine=[self._rig.engine.pid], api=[api.pid for api in self.apis]) as cpu:
                outcome, *others = await asyncio.gather(*(each() for each in go))
        transactions = metrics_page.by("result", TRANSACTIONS, *self._ports)
        transactions.subtract(before)
        self.wrong += wrong(outcome, f"burst of {count}", self._taken)
        busy = cpu.used_s["engine"] / outcome.seconds if outcome.seconds else 0.0
        return Burst(outcome, transactions, busy, cpu.used_s["api"], next(iter(others), None))


def request_of(students: str, asking: str) -> str:
    """As allocate_as(); with the headers of the setup script where they ask as it does."""
    request = allocate_as(students)
    return request.replace("\r\n\r\n", f"\r\n{TRACK_AND_PREFIX}\r\n") if asking == SCRIPTED else request


def add(result: Result, students: int, processes: int, asking: str, bursts: list[Burst]) -> None:
    """The row of these rounds."""
    (table,) = result.tables
    refused: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for burst in bursts:
        refused += burst.transactions
        codes.update({code: n for code, n in burst.outcome.codes.items() if code.startswith("5")})
    won = refused.pop("won", 0)
    lost = sum(number for kind, number in refused.items() if kind.endswith(("_taken", "_conflict")))
    lost_each, false = lost / won if won else 0.0, sum(burst.outcome.count(409) for burst in bursts)
    who = f"{students} students, {processes} processes, {asking}"
    found = f"{lost_each:.3f}, {_named(codes)}, {false}"
    goal = result.judge(
        f"{who}: lost races each < {LOST_GOAL:g}, no 5xx, no false 409: {found}",
        lost_each < LOST_GOAL and not codes and not false,
    )
    last_s = [burst.outcome.last_served_s() for burst in bursts]
    served, asked = (sum(burst.outcome.count(201) for burst in bursts), sum(burst.asked for burst in bursts))
    table.add(
        students,
        processes,
        asking,
        served,
        asked - served,
        median(last_s),
        min(last_s),
        max(last_s),
        *(median([burst.percentile_ms(percent) for burst in bursts]) for percent in (50, 90, 99)),
        lost_each,
        _named(refused),
        _named(codes),
        false,
        goal,
        median([1000 * burst.api_cpu_s / (burst.outcome.count(201) or math.nan) for burst in bursts]),
        median([burst.engine_busy for burst in bursts]),
    )
    table.samples[f"{who}: last 201 s"] = last_s


def _named(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in sorted(counts.items())) or "none"


BENCH = Bench(name="burst", question="300 and 2,000 students at once: how long until all are served?", run=run)
