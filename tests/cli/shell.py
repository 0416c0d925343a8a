"""`sandbox-broker` as people and scripts run it: a process, over pipes or on a terminal of 80 columns."""

import asyncio
import errno
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.api.service import ADMIN_TOKEN
from tests.cli import forks

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "cli")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WITHIN_S = 60.0


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The cells of a piped table, its header first; cells with blanks in them fall apart."""
        return [line.split() for line in self.out.splitlines()]


class Terminal:
    """A command that runs on a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self._process = process
        self._master = master
        self.seen = ""
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # so ends a terminal whose process has gone
                raise
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.seen += data.decode(errors="replace")

    @property
    def text(self) -> str:
        """What it wrote, without colours and movements of the cursor."""
        return ESCAPES.sub("", self.seen).replace("\r", "\n")

    async def until(self, pattern: str) -> str:
        """What matches the pattern, once it is there."""
        async with asyncio.timeout(WITHIN_S):
            while (found := re.search(pattern, self.text)) is None:  # noqa: ASYNC110  a terminal has no event
                await asyncio.sleep(0.02)
        return found[0]

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    async def end(self) -> int:
        code = await asyncio.wait_for(self._process.wait(), WITHIN_S)
        await asyncio.sleep(0.1)  # what it wrote last may still be on its way
        return code

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


@dataclass(frozen=True)
class Shell:
    """Somebody's shell: the broker's address and the admin token are exported in it."""

    url: str

    def environment(self, **changes: str | None) -> dict[str, str]:
        """None takes a variable away."""
        values: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "PYTHONWARNINGS": "error",
            "BROKER_URL": self.url,
            "BROKER_ADMIN_TOKEN": ADMIN_TOKEN,
        }
        return {name: value for name, value in (values | changes).items() if value is not None}

    async def start(self, *arguments: str, **environment: str | None) -> asyncio.subprocess.Process:
        """A fork of one that has read the commands, unless the environment is one that Python itself may read."""
        variables = self.environment(**environment)
        usual = all(name.startswith("BROKER_") for name in environment)
        return await asyncio.create_subprocess_exec(
            *(forks.stand_in(variables) if usual else COMMAND),
            *arguments,
            cwd=ROOT,
            env=variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, **environment: str | None) -> Done:
        """Run a command to its end, with nobody there to answer. No command ever shows a traceback."""
        process = await self.start(*arguments, **environment)
        return await ended(process)

    async def run_each(self, *commands: list[str], **environment: str | None) -> list[Done]:
        """Several commands side by side, as each of them waits more than it works."""
        return await asyncio.gather(*(self.run(*command, **environment) for command in commands))

    @asynccontextmanager
    async def on_a_terminal(
        self, *arguments: str, columns: int = 80, **environment: str | None
    ) -> AsyncIterator[Terminal]:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            cwd=ROOT,
            env=self.environment(**environment),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        terminal = Terminal(process, master)
        try:
            yield terminal
        finally:
            terminal.kill()
            await process.wait()


async def said(process: asyncio.subprocess.Process, pattern: str) -> str:
    """The standard error of a running command, up to the line that matches."""
    assert process.stderr is not None
    lines = ""
    async with asyncio.timeout(WITHIN_S):
        while line := (await process.stderr.readline()).decode():
            lines += line
            if re.search(pattern, line):
                return lines
    raise AssertionError(f"it ended without {pattern!r}: {lines}")


async def ended(process: asyncio.subprocess.Process, *, after: str = "") -> Done:
    """The command's end; `after` is what was read of its standard error before."""
    out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode is not None
    done = Done(process.returncode, out.decode(), after + err.decode())
    assert "Traceback" not in done.out + done.err, done.err
    return done
