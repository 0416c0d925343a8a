"""The first minute of a workshop: everybody at once, and exactly as many sandboxes as students."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
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
KNOWN_S: Final = 30.0
WARM_UP: Final = 20
TRANSACTIONS: Final = "broker_allocation_transactions_total"


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst: all that the load saw, and what the processes counted."""

    outcome: Outcome
    transactions: Counter[str]
    engine_busy: float
    beside: Outcome | None = None  # of what else was asked meanwhile

    def percentile_ms(self, percent: float) -> float:
        return 1000 * percentile(sorted(self.outcome.latencies_s), percent)


async def run(options: Options) -> Result:
    table = Table(
        "Students at once, each on a connection of its own, exact pool (medians of the rounds; counts summed)",
        [
            Column("students"),
            Column("processes"),
            Column("all served s", ".2f"),
            Column("p50 ms"),
            Column("p90 ms"),
            Column("p99 ms"),
            Column("conflicts each", ".3f"),
            Column("refused by"),
            Column("5xx"),
            Column("false 409"),
            Column("engine busy", ".0%"),
        ],
        notes=[
            "conflicts each: transactions that met another's, for one allocation, by the processes' counters.",
            "The pool is exact: a 409 would be false. engine busy: share of one core, near 100% it is the limit.",
        ],
    )
    result = Result(tables=[table])
    students = (20,) if options.quick else STUDENTS
    for processes in PROCESSES[1:2] if options.quick else PROCESSES:
        async with open_rig() as rig:
            stage = await Stage.open(rig, processes)
            await stage.burst(WARM_UP * processes)  # so that no burst meets code that was never run
            for count in students:
                bursts = []
                for _ in range(1 if options.quick else ROUNDS):
                    bursts.append(await stage.burst(count))
                    took_s, p99_ms = bursts[-1].outcome.seconds, bursts[-1].percentile_ms(99)
                    tell(f"{count} students, {processes} processes: {took_s:.2f} s, p99 {p99_ms:.0f} ms")
                _add(table, count, processes, bursts)
            result.wrong += stage.wrong
    result.plots = [
        Plot(
            name="burst",
            title="Everybody at once, exact pool: until the last one is served",
            x_label="API processes",
            y_label="s",
            series=[_line(table, count) for count in students],
        )
    ]
    return result


def _line(table: Table, students: int) -> Series:
    rows = [row for row in table.rows if row[0] == students]
    return Series(f"{students:,} students", [str(row[1]) for row in rows], [float(row[2] or 0) for row in rows])


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
        """So many processes. The first one marks the table as the broker's; then the others start."""
        table_name = await rig.table()
        first = await rig.api(table_name, store=rig.engine.url, shards=SHARDS)
        others = [rig.api(table_name, store=rig.engine.url, shards=SHARDS) for _ in range(count - 1)]
        apis = [first, *await asyncio.gather(*others)]
        async with asyncio.timeout(KNOWN_S):  # they share the pool out among themselves, as soon as they know
            while any(metrics_page.value(api.port, "broker_api_processes") != count for api in apis):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        return cls(rig, apis, table_name)

    async def burst(self, count: int, *, meanwhile: Job | None = None) -> Burst:
        """Fill the pool with as many sandboxes as students come, and let them come; ask `meanwhile` beside."""
        self._bursts += 1
        await self._rig.fill(self._table, self._filled + 1, self._filled + count + 1, shards=SHARDS)
        self._filled += count
        before = metrics_page.by("result", TRANSACTIONS, *self._ports)
        job = Job(
            ports=self._ports,
            connections=count,
            request=allocate_as(f"student-{self._bursts}"),
            arrivals=at_once(count),
            keep="sandbox_id",
        )
        async with AsyncExitStack() as stack:
            go = [await stack.enter_async_context(self._rig.loading(each)) for each in (job, meanwhile) if each]
            with CpuWatch(engine=[self._rig.engine.pid]) as cpu:
                outcome, *others = await asyncio.gather(*(each() for each in go))
        transactions = metrics_page.by("result", TRANSACTIONS, *self._ports)
        transactions.subtract(before)
        self.wrong += wrong(outcome, f"burst of {count}", self._taken)
        busy = cpu.used_s["engine"] / outcome.seconds if outcome.seconds else 0.0
        return Burst(outcome, transactions, busy, next(iter(others), None))


def _add(table: Table, students: int, processes: int, bursts: list[Burst]) -> None:
    refused: Counter[str] = Counter()
    for burst in bursts:
        refused += burst.transactions
    won = refused.pop("won", 0)
    conflicts = sum(number for kind, number in refused.items() if kind.endswith(("_taken", "_conflict")))
    table.add(
        students,
        processes,
        median([burst.outcome.seconds for burst in bursts]),
        *(median([burst.percentile_ms(percent) for burst in bursts]) for percent in (50, 90, 99)),
        conflicts / won if won else 0.0,
        ", ".join(f"{kind} {number}" for kind, number in sorted(refused.items())) or "nothing",
        sum(burst.outcome.count(500, 599) for burst in bursts),
        sum(burst.outcome.count(409) for burst in bursts),
        median([burst.engine_busy for burst in bursts]),
    )


BENCH = Bench(name="burst", question="300 and 2,000 students at once: how long until all are served?", run=run)
