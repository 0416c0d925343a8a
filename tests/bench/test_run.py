"""A run of benches: what it refuses, what it leaves behind, how it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import surroundings
from bench.__main__ import as_typed, main, run_all
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table
from bench.plots import can_draw, draw, short
from bench.report import LOCK, Report, claimed
from local.engine import ROOT

REFUSED = {
    "no number of seconds": (["--seconds", "nan"], "'nan' is no number of seconds above 0, up to 3600"),
    "endless": (["--seconds", "inf"], "'inf' is no number of seconds above 0, up to 3600"),
    "no time": (["--seconds", "0"], "'0' is no number of seconds above 0, up to 3600"),
    "too long": (["--seconds", "3601"], "'3601' is no number of seconds above 0, up to 3600"),
    "below zero": (["--most", "-5"], "'-5' is no whole number from 1"),
    "a size that growth has not": (
        ["growth", "--most", "500"],
        "argument --most: growth takes one of 100, 1000, 10000, 100000, and not 500",
    ),
    "a listing too large": (["sync", "--most", "100001"], "sync takes from 1 to 100000, and not 100001"),
    "no pairs": (["memory", "--pairs", "0"], "'0' is no whole number from 1"),
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED)
def test_sizes_that_make_no_sense_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    nowhere = tmp_path / "file"
    nowhere.touch()  # where it is not refused nothing runs all the same
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(nowhere)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "reason"),
    [("file", "it is no directory"), ("file/below", "Not a directory"), ("/proc/none", "No such file")],
    ids=["a file", "below a file", "read-only"],
)
def test_a_directory_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    directory = tmp_path / place
    assert main(["scales", "--quick", "--out", str(directory)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"bench: cannot write to {directory}: {reason}")
    assert said.out == ""


def test_of_two_runs_into_one_directory_the_second_is_refused_and_a_lock_of_the_dead_holds_nobody_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LOCK).write_text("999999\n")
    with claimed(tmp_path):
        assert main(["scales", "--quick", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"bench: another run (process {os.getpid()}) writes to {tmp_path}: wait")
    assert said.out == ""
    with claimed(tmp_path):
        pass


@pytest.mark.parametrize(
    ("arguments", "directory"), [([], "build/bench"), (["--quick"], "build/bench-smoke")], ids=["meant", "quick"]
)
def test_tiny_sizes_do_not_overwrite_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], directory: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with claimed(Path(directory)):
        assert main([*arguments, "scales"]) == 2
    assert f"writes to {directory}: wait" in capsys.readouterr().err


def a_result(*, met: bool = True) -> Result:
    table = Table("Speeds", [Column("route"), Column("ms", ".1f"), Column("goal")])
    result = Result([table])
    table.add("bare", 1.25, result.judge("bare: 1 ms", met))
    return result


async def nothing(_: Options) -> Result:
    return a_result()


TINY = Bench("tiny", "How fast is nothing?", nothing)


def test_a_full_disk_loses_no_table_and_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.json").symlink_to("/dev/full")
    assert not Report(tmp_path, {}, quick=False).tell(TINY, a_result())
    said = capsys.readouterr()
    assert "bare   1.2  met" in said.out
    assert f"bench: cannot write to {tmp_path / 'tiny.json'}: No space left on device" in said.err


@pytest.mark.parametrize(
    ("met", "quick", "last"),
    [
        (True, False, ["goals missed: none"]),
        (False, False, ["goals missed: 1 of 1", "  tiny: bare: 1 ms"]),
        (False, True, []),
    ],
    ids=["met", "missed", "quick"],
)
def test_a_missed_goal_is_told_in_the_end_and_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], met: bool, quick: bool, last: list[str]
) -> None:
    report = Report(tmp_path, {}, quick=quick)
    assert report.tell(TINY, a_result(met=met))
    assert f"bare   1.2  {'met' if met else 'missed'}" in capsys.readouterr().out
    report.close()
    assert capsys.readouterr().out.splitlines() == last
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert found["goals"] == [{"goal": "bare: 1 ms", "met": met}]


async def told_to_end(_: Options) -> Result:
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(30)
    return Result()


def test_a_run_that_is_stopped_says_where_its_results_are_and_which_options_meant_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    benches = [TINY, Bench("sized", "?", nothing, takes=("seconds",)), Bench("endless", "?", told_to_end)]
    assert run_all(benches, Options(seconds=3.0), "make bench", tmp_path) == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"bench: stopped; results so far are in {tmp_path}/"
    assert "\n--seconds means nothing to tiny, endless.\n" in said.out
    assert {path.stem for path in tmp_path.glob("*.json")} == {"tiny", "sized"}
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    ("number", "beside", "said"),
    [
        (0, 0, "0"),
        (0.01234, 0, "0.0123"),
        (0.00001, 0, "0.00001"),
        (1.0, 0, "1"),
        (13.47, 0, "13.5"),
        (1080.4, 0, "1,080"),
        (63894, 0, "63,894"),
        (0.0084, 2.7, "0.01"),
        (100, 2.7, "100"),
    ],
)
def test_numbers_in_pictures_have_three_digits_and_no_exponent(number: float, beside: float, said: str) -> None:
    assert short(number, beside=beside) == said


def test_the_command_is_as_one_types_it() -> None:
    assert as_typed([]) == "make bench"
    assert as_typed(["units", "--out", "a b"]) == "make bench ARGS=\"units --out 'a b'\""
    assert as_typed(["--out", "a$b"]) == "make bench 'ARGS=--out '\"'\"'a$$b'\"'\"''"


def test_only_what_a_bench_sets_is_in_its_surroundings_and_afterwards_it_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STORE_DOOR", "sdk")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    monkeypatch.setenv("https_proxy", "http://proxy.test")
    before = dict(os.environ)
    assert {"STORE_DOOR", "OTEL_TRACES_SAMPLER"} <= set(surroundings.left_out())
    with surroundings.only({"TRACING": "otlp"}):
        assert os.environ["TRACING"] == "otlp"
        assert os.environ["PATH"] == before["PATH"]
        assert not {"STORE_DOOR", "OTEL_TRACES_SAMPLER", "https_proxy"} & os.environ.keys()
    assert dict(os.environ) == before


@pytest.mark.skipif(not can_draw(), reason="matplotlib is in the extra `bench` alone")
def test_a_picture_is_drawn_of_names_of_lines_on_log_axes_and_with_goals_and_spreads(tmp_path: Path) -> None:
    names, line = Series("a", ["x", "y"], [1.0, 900.0], ([0.5, 800.0], [2.0, 950.0])), Series("b", [1, 10], [2, 3])
    for number, (series, goal, log) in enumerate(
        [(names, [10.0, 20.0], True), (names, 1000.0, False), (line, 4.0, True), (line, None, False)]
    ):
        plot = Plot(
            name=str(number), title="t", x_label="x", y_label="y", series=[series, series], goal=goal, log_y=log,
            log_x=log and series is line,
        )  # fmt: skip
        assert draw(plot, tmp_path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not can_draw(), reason="matplotlib is in the extra `bench` alone")
def test_a_picture_of_tiny_sizes_is_stamped(tmp_path: Path) -> None:
    pictures = []
    for quick in (False, True, True):
        result = a_result()
        result.plots = [
            Plot(name="tiny", title="t", x_label="x", y_label="y", series=[Series("a", [1, 2], [3.0, 4.0])])
        ]
        assert Report(tmp_path, {}, quick=quick).tell(TINY, result)
        pictures.append((tmp_path / "tiny.png").read_bytes())
    assert pictures[0] != pictures[1] == pictures[2]


def below(directory: Path) -> list[Path]:
    """All processes whose temporary files go there."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"TMPDIR={directory}\0".encode() in (process / "environ").read_bytes():
                found.append(process)
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def loads(process: Path) -> bool:
    """Whether it is the load, with its connections open."""
    try:
        return b"bench.load" in (process / "cmdline").read_bytes() and len([*(process / "fd").iterdir()]) > 32
    except OSError:
        return False


async def until(happened: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
async def test_a_run_that_is_stopped_says_so_and_leaves_no_process_and_no_directory(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    made, out = tmp_path / "tmp", tmp_path / "out"
    made.mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "scales", "--quick", "--seconds", "300", "--out", str(out)),
        cwd=ROOT, env=os.environ | {"TMPDIR": str(made)}, start_new_session=True,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await until(lambda: any(map(loads, below(made))))
    os.killpg(process.pid, number)  # to all of the terminal's, as Ctrl-C does
    _, said = await process.communicate()
    assert process.returncode == code
    assert said.decode().splitlines()[-1] == "bench: stopped; there is no result yet"
    assert "Traceback" not in said.decode()
    assert list(made.iterdir()) == []
    await until(lambda: not below(made))


async def when_told(_: Options) -> Result:
    await asyncio.to_thread(sys.stdin.readline)
    return a_result()


TOLD = Bench("told", "When does nobody read any more?", when_told)
RUN = """
import sys
from pathlib import Path
from bench.__main__ import run_all
from bench.frame import Options
from tests.bench.test_run import TINY, TOLD
sys.exit(run_all([TOLD, TINY], Options(), "make bench", Path(sys.argv[1])))
"""


def test_where_nobody_reads_any_more_a_run_ends_quietly_and_its_result_is_written(tmp_path: Path) -> None:
    """As of `make bench | head`."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT, env=buffered, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as run:  # fmt: skip
        assert run.stdin is not None
        assert run.stdout is not None
        assert run.stderr is not None
        while not run.stdout.readline().startswith("== told"):
            pass
        run.stdout.close()
        run.stdin.write("go on\n")
        run.stdin.flush()
        said = run.stderr.read()
    assert run.returncode == 141
    assert [line[11:].split()[:2] for line in said.splitlines()] == [["told", "begins"], ["told", "took"]]
    assert {path.stem for path in tmp_path.glob("*.json")} == {"told"}
