"""Which tenants this worker serves, and what it holds for each: a door to its provider, its duties, their ticks.

Nothing of that is shared between tenants but the store: a provider that hangs holds up its own tenant.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx

from broker.errors import BrokerError
from broker.leadership import Leadership
from broker.settings import WorkerSettings
from broker.store.allowed import Guard
from broker.tenant import Tenant
from broker.wiring import Broker
from worker.duties import Worker
from worker.provider.connection import connection_of
from worker.provider.door import open_provider
from worker.schedule import Schedule

log = logging.getLogger("worker")

REFRESH_S: Final = 5.0
"""How often the tenants are read: a new one, or a changed connection, is served within three times that."""
SPREAD_S: Final = 8.0
"""The first ticks of a tenant come at some moment of this span."""
REST_S: Final = 10.0
"""Where there is nothing to delete and no job is asked for, a tenant is looked at so often. The installation's own
is at `CLEANUP_POLL_SEC`, always."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What is held for one tenant."""

    tenant: Tenant  # as it was when its door was opened
    worker: Worker
    door: AsyncExitStack


class Roster:
    """Serves the installation's own tenant, and every other one in the table. Tenants only ever come to be."""

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        leadership: Leadership,
        *,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._leadership = leadership
        self._environment = environment
        self._session = Guard(settings.process, table_name=None).session()
        self._certificates = httpx.create_ssl_context()
        self._served: dict[str, Served] = {}
        self._leaving: dict[Served, asyncio.Task[None]] = {}
        self._schedule: Schedule | None = None

    async def __aenter__(self) -> Self:
        own = Tenant(name=self._settings.tenant)
        try:
            own = await self._broker.tenants.get(own.name)
        except BrokerError as error:
            log.warning("the tenant could not be read: served as the environment says", extra={"why": str(error)})
        await self._engage(own)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for leaving in self._leaving.values():
            leaving.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        await asyncio.gather(*(served.door.aclose() for served in self._served.values()), return_exceptions=True)

    def workers(self) -> list[Worker]:
        """Each tenant's duties, and those that are about to end."""
        return [served.worker for served in (*self._served.values(), *self._leaving)]

    def worker_of(self, tenant: str) -> Worker | None:
        """Its duties, once it is served."""
        served = self._served.get(tenant)
        return None if served is None else served.worker

    def details(self) -> dict[str, Any]:
        """What /readyz tells of the parts: of the provider and the alerts, the installation's own tenant's."""
        own, seen = self._served[self._settings.tenant].worker, self._leadership.seen
        return {
            "leader": "me" if self._leadership.leading else (seen.holder if seen else None),
            "tenants": len(self._served),
            "provider": own.provider.states(),
            "alerts": sorted(own.alerts.active),
        }

    async def serve(self, schedule: Schedule) -> None:
        """Tick every tenant's jobs, those of tenants that are new or changed as well, until cancelled."""
        self._schedule = schedule
        try:
            for served in self._served.values():
                self._begin(served)
            while True:
                try:
                    await self.refresh()
                except BrokerError as error:
                    log.warning("tenants not read, those known are served", extra={"why": str(error)})
                except Exception:
                    log.exception("tenants not read, those known are served")
                await asyncio.sleep(REFRESH_S)
        finally:
            self._schedule = None

    async def refresh(self) -> None:
        """Take up tenants that are new, and those anew whose connection or prefixes have changed.

        Raises:
            StoreThrottled, StoreUnavailable: they could not be read; nothing has changed.
        """
        for tenant in [tenant async for tenant in self._broker.tenants.all()]:
            served = self._served.get(tenant.name)
            if served is not None and tenant.version <= served.tenant.version:
                continue  # the index may show what was before
            if served is not None and _supply(tenant) == _supply(served.tenant):
                continue
            try:
                await self._engage(tenant)
            except Exception:
                log.exception("tenant not taken up, tried again soon", extra={"tenant": tenant.name})
            else:
                log.info("tenant taken up", extra={"tenant": tenant.name, "anew": served is not None})

    async def _engage(self, tenant: Tenant) -> None:
        """Open the tenant's door and begin its duties; those it had end by themselves."""
        settings = self._settings.model_copy(update={"tenant": tenant.name})
        connection = connection_of(
            tenant.provider, self._settings, environment=self._environment, session=self._session
        )
        stack = AsyncExitStack()
        door = await stack.enter_async_context(
            open_provider(settings, self._broker.metrics, connection=connection, verify=self._certificates)
        )
        before = self._served.get(tenant.name)
        if before is not None:
            if self._schedule is not None:
                self._schedule.drop(tenant.name)
            self._leaving[before] = asyncio.create_task(self._let_go(before))
        served = Served(tenant, Worker(settings, self._broker, door, self._leadership), stack)
        self._served[tenant.name] = served
        self._begin(served)

    def _begin(self, served: Served) -> None:
        if self._schedule is None:
            return
        own = served.tenant.name == self._settings.tenant
        self._schedule.add(
            served.tenant.name,
            served.worker.jobs(),
            may_run=served.worker.may_run,
            spread_s=0.0 if own else SPREAD_S,
            rest_s=0.0 if own else REST_S,
        )

    async def _let_go(self, before: Served) -> None:
        """Close a door once its calls are done."""
        try:
            await before.worker.retire(self._settings.delete_timeout_s + self._settings.services_timeout_s)
        except Exception:
            log.exception("a tenant's former duties did not end well", extra={"tenant": before.tenant.name})
        finally:
            self._leaving.pop(before, None)
            await before.door.aclose()

    async def hand_back(self, timeout_s: float) -> None:
        """Begin nothing more, and give requested jobs back to the queue, of all tenants at once."""
        await self._of_all(lambda worker: worker.hand_back(timeout_s))

    async def finish(self, timeout_s: float) -> None:
        """Finish the deletions in hand, of all tenants at once, within the time."""
        await self._of_all(lambda worker: worker.cleaner.drain(timeout_s))

    async def stand_down(self) -> None:
        """Another leads."""
        await self._of_all(lambda worker: worker.stand_down())

    async def _of_all(self, act: Callable[[Worker], Awaitable[None]]) -> None:
        workers = self.workers()
        ended = await asyncio.gather(*map(act, workers), return_exceptions=True)
        for worker, error in zip(workers, ended, strict=True):
            if isinstance(error, BaseException):
                log.error("a tenant's work did not end well", extra={"tenant": worker.tenant}, exc_info=error)


def _supply(tenant: Tenant) -> tuple[object, ...]:
    """What the door and the listing depend on."""
    return tenant.provider, tenant.prefixes
