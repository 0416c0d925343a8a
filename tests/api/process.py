"""The real processes: `python -m app` and `python -m worker`, their exit codes, ports, signals and logs."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.engine import free_port
from tests.api.service import ADMIN_TOKEN, API_TOKEN, a_table

ROOT = Path(__file__).resolve().parents[2]
UP_S = 30.0

KEPT = ("PATH", "HOME", "LANG", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED")


def environment(**changes: str | None) -> dict[str, str]:
    """What a correct API process is started with; None takes a variable away."""
    values: dict[str, str | None] = {name: os.environ.get(name) for name in KEPT}
    values |= {
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "error",
        "BROKER_ENV": "development",
        "BROKER_TENANT": "acme",
        "BROKER_API_TOKEN": API_TOKEN,
        "BROKER_ADMIN_TOKEN": ADMIN_TOKEN,
        "AWS_REGION": "us-east-1",
        "API_HOST": "127.0.0.1",
        "DRAIN_NOTICE_SEC": "0",
        "BOOT_TIMEOUT_SEC": "60",
        "BOOT_BUDGET_MS": "60000",
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def run_to_the_end(module: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Start a process that is expected to end by itself."""
    command = [sys.executable, "-m", module]
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def make_table(url: str, table_name: str) -> None:
    async def make() -> None:
        async with a_table(url, table_name):
            pass

    asyncio.run(make())


@dataclass
class Process:
    """A running API. Its lines are read as they come, so that it never waits for a reader."""

    popen: subprocess.Popen[str]
    port: int
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=10, trust_env=False)

    def raw(self, data: bytes, *, timeout_s: float = 10) -> bytes:
        """What comes back for these bytes until the server closes or nothing comes for a second."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(data)
            return drained(connection)

    def terminate(self) -> None:
        self.popen.send_signal(signal.SIGTERM)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.lines)]

    def wait_for_event(self, event: str, *, within_s: float = 15) -> dict[str, Any]:
        ends_at = time.monotonic() + within_s
        while time.monotonic() < ends_at:
            for line in self.events():
                if line["event"] == event:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no event {event!r} in {self.lines}")

    def wait_for_status(self, path: str, status: int, *, within_s: float = UP_S) -> httpx.Response:
        ends_at = time.monotonic() + within_s
        while time.monotonic() < ends_at:
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}: {self.lines}"
            try:
                answer = self.get(path)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code == status:
                return answer
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status}: {self.lines}")


def drained(connection: socket.socket, *, quiet_s: float = 1.0) -> bytes:
    connection.settimeout(quiet_s)
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except (TimeoutError, ConnectionResetError):
        pass
    return received


@contextmanager
def a_process(
    *, ready: int = 200, module: str = "app", code: Path = ROOT, **changes: str | None
) -> Iterator[Process]:
    """`python -m app`, or the worker, on a free port, up to the point where /readyz answers `ready`."""
    variable = "API_PORT" if module == "app" else "WORKER_PORT"
    port = int(changes.get(variable) or free_port())
    variables = environment(**changes | {variable: str(port)})
    popen = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=code, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    process = Process(popen, port)
    reader = threading.Thread(target=_read, args=(process,), daemon=True)
    reader.start()
    try:
        process.wait_for_status("/readyz", ready)
        yield process
    finally:
        popen.kill()
        popen.wait()
        reader.join(5)
        if popen.stdout is not None:
            popen.stdout.close()


def _read(process: Process) -> None:
    if process.popen.stdout is not None:
        for line in process.popen.stdout:
            process.lines.append(line.rstrip("\n"))
