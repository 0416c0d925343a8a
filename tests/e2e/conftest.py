"""The whole broker as `make run` starts it: real processes, real ports, real signals."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.engine import free_port

ROOT = Path(__file__).resolve().parents[2]
API_TOKEN = "track-token-of-the-tests-0a1b2c"
ADMIN_TOKEN = "admin-token-of-the-tests-3d4e5f"


@dataclass
class Running:
    """A running `make run`: what it printed so far, and how to talk to it."""

    process: asyncio.subprocess.Process
    api_urls: list[str]
    sim_url: str
    worker_url: str
    http: httpx.AsyncClient
    clients: list[httpx.AsyncClient]
    lines: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    async def allocate(self, student: str, *, api: int = 0, **headers: str) -> httpx.Response:
        return await self._client(student).post(
            f"{self.api_urls[api % len(self.api_urls)]}/v1/allocate",
            headers={"Authorization": f"Bearer {API_TOKEN}", "X-Instruqt-Sandbox-ID": student, **headers},
        )

    async def release(self, student: str, sandbox_id: str, *, api: int = 0) -> httpx.Response:
        return await self._client(student).post(
            f"{self.api_urls[api % len(self.api_urls)]}/v1/sandboxes/{sandbox_id}/mark-for-deletion",
            headers={"Authorization": f"Bearer {API_TOKEN}", "X-Instruqt-Sandbox-ID": student},
        )

    def _client(self, student: str) -> httpx.AsyncClient:
        """One of several pools: a single pool of hundreds of connections spends its time on itself."""
        return self.clients[hash(student) % len(self.clients)]

    async def stats(self) -> dict[str, int]:
        answer = await self.http.get(
            f"{self.api_urls[0]}/v1/admin/stats", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        return dict(answer.json())

    async def provider_accounts(self) -> list[dict[str, Any]]:
        return list((await self.http.get(f"{self.sim_url}/_simulator/accounts")).json()["results"])

    def children(self) -> dict[int, str]:
        """The live descendants by process id, with their command lines (Linux)."""
        return {pid: command for pid, command in _descendants(self.process.pid)}

    async def line(self, pattern: str, *, timeout_s: float = 30) -> str:
        """The first line that matches, waiting for it."""
        async with asyncio.timeout(timeout_s):
            while True:
                for line in self.lines:
                    if re.search(pattern, line):
                        return line
                await asyncio.sleep(0.05)

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 40)


def _descendants(root: int) -> list[tuple[int, str]]:
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            parents[int(entry.name)] = (int(stat.rpartition(")")[2].split()[1]), command)
    found = [(pid, command) for pid, (parent, command) in parents.items() if parent == root]
    return found + [deeper for pid, _ in found for deeper in _descendants(pid)]


def environment(**changes: str) -> dict[str, str]:
    """A newcomer's environment with ports of our own; none of this shell's settings."""
    kept = {n: v for n, v in os.environ.items() if n in ("PATH", "HOME", "LANG", "BROKER_ENGINE_PYTHON")}
    ports = {"API_PORT": str(20_000 + free_port() % 20_000), "SIM_PORT": str(free_port())}
    tokens = {"BROKER_API_TOKEN": API_TOKEN, "BROKER_ADMIN_TOKEN": ADMIN_TOKEN}
    return {**kept, **ports, "WORKER_PORT": str(free_port()), **tokens, **changes}


async def start(**changes: str) -> tuple[asyncio.subprocess.Process, dict[str, str]]:
    env = environment(**changes)
    env = {name: value for name, value in env.items() if value}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "local.run"),
        cwd=ROOT,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
    )
    return process, env


@asynccontextmanager
async def a_run(**changes: str) -> AsyncIterator[Running]:
    """Start everything, wait until it is ready, and leave nothing behind."""
    process, env = await start(**changes)
    first = int(env["API_PORT"])
    count = int(env.get("API_PROCESSES", "1"))
    async with AsyncExitStack() as stack:
        http, *clients = [await stack.enter_async_context(httpx.AsyncClient(timeout=30)) for _ in range(13)]
        running = Running(
            process,
            [f"http://127.0.0.1:{first + n}" for n in range(count)],
            f"http://127.0.0.1:{env['SIM_PORT']}",
            f"http://127.0.0.1:{env['WORKER_PORT']}",
            http,
            clients,
        )
        reading = asyncio.create_task(_read(running))
        try:
            await running.line("What happens from here on", timeout_s=60)
            yield running
        finally:
            if process.returncode is None:
                await running.stop(signal.SIGTERM)
            await reading


async def _read(running: Running) -> None:
    assert running.process.stdout is not None
    while raw := await running.process.stdout.readline():
        running.lines.append(raw.decode().rstrip())
