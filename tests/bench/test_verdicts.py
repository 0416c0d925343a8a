"""What a bench may not believe of its own numbers, or what its counts forbid, is told in a sentence."""

from typing import Any

import pytest

from bench.exhausted import NEW, REPEATING, Reads, Storm
from bench.growth import risen
from bench.load import Outcome
from bench.meter import READ, TABLE, Spent
from bench.rates import Rate
from bench.samples import slope
from bench.tracing import ALL, KINDS, OFF, unlike


def a_storm(
    students: str = NEW, *, statuses: tuple[int, ...] = (409,) * 40, seconds: float = 2.0, **reads: Any
) -> Storm:
    values = {"claims": 40, "consistent": 40.0, "queries": 16, "other": 0}
    return Storm(students, 2, Outcome(statuses=list(statuses), seconds=seconds), Reads(**values | reads))


@pytest.mark.parametrize(
    ("storm", "missed"),
    [
        (a_storm(), ""),
        (a_storm(REPEATING, claims=3, consistent=3.0), ""),
        (a_storm(queries=39), ""),
        (a_storm(queries=40), "20.0 index queries/s of less than 20"),
        (a_storm(consistent=39.0), "39 were consistent"),
        (a_storm(claims=41, consistent=41.0), "41 reads of claims for 40 refusals"),
        (a_storm(claims=39, consistent=39.0), "39 reads of claims for 40 refusals"),
        (a_storm(REPEATING), "40 reads of claims for 40 refusals"),
    ],
    ids=["as meant", "shared", "just", "queries", "eventual", "a read too many", "one missing", "not shared"],
)
def test_a_storm_of_refusals_that_reads_otherwise_than_promised_misses_a_goal_and_is_sound(
    storm: Storm, missed: str
) -> None:
    misses = [goal.what for goal in storm.goals() if not goal.met]
    assert len(misses) == bool(missed)
    assert missed in " ".join(misses)
    assert storm.wrong() == []


@pytest.mark.parametrize(
    ("storm", "said"),
    [
        (a_storm(statuses=(409,) * 40 + (201,)), "1 answers were no 409, 0 did not come"),
        (a_storm(statuses=()), "0 answers were no 409, 0 did not come"),
    ],
    ids=["a 201", "none"],
)
def test_a_storm_that_was_answered_otherwise_is_wrong(storm: Storm, said: str) -> None:
    assert storm.wrong() == [f"{NEW}, 2 processes: {said}"]


def test_reads_of_claims_are_told_from_other_calls_and_consistent_ones_by_their_units() -> None:
    spent = Spent()
    spent.calls.update({"GetItem:consistent": 2, "GetItem": 1, "Query:StatusIndex": 4, "PutItem": 1})
    spent.add(TABLE, "CLM#default#student-1", READ, 2.0)
    spent.add(TABLE, "CLM#default#student-2", READ, 0.5)
    spent.add(TABLE, "SBX#default#2009001", READ, 1.0)
    spent.add("StatusIndex", "default#available#0", READ, 0.5)
    assert Reads.of(spent) == Reads(claims=3, consistent=2.0, queries=4, other=1)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ((4.0, 4.0, 2.0, 9.0), []),
        ((5.5, 4.25, 3.0, 11.75), []),
        ((8.0, 1.0, 2.0, 9.0), ["round trips rose from 4.00 to 8.00"]),
        ((4.0, 80.0, 2.0, 12.0), ["rows examined rose from 1.00 to 80.00", "WCU rose from 9.00 to 12.00"]),
    ],
    ids=["flat", "just", "more calls", "more rows and units"],
)
def test_a_count_that_rises_with_the_pool_is_told(now: tuple[float, ...], said: list[str]) -> None:
    assert risen((4.0, 1.0, 2.0, 9.0), now) == said


@pytest.mark.parametrize(
    ("cpu_s", "engine_cpu_s", "limit"),
    [
        (0.9, 0.3, "our process"),
        (0.3, 0.9, "engine"),
        (0.5, 0.5, "both, in turn"),
        (0.5, 0.0, "neither: the machine was busy"),
    ],
    ids=["ours", "the engine", "both", "neither"],
)
def test_what_limited_a_rate_is_who_was_busy(cpu_s: float, engine_cpu_s: float, limit: str) -> None:
    rate = Rate("lock", goal=500, number=100, seconds=1.0, cpu_s=cpu_s, engine_cpu_s=engine_cpu_s)
    assert rate.limit == limit


def test_spans_where_none_are_to_be_and_none_where_they_are_to_be_are_told() -> None:
    as_meant = {kind: 1000 if settings else 0 for kind, settings in KINDS.items()}
    assert unlike(as_meant) == []
    assert unlike(as_meant | {OFF: 7}) == ["tracing off: 7 bytes of spans were sent"]
    assert unlike(as_meant | {ALL: 0}) == ["tracing all: no span was sent"]


def test_the_line_through_samples_rises_as_they_do() -> None:
    assert slope([0, 1000, 2000], [96.0, 96.5, 97.0]) == pytest.approx(0.0005)
    assert slope([0, 1, 2, 3], [1, 3, 1, 3]) == pytest.approx(0.4)
    assert slope([2, 2], [1, 2]) != slope([2, 2], [1, 2])  # there is none: not a number
