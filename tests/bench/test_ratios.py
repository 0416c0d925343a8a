"""What is told of a burst, of a pair of routes, of scrapes beside: whom it counts, against what it is held."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from bench.burst import ANY, SCRIPTED, Burst, add, burst_plot, burst_table, request_of
from bench.frame import Result
from bench.lane import BARE, BROKER, SDK, Block
from bench.load import Outcome
from bench.samples import geometric_mean, interval, mean, tail
from bench.scrape import MEASURES, Pair, Sizes, add_cost, add_ratios, cost_table, ratios, verdict
from bench.scrape import ratio_table as scrape_table
from bench.throughput import add_ratio, ratio_plot, ratio_table
from bench.turns import turns


def an_outcome(*answers: tuple[int, float], codes: dict[str, int] | None = None) -> Outcome:
    """Of a burst: what was answered after how many seconds."""
    return Outcome(
        asked=len(answers),
        statuses=[status for status, _ in answers],
        latencies_s=[latency_s for _, latency_s in answers],
        ended_s=[latency_s for _, latency_s in answers],
        codes=codes or {},
        seconds=max(latency_s for _, latency_s in answers),
    )


def a_burst(*answers: tuple[int, float], api_cpu_s: float = 0.02, **transactions: int) -> Burst:
    codes = {"503 DEADLINE_EXCEEDED": n} if (n := sum(status == 503 for status, _ in answers)) else {}
    return Burst(an_outcome(*answers, codes=codes), Counter(transactions), 0.5, api_cpu_s)


def a_row(*bursts: Burst) -> dict[str, Any]:
    result = Result([burst_table([10], len(bursts))])
    add(result, 10, 1, ANY, list(bursts))
    (row,) = result.tables[0].as_json()["rows"]
    assert [str(goal) for goal in result.goals] == [row["goal"]]
    return dict(row)


def test_a_burst_is_told_by_those_who_were_served_and_the_others_by_their_code() -> None:
    row = a_row(
        a_burst((201, 1.0), (201, 2.0), (503, 15.0), won=2),
        a_burst((201, 1.0), (201, 4.0), (503, 0.1), won=2, sandbox_conflict=1, store_throttled=1),
        a_burst((201, 1.0), (201, 3.0), (409, 9.0), won=2),
    )
    assert (row["served"], row["not served"], row["false 409"]) == (6, 3, 1)
    assert row["5xx"] == "503 DEADLINE_EXCEEDED 2"
    assert row["last 201 s"] == 3.0
    assert (row["last 201 s, lowest round"], row["last 201 s, highest round"]) == (2.0, 4.0)
    assert (row["p50 ms"], row["p99 ms"]) == (1000, 3000)
    assert row["lost races each"] == pytest.approx(1 / 6)
    assert row["lost to"] == "sandbox_conflict 1, store_throttled 1"
    assert row["API CPU ms each"] == pytest.approx(10)


def test_a_burst_in_which_all_were_served_names_no_code() -> None:
    row = a_row(a_burst((201, 1.0), won=1))
    assert (row["5xx"], row["lost to"], row["not served"], row["goal"]) == ("none", "none", 0, "met")


@pytest.mark.parametrize(
    "burst",
    [
        a_burst((201, 1.0), (503, 1.0), won=1),
        a_burst((201, 1.0), (409, 1.0), won=1),
        a_burst(*[(201, 1.0)] * 10, won=10, sandbox_taken=1),
    ],
    ids=["a 503", "a false 409", "lost races"],
)
def test_a_burst_that_is_not_as_it_should_be_misses_its_goal(burst: Burst) -> None:
    assert a_row(burst)["goal"] == "missed"


def test_who_was_not_served_is_told_in_the_plot_of_a_burst() -> None:
    result = Result([burst_table([10], 1)])
    add(result, 10, 1, ANY, [a_burst((201, 1.0), (503, 15.0), (503, 15.0))])
    add(result, 10, 2, ANY, [a_burst((201, 1.0), (201, 2.0))])
    (series,) = burst_plot(result.tables[0], [(10, ANY)]).series
    assert series.label == "10 students, any sandbox, 2 not served on 1"
    assert list(series.x) == ["1", "2"]


def test_as_the_setup_script_a_student_names_track_and_prefix_in_the_same_request() -> None:
    plain, scripted = request_of("student", ANY), request_of("student", SCRIPTED)
    added = set(scripted.split("\r\n")) - set(plain.split("\r\n"))
    assert added == {"X-Instruqt-Track-ID: intro-to-dns", "X-Sandbox-Name-Prefix: lab-"}
    assert scripted.endswith("\r\n\r\n")
    assert scripted.count("\r\n\r\n") == 1


def a_block(*, per_s: float, cpu_ms: float) -> Block:
    """Of one second."""
    count = round(per_s)
    outcome = Outcome(statuses=[201] * count, latencies_s=[0.01] * count, seconds=1.0)
    return Block(outcome, route_cpu_s=count * cpu_ms / 1000, engine_cpu_s=0.5)


def rounds(*blocks: tuple[float, float]) -> list[Block]:
    return [a_block(per_s=per_s, cpu_ms=cpu_ms) for per_s, cpu_ms in blocks]


def test_each_door_is_held_against_the_bare_route_round_by_round_and_against_its_own_goal() -> None:
    closed = {
        BARE: rounds((100, 2.0), (200, 2.0), (100, 4.0)),
        SDK: rounds((90, 2.4), (150, 2.8), (70, 4.4)),  # 0.9, 0.75, 0.7; 1.2, 1.4, 1.1
        BROKER: rounds((120, 2.4), (200, 1.6), (130, 4.4)),  # 1.2, 1.0, 1.3; 1.2, 0.8, 1.1
    }
    result = Result([ratio_table(3)])
    for route in (SDK, BROKER):
        add_ratio(result, 0, route, closed)
    sdk, broker = result.tables[0].as_json()["rows"]
    assert (sdk["rate ×"], sdk["rate × lowest"], sdk["rate × highest"]) == pytest.approx((0.75, 0.7, 0.9))
    assert (sdk["CPU each ×"], sdk["CPU each × lowest"], sdk["CPU each × highest"]) == pytest.approx(
        (1.2, 1.1, 1.4)
    )
    assert (sdk["rate goal"], sdk["CPU goal"]) == ("≥ 0.8: missed", "≤ 1.4: met")
    assert (broker["rate goal"], broker["CPU goal"]) == ("≥ 0.8: met", "≤ 1: missed")
    assert broker["engine busy"] == 0.5
    assert broker["engine's/s"] == 260
    assert [goal.met for goal in result.goals] == [False, True, True, False]
    samples = result.tables[0].as_json()["samples"]
    assert samples[f"{SDK}, store at 0 ms: rate ×"] == pytest.approx([0.9, 0.75, 0.7])


def test_the_plot_of_the_ratios_has_the_goal_of_each_bar_and_what_it_is_the_median_of() -> None:
    result = Result([ratio_table(1)])
    for delay_ms in (0, 5):
        for route, per_s in ((SDK, 90), (BROKER, 120)):
            add_ratio(result, delay_ms, route, {BARE: rounds((100, 2.0)), route: rounds((per_s, 1.0))})
    plot = ratio_plot(result.tables[0])
    assert plot.goal == [0.8, 0.8, 1.4, 1.0]
    assert [series.label for series in plot.series] == ["store at 0 ms", "store at 5 ms"]
    assert list(plot.series[0].y) == pytest.approx([0.9, 1.2, 0.5, 0.5])
    assert plot.series[0].spread is not None
    assert plot.series[0].x[0] == f"rate\n{SDK}"


def a_pair(without: Sequence[float], scraped: Sequence[float]) -> Pair:
    return Pair(
        a_burst(*((201, s) for s in without), api_cpu_s=1.0), a_burst(*((201, s) for s in scraped), api_cpu_s=1.2)
    )


def test_scrapes_are_held_against_their_absence_round_by_round_and_a_slow_round_counts_as_any_other() -> None:
    pairs = [a_pair([1.0] * 100, [1.0] * 98 + [4.0, 9.0]), a_pair([50.0] * 9, [50.0] * 9)]
    assert geometric_mean(ratios(MEASURES["p99 ms"], pairs)) == pytest.approx(2.0)  # of 4 and 1
    assert geometric_mean(ratios(MEASURES["p90 ms"], pairs)) == pytest.approx(1.0)
    assert geometric_mean(ratios(MEASURES["mean ms"], pairs)) == pytest.approx(math.sqrt(1.11))
    assert geometric_mean(ratios(MEASURES["CPU ms for each allocation"], pairs)) == pytest.approx(1.2)
    late = [a_pair([1.0], [1.0]), Pair(a_burst((201, 1.0)), a_burst((201, 1.0), (503, 15.0)))]
    assert geometric_mean(ratios(MEASURES["p99 ms"], late)) == 1.0


def test_only_what_the_rounds_resolve_is_judged_by_them() -> None:
    result = Result([scrape_table(Sizes())])
    assert add_ratios(result, 1, [a_pair([1.0], [1.0]), a_pair([1.0], [2.0])]) == "not resolved"
    assert result.goals == []
    rows = {row["of an allocation"]: row for row in result.tables[0].as_json()["rows"]}
    assert rows["p99 ms"]["with / without"] == pytest.approx(math.sqrt(2))
    assert add_ratios(result, 1, [a_pair([1.0], [1.5])] * 2) == "not under"
    assert add_ratios(result, 2, [a_pair([1.0], [1.0])] * 2) == "under"
    assert [goal.met for goal in result.goals] == [False, True]
    samples = result.tables[0].as_json()["samples"]
    assert samples["2 processes, p99 ms: with / without"] == [1.0, 1.0]


def test_the_goal_of_scrapes_is_one_of_the_slowest_and_not_of_the_mean() -> None:
    result = Result([scrape_table(Sizes())])
    assert add_ratios(result, 1, [a_pair([1.0] * 10, [0.5] * 9 + [2.0])] * 2) == "not under"


@pytest.mark.parametrize(
    ("scrape_ms", "said"), [(0.14, "yes"), (0.16, "no")], ids=["under a twentieth", "a twentieth"]
)
def test_what_rounds_leave_open_is_judged_by_what_scrapes_take_beside_allocations(
    scrape_ms: float, said: str
) -> None:
    sizes, result = Sizes(students=300, scrapes=100), Result([scrape_table(Sizes()), cost_table(Sizes())])
    scraped = replace(a_burst((201, 1.0)), beside=Outcome(latencies_s=[0.1, 0.3]))
    pair = Pair(a_burst((201, 1.0), api_cpu_s=0.001), scraped)  # an allocation takes 1 ms
    add_cost(result, 1, [pair], sizes, scrape_ms=scrape_ms, judged=False)
    assert result.goals == []
    add_cost(result, 1, [pair], sizes, scrape_ms=scrape_ms, judged=True)
    assert [goal.met for goal in result.goals] == [said == "yes"]
    row = result.tables[1].as_json()["rows"][0]
    assert row["100 scrapes / 300 allocations"] == pytest.approx(scrape_ms / 3)
    assert (row["goal"], row["slowest scrape ms"]) == (said, pytest.approx(300))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.9, 1.04, "under"),
        (0.9, 1.05, "not resolved"),
        (1.04, 1.2, "not resolved"),
        (1.05, 1.2, "not under"),
        (math.nan, math.nan, "not resolved"),
    ],
    ids=["below", "up to it", "across it", "from it on", "nothing"],
)
def test_an_interval_that_includes_the_goal_does_not_decide_it(low: float, high: float, said: str) -> None:
    assert verdict(low, high) == said


def test_an_interval_holds_nine_of_ten_draws_of_the_rounds_and_is_the_same_each_time() -> None:
    values = [float(n) for n in range(100)]
    low, high = interval(values, mean, resamples=1000)
    assert 43 < low < 47  # the mean of 100 draws of 0..99 is 49.5 with a standard error of 2.9
    assert 52 < high < 56
    assert interval(values, mean, resamples=1000) == (low, high)
    assert interval([7.0] * 5, mean) == (7.0, 7.0)


@pytest.mark.parametrize(("count", "most"), [(0, 1), (9, 1), (100, 10), (3000, 300)])
def test_a_tail_goes_as_far_as_ten_samples_stand_behind_it(count: int, most: float) -> None:
    found = tail(count)
    assert found[0] == 1
    assert found == sorted(found)
    assert most / 10 ** (1 / 20) < found[-1] <= most * 1.000001


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")], ids=["two", "three"])
def test_each_takes_each_place_equally_often_in_an_order_that_is_the_same_in_every_run(
    names: tuple[str, ...],
) -> None:
    orders = turns(names, 12)
    assert all(sorted(order) == sorted(names) for order in orders)
    for place in range(len(names)):
        assert Counter(order[place] for order in orders) == dict.fromkeys(names, 12 // len(names))
    assert orders == turns(names, 12) != turns(names, 12, seed=5)
    assert len(turns(names, 7)) == 7
