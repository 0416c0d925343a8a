"""Child processes of `make run`: started together, watched, stopped together."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Final

STOP_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1


class StartFailed(Exception):
    """Something did not start; the text is one sentence for a person."""


@dataclass(slots=True)
class Child:
    """One process and the last lines that it said."""

    name: str
    process: asyncio.subprocess.Process
    tail: list[str] = field(default_factory=list)
    reader: "asyncio.Task[None] | None" = None


class Children:
    """Starts children, hands on every line they say, ends them in reverse order."""

    def __init__(self, on_line: Callable[[str, str], None]) -> None:
        self._on_line = on_line
        self._children: list[Child] = []

    async def start(
        self, name: str, command: list[str], environment: Mapping[str, str], *, output: IO[bytes] | None = None
    ) -> Child:
        """Start a child in its own process group, so that Ctrl-C reaches the parent alone.

        What it says goes to `output`, where that is given, and not through this process.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output or asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1 << 20,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        child = Child(name, process)
        child.reader = asyncio.create_task(self._read(child))
        self._children.append(child)
        return child

    async def _read(self, child: Child) -> None:
        if child.process.stdout is None:
            return
        while raw := await child.process.stdout.readline():
            line = raw.decode(errors="replace").rstrip()
            child.tail = [*child.tail[-4:], line]
            self._on_line(child.name, line)

    def fallen(self) -> Child | None:
        """The first child that has ended."""
        return next((c for c in self._children if c.process.returncode is not None), None)

    def forget(self, child: Child) -> None:
        """Watch it no more: it fell, and that was dealt with."""
        self._children.remove(child)

    async def until_one_falls(self) -> Child:
        """Wait for the first child that ends by itself."""
        waiting = {asyncio.create_task(child.process.wait()): child for child in self._children}
        done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        return waiting[done.pop()]

    async def stop(self) -> None:
        """End all children, the last started first; what does not end in 10 s is killed."""
        for child in reversed(self._children):
            _signal(child, signal.SIGTERM)
            try:
                await asyncio.wait_for(child.process.wait(), STOP_S)
            except TimeoutError:
                _signal(child, signal.SIGKILL)
                await child.process.wait()
            if child.reader is not None:
                await child.reader
        self._children.clear()


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process.returncode is None:
        os.killpg(child.process.pid, number)


def _die_with_parent() -> None:
    """Even where the parent is killed outright, no child outlives it (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
