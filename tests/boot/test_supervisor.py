"""The supervisor itself, before small processes that boot, fail and hang at will."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from broker.supervisor import FORGET_S, FailureFile, delay_s
from tests.api.process import ROOT
from tests.boot.conftest import PATIENCE_S

SUPERVISE = "import sys; from broker.supervisor import supervise; sys.exit(supervise('fake', process='fake'))"
READY = "import os; os.write(int(os.environ['BROKER_BOOT_PIPE']), b'parts\\nready\\n'); "


class Ran:
    """How a supervised piece of code ended, and what was said."""

    def __init__(self, ended: subprocess.CompletedProcess[str]) -> None:
        self.code = ended.returncode
        self.said = ended.stdout + ended.stderr
        self.events = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A place for a package `fake`, whose `main` a test writes."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "__init__.py").touch()
    return tmp_path


def start(package: Path, code: str, **settings: str) -> "subprocess.Popen[str]":
    (package / "fake" / "main.py").write_text(textwrap.dedent(code))
    # No store is to be had here: BROKER_ENV is wrong, so that a report of the failure ends at once.
    variables = {
        "PATH": os.environ["PATH"], "PYTHONPATH": f"{package}:{ROOT}", "BROKER_ENV": "nowhere",
        "BOOT_STATE_DIR": str(package), "PYTHONWARNINGS": "error",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISE],
        cwd=package, env=variables | settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(package: Path, code: str, **settings: str) -> Ran:
    with start(package, code, **settings) as popen:
        out, err = popen.communicate(timeout=PATIENCE_S)
    return Ran(subprocess.CompletedProcess(popen.args, popen.returncode, out, err))


def kept(package: Path) -> int:
    return FailureFile(str(package), "fake").read(now=time.time())


def keep(package: Path, failures: int, *, ago_s: float = 0) -> None:
    assert FailureFile(str(package), "fake").write(failures, now=time.time() - ago_s) is None


def test_the_first_failing_boot_ends_at_once_and_each_later_one_waits_longer() -> None:
    assert [delay_s(number) for number in range(1, 10)] == [0, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_failing_boot_is_counted_and_its_exit_code_kept_and_the_next_one_is_told(package: Path) -> None:
    code = "import os, sys; print(os.environ['BOOT_FAILURE_COUNT']); sys.exit(7)"
    first, second = run(package, code), run(package, code)

    assert (first.code, second.code) == (7, 7)
    assert [ran.said.splitlines()[0] for ran in (first, second)] == ["0", "1"]
    waits = [(e["failures"], e["wait_s"], e["exit_code"]) for ran in (first, second) for e in ran.events]
    assert waits == [(1, 0, 7), (2, 2, 7)]
    assert kept(package) == 2


def test_the_wait_is_waited(package: Path) -> None:
    keep(package, 1)
    began = time.monotonic()
    assert run(package, "import sys; sys.exit(7)").code == 7
    assert time.monotonic() - began >= 2


def test_sigterm_ends_the_wait_and_the_exit_code_is_the_boots(package: Path) -> None:
    """The seventh waits a minute: far longer than this test."""
    keep(package, 6)
    with start(package, "import sys; sys.exit(7)") as popen:
        assert popen.stdout is not None
        event = json.loads(popen.stdout.readline())
        popen.terminate()
        began = time.monotonic()
        code = popen.wait(PATIENCE_S)
        took_s = time.monotonic() - began
        popen.communicate()
    assert (event["event"], event["wait_s"]) == ("boot failed", 60)
    assert code == 7
    assert took_s < 30, "it did not wait the minute out"


def test_a_boot_that_gets_ready_clears_the_count_and_a_later_crash_is_no_failing_boot(package: Path) -> None:
    keep(package, 6)
    ran = run(package, READY + "raise SystemExit(3)")
    assert (ran.code, ran.events) == (3, [])
    assert kept(package) == 0


def test_a_wrong_configuration_ends_at_once_and_is_not_counted(package: Path) -> None:
    keep(package, 6)
    ran = run(package, "raise SystemExit(78)")
    assert (ran.code, ran.events) == (78, [])
    assert kept(package) == 6


def test_the_count_given_from_outside_counts_and_an_old_one_in_the_file_does_not(package: Path) -> None:
    code = "import os; print(os.environ['BOOT_FAILURE_COUNT'])"
    keep(package, 4, ago_s=FORGET_S + 60)
    assert run(package, code).said.splitlines() == ["0"]
    assert run(package, code, BOOT_FAILURE_COUNT="3").said.splitlines() == ["3"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "\udcff", '{"failures": 1e999, "at": 1}', "[" * 99_999])
def test_a_file_that_says_nothing_of_use_counts_nothing(package: Path, text: str) -> None:
    (package / "boot-failures-fake").write_bytes(text.encode(errors="surrogateescape"))
    assert kept(package) == 0


@pytest.mark.parametrize("place", ["", "/nowhere/at/all", "/dev/null"], ids=["none", "missing", "a file"])
def test_without_a_place_that_can_be_written_a_failing_boot_ends_as_it_would(package: Path, place: str) -> None:
    ran = run(package, "raise SystemExit(7)", BOOT_STATE_DIR=place)
    assert ran.code == 7
    assert ran.events[-1]["failures"] == 1
    assert bool(place) == any("BOOT_STATE_DIR" in event["event"] for event in ran.events)


HANGS = """
import faulthandler, os, signal, time
faulthandler.enable()
os.write(int(os.environ["BROKER_BOOT_PIPE"]), b"table\\n")
def the_place():
    while True:
        time.sleep(600)
"""


@pytest.mark.parametrize("deaf", ["", "signal.signal(6, lambda *_: None)\n"], ids=["asleep", "deaf to SIGABRT"])
def test_a_boot_that_hangs_is_warned_of_then_killed_and_counted(package: Path, deaf: str) -> None:
    ran = run(package, HANGS + deaf + "the_place()", BOOT_BUDGET_MS="1000", BOOT_TIMEOUT_SEC="4")
    assert ran.code == 124
    assert [e["event"] for e in ran.events] == ["boot is over its budget", "boot hung: killed", "boot failed"]
    assert {e["phase"] for e in ran.events[1:]} == {"table"}
    assert ran.events[-1]["failures"] == kept(package) == 1
    assert ("in the_place" in ran.said) == (not deaf), "the stack says where it hung"


def test_a_process_that_is_ready_is_not_killed_for_the_time_its_boot_had(package: Path) -> None:
    ran = run(package, READY + "import time; time.sleep(4)", BOOT_TIMEOUT_SEC="3")
    assert (ran.code, ran.events) == (0, [])


def test_a_drain_that_hangs_is_cut_off_from_outside(package: Path) -> None:
    code = "import signal, time; signal.signal(15, lambda *_: None); " + READY + "print('up', flush=True)\n"
    with start(package, code + "while True: time.sleep(600)", GRACEFUL_SHUTDOWN_TIMEOUT_SEC="1") as popen:
        assert popen.stdout is not None
        assert popen.stdout.readline() == "up\n"
        popen.terminate()
        out, _ = popen.communicate(timeout=PATIENCE_S)
    assert "the drain did not end in time" in out
    assert popen.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1], ids=str)
def test_signals_are_handed_on_and_the_end_by_one_is_the_end_by_the_same(
    package: Path, number: signal.Signals
) -> None:
    code = "import signal, time\nsignal.signal(2, signal.SIG_DFL)\nprint('up', flush=True)\ntime.sleep(600)"
    with start(package, READY + code) as popen:
        assert popen.stdout is not None
        assert popen.stdout.readline() == "up\n"
        popen.send_signal(number)
        assert popen.wait(PATIENCE_S) == -number
        popen.communicate()


def test_a_stop_during_the_boot_is_no_failing_boot(package: Path) -> None:
    with start(package, "import time; print('up', flush=True); time.sleep(600)") as popen:
        assert popen.stdout is not None
        assert popen.stdout.readline() == "up\n"
        popen.terminate()
        assert popen.wait(PATIENCE_S) == -signal.SIGTERM
        assert popen.communicate()[0] == ""
    assert kept(package) == 0


def test_orphans_of_others_are_collected_while_the_process_serves(package: Path) -> None:
    """As a container's PID 1 it inherits them; here by PR_SET_CHILD_SUBREAPER."""
    code = """
    import os, subprocess, sys, time
    os.write(int(os.environ["BROKER_BOOT_PIPE"]), b"ready\\n")
    end, keep = os.pipe()
    orphan = "import os, sys\\nif os.fork(): os._exit(0)\\nsys.stdin.read()"
    subprocess.run([sys.executable, "-c", orphan], stdin=end)
    os.close(end); os.close(keep)
    children = f"/proc/{os.getppid()}/task/{os.getppid()}/children"
    ends_at = time.monotonic() + 30
    while len(open(children).read().split()) != 1 and time.monotonic() < ends_at:
        time.sleep(0.05)
    print("left", len(open(children).read().split()))
    """
    boss = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
    (package / "fake" / "main.py").write_text(textwrap.dedent(code))
    ended = subprocess.run(
        [sys.executable, "-c", boss + SUPERVISE],
        cwd=package, env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{package}:{ROOT}"},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "left 1\n"), ended.stderr


def test_the_supervisor_imports_little(package: Path) -> None:
    """It stays for as long as the process does, and may not hang: no framework, no client, no event loop."""
    code = "import sys; import broker.supervisor; print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "asyncio",
        "ctypes",
        "logging",
        "pydantic",
        "socket",
        "ssl",
        "subprocess",
        "threading",
        "typing_extensions",
    }
    assert heavy & set(said) == set()
