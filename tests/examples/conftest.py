"""Runs the scripts as Instruqt does: bash, an environment of their own, nothing else."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.sandbox import Sandbox
from local.engine import free_port
from tests.builders import TEST_CAUSE, a_sandbox
from tests.conftest import a_broker

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "instruqt"
TOKEN = "track-token-7c1f0b8e55aa4d"
TOOLS = [
    "bash", "cat", "curl", "date", "dirname", "head", "jq", "mkdir", "mktemp", "mv", "rm", "sed", "sleep",
    "timeout", "touch", "tr",
]  # fmt: skip
"""All that a host must have; jq, which it may have; touch, which injected commands would run."""

BOTH = pytest.mark.parametrize("host", ["jq", "no jq"], indirect=True)
"""For what depends on how JSON is read."""

_numbers = count(1)


@dataclass
class Host:
    """A lab's host: a home directory, the tools, Instruqt's variables."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def holder(self) -> str:
        return self.environment["_SANDBOX_ID"]

    @property
    def pool(self) -> str:
        """The prefix of names that this test alone asks for."""
        return self.environment["SANDBOX_NAME_PREFIX"]

    @property
    def env_file(self) -> Path:
        return self.home / "sandbox.env"

    @property
    def tools(self) -> Path:
        return self.home / "bin"

    def add_tool(self, name: str, text: str) -> None:
        path = self.tools / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def record_sleeps(self) -> Callable[[], list[float]]:
        """Sleep no more, but note for how long it was asked to."""
        log = self.home / "slept"
        self.add_tool("sleep", f'#!{shutil.which("bash")}\necho "$1" >>"{log}"\n')
        return lambda: [float(line) for line in log.read_text().splitlines()]

    def run(
        self, script: str, *arguments: str, trace: bool = False, timeout_s: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        command = ["bash", *(["-x"] if trace else []), str(SCRIPTS / script), *arguments]
        return subprocess.run(
            command,
            env=self.environment | environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def setup(self, url: str, **options: str) -> subprocess.CompletedProcess[str]:
        return self.run("setup-sandbox.sh", **{"BROKER_URL": url} | options)

    def cleanup(self, url: str, **options: str) -> subprocess.CompletedProcess[str]:
        return self.run("cleanup-sandbox.sh", **{"BROKER_URL": url} | options)

    def extend(self, url: str, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
        return self.run("extend-sandbox.sh", *arguments, **{"BROKER_URL": url} | options)

    def sourced(self) -> dict[str, str]:
        """What a shell knows after it sourced the file."""
        names = ["ID", "NAME", "EXTERNAL_ID", "EXPIRES_AT", "GENERATION", "HOLDER"]
        show = "".join(f'printf "%s\\0" "$SANDBOX_{name}"; ' for name in names)
        shell = subprocess.run(
            ["bash", "-c", f'set -eu; . "$1"; {show}', "bash", self.env_file],
            env={"PATH": str(self.tools)},
            cwd=self.home,
            capture_output=True,
            check=True,
        )
        values = shell.stdout.decode().split("\0")[:-1]
        return {f"SANDBOX_{name}": value for name, value in zip(names, values, strict=True)}


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """Without jq, unless a test is marked BOTH."""
    left_out = set() if getattr(request, "param", "no jq") == "jq" else {"jq"}
    (tmp_path / "bin").mkdir()
    for tool in set(TOOLS) - left_out:
        path = shutil.which(tool)
        if path is None:
            pytest.skip(f"{tool} is not installed here")
        (tmp_path / "bin" / tool).symlink_to(path)
    environment = {
        "PATH": str(tmp_path / "bin"),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "SANDBOX_ENV_FILE": str(tmp_path / "sandbox.env"),
        "BROKER_API_TOKEN": TOKEN,
        "BROKER_BACKOFF_MS": "40",
        "_SANDBOX_ID": f"ins-{tmp_path.name}",
        "INSTRUQT_PARTICIPANT_ID": "participant-1",
        "INSTRUQT_TRACK_SLUG": "kubernetes-101",
        "SANDBOX_NAME_PREFIX": f"pool-{tmp_path.name}-",
    }
    return Host(tmp_path, environment)


@dataclass
class RealBroker:
    """`python -m app` over a real engine."""

    url: str
    engine: str
    table: str
    start: Callable[[], None]

    def add(self, count: int, host: Host) -> list[Sandbox]:
        """Make sandboxes available in the host's own pool."""
        sandboxes = [a_sandbox(number=n, name=f"{host.pool}{n:04d}") for n in islice(_numbers, count)]

        async def add() -> None:
            async with a_broker(self.engine, self.table) as core:
                for sandbox in sandboxes:
                    await core.sandboxes.add(sandbox, TEST_CAUSE, now=time.time())

        asyncio.run(add())
        return sandboxes

    def view(self, host: Host, sandbox_id: str) -> dict[str, Any]:
        """The sandbox as the host's student sees it."""
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Instruqt-Sandbox-ID": host.holder}
        answer = httpx.get(f"{self.url}/v1/sandboxes/{sandbox_id}", headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture(scope="session")
def broker_environment(ministack: str) -> dict[str, str]:
    """A table of its own, made as an operator makes it."""
    environment = {
        **os.environ,
        "BROKER_ENV": "development",
        "BROKER_TENANT": "acme",
        "BROKER_API_TOKEN": TOKEN,
        "BROKER_ADMIN_TOKEN": "admin-token-90a1c3d27be4f6",
        "DDB_ENDPOINT_URL": ministack,
        "DDB_TABLE_NAME": f"broker-examples-{os.getpid()}",
        "API_HOST": "127.0.0.1",
        "DRAIN_NOTICE_SEC": "0",
        "BOOT_TIMEOUT_SEC": "60",
        "BOOT_BUDGET_MS": "60000",
    }
    create = [sys.executable, "-m", "broker.cli", "create-table"]
    subprocess.run(create, cwd=ROOT, env=environment, check=True, capture_output=True)
    return environment


@pytest.fixture
def late_broker(broker_environment: dict[str, str]) -> Iterator[RealBroker]:
    """Starts when the test says so."""
    port = free_port()
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "app"],
                cwd=ROOT,
                env={**broker_environment, "API_PORT": str(port)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    url = f"http://127.0.0.1:{port}"
    yield RealBroker(url, broker_environment["DDB_ENDPOINT_URL"], broker_environment["DDB_TABLE_NAME"], start)
    for process in started:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def real_broker(broker_environment: dict[str, str]) -> Iterator[RealBroker]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app"]
    environment = {**broker_environment, "API_PORT": str(port)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            ends_at = time.monotonic() + 30
            while not _ready(url):
                assert process.poll() is None, f"the broker ended with {process.returncode}"
                assert time.monotonic() < ends_at, "the broker was not ready within 30 s"
                time.sleep(0.05)
            engine, table = environment["DDB_ENDPOINT_URL"], environment["DDB_TABLE_NAME"]
            yield RealBroker(url, engine, table, start=lambda: None)
        finally:
            process.terminate()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
