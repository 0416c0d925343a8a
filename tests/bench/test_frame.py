"""Tables say what was measured, and what cannot have been is found out."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHES, main
from bench.frame import Column, Result, Table
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
    ],
    ids=["sound", "no table", "no rows", "nan", "infinite", "negative", "wrong answers"],
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


def test_an_unknown_bench_is_refused_and_the_known_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["througput"])
    assert ended.value.code == 2
    assert "no bench is called througput" in (said := capsys.readouterr().err)
    assert "throughput, burst, scrape" in said


@pytest.mark.timeout(300)
def test_every_bench_runs_and_finds_something(tmp_path: Path) -> None:
    """`make bench-smoke`. Its numbers mean nothing and are not looked at."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.stem for path in tmp_path.glob("*.json")} == set(BENCHES)
    for name in BENCHES:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["problems"] == []
        assert all(table["rows"] for table in found["tables"])
        assert "commit" in found["conditions"]["broker"]
        assert found["conditions"]["command"].startswith("python -m bench --quick")
