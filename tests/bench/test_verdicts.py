"""What a bench may not believe of its own numbers, or what its counts forbid, is told in a sentence."""

from typing import Any

import pytest

from bench.exhausted import NEW, REPEATING, Reads, Storm
from bench.frame import Column, Table
from bench.growth import risen
from bench.load import Outcome
from bench.meter import READ, TABLE, Spent
from bench.samples import slope
from bench.tracing import ALL, KINDS, OFF, unlike


def a_storm(
    students: str = NEW, *, statuses: tuple[int, ...] = (409,) * 40, seconds: float = 2.0, **reads: Any
) -> Storm:
    values = {"claims": 40, "consistent": 40.0, "queries": 16, "other": 0}
    return Storm(students, 2, Outcome(statuses=list(statuses), seconds=seconds), Reads(**values | reads))


@pytest.mark.parametrize(
    ("storm", "said"),
    [
        (a_storm(), ""),
        (a_storm(REPEATING, claims=3, consistent=3.0), ""),
        (a_storm(statuses=(409,) * 40 + (201,)), "1 answers were no 409"),
        (a_storm(queries=40), "20.0 index queries/s"),
        (a_storm(consistent=39.0), "39 were consistent"),
        (a_storm(claims=41, consistent=41.0), "41 reads of claims for 40 refusals"),
        (a_storm(claims=39, consistent=39.0), "39 reads of claims for 40 refusals"),
        (a_storm(REPEATING), "40 reads of claims for 40 refusals"),
    ],
    ids=["as meant", "shared", "a 201", "queries", "eventual", "a read too many", "one missing", "not shared"],
)
def test_a_storm_of_refusals_that_reads_otherwise_than_promised_is_told(storm: Storm, said: str) -> None:
    problems = storm.wrong()
    assert said in " ".join(problems)
    assert bool(problems) == bool(said)


def test_reads_of_claims_are_told_from_other_calls_and_consistent_ones_by_their_units() -> None:
    spent = Spent()
    spent.calls.update({"GetItem:consistent": 2, "GetItem": 1, "Query:StatusIndex": 4, "PutItem": 1})
    spent.add(TABLE, "CLM#default#student-1", READ, 2.0)
    spent.add(TABLE, "CLM#default#student-2", READ, 0.5)
    spent.add(TABLE, "SBX#default#2009001", READ, 1.0)
    spent.add("StatusIndex", "default#available#0", READ, 0.5)
    assert Reads.of(spent) == Reads(claims=3, consistent=2.0, queries=4, other=1)


def counted(*rows: tuple[int, float, float]) -> Table:
    """Of one operation by pool size: round trips and rows examined."""
    titles = ("operation", "pool", "measured", "round trips", "rows examined", "RCU", "WCU")
    table = Table("One operation", [Column(title) for title in titles])
    for size, trips, examined in rows:
        table.add("expire", size, 10, trips, examined, 2.0, 9.0)
    return table


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (counted((100, 4, 1), (10_000, 4, 4)), []),
        (counted((100, 4, 1), (10_000, 8, 1)), ["expire: round trips rose from 4.00 to 8.00 in a pool of 10,000"]),
        (
            counted((100, 4, 1), (10_000, 4, 80)),
            ["expire: rows examined rose from 1.00 to 80.00 in a pool of 10,000"],
        ),
    ],
    ids=["flat", "more calls", "more rows"],
)
def test_a_count_that_rises_with_the_pool_is_told(table: Table, said: list[str]) -> None:
    assert risen(table) == said


def test_spans_where_none_are_to_be_and_none_where_they_are_to_be_are_told() -> None:
    as_meant = {kind: 1000 if settings else 0 for kind, settings in KINDS.items()}
    assert unlike(as_meant) == []
    assert unlike(as_meant | {OFF: 7}) == ["tracing off: 7 bytes of spans were sent"]
    assert unlike(as_meant | {ALL: 0}) == ["tracing all: no span was sent"]


def test_the_line_through_samples_rises_as_they_do() -> None:
    assert slope([0, 1000, 2000], [96.0, 96.5, 97.0]) == pytest.approx(0.0005)
    assert slope([0, 1, 2, 3], [1, 3, 1, 3]) == pytest.approx(0.4)
    assert slope([2, 2], [1, 2]) != slope([2, 2], [1, 2])  # there is none: not a number
