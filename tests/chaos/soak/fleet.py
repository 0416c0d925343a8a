"""The processes of a soak: store, provider, workers, APIs; killed, paused, restarted, and all ended at the end."""

import asyncio
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.children import Child, Children
from local.engine import engine, free_port
from local.store_proxy import StoreProxy
from tests.api.service import ADMIN_TOKEN, API_TOKEN, PEPPER
from tests.worker.conftest import TOKEN

LAB_S, GRACE_S = 20, 3
TABLE = "broker-soak"
OTHER_TOKEN = "CSP_API_TOKEN_SOUTH"
SHORT = {
    "LAB_DURATION_HOURS": str(LAB_S / 3600),
    "GRACE_PERIOD_MINUTES": str(GRACE_S / 60),
    "AUTO_EXPIRY_INTERVAL_SEC": "1",
    "SYNC_INTERVAL_SEC": "2",
    "CLEANUP_POLL_SEC": "0.2",
    "CLEANUP_INTERVAL_SEC": "5",
    "CLEANUP_LEASE_SEC": "3",
    "CLEANUP_RETRY_BASE_SEC": "0.5",
    "CLEANUP_RETRY_CAP_SEC": "5",
    "CLEANUP_MAX_ATTEMPTS": "4",
    "CLEANUP_FAILED_RETRY_HOURS": str(8 / 3600),
    "STALE_PURGE_AFTER_HOURS": str(20 / 3600),
    "STALE_PURGE_INTERVAL_SEC": "3",
    "GAUGES_INTERVAL_SEC": "5",
    "LEADER_LEASE_SEC": "2",
    "CSP_DELETE_TIMEOUT_SEC": "2",
    "CSP_READ_TIMEOUT_SEC": "2",
    "CSP_READ_ATTEMPTS": "2",
    "CSP_BREAKER_OPEN_SEC": "1",
    "CSP_DELETES_PER_SEC": "50",
    "STORE_TIMEOUT_SEC": "2",
    "GRACEFUL_SHUTDOWN_TIMEOUT_SEC": "5",
    "DRAIN_NOTICE_SEC": "0",
    "BOOT_TIMEOUT_SEC": "60",
    "BOOT_BUDGET_MS": "60000",
    "RATE_LIMIT_PER_STUDENT": "1000000/second",
    "RATE_LIMIT_PER_CREDENTIAL": "1000000/second",
    "RATE_LIMIT_PER_ADDRESS": "1000000/second",
}
"""Hours as seconds: a lab lasts 20 s, a lease 2 or 3."""


@dataclass
class Member:
    """A place for one process at one port. Whoever fills it may die; the place is filled again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    port: int
    child: Child | None = None
    paused: bool = False
    away: bool = False  # ended on purpose, and not yet started again

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return None if self.child is None or self.child.process.returncode is not None else self.child.process.pid

    def send(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, number)
            self.paused = {signal.SIGSTOP: True, signal.SIGCONT: False}.get(number, self.paused)

    def resident_mb(self) -> float:
        """Its resident memory; 0 where it does not run."""
        if self.pid is None:
            return 0.0
        with suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        return 0.0


@dataclass
class Fleet:
    """Every process, and what each last said."""

    children: Children
    proxy: StoreProxy
    store_url: str
    simulator: Member
    other_simulator: Member
    workers: list[Member]
    apis: list[Member]
    lines: deque[str]
    http: httpx.AsyncClient
    fell: Counter[str] = field(default_factory=Counter)

    def all(self) -> list[Member]:
        return [self.simulator, self.other_simulator, *self.workers, *self.apis]

    async def start(self, member: Member) -> None:
        member.child = await self.children.start(member.name, member.command, member.environment)
        member.paused = member.away = False

    async def end(self, member: Member, number: signal.Signals, *, within_s: float = 15) -> int | None:
        """End it by a signal and wait; its exit code. What does not end is killed, and that is told."""
        if member.pid is None or member.child is None:
            return None
        member.away = True
        member.send(number)
        try:
            code = await asyncio.wait_for(member.child.process.wait(), within_s)
        except TimeoutError:
            self.fell[f"{member.name[:-1]} did not end on {number.name}"] += 1
            member.send(signal.SIGKILL)
            code = await member.child.process.wait()
        self.children.forget(member.child)
        member.child = None
        return code

    def fallen(self) -> list[Member]:
        """Those that ended by themselves: nobody may."""
        return [m for m in self.all() if not m.away and m.child is not None and m.pid is None]

    async def simulate(self, method: str, path: str, body: Any = None, *, at: Member | None = None) -> Any:
        """`at`: the simulator, where it is not the installation's own."""
        answer = await self.http.request(method, f"{(at or self.simulator).url}/_simulator/{path}", json=body)
        answer.raise_for_status()
        return answer.json()

    async def ready(self, member: Member, *, within_s: float = 120) -> None:
        async with asyncio.timeout(within_s):
            while True:
                with suppress(httpx.HTTPError):
                    path = "/healthz" if member.name.startswith("simulator") else "/readyz"
                    if (await self.http.get(member.url + path, timeout=2)).status_code == 200:
                        return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def a_fleet(*, seed: int, sandboxes: int, workers: int, apis: int) -> AsyncIterator[Fleet]:
    """Start them all; at the end none is left, whatever happened."""
    lines: deque[str] = deque(maxlen=20_000)
    children = Children(lambda name, line: lines.append(f"{name} {line}"))
    # The engine is started and stopped outside the loop's way: it takes a second.
    running = engine("ministack")
    store_url = await asyncio.to_thread(running.__enter__)
    try:
        one_call_each = httpx.Limits(max_keepalive_connections=0)  # whoever answers may be gone by the next one
        async with (
            StoreProxy(upstream_url=store_url, seed=seed) as proxy,
            httpx.AsyncClient(timeout=20, limits=one_call_each) as http,
        ):
            fleet = _planned(children, proxy, store_url, lines, http, seed, sandboxes, workers, apis)
            try:
                yield fleet
            finally:
                for member in fleet.all():
                    member.send(signal.SIGCONT)
                await children.stop()
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


def _planned(
    children: Children,
    proxy: StoreProxy,
    store_url: str,
    lines: deque[str],
    http: httpx.AsyncClient,
    seed: int,
    sandboxes: int,
    workers: int,
    apis: int,
) -> Fleet:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    simulator_port = free_port()
    shared = kept | SHORT | {
        "PYTHONUNBUFFERED": "1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": "us-east-1",
        "BROKER_ENV": "development",
        "BROKER_TENANT": "acme",
        "BROKER_API_TOKEN": API_TOKEN,
        "BROKER_ADMIN_TOKEN": ADMIN_TOKEN,
        "API_KEY_PEPPER": PEPPER,
        "CSP_API_TOKEN": TOKEN,
        OTHER_TOKEN: TOKEN,
        "CSP_BASE_URL": f"http://127.0.0.1:{simulator_port}",
        "DDB_ENDPOINT_URL": proxy.url,
        "DDB_TABLE_NAME": TABLE,
        "API_HOST": "127.0.0.1",
        "WORKER_HOST": "127.0.0.1",
    }  # fmt: skip

    def member(kind: str, number: int, module: str, port: int, **more: str) -> Member:
        return Member(f"{kind}{number}", [sys.executable, "-m", module], shared | more, port)

    def several(kind: str, count: int, module: str, variable: str) -> list[Member]:
        ports = [free_port() for _ in range(count)]
        return [member(kind, n, module, port, **{variable: str(port)}) for n, port in enumerate(ports, 1)]

    def simulator(number: int, port: int) -> Member:
        """All with one seed: the second one has accounts with the ids of the first."""
        values = {"SIM_SANDBOXES": str(sandboxes), "SIM_SEED": str(seed), "SIM_DELETE_LATENCY_S": "0.2"}
        return member("simulator", number, "simulator", port, SIM_PORT=str(port), **values)

    return Fleet(
        children, proxy, store_url, simulator(1, simulator_port), simulator(2, free_port()),
        several("worker", workers, "worker.main", "WORKER_PORT"), several("api", apis, "app.main", "API_PORT"),
        lines, http,
    )  # fmt: skip
