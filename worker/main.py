"""The worker process: boot, schedule, drain."""

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import httpx
import uvloop

from broker import logs
from broker.errors import ForeignTable, StoreThrottled, StoreUnavailable
from broker.loop_health import watch_loop
from broker.metrics import Metrics
from broker.process import begin, port_is_free
from broker.settings import EXIT_CONFIG, WorkerSettings
from broker.version import VERSION
from broker.wiring import Broker, open_broker
from worker.health import health_app, health_server
from worker.jobs.clean import Cleaner
from worker.jobs.expire import expire
from worker.jobs.gauges import count_pool
from worker.jobs.purge import purge
from worker.jobs.sync import Sync
from worker.provider.client import ProviderClient
from worker.schedule import Job, Schedule

log = logging.getLogger("worker")

RETRY_BOOT_S: Final = 1.0


class Worker:
    """One tenant's jobs over one broker core and one provider connection."""

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._clock = clock
        self.provider = ProviderClient(
            http,
            token=settings.provider_token,
            page_size=settings.page_size,
            read_timeout_s=settings.read_timeout_s,
            delete_timeout_s=settings.delete_timeout_s,
            metrics=broker.metrics,
        )
        self.cleaner = Cleaner(
            broker.sandboxes,
            self.provider,
            broker.metrics,
            tenant=settings.tenant,
            concurrency=settings.clean_concurrency,
            max_attempts=settings.clean_max_attempts,
            retry_base_s=settings.retry_base_s,
            retry_cap_s=settings.retry_cap_s,
            delete_timeout_s=settings.delete_timeout_s,
            clock=clock,
        )

    def jobs(self) -> list[Job]:
        """Every job of the worker, with its interval."""
        s = self._settings
        return [
            Job("sync", self.sync, s.sync_interval_s),
            Job("clean", self.cleaner.tick, s.clean_poll_s, first_after_s=1, quiet=True),
            Job("sweep", self.cleaner.sweep, s.sweep_interval_s, first_after_s=s.sweep_interval_s, quiet=True),
            Job("expire", self.expire, s.expiry_interval_s, first_after_s=2, quiet=True),
            Job("purge", self.purge, s.purge_interval_s, first_after_s=5, quiet=True),
            Job("gauges", self.gauges, s.gauges_interval_s, first_after_s=3, quiet=True),
        ]

    async def sync(self, request_id: str) -> Counter[str]:
        sync = Sync(
            self._broker.sandboxes,
            self.provider,
            tenant=self._settings.tenant,
            request_id=request_id,
            now=int(self._clock()),
        )
        outcome = await sync.run()
        await self.gauges(request_id)
        return outcome

    async def expire(self, request_id: str) -> Counter[str]:
        return await expire(
            self._broker.sandboxes,
            self._broker.lifecycle,
            tenant=self._settings.tenant,
            now=int(self._clock()),
            grace_s=self._settings.grace_s,
            request_id=request_id,
        )

    async def purge(self, request_id: str) -> Counter[str]:
        return await purge(
            self._broker.sandboxes,
            tenant=self._settings.tenant,
            now=int(self._clock()),
            after_s=round(self._settings.purge_after_hours * 3600),
            request_id=request_id,
        )

    async def gauges(self, _: str) -> Counter[str]:
        tenant = self._settings.tenant
        await count_pool(self._broker.sandboxes, self._broker.gauges, tenant=tenant, now=int(self._clock()))
        return Counter()


async def run(settings: WorkerSettings) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the process's exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    schedule = Schedule(metrics)
    server = health_server(health_app(schedule, metrics), host=settings.host, port=settings.port)
    serving = asyncio.create_task(server.serve())
    watching = asyncio.create_task(watch_loop(metrics))
    try:
        while not stop.is_set():
            try:
                async with open_broker(settings, metrics=metrics) as broker:
                    await _work(settings, broker, schedule, stop)
            except (StoreUnavailable, StoreThrottled) as error:
                log.warning("store not reachable yet, boot waits", extra={"why": str(error)})
                schedule.beat_at = time.monotonic()
                await asyncio.sleep(RETRY_BOOT_S)
    except ForeignTable as error:
        log.error("this table is not the broker's", extra={"why": str(error)})  # noqa: TRY400
        return EXIT_CONFIG
    finally:
        watching.cancel()
        server.should_exit = True
        await serving
    return 0


async def _work(settings: WorkerSettings, broker: Broker, schedule: Schedule, stop: asyncio.Event) -> None:
    limits = httpx.Limits(max_connections=settings.clean_concurrency + 4)
    async with httpx.AsyncClient(base_url=settings.provider_url, limits=limits, timeout=None) as http:  # noqa: S113  ProviderClient has the deadlines
        worker = Worker(settings, broker, http)
        for job in worker.jobs():
            schedule.add(job)
        schedule.start()
        log.info("ready", extra={"version": VERSION, "tenant": settings.tenant})
        await stop.wait()
        await _drain(settings, worker, schedule)


async def _drain(settings: WorkerSettings, worker: Worker, schedule: Schedule) -> None:
    """Start nothing new, finish what is in hand, leave the rest to its leases; all within one deadline."""
    ends_at = time.monotonic() + settings.drain_timeout_s
    log.info("draining", extra={"timeout_s": settings.drain_timeout_s})
    schedule.pause()
    await schedule.until_idle(settings.drain_timeout_s)
    await worker.cleaner.drain(max(0.0, ends_at - time.monotonic()))
    schedule.stop()
    log.info("stopped")


def main() -> int:
    """Run the worker; the exit code is the process's."""
    settings = begin(WorkerSettings, module="worker", what="The sandbox broker's worker.")
    if isinstance(settings, int):
        return settings
    if not port_is_free(settings.host, settings.port, variable="WORKER_PORT"):
        return 1
    logs.configure("worker", level=settings.log_level, secrets=settings.secrets())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings))
