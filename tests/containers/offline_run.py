"""Runs an image's process with no network but loopback, and prints what happened as JSON.

A program of its own: in a network namespace the tests could not reach what it starts.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from local.engine import engine, free_port

TOKEN = "track-token-7c1f0b8e55aa4d"
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
WAIT_S = 40.0


def loopback_up() -> None:
    """In a new network namespace even loopback is down."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))


def outside() -> str:
    """What becomes of a connection to another machine (TEST-NET-1, which nobody has)."""
    try:
        with socket.create_connection(("192.0.2.1", 9), timeout=1):
            return "connected"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else "timed out"


def settled(question: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """The first answer that is true, or the last one."""
    ends_at = time.monotonic() + WAIT_S
    while not (answer := question()) and process.poll() is None and time.monotonic() < ends_at:
        time.sleep(0.1)
    return answer


def http(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Status 0 where nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, HTTPException):
        return 0, ""
    finally:
        connection.close()


def files(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in root.rglob("*")
        if not path.is_dir()
    }


@contextlib.contextmanager
def simulator(environment: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-m", "simulator"], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.terminate()


class Run:
    """One image's process, from before its start until after its end."""

    def __init__(self, plan: dict[str, Any], store_url: str) -> None:
        self._plan = plan
        self._port, self._provider_port = free_port(), free_port()
        self._environment = plan["environment"] | {
            plan["port_setting"]: str(self._port),
            "DDB_ENDPOINT_URL": store_url,
            "BROKER_ENV": "development",
            "BROKER_API_TOKEN": TOKEN,
            "BROKER_ADMIN_TOKEN": "admin-token-90a1c3d27be4f6",
            "CSP_BASE_URL": f"http://127.0.0.1:{self._provider_port}",
            "CSP_API_TOKEN": "provider-token-of-this-run",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "DRAIN_NOTICE_SEC": "0",
            "BOOT_TIMEOUT_SEC": "60",
            "BOOT_BUDGET_MS": "60000",
        }

    def health(self) -> int:
        """The exit code of the image's own HEALTHCHECK; 124 where Docker would have lost patience."""
        try:
            return self._execute(
                self._plan["healthcheck"], timeout_s=self._plan["healthcheck_timeout_s"]
            ).returncode
        except subprocess.TimeoutExpired:
            return 124

    def _execute(self, command: list[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self._plan["folder"],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def facts(self) -> dict[str, Any]:
        root = Path(self._plan["root"])
        before = files(root)
        created = self._execute(["python", "-m", "broker.cli", "create-table"], timeout_s=30)
        facts: dict[str, Any] = {"table": created.stdout + created.stderr, "health_before": self.health()}
        provider = {**os.environ, "SIM_PORT": str(self._provider_port), "SIM_SANDBOXES": "3"}
        with simulator(provider | {"CSP_API_TOKEN": self._environment["CSP_API_TOKEN"]}):
            facts |= self._life()
        after = files(root)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        return facts | {"health_after": self.health(), "written": sorted(changed)}

    def _life(self) -> dict[str, Any]:
        began = time.monotonic()
        with open(self._plan["log"], "wb") as log:
            process = subprocess.Popen(
                self._plan["command"],
                cwd=self._plan["folder"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            facts: dict[str, Any] = {"healthy": settled(lambda: self.health() == 0, process)}
            facts["healthy_after_s"] = time.monotonic() - began
            facts["works"] = settled(self._works, process)
            os.killpg(process.pid, signal.SIGSTOP)
            facts["health_of_a_stopped_process"] = self.health()
            os.killpg(process.pid, signal.SIGCONT)
            began = time.monotonic()
            process.terminate()
            facts["exit"] = process.wait(45)
            facts["ended_after_s"] = time.monotonic() - began
        finally:
            process.kill()
            process.wait()
        facts["said"] = Path(self._plan["log"]).read_text()
        return facts

    def _works(self) -> bool:
        """The API reaches its store; the worker has read the provider's list into it."""
        if self._plan["port_setting"] == "API_PORT":
            who = {"Authorization": f"Bearer {TOKEN}", "X_Instruqt_Sandbox_ID": "student-1"}
            status, body = http(self._port, "/v1/allocate", "POST", **who)
            return status == 409 and "NO_SANDBOXES_AVAILABLE" in body
        return 'worker_job_last_success_timestamp_seconds{duty="sync",' in http(self._port, "/metrics")[1]


def main() -> int:
    plan = json.loads(sys.stdin.read())
    if plan["own_network"]:
        loopback_up()
    with engine("ministack") as store_url:
        facts = Run(plan, store_url).facts()
    sys.stdout.write(json.dumps(facts | {"outside": outside()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
