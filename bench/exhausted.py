"""An empty pool and a storm of students: what their refusals cost the store, call by call.

The meter between counts every call, and slows the storm down: how many are refused a second is not the question.
"""

import math
from dataclasses import dataclass
from typing import Final, Self

from bench import pool
from bench.frame import Bench, Column, Goal, Options, Plot, Result, Series, Table, tell
from bench.load import Job, Outcome
from bench.meter import READ, Meter, Spent
from bench.rig import ALLOCATE, Rig, Served, allocate_as, open_rig

PROCESSES: Final = (1, 2, 4)
SHARDS: Final = 4
"""The broker's default: each process asks each shard about once a second whether it is empty still."""
CONNECTIONS: Final = 32
STORM_S: Final = 8.0
QUERIES_PER_S: Final = 20
NEW: Final = "new ones"
REPEATING: Final = "one, again and again"
CLAIMS: Final = f"CLM#{pool.TENANT}#"


async def run(options: Options) -> Result:
    seconds = options.choose(STORM_S, 1.0)
    found = Table(
        f"A storm of refusals on an empty pool, {seconds:g} s (calls to the store, as the meter counted them)",
        [
            Column("students"),
            Column("processes"),
            Column("refused"),
            Column("refused/s"),
            Column("index queries/s", ",.1f"),
            Column("claim reads each", ",.4f"),
            Column("of these consistent", ",.0%"),
            Column("other calls each", ",.4f"),
            Column("goal"),
        ],
        notes=[
            f"Goals: under {QUERIES_PER_S} index queries/s in all, exactly one consistent read of the claim for a "
            "refusal, and fewer where one student's requests meet in a process: they share one.",
            "Not counted: tenant and mode, read about once a second by each process in any case.",
        ],
    )
    result = Result([found])
    for processes in PROCESSES[:1] if options.quick else PROCESSES:
        async with open_rig() as rig:
            await _storms(rig, processes, seconds, result)
    result.plots = [_plot(found)]
    return result


async def _storms(rig: Rig, processes: int, seconds: float, result: Result) -> None:
    table_name = await rig.table()
    meter = Meter(rig.engine.url, pool.indexes(table_name))
    meter.ignore("MODE", "TEN#", "PRC#")
    async with meter.running():
        apis = await rig.apis(processes, table_name, store=meter.url, shards=SHARDS)
        await rig.load(_job(apis, allocate_as("early"), 0.5))  # each process has proved once that there is none
        same = ALLOCATE.replace("{student}-{n}", "always-the-same")
        for students, request in ((NEW, allocate_as("late")), (REPEATING, same)):
            meter.look()
            outcome = await rig.load(_job(apis, request, seconds))
            storm = Storm(students, processes, outcome, Reads.of(meter.look()))
            judged = [result.judge(goal.what, goal.met) for goal in storm.goals()]
            result.tables[0].add(*storm.row(), next((cell for cell in judged if cell == "missed"), "met"))
            result.wrong += storm.wrong()
            tell(f"{students}, {processes} processes: {storm.refused} refused")


def _job(apis: list[Served], request: str, seconds: float) -> Job:
    return Job(ports=[api.port for api in apis], connections=CONNECTIONS, request=request, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Reads:
    """The calls of a storm by what they are for."""

    claims: int
    consistent: float
    queries: int
    other: int

    @classmethod
    def of(cls, spent: Spent) -> Self:
        """By the units too: a consistent read of a claim takes one, another takes half of one, one of something
        else takes none from a claim's partition."""
        claims = spent.calls["GetItem"] + spent.calls["GetItem:consistent"]
        queries = spent.calls[f"Query:{pool.STATUS_INDEX}"]
        units = sum(
            units
            for (_, partition, kind), units in spent.units.items()
            if kind == READ and partition.startswith(CLAIMS)
        )
        return cls(claims, 2 * units - claims, queries, spent.calls.total() - claims - queries)


@dataclass(frozen=True, slots=True)
class Storm:
    """One storm: who came, on how many processes, how it was answered and what it read."""

    students: str
    processes: int
    outcome: Outcome
    reads: Reads

    @property
    def refused(self) -> int:
        return self.outcome.count(409)

    @property
    def queries_per_s(self) -> float:
        return self.reads.queries / self.outcome.seconds if self.outcome.seconds else 0.0

    def row(self) -> tuple[str | float, ...]:
        refused = self.refused or math.nan
        return (
            self.students,
            self.processes,
            self.refused,
            self.refused / (self.outcome.seconds or math.nan),
            self.queries_per_s,
            self.reads.claims / refused,
            self.reads.consistent / self.reads.claims if self.reads.claims else math.nan,
            self.reads.other / refused,
        )

    def wrong(self) -> list[str]:
        """What of the answers was not to be, in sentences."""
        others = len(self.outcome.statuses) - self.refused
        if not (others or self.outcome.unanswered) and self.refused:
            return []
        return [f"{self._who}: {others} answers were no 409, {self.outcome.unanswered} did not come"]

    def goals(self) -> list[Goal]:
        """Counts, which are the same on a busy machine."""
        reads = self.reads
        as_meant = reads.claims == self.refused if self.students == NEW else 0 < reads.claims < self.refused
        return [
            Goal(
                f"{self._who}: {self.queries_per_s:.1f} index queries/s of less than {QUERIES_PER_S}",
                self.queries_per_s < QUERIES_PER_S,
            ),
            Goal(
                f"{self._who}: of {reads.claims} reads of claims {reads.consistent:.0f} were consistent",
                reads.consistent == reads.claims,
            ),
            Goal(f"{self._who}: {reads.claims} reads of claims for {self.refused} refusals", as_meant),
        ]

    @property
    def _who(self) -> str:
        return f"{self.students}, {self.processes} processes"


def _plot(table: Table) -> Plot:
    def bars(students: str) -> Series:
        return table.bars(students, "processes", "index queries/s", where={"students": students})

    return Plot(
        name="exhausted",
        title="Index queries a second while students storm an empty pool",
        x_label="API processes",
        y_label="index queries/s, all processes together",
        series=[bars(NEW), bars(REPEATING)],
        goal=QUERIES_PER_S,
        goal_label=f"goal: under {QUERIES_PER_S}",
    )


BENCH = Bench(
    name="exhausted",
    question="An empty pool and a storm of refusals: what do they cost the store?",
    run=run,
    takes=("seconds",),
)
