"""All that runs in the property test: two APIs, workers and a provider on one store, for two tenants, by clocks
that jump."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from app.main import create_app, parts_of
from broker.leadership import Leadership
from broker.metrics import Metrics
from broker.store.leader import LEADER_SCOPE
from broker.wiring import Broker, build
from local.store_proxy import StoreProxy
from simulator.options import Settings as SimulatorSettings
from simulator.server import serving
from simulator.simulation import Simulation
from tests.api.keys import bearer
from tests.api.service import ADMIN_TOKEN, a_client, api_settings
from tests.conftest import a_broker, settings_for
from tests.store.conftest import Clock
from tests.worker.conftest import TOKEN, worker_settings
from worker.duties import Worker
from worker.provider.door import open_provider

START = 2_000_000_000
"""Far ahead of the engine's own clock: it takes nothing for run out by its TTL."""
OURS, THEIRS = "acme", "blue"
"""The installation's own tenant, and one that shares its provider."""
TENANTS = {OURS: 2, THEIRS: 1}
"""And their shards."""
LAB_S = 4 * 3600
MOST_CLAIMS = 2
LEASE_S = 0.1
"""Of the leaders: it lapses by clocks of their own, which stand still until one is to take over."""


class Monotonic:
    """The monotonic clock of all processes: runs as the real one does, and can be set ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@dataclass
class World:
    """The running parts. `core` is for looking: no process shares it."""

    proxy: StoreProxy
    table_name: str
    core: Broker
    simulation: Simulation
    provider_url: str
    clock: Clock
    monotonic: Monotonic
    stack: AsyncExitStack
    apis: list[httpx.AsyncClient] = field(default_factory=list)
    workers: list[dict[str, Worker]] = field(default_factory=list)  # each process's, by tenant

    @property
    def now(self) -> int:
        return int(self.clock.now)

    def jump(self, seconds: float) -> None:
        self.clock.now += seconds
        self.monotonic.ahead_s += seconds

    def a_core(self) -> Broker:
        """What one process has in memory, over the store that all share."""
        return build(
            self.core.client,
            Metrics(),
            settings_for(self.proxy.url, self.table_name),
            lease_s=LAB_S,
            max_per_holder=MOST_CLAIMS,
            clock=self.clock,
            monotonic=self.monotonic,
        )

    async def start_api(self) -> None:
        core = self.a_core()
        settings = api_settings(self.proxy.url, self.table_name)
        app = create_app(settings, clock=self.clock, monotonic=self.monotonic)
        app.state.parts = parts_of(app, core, app.state.metrics, clock=self.clock)
        app.state.key_ring.open(core.keys)
        app.state.ceilings.open(core.tenants)
        self.stack.push_async_callback(app.state.key_ring.close)
        self.stack.push_async_callback(app.state.ceilings.close)
        app.state.readiness.booted(core.client, core.modes)
        self.apis.append(await self.stack.enter_async_context(a_client(app)))

    async def start_leader(self) -> None:
        """A further worker takes the lead. The one before does not know yet, and goes on."""
        core = self.a_core()
        own_clock = Clock(0)
        leadership = Leadership(
            core.leader,
            core.metrics,
            scope=LEADER_SCOPE,
            holder=f"worker-{len(self.workers)}",
            lease_s=LEASE_S,
            clock=self.clock,
            monotonic=own_clock,
        )
        standing_by = asyncio.create_task(leadership.stand_by())
        while not standing_by.done():
            await asyncio.sleep(LEASE_S / 4)
            if not leadership.leading:
                own_clock.now += LEASE_S
        self.workers.append({tenant: await self._duties(tenant, core, leadership) for tenant in TENANTS})

    async def _duties(self, tenant: str, core: Broker, leadership: Leadership) -> Worker:
        settings = worker_settings(
            BROKER_TENANT=tenant,
            CSP_BASE_URL=self.provider_url,
            CSP_PAGE_SIZE="4",
            CSP_READ_ATTEMPTS="1",
            CSP_READ_TIMEOUT_SEC="2",
            CSP_DELETE_TIMEOUT_SEC="0.5",
            CSP_DELETES_PER_SEC="1000",
            CSP_DELETES_PER_SEC_MIN="1000",
            CLEANUP_CONCURRENCY_MIN="20",
            CLEANUP_MAX_ATTEMPTS="3",
        )
        door = await self.stack.enter_async_context(
            open_provider(settings, core.metrics, verify=_certificates(), clock=self.monotonic)
        )
        return Worker(settings, core, door, leadership, clock=self.clock, monotonic=self.monotonic)

    async def ask(
        self, method: str, path: str, token: str, *, api: int = 0, body: Any = None, **headers: str
    ) -> httpx.Response:
        named = bearer(token) | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.apis[api % len(self.apis)].request(method, path, headers=named, json=body)

    async def order(self, method: str, path: str, body: Any = None, *, token: str = ADMIN_TOKEN) -> httpx.Response:
        """As an operator or admin: the installation's own, unless a token is given."""
        return await self.ask(method, f"/v1/admin{path}", token, body=body)

    async def settle(self) -> None:
        """Wait until no worker has anything in hand."""
        for duties in self.workers:
            for worker in duties.values():
                await worker.cleaner.idle()
                await worker.runner.idle()

    def at_work(self) -> bool:
        """Whether a worker has anything in hand, and may write at any moment."""
        return any(w.cleaner._running for duties in self.workers for w in duties.values())

    def writes(self) -> int:
        """How many there were. While nobody is at work the table is as it was when it was as many."""
        calls = self.proxy.counts.calls
        return sum(calls[name] for name in ("TransactWriteItems", "UpdateItem", "PutItem", "DeleteItem"))


@cache
def _certificates() -> ssl.SSLContext:
    """Shared, as they are read from disk; no connection here is encrypted."""
    return httpx.create_ssl_context()


@asynccontextmanager
async def a_world(store_url: str, table_name: str, *, names: list[str]) -> AsyncIterator[World]:
    """Two APIs and a worker that leads, over a provider with accounts of these names and a store without any."""
    clock, monotonic = Clock(START), Monotonic()
    simulation = Simulation(SimulatorSettings(sandboxes=0, noise=2, token=TOKEN, delete_latency_s=0), clock=clock)
    for name in names:
        simulation.inventory.add(now=START, name=name)
    async with (
        AsyncExitStack() as stack,
        serving(simulation) as provider_url,
        StoreProxy(upstream_url=store_url) as proxy,
        a_broker(proxy.url, table_name, clock=clock, monotonic=monotonic) as core,
    ):
        try:
            for tenant, shards in TENANTS.items():
                await core.tenants.ensure(tenant, shards=shards, now=START)
            world = World(proxy, table_name, core, simulation, provider_url, clock, monotonic, stack)
            await world.start_api()
            await world.start_api()
            await world.start_leader()
            yield world
        finally:
            await stack.aclose()
            await core.client.call("delete_table", TableName=table_name)
