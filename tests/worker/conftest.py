"""The worker's jobs over a real store and a real provider process's HTTP API."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from broker.leadership import Leadership
from broker.sandbox import Sandbox
from broker.settings import WorkerSettings
from broker.wiring import Broker
from simulator.options import Settings as SimulatorSettings
from simulator.server import serving
from simulator.simulation import Simulation
from tests.conftest import a_broker
from tests.store.conftest import Clock
from worker.duties import Worker
from worker.provider.door import open_provider

TOKEN = "provider-token"
RUN = "run-1"


@dataclass(frozen=True)
class Provider:
    """A running simulator: its URL, its state, and its control plane over HTTP."""

    url: str
    simulation: Simulation
    http: httpx.AsyncClient

    async def faults(self, **changes: Any) -> None:
        (await self.http.patch("/_simulator/faults", json=changes)).raise_for_status()

    async def accounts(self) -> list[dict[str, Any]]:
        return list((await self.http.get("/_simulator/accounts")).json()["results"])

    async def sandbox_ids(self) -> list[str]:
        """The usable accounts, in the provider's order."""
        return [
            str(a["csp_id"])
            for a in await self.accounts()
            if a["account_type"] == "sandbox" and a["state"] == "active" and a["deleted_at"] is None
        ]

    async def deletions(self) -> list[str]:
        """The paths of all deletions that were asked for."""
        journal = (await self.http.get("/_simulator/journal")).json()["results"]
        return [entry["path"] for entry in journal if entry["method"] == "DELETE"]


@asynccontextmanager
async def a_provider(**settings: Any) -> AsyncIterator[Provider]:
    values: dict[str, Any] = {"sandboxes": 10, "noise": 3, "token": TOKEN, "delete_latency_s": 0}
    simulation = Simulation(SimulatorSettings(**(values | settings)))
    async with serving(simulation) as url, httpx.AsyncClient(base_url=url) as http:
        yield Provider(url, simulation, http)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """The wall clock of worker and broker: in 2096, as the engine removes what its TTL says is past by ours."""
    return Clock(4_000_000_000)


_scopes = itertools.count()


@asynccontextmanager
async def a_worker(
    core: Broker, provider: Provider, clock: Callable[[], float], **more: Any
) -> AsyncIterator[Worker]:
    """A worker that leads. Two of them both do: each in an election of its own, as no two ever should."""
    monotonic, scope = more.pop("monotonic", time.monotonic), more.pop("scope", None)
    values = {"CSP_BASE_URL": provider.url, "CSP_PAGE_SIZE": "4", "CSP_DELETES_PER_SEC": "1000"}
    settings = worker_settings(**(values | more))
    async with (
        open_provider(settings, core.metrics, clock=monotonic) as door,
        a_leader(core, scope=scope) as leadership,
    ):
        yield Worker(settings, core, door, leadership, clock=clock, monotonic=monotonic)


def worker_settings(**more: Any) -> WorkerSettings:
    values = {"BROKER_ENV": "development", "BROKER_TENANT": "acme", "CSP_API_TOKEN": TOKEN}
    return WorkerSettings.model_validate(values | more)


@asynccontextmanager
async def a_leader(core: Broker, *, scope: str | None = None, holder: str = "test") -> AsyncIterator[Leadership]:
    """One that leads: in an election of its own, unless a scope is given."""
    scope = scope or f"test-{next(_scopes)}"
    leadership = Leadership(core.leader, core.metrics, scope=scope, holder=holder, lease_s=60)
    await leadership.stand_by()
    keeping = asyncio.create_task(leadership.keep())
    yield leadership
    keeping.cancel()


@pytest.fixture
async def core(ministack: str, table_name: str, clock: Clock) -> AsyncIterator[Broker]:
    async with a_broker(ministack, table_name, clock=clock) as broker:
        yield broker


@pytest.fixture
async def worker(core: Broker, provider: Provider, clock: Clock) -> AsyncIterator[Worker]:
    async with a_worker(core, provider, clock) as running:
        yield running


async def until(fact: Callable[[], Awaitable[bool]], *, within_s: float = 30) -> None:
    """Wait for something that happens in another process."""
    async with asyncio.timeout(within_s):
        while not await fact():  # noqa: ASYNC110  it has no event for us
            await asyncio.sleep(0.03)


Fetch = Callable[[str], Awaitable[Sandbox]]


@pytest.fixture
def stored(core: Broker) -> Fetch:
    """The sandbox as it is stored now; fails where there is none."""

    async def fetch(sandbox_id: str) -> Sandbox:
        sandbox = await core.sandboxes.get("acme", sandbox_id)
        assert sandbox is not None, f"{sandbox_id} is not in the store"
        return sandbox

    return fetch
