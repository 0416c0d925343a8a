"""The fenced blocks of a plan, and a shell that runs them one after the other, as a person would paste them."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```sh(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(?:#+ |\*\*)([A-Z][0-9]?)\.|^\*\*([0-9])\.|^#+ (?!By hand)(.+)$", re.MULTILINE)
_ENDED = "\x1eended\x1e"


@dataclass(frozen=True)
class Block:
    """Commands, as they stand in a plan."""

    heading: str  # the last one before it
    text: str
    by_hand: bool


def blocks(plan: Path) -> list[Block]:
    """In their order."""
    text = plan.read_text()
    found = []
    for fence in _FENCE.finditer(text):
        kind = fence["kind"].strip()
        assert kind in ("", "by-hand"), f"a block of another kind: {kind}"
        *_, last = _HEADING.finditer(text, 0, fence.start())
        heading = next(group for group in last.groups() if group)
        found.append(Block(heading, fence["text"], kind == "by-hand"))
    return found


@dataclass(frozen=True)
class Ran:
    """A block that has run."""

    code: int
    out: str  # and its errors, in their order
    took_s: float


class Shell:
    """`bash -euo pipefail`, which reads what is fed to it: variables and functions carry from block to block."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-euo", "pipefail"],
            cwd=folder, env=dict(environment), text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, block: str, *, within_s: float = 400) -> Ran:
        """Run it to its end. A command that fails ends the shell: then the code is its."""
        process, lines = self._process, list[str]()
        assert process.stdin is not None
        assert process.stdout is not None
        began = time.monotonic()
        killer = threading.Timer(within_s, self.close)
        killer.start()
        process.stdin.write(f"{{\n{block}\n}} < /dev/null\nprintf '{_ENDED}\\n'\n")
        process.stdin.flush()
        for line in process.stdout:
            if _ENDED in line:
                killer.cancel()
                return Ran(0, "".join([*lines, line.partition(_ENDED)[0]]), time.monotonic() - began)
            lines.append(line)
        killer.cancel()
        return Ran(process.wait(), "".join(lines), time.monotonic() - began)

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
