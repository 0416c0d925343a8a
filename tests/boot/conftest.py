"""Processes whose boot goes wrong in every way, under the real supervisor."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.api.process import ROOT, environment

PATIENCE_S = 60.0


@dataclass
class Supervised:
    """`python -m app` or `python -m worker`, and each line of it as it came."""

    popen: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def event(self, name: str) -> dict[str, Any]:
        """The first event of this name, waiting for it."""
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            for event in list(self.events):
                if event["event"] == name:
                    return event
            time.sleep(0.02)
        raise AssertionError(f"no {name!r}: {self.events} {self.told}")

    def code(self) -> int:
        return self.popen.wait(PATIENCE_S)

    def child(self) -> int:
        """The real process's id, waiting for there to be one."""
        pid = self.popen.pid
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            if said := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                return int(said[0])
            time.sleep(0.02)
        raise AssertionError("no child")

    def _read(self) -> None:
        for line in self.popen.stdout or ():
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.told.append(line)


def is_gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@contextmanager
def supervised(module: str, **changes: str | None) -> Iterator[Supervised]:
    """Start it, in a session of its own; whatever is left of it at the end is killed."""
    popen = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT, env=environment(**changes), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    process = Supervised(popen)
    reader = threading.Thread(target=process._read, daemon=True)
    reader.start()
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        reader.join(5)
        if popen.stdout is not None:
            popen.stdout.close()
