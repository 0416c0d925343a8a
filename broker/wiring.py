"""The one place that builds what the processes share."""

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

from broker.allocation import Allocator
from broker.boot import Boot
from broker.candidates import Candidates
from broker.lifecycle import MAX_EXTENSION_S, Lifecycle
from broker.metrics import Metrics
from broker.operations import Operations
from broker.peers import Peers
from broker.permission import Permissions
from broker.quota import Quota
from broker.settings import CoreSettings
from broker.store.allowed import Guard
from broker.store.batches import Batches
from broker.store.boots import Boots
from broker.store.claims import Claims
from broker.store.client import StoreClient
from broker.store.door import open_door
from broker.store.event_log import EventLog
from broker.store.events import Events
from broker.store.gauges import GaugesStore
from broker.store.job_refusals import JobRefusals
from broker.store.jobs import Jobs
from broker.store.keys import Keys
from broker.store.known import Known
from broker.store.leader import LeaderStore
from broker.store.modes import Modes
from broker.store.presence import Presence
from broker.store.reports import WorkerReports
from broker.store.sandboxes import Sandboxes
from broker.store.schema import claim_table
from broker.store.slots import Slots
from broker.store.sync_state import SyncStates
from broker.store.table import Table
from broker.store.tenants import Tenants


@dataclass(frozen=True, slots=True)
class Broker:
    """The shared core of one process."""

    metrics: Metrics
    client: StoreClient
    events: Events
    tenants: Tenants
    modes: Modes
    claims: Claims
    sandboxes: Sandboxes
    batches: Batches
    boots: Boots
    leader: LeaderStore
    peers: Peers
    sync_states: SyncStates
    gauges: GaugesStore
    reports: WorkerReports
    jobs: Jobs
    quota: Quota
    event_log: EventLog
    keys: Keys
    permissions: Permissions
    allocator: Allocator
    lifecycle: Lifecycle
    operations: Operations


def table_of(settings: CoreSettings) -> Table:
    return Table(settings.table_name, settings.status_index, settings.track_index)


@asynccontextmanager
async def open_client(
    settings: CoreSettings, *, metrics: Metrics, guard: Guard | None = None
) -> AsyncIterator[StoreClient]:
    """The process's one client of the store, behind the guard of what the process may call."""
    guard = guard or Guard(settings.process, table_name=settings.table_name)
    async with open_door(settings, guard) as door:
        client = StoreClient(
            door,
            table_of(settings),
            timeout_s=settings.store_timeout_s,
            connections=settings.store_connections,
            metrics=metrics,
        )
        with closing(client):
            yield client


@asynccontextmanager
async def open_broker(
    settings: CoreSettings,
    *,
    metrics: Metrics,
    boot: Boot,
    lease_s: int = 4 * 3600,
    max_extension_s: int = MAX_EXTENSION_S,
    max_per_holder: int = 5,
    guard: Guard | None = None,
) -> AsyncIterator[Broker]:
    """Connect, make sure that the table is ours, build the core.

    Raises:
        ForeignTable: the table is missing, or not the broker's.
        StoreUnavailable: the store does not answer.
    """
    boot.phase("client")
    async with open_client(settings, metrics=metrics, guard=guard) as client:
        boot.phase("table")
        await claim_table(client, now=int(time.time()))
        boot.phase("reads")
        broker = build(
            client,
            metrics,
            settings,
            lease_s=lease_s,
            max_extension_s=max_extension_s,
            max_per_holder=max_per_holder,
        )
        await broker.tenants.ensure(settings.tenant, shards=settings.shards, now=int(time.time()))
        await boot.look_back(settings, broker.boots)
        await broker.modes.current()  # known from the first moment on, whatever becomes of the store
        yield broker


def build(
    client: StoreClient,
    metrics: Metrics,
    settings: CoreSettings,
    *,
    lease_s: int,
    max_per_holder: int,
    max_extension_s: int = MAX_EXTENSION_S,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Broker:
    """The core over one client; no call is made."""
    known = Known(client, monotonic=monotonic)
    events = Events(client)
    tenants = Tenants(client, known, events, default_shards=settings.shards)
    claims = Claims(client)
    modes = Modes(client, known, tenants, events, metrics)
    slots = Slots(client)
    sandboxes = Sandboxes(client, tenants, claims, slots, events)
    quota = Quota(slots, sandboxes, monotonic=monotonic)
    jobs = Jobs(client, tenants, events, clock=clock)
    keys = Keys(client, tenants, events)
    peers = Peers(Presence(client, "api"), secrets.token_hex(8), metrics, clock=clock, monotonic=monotonic)
    candidates = Candidates(sandboxes, tenants, metrics, share=lambda: peers.share, monotonic=monotonic)
    return Broker(
        metrics=metrics,
        client=client,
        events=events,
        tenants=tenants,
        modes=modes,
        claims=claims,
        sandboxes=sandboxes,
        batches=Batches(client, sandboxes),
        boots=Boots(client),
        leader=LeaderStore(client),
        peers=peers,
        sync_states=SyncStates(client),
        gauges=GaugesStore(client),
        reports=WorkerReports(client),
        quota=quota,
        event_log=EventLog(client),
        jobs=jobs,
        keys=keys,
        permissions=Permissions(keys, JobRefusals(client, jobs, tenants, events), clock=clock),
        allocator=Allocator(
            sandboxes,
            claims,
            candidates,
            tenants,
            quota,
            modes,
            metrics,
            lease_s=lease_s,
            max_per_holder=max_per_holder,
            clock=clock,
        ),
        lifecycle=Lifecycle(
            sandboxes, tenants, metrics, lease_s=lease_s, max_extension_s=max_extension_s, clock=clock
        ),
        operations=Operations(sandboxes, modes, metrics, clock=clock),
    )
