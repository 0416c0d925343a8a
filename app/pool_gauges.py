"""The pools' gauges for a scrape: the worker's snapshots, read once a minute at most, stale when need be."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge

from broker.errors import BrokerError
from broker.metrics import Metrics
from broker.store.gauges import GaugesStore
from broker.store.tenants import Tenants

log = logging.getLogger("app")

CACHE_S: Final = 60.0
WAIT_S: Final = 1.0
MAX_TENANTS: Final = 200
"""So many are shown, this installation's own first, then by name: series are bounded. The gauge of those left
out says when that was not all."""


class PoolGauges:
    """Refreshes the gauges single-flight. A scrape waits a second at the most, and never fails for the store."""

    def __init__(
        self,
        store: GaugesStore,
        tenants: Tenants,
        metrics: Metrics,
        *,
        tenant: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._tenant = tenant
        self._clock = clock
        self._monotonic = monotonic
        self._asked_at: float | None = None
        self._refresh: asyncio.Task[None] | None = None
        self._counted_at: dict[str, int] = {}
        registry = metrics.registry
        self._pool = Gauge(
            "broker_pool_sandboxes",
            "Sandboxes by state, as the worker last counted.",
            ["tenant", "status"],
            registry=registry,
        )
        self._missing = Gauge(
            "broker_pool_missing",
            "Sandboxes in use that the provider no longer lists.",
            ["tenant"],
            registry=registry,
        )
        self._age_s = Gauge(
            "broker_pool_snapshot_age_seconds", "Age of the pool's numbers.", ["tenant"], registry=registry
        )
        self._left_out = Gauge(
            "broker_pool_tenants_left_out", f"Tenants beyond the {MAX_TENANTS} that are shown.", registry=registry
        )
        self._refreshes = Counter(
            "broker_pool_refreshes_total", "Reads of the worker's snapshots.", ["outcome"], registry=registry
        )

    async def refresh(self) -> None:
        """Bring the gauges up to date, where they are older than a minute."""
        now = self._monotonic()
        idle = self._refresh is None or self._refresh.done()
        if idle and (self._asked_at is None or now - self._asked_at >= CACHE_S):
            self._asked_at = now
            self._refresh = asyncio.create_task(self._read())
        if self._refresh is not None and not self._refresh.done():
            await asyncio.wait({self._refresh}, timeout=WAIT_S)
        for tenant, counted_at in self._counted_at.items():
            self._age_s.labels(tenant).set(max(0.0, self._clock() - counted_at))

    async def _read(self) -> None:
        try:
            names = list(dict.fromkeys([self._tenant, *[tenant.name async for tenant in self._tenants.all()]]))
            snapshots = await self._store.read_many(names[:MAX_TENANTS])
        except BrokerError as error:
            self._refreshes.labels("failed").inc()
            log.warning("pool gauges are stale: the store did not answer", extra={"why": str(error)})
            return
        self._refreshes.labels("read").inc()
        self._left_out.set(max(0, len(names) - MAX_TENANTS))
        for tenant in self._counted_at.keys() - snapshots.keys():
            self._show_no_more(tenant)
        for tenant, snapshot in snapshots.items():
            self._counted_at[tenant] = snapshot.at
            self._missing.labels(tenant).set(snapshot.missing)
            for state, count in snapshot.states.items():
                self._pool.labels(tenant, state.value).set(count)

    def _show_no_more(self, tenant: str) -> None:
        """It is among those left out now, or gone: its last numbers would stand, and grow older, for ever."""
        del self._counted_at[tenant]
        for gauge in (self._missing, self._age_s, self._pool):
            gauge.remove_by_labels({"tenant": tenant})
