"""The soak itself, cut short: it ends well, tells what it did, and leaves no process behind."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, _descendants


async def a_soak(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.chaos.soak", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
    )


async def output_until(soak: asyncio.subprocess.Process, pattern: str) -> str:
    """What it prints up to the line that matches."""
    assert soak.stdout is not None
    lines: list[str] = []
    while raw := await soak.stdout.readline():
        lines.append(raw.decode())
        if re.search(pattern, lines[-1]):
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.mark.timeout(400)
async def test_every_invariant_holds_while_everything_is_killed_paused_and_lied_to() -> None:
    soak = await a_soak("--minutes", "0.4", "--seed", "7")
    output = await output_until(soak, "^every invariant held")

    assert await soak.wait() == 0
    assert "what was done to it" in output


@pytest.mark.timeout(200)
async def test_stopped_by_hand_it_leaves_no_process_behind() -> None:
    soak = await a_soak("--minutes", "10")
    await output_until(soak, "processes are up")
    children = [pid for pid, _ in _descendants(soak.pid)]
    soak.send_signal(signal.SIGINT)
    await output_until(soak, "^stopped by hand")

    assert await soak.wait() == 130
    assert len(children) >= 7
    assert [pid for pid in children if _lives(pid)] == []


def _lives(pid: int) -> bool:
    """A zombie has no command line any more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False
