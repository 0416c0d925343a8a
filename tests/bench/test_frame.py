"""Tables say what was measured, and what cannot have been is found out."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHES, main
from bench.frame import Column, Goal, Result, Series, Table
from local.engine import ROOT


def a_table(*rows: tuple[str | float | None, ...]) -> Table:
    table = Table("Speeds", [Column("route"), Column("each ms", ".1f")], notes=["of one process"])
    for row in rows:
        table.add(*row)
    return table


def test_a_table_puts_texts_left_numbers_right_and_notes_below() -> None:
    assert a_table(("bare", 1.25), ("the broker", 1234.5), ("none", None)).text() == (
        "Speeds\n\n"
        "route       each ms\n"
        "----------  -------\n"
        "bare            1.2\n"
        "the broker   1234.5\n"
        "none\n"
        "* of one process"
    )


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        a_table(("bare",))


def test_two_columns_of_one_title_need_a_key_to_be_told_apart_in_the_json() -> None:
    with pytest.raises(ValueError, match="two columns are called 'lowest'"):
        Table("Ratios", [Column("rate"), Column("lowest"), Column("CPU"), Column("lowest")])
    table = Table("Ratios", [Column("rate"), Column("lowest"), Column("CPU"), Column("lowest", key="CPU, lowest")])
    table.add(1.0, 0.5, 2.0, 1.5)
    assert table.as_json()["rows"] == [{"rate": 1.0, "lowest": 0.5, "CPU": 2.0, "CPU, lowest": 1.5}]
    assert table.text().splitlines()[2] == "rate  lowest  CPU  lowest"


def test_bars_and_lines_are_rows_of_a_table_chosen_by_their_cells() -> None:
    table = Table("Speeds", [Column(name) for name in ("route", "size", "ms", "low", "high")])
    table.add("bare", 10, 1.0, 0.5, 2.0)
    table.add("ours", 10, 3.0, 2.5, 4.0)
    table.add("ours", 20, 5.0, 4.5, None)
    assert table.line("x", "size", "ms", where={"route": "ours"}) == Series("x", [10, 20], [3.0, 5.0])
    assert table.bars("x", "size", "ms", low="low", high="high", where={"route": "ours"}) == Series(
        "x", ["10", "20"], [3.0, 5.0], ([2.5, 4.5], [4.0, 0.0])
    )


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (Result([a_table(("bare", 0.0))]), ""),
        (Result([]), "no table"),
        (Result([a_table()]), "no rows"),
        (Result([a_table(("bare", math.nan))]), "missing or below zero"),
        (Result([a_table(("bare", math.inf))]), "missing or below zero"),
        (Result([a_table(("bare", -1.0))]), "missing or below zero"),
        (Result([a_table(("bare", 1.0))], wrong=["one answer was no 201"]), "no 201"),
        (Result([a_table(("bare", 1.0))], goals=[Goal("faster than that", False)]), ""),
    ],
    ids=["sound", "no table", "no rows", "nan", "infinite", "negative", "wrong answers", "a missed goal"],
)
def test_what_no_measurement_shows_is_a_problem(result: Result, said: str) -> None:
    problems = result.problems()
    assert said in " ".join(problems)
    assert bool(problems) == bool(said)


def test_the_help_names_every_bench_and_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(bench.name in said and bench.question in said for bench in BENCHES.values())
    assert max(map(len, said.splitlines())) <= 100
    for option in ("seconds", "most", "pairs", "profile"):
        takers = ", ".join(bench.name for bench in BENCHES.values() if bench.knows(option))
        assert f"({takers})" in " ".join(said.split())


def test_an_unknown_bench_is_refused_and_the_known_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["througput"])
    assert ended.value.code == 2
    assert "no bench is called througput" in (said := capsys.readouterr().err)
    assert "throughput, burst, scrape" in said


@pytest.mark.timeout(300)
def test_every_bench_runs_and_finds_something_whatever_the_caller_has_set(tmp_path: Path) -> None:
    """`make bench-smoke`. Its numbers mean nothing and are not looked at; counts hold at any size."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--out", str(tmp_path)],
        env=os.environ | {"STORE_DOOR": "none", "TRACING": "none", "AWS_PROFILE": "none", "HTTP_PROXY": "http://[::1]:1"},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"not passed on:.* AWS_PROFILE,.* STORE_DOOR, TRACING", done.stdout)
    assert {path.stem for path in tmp_path.glob("*.json")} == set(BENCHES)
    for name in BENCHES:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["problems"] == []
        assert all(table["rows"] for table in found["tables"])
        assert "commit" in found["conditions"]["broker"]
        assert found["conditions"]["command"].startswith('make bench ARGS="--quick --out')
        assert found["quick"]
        if name in ("exhausted", "growth", "memory", "rates", "start"):
            assert found["goals"]
            assert {row["goal"] for row in found["tables"][0]["rows"]} <= {"met", "missed"}
        if name in ("exhausted", "growth"):
            assert [goal["goal"] for goal in found["goals"] if not goal["met"]] == []
