"""The process in front of the API and the worker, a container's PID 1: ADR 12.

It starts the real process, hands on its signals and its end, kills a boot that hangs, and makes boots that fail
wait. It imports the standard library alone, and little of it: nothing in here may hang, or cost memory.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

from broker import exits

DELAYS_S: Final = (0, 2, 4, 8, 16, 32, 60)
"""What the first, second, … failing boot in a row waits before it ends; every later one as long as the last."""
FORGET_S: Final = 3600
"""A boot that failed longer ago than this is of another trouble."""
HANDED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REPORT_S: Final = 5.0
DUMP_S: Final = 1.0
"""What a hung process has to tell where it hangs."""
OVERTIME_S: Final = 2.0
"""How much longer than GRACEFUL_SHUTDOWN_TIMEOUT_SEC a drain may take before it is cut off from outside."""

GIVING_UP_S: Final = 5.0
"""How much longer than BOOT_TIMEOUT_SEC a boot may take that has said that it ends by itself."""

READY: Final = "ready"
GIVING_UP: Final = "giving-up"
"""Two words that the process tells through the pipe; every other one is the phase of its boot."""
PIPE: Final = "BROKER_BOOT_PIPE"
STARTED: Final = "BROKER_BOOT_STARTED_AT"
FAILURES: Final = "BOOT_FAILURE_COUNT"


def delay_s(failures: int) -> int:
    """What the last of so many failing boots in a row waits, in seconds.

    >>> [delay_s(n) for n in range(1, 10)]
    [0, 2, 4, 8, 16, 32, 60, 60, 60]
    """
    return DELAYS_S[min(max(failures, 1), len(DELAYS_S)) - 1]


class FailureFile:
    """How many boots failed in a row, in a file, for when the store is what fails. Trouble with it is borne."""

    def __init__(self, directory: str, module: str) -> None:
        self._path = Path(directory, f"boot-failures-{module}") if directory else None

    def read(self, *, now: float) -> int:
        """The failures of the last hour; 0 where there is no file, or none that can be read."""
        if self._path is None:
            return 0
        try:
            said = json.loads(self._path.read_bytes())
            recent = abs(now - float(said["at"])) < FORGET_S
            return max(0, int(said["failures"])) if recent else 0
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return 0

    def write(self, failures: int, *, now: float) -> str | None:
        """Keep the number; why that failed, or None. 0 takes the file away."""
        if self._path is None:
            return None
        try:
            if not failures:
                self._path.unlink(missing_ok=True)
                return None
            beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            beside.write_text(json.dumps({"failures": failures, "at": round(now)}))
            beside.replace(self._path)
        except OSError as error:
            return error.strerror or str(error)
        return None


class Supervisor:
    """Runs one attempt of `python -m <module>.main`; what starts containers or services starts the next one."""

    def __init__(self, module: str, *, process: str, environment: Mapping[str, str]) -> None:
        self._module = module
        self._process = process
        self._environment = dict(environment)
        self._budget_s = _number(environment, "BOOT_BUDGET_MS", 5000) / 1000
        self._limit_s = _number(environment, "BOOT_TIMEOUT_SEC", 10)
        self._drain_s = _number(environment, "GRACEFUL_SHUTDOWN_TIMEOUT_SEC", 30) + OVERTIME_S
        self._file = FailureFile(environment.get("BOOT_STATE_DIR", ""), module)
        self._failed_before = max(int(_number(environment, FAILURES, 0)), self._file.read(now=time.time()))
        self._woken, self._waker = os.pipe()
        self._child: int | None = None
        self._status = 0
        self._ready = self._stopping = self._hung = False
        self._telling = True
        self._phase = "start"

    def run(self) -> int:
        """Start the process and wait for its end; its exit code, negative where a signal ended it."""
        self._catch_signals()
        code = self._attempt()
        if self._ready or self._stopping or code in (0, exits.CONFIG):
            return code
        began = time.monotonic()
        failures = max(self._failed_before + 1, self._reported(code))
        why = self._file.write(failures, now=time.time())
        if why is not None:
            self._say("warning", "boot failures not kept in BOOT_STATE_DIR", why=why)
        wait_s = delay_s(failures)
        self._say("error", "boot failed", exit_code=code, failures=failures, wait_s=wait_s, phase=self._phase)
        while not self._stopping and (left_s := began + wait_s - time.monotonic()) > 0:
            self._wait([], left_s)
        return code

    def _catch_signals(self) -> None:
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in HANDED_ON:
            signal.signal(number, self._hand_on)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self._stopping = self._stopping or number in ENDING
        if self._child is not None:
            os.kill(self._child, number)

    def _attempt(self) -> int:
        """One life of the process: booting, ready, draining."""
        began = time.monotonic()
        told, telling = os.pipe()
        environment = self._environment | {
            PIPE: str(telling),
            STARTED: repr(began),
            FAILURES: str(self._failed_before),
        }
        os.set_inheritable(telling, True)
        self._start(["-m", f"{self._module}.main"], environment)
        os.close(telling)
        if self._stopping:  # the signal came before there was anybody to hand it on to
            self._signal(signal.SIGTERM)
        warned, drain_by = False, 0.0
        while not self._ended():
            now = time.monotonic()
            if self._stopping and not drain_by:
                drain_by = now + self._drain_s
            booting = not self._ready
            if booting and not warned and now >= began + self._budget_s:
                warned = True
                self._say("warning", "boot is over its budget", budget_s=self._budget_s, phase=self._phase)
            if booting and now >= began + self._limit_s:
                self._kill_hung()
                break
            if drain_by and now >= drain_by:
                self._signal(signal.SIGKILL)
                self._await_end()
                self._say("error", "the drain did not end in time: killed", limit_s=self._drain_s)
                break
            ends = [began + self._limit_s] if booting else []
            ends += [began + self._budget_s] if booting and not warned else []
            ends += [drain_by] if drain_by else []
            self._listen(told, max(0.0, min(ends) - now) if ends else None)
        os.close(told)
        return exits.HUNG if self._hung else os.waitstatus_to_exitcode(self._status)

    def _start(self, arguments: list[str], environment: Mapping[str, str], *, output: int | None = None) -> None:
        actions = [] if output is None else [(os.POSIX_SPAWN_DUP2, output, 1)]
        self._child = os.posix_spawn(
            sys.executable, [sys.executable, *arguments], environment, file_actions=actions
        )

    def _listen(self, told: int, timeout_s: float | None) -> None:
        """Wait for a word of the process, a signal, or the time."""
        if told not in self._wait([told] if self._telling else [], timeout_s):
            return
        words = os.read(told, 4096).decode(errors="replace").split()
        self._telling = bool(words)  # it closes its end when it has nothing more to tell
        for word in words:
            if word == READY:
                self._ready = True
                self._file.write(0, now=time.time())
            elif word == GIVING_UP:
                self._limit_s += GIVING_UP_S
            else:
                self._phase = word

    def _wait(self, sources: list[int], timeout_s: float | None) -> list[int]:
        """Which of the sources has something, once one has, a signal came, or the time is over."""
        readable, _, _ = select.select([*sources, self._woken], [], [], timeout_s)
        if self._woken in readable:
            os.read(self._woken, 4096)
        return readable

    def _ended(self) -> bool:
        """Whether the process has; as PID 1, what others left behind is collected as well."""
        while self._child is not None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._child = None
                break
            if not pid:
                break
            if pid == self._child:
                self._child, self._status = None, status
        return self._child is None

    def _await_end(self, timeout_s: float | None = None) -> bool:
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended():
            left_s = None if ends_at is None else ends_at - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            self._wait([], left_s)
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            os.kill(self._child, number)

    def _kill_hung(self) -> None:
        """SIGABRT has every thread's stack written, whatever the event loop does; then it is over."""
        self._hung = True
        self._signal(signal.SIGABRT)
        if not self._await_end(DUMP_S):
            self._signal(signal.SIGKILL)
            self._await_end()
        self._say("error", "boot hung: killed", limit_s=self._limit_s, phase=self._phase)

    def _reported(self, code: int) -> int:
        """Have the failure written to the store, by a process of its own; its count of them, or 0."""
        if code == exits.UNAVAILABLE:
            return 0
        told, telling = os.pipe()
        self._start(["-m", "broker.boot_report", self._module], self._environment, output=telling)
        os.close(telling)
        ends_at, said = time.monotonic() + REPORT_S, b""
        while not self._stopping and (left_s := ends_at - time.monotonic()) > 0:
            if told in self._wait([told], left_s):
                if not (more := os.read(told, 64)):
                    break
                said += more
        self._signal(signal.SIGKILL)
        self._await_end()
        os.close(told)
        return int(said) if said.strip().isdigit() else 0

    def _say(self, level: str, event: str, **facts: Any) -> None:
        """One line like those of the process itself. A reader that stalls is not waited for."""
        now = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        line = {
            "at": f"{moment}.{int(now % 1 * 1000):03d}Z",
            "level": level,
            "process": self._process,
            "event": event,
            **facts,
        }
        try:
            if select.select([], [1], [], 0.2)[1]:
                os.write(1, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        except (OSError, ValueError):
            return


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    """A setting as a number; what is no good one is refused by the process itself, with all else that is wrong."""
    try:
        value = float(environment.get(name) or default)
    except ValueError:
        return default
    return value if 0 <= value < 1e6 else default


def supervise(module: str, *, process: str) -> int:
    """Run `module`; the exit code, unless a signal ended the process: then the same signal ends this one."""
    if arguments := sys.argv[1:]:  # a question, such as --check or --help
        os.execv(sys.executable, [sys.executable, "-m", f"{module}.main", *arguments])  # noqa: S606  no shell meant
    code = Supervisor(module, process=process, environment=os.environ).run()
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        return 128 - code  # PID 1 cannot be ended so
    return code
