"""K5: bin/canary ends at 100 % or at 0, whatever happens on the way. Real shell, real signals; stand-ins for the
commands of AWS and terraform, which keep the listener's weight and what else there is to see in files."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from local.engine import ROOT

PATIENCE_S = 60.0
AWS = """#!/bin/sh
cd "$SEEN" || exit
echo "$2" >> calls
[ ! -e "fails-$2" ] || exit 255
case "$*" in
  *describe-load-balancers*) echo arn:balancer ;;
  *describe-target-groups*-stable*) echo arn:stable ;;
  *describe-target-groups*) echo arn:canary ;;
  *describe-listeners*" --load-balancer-arn arn:balancer "*) echo arn:listener ;;
  *describe-listeners*" --listener-arns arn:listener "*) cat weight ;;
  *describe-alarms*" --alarm-name-prefix sandbox-broker- "*) cat alarms ;;
  *describe-target-health*" --target-group-arn arn:canary "*) cat states ;;
  *modify-listener*)
    for last do :; done
    echo "$last" | tr -d ' \\n' | sed 's/.*arn:canary","Weight":\\([0-9]*\\).*/\\1/' > weighing
    mv weighing weight
    echo >> weight
    cat weight >> weights ;;
esac
"""
BROKER = """#!/bin/sh
echo "$*" >> "$SEEN/asked"
[ ! -e "$SEEN/goes-back" ] || echo 0 > "$SEEN/weight"
[ ! -e "$SEEN/fails-validate" ] || grep -qx 0 "$SEEN/weight" && [ ! -e "$SEEN/fails-at-once" ]
"""
NONE_FIRED = "OK\\tsandbox-broker-api-crashes\\nINSUFFICIENT_DATA\\tsandbox-broker-pool-low\\n".replace(
    "\\t", "\t"
)


@dataclass
class Seen:
    """A clone with bin/canary, and what AWS shows: the listener, the alarms, the canary's targets."""

    clone: Path
    folder: Path

    def put(self, name: str, text: str = "") -> None:
        beside = self.folder / f"{name}.new"
        beside.write_text(text)
        beside.replace(self.folder / name)

    def lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().split() if file.exists() else []

    @property
    def weight(self) -> int:
        return int((self.folder / "weight").read_text())

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.clone / 'path'}:/usr/bin:/bin"  # elsewhere may be a python3 that brings an `aws` of its own
        return {"PATH": path, "AWS_REGION": "eu-central-1", "SEEN": str(self.folder),
                "BROKER_URL": "http://127.0.0.1:1", "CANARY_STEP_SEC": "0",
                "CANARY_LOOK_SEC": "1"} | more  # fmt: skip

    def run(self, *arguments: str, **more: str) -> tuple[int, str]:
        """The exit code, and what it said."""
        done = subprocess.run(
            [self.clone / "bin" / "canary", *arguments],
            env=self.environment(**more), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    @contextmanager
    def running(self, command: str = "exec bin/canary", **more: str) -> Iterator["subprocess.Popen[str]"]:
        """In a session of its own: a signal can come to all of it, as a terminal's does. Every step is long."""
        popen = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.clone, env=self.environment(CANARY_STEP_SEC="600", **more), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        try:
            yield popen
        finally:
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            assert popen.stdout is not None
            popen.stdout.close()


def until(fact: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < ends_at, what
        time.sleep(0.02)


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    for folder in ("bin", "path", "seen"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "bin" / "canary", tmp_path / "bin" / "canary")
    stand_ins = {"path/aws": AWS, "bin/sandbox-broker": BROKER}
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    world = Seen(tmp_path, tmp_path / "seen")
    world.put("weight", "0\n")
    world.put("alarms", NONE_FIRED)
    world.put("states", "healthy\thealthy\n")
    return world


def test_where_all_is_well_it_goes_up_step_by_step_and_looks_at_each(seen: Seen) -> None:
    code, said = seen.run()

    assert (code, seen.weight) == (0, 100), said
    assert seen.lines("weights") == ["10", "25", "50", "75", "100"]
    assert seen.lines("asked") == [*["validate", "pre"] * 5, "validate", "post", "--no-golden-path"]


TROUBLE: dict[str, tuple[Callable[[Seen], None], str]] = {
    "an alarm": (lambda s: s.put("alarms", "OK\ta-b\nALARM\tsandbox-broker-x\n"), "in alarm: sandbox-broker-x"),
    "no alarms at all": (lambda s: s.put("alarms"), "there are no alarms to look at"),
    "an unhealthy task": (lambda s: s.put("states", "healthy\tunhealthy\n"), "a canary task is unhealthy"),
    "no healthy task": (lambda s: s.put("states", "initial\tdraining\n"), "no canary task is healthy"),
    "alarms that cannot be seen": (lambda s: s.put("fails-describe-alarms"), "cannot be seen"),
    "targets that cannot be seen": (lambda s: s.put("fails-describe-target-health"), "cannot be seen"),
    "a listener that cannot be seen": (lambda s: s.put("fails-describe-listeners"), "cannot be seen"),
    "somebody who goes back": (lambda s: s.put("weight", "0\n"), "somebody else has set it to 0 %"),
    "another run that is further": (lambda s: s.put("weight", "50\n"), "somebody else has set it to 50 %"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_at_the_first_trouble_all_requests_go_back(seen: Seen, name: str) -> None:
    strike, why = TROUBLE[name]
    with seen.running() as popen:
        until(lambda: seen.lines("weights") == ["10"], "it did not begin")
        strike(seen)
        code = popen.wait(PATIENCE_S)
        said = popen.stdout.read() if popen.stdout else ""

    assert (code, seen.weight, seen.lines("weights")) == (1, 0, ["10", "0"])
    assert re.search(f"back to 0 %: .*{why}", said), said


def test_an_api_that_answers_wrongly_sends_all_requests_back(seen: Seen) -> None:
    seen.put("fails-validate")
    code, said = seen.run()

    assert (code, seen.lines("weights")) == (1, ["10", "0"])
    assert "back to 0 %: the API does not answer as it should" in said


def test_who_goes_back_between_two_steps_is_not_overruled(seen: Seen) -> None:
    seen.put("goes-back")  # while the API is looked at, after the step's last look
    code, said = seen.run()

    assert (code, seen.lines("weights")) == (1, ["10", "0"])
    assert "back to 0 %: somebody else has set it to 0 %" in said


BEFORE = {
    "an alarm": "not begun, 0 %: in alarm: sandbox-broker-x",
    "targets that cannot be seen": "not begun, 0 %: the alarms or the targets cannot be seen",
    "another run that is further": "not begun: 50 % go there already",
    "an API that answers wrongly": "not begun, 0 %: the API does not answer as it should",
}


@pytest.mark.parametrize("name", BEFORE)
def test_trouble_before_the_first_step_begins_nothing(seen: Seen, name: str) -> None:
    strike = TROUBLE[name][0] if name in TROUBLE else lambda s: s.put("fails-at-once")
    strike(seen)
    code, said = seen.run()

    assert (code, seen.lines("weights")) == (1, [])
    assert BEFORE[name] in said


SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "a terminal that closes": signal.SIGHUP}


@pytest.mark.parametrize("name", SIGNALS)
def test_who_ends_it_ends_it_at_0(seen: Seen, name: str) -> None:
    with seen.running() as popen:
        until(lambda: seen.lines("weights") == ["10"], "it did not begin")
        os.killpg(popen.pid, SIGNALS[name])
        code = popen.wait(PATIENCE_S)
    assert (code, seen.lines("weights")) == (1, ["10", "0"])


def test_ctrl_c_again_and_again_does_not_keep_requests_from_going_back(seen: Seen) -> None:
    seen.put("fails-modify-listener")  # after the first step: going back takes some tries
    with seen.running("exec bin/canary") as popen:
        until(lambda: "modify-listener" in seen.lines("calls"), "it did not begin")
        for _ in range(3):
            tries = seen.lines("calls").count("modify-listener")
            os.killpg(popen.pid, signal.SIGINT)
            until(partial(_tried, seen, tries), "it gave up")
        (seen.folder / "fails-modify-listener").unlink()
        code = popen.wait(PATIENCE_S)
    assert (code, seen.lines("weights")) == (1, ["0"])


def _tried(seen: Seen, before: int) -> bool:
    return seen.lines("calls").count("modify-listener") > before


def test_who_writes_its_words_down_may_be_gone_before_requests_are_back(seen: Seen) -> None:
    """As at Ctrl-C: the terminal's signal ends `tee` as well."""
    with seen.running("bin/canary 2>&1 | (trap : TERM; read line; exec true)") as popen:
        until(lambda: seen.lines("weights") == ["10"], "it did not begin")
        until(lambda: len(_others(popen.pid)) == 1, "the reader is there still")
        [canary] = _others(popen.pid)
        os.kill(canary, signal.SIGTERM)
        until(lambda: seen.lines("weights") == ["10", "0"], "requests did not go back")


def _others(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_goes_back_from_elsewhere_and_what_fails_is_tried_again(seen: Seen) -> None:
    seen.put("weight", "50\n")
    seen.put("fails-modify-listener")
    with seen.running("exec bin/canary back") as popen:
        until(lambda: seen.lines("calls").count("modify-listener") > 1, "it gave up")
        (seen.folder / "fails-modify-listener").unlink()
        code = popen.wait(PATIENCE_S)
    assert (code, seen.weight) == (0, 0)


WRONG = {
    "minutes": {"CANARY_STEP_SEC": "5m"},
    "a fraction": {"CANARY_STEP_SEC": "0.5"},
    "no pause": {"CANARY_LOOK_SEC": "0"},
    "a sign": {"CANARY_LOOK_SEC": "-1"},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_step_or_pause_that_is_no_number_of_seconds_begins_nothing(seen: Seen, name: str) -> None:
    code, said = seen.run(**WRONG[name])
    assert (code, seen.lines("weights")) == (2, [])
    assert "CANARY_" in said


def canary(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """In a shell that has no region and no broker."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [ROOT / "bin" / "canary", *arguments], env=environment | more, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_the_canary_says_how_it_is_used(asked: str) -> None:
    done = canary(asked)

    assert (done.returncode, done.stderr) == (0, "")
    assert "bin/canary back" in done.stdout
    assert "set -eu" not in done.stdout


def test_what_the_canary_does_not_know_moves_nothing() -> None:
    done = canary("forward", AWS_REGION="eu-central-1")

    assert done.returncode == 2
    assert "bin/canary --help" in done.stderr


def test_a_clone_without_a_state_is_told_what_it_lacks(tmp_path: Path) -> None:
    """terraform itself ends well there, with a warning in the place of the value."""
    done = canary("back", CANARY_TERRAFORM=str(tmp_path))

    assert done.returncode == 1
    assert "export AWS_REGION=" in done.stderr
    assert len(done.stderr.splitlines()) == 1
