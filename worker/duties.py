"""What the worker does for one tenant: its jobs, over the shared broker core and a provider's door of its own."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from broker.errors import BrokerError, LeadershipLost, WriteConflict
from broker.job import Kind
from broker.leadership import Leadership
from broker.metrics import Metrics
from broker.sandbox import State
from broker.selection import Selector
from broker.settings import WorkerSettings
from broker.store.reports import WorkerReport
from broker.tenant import Tenant, origin_of
from broker.version import VERSION
from broker.wiring import Broker
from worker.alerts import TODO, Alerts
from worker.job_context import Context, Handler
from worker.job_run import Pace
from worker.jobs.bulk import bulk_handler, cause_of
from worker.jobs.clean import Cleaner
from worker.jobs.deletion import Rules, Tools
from worker.jobs.expire import expire
from worker.jobs.gauges import count_pool
from worker.jobs.purge import purge
from worker.jobs.revive import revive
from worker.jobs.sync import Progress, Sync
from worker.provider.door import Door
from worker.runner import Runner
from worker.schedule import Job
from worker.sync_watch import SyncWatch

log = logging.getLogger("worker")

CONFIRMED_FOR_S: Final = 3600
"""How long an operator's word on a listing is good: not for what a job sees that is queued again days later."""
REPORT_S: Final = 5.0
"""How often the leader says how it is."""
SEAT_S: Final = 60.0
"""How often what was allocated before a quota was set gets its slot."""


class Worker:
    """One tenant's jobs, `settings.tenant`'s. They run while this process leads."""

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        door: Door,
        leadership: Leadership,
        *,
        opened_for: Tenant | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`opened_for`: the tenant as it was when the door was opened; None: its connection never changes."""
        self._settings = settings
        self._opened_for = opened_for
        self._broker = broker
        self._leadership = leadership
        self._clock = clock
        self._syncing = asyncio.Lock()
        self._origin = door.connection.origin
        self._retired = False
        self._told: tuple[object, ...] | None = None  # with the last report
        self._news = True
        self.tenant = settings.tenant
        self.provider = door.client
        self.metrics: Metrics = broker.metrics
        self.alerts = Alerts(broker.metrics, tenant=settings.tenant, monotonic=monotonic)
        self._watch = SyncWatch(
            door.connection, tenant=settings.tenant, interval_s=settings.sync_interval_s, clock=clock
        )
        self.cleaner = Cleaner(
            Tools(
                sandboxes=broker.sandboxes,
                sync_states=broker.sync_states,
                provider=door.client,
                services=door.services,
                leads_to=door.leads_to,
                todo=lambda kind: door.connection.todo(kind, settings.tenant),
                rules=Rules(
                    lease_s=settings.clean_lease_s,
                    max_attempts=settings.clean_max_attempts,
                    retry_base_s=settings.retry_base_s,
                    retry_cap_s=settings.retry_cap_s,
                ),
                leading=lambda: leadership.leading,
                may_begin=self._may_begin,
                tried=self.alerts.tried,
                clock=clock,
                monotonic=monotonic,
            ),
            broker.metrics,
            tenant=settings.tenant,
        )
        self.runner = Runner(
            broker.jobs,
            self._handlers(),
            broker.metrics,
            permissions=broker.permissions,
            tenant=settings.tenant,
            pace=Pace(lease_s=settings.leader_lease_s),
            clock=clock,
            monotonic=monotonic,
        )

    def _handlers(self) -> dict[Kind, Handler]:
        """What does the work of each kind of requested job."""
        operations = self._broker.operations
        selector = Selector(self._broker.sandboxes, self._broker.tenants)

        async def delete(context: Context, sandbox_id: str) -> None:
            stale = context.params["status"] == State.STALE.value
            act = operations.remove_stale if stale else operations.abandon
            await act(context.tenant, sandbox_id, cause=cause_of(context))

        async def retry(context: Context, sandbox_id: str) -> None:
            await operations.retry(context.tenant, sandbox_id, cause=cause_of(context))

        async def quarantine(context: Context, sandbox_id: str) -> None:
            await operations.quarantine(context.tenant, sandbox_id, cause=cause_of(context))

        async def force_release(context: Context, sandbox_id: str) -> None:
            begun_by = context.job.created_at  # who came after the order is not meant
            await operations.force_release(context.tenant, sandbox_id, cause=cause_of(context), begun_by=begun_by)

        return {
            Kind.SYNC: self._requested_sync,
            Kind.CLEANUP: self._requested_cleanup,
            Kind.BULK_DELETE: bulk_handler(selector, delete),
            Kind.BULK_RETRY: bulk_handler(selector, retry),
            Kind.BULK_QUARANTINE: bulk_handler(selector, quarantine),
            Kind.BULK_FORCE_RELEASE: bulk_handler(selector, force_release),
        }

    async def _requested_sync(self, context: Context) -> Counter[str]:
        age_s = self._clock() - context.job.created_at
        confirmed = context.params.get("confirm") == "true" and age_s <= CONFIRMED_FOR_S
        return await self.sync(
            context.request_id, confirmed=confirmed, progress=lambda seen: context.progress(done=seen)
        )

    async def _requested_cleanup(self, context: Context) -> Counter[str]:
        context.progress(total=await self._broker.sandboxes.count(context.tenant, State.PENDING_DELETION))

        async def after_each(outcome: Counter[str]) -> None:
            context.progress(done=outcome["deleted"], failed=outcome.total() - outcome["deleted"])
            await context.checkpoint()

        outcome = await self.cleaner.sweep(context.request_id, after_each)
        context.progress(done=outcome["deleted"], failed=outcome.total() - outcome["deleted"])
        return outcome

    def jobs(self) -> list[Job]:
        """Every job of the worker, with its interval."""
        s = self._settings
        return [
            Job("sync", self.sync, s.sync_interval_s),
            Job("clean", self.cleaner.tick, s.clean_poll_s, 1, quiet=True, at_work=lambda: self.cleaner.at_work),
            Job(
                "sweep",
                self.cleaner.sweep,
                s.sweep_interval_s,
                first_after_s=min(10, s.sweep_interval_s),
                quiet=True,
            ),
            Job(
                "requested",
                self.runner.tick,
                s.clean_poll_s,
                first_after_s=0.5,
                quiet=True,
                at_work=lambda: self.runner.at_work,
            ),
            Job("expire", self.expire, s.expiry_interval_s, first_after_s=2, quiet=True),
            Job("purge", self.purge, s.purge_interval_s, first_after_s=5, quiet=True),
            Job("revive", self.revive, s.expiry_interval_s, first_after_s=5, quiet=True),
            Job("quota", self.seat, SEAT_S, first_after_s=4, quiet=True),
            Job(
                "report",
                self.report,
                REPORT_S,
                first_after_s=0.5,
                quiet=True,
                in_maintenance=True,
                at_work=lambda: self._news,
            ),
            Job("gauges", self.gauges, s.gauges_interval_s, first_after_s=3, quiet=True, in_maintenance=True),
        ]

    def _may_begin(self) -> bool:
        """Whether something new may begin this very moment, by the mode as it was last read."""
        mode = self._broker.modes.last
        return self._leadership.leading and not self._retired and (mode is None or mode.works)

    async def may_run(self, job: Job) -> bool:
        """Whether a tick may run now: not in another's term, and under maintenance only what changes nothing."""
        if self._retired or not self._leadership.leading:
            return False
        try:
            mode = await self._broker.modes.current()
        except BrokerError:  # the store never answered: the job itself will say so
            return True
        return mode.works or job.in_maintenance

    async def sync(
        self, request_id: str, *, confirmed: bool = False, progress: Progress = lambda _: None
    ) -> Counter[str]:
        async with self._syncing:  # the schedule's and an operator's would race each other over the fence
            sync = Sync(
                self._broker,
                self.provider,
                tenant=await self._as_opened_for(),
                origin=self._origin,
                installation=origin_of(self._settings.provider_url),
                request_id=request_id,
                now=int(self._clock()),
                fence=self._fence,
                confirmed=confirmed,
                apart_s=self._settings.sync_interval_s / 2,
                progress=progress,
            )
            with self._watch.watching():
                outcome = await sync.run()
        await self.gauges(request_id)
        return outcome

    async def _as_opened_for(self) -> Tenant:
        """The tenant, if this door still is its own: another provider's listing, or one that is judged by other
        prefixes than it was asked for with, would make other tenants' accounts its own.

        Raises:
            LeadershipLost: others have these duties, or are about to; the roster sees to it.
            StoreThrottled, StoreUnavailable: it could not be read.
        """
        tenant = await self._broker.tenants.get(self._settings.tenant)
        if self._opened_for is not None and tenant.supply != self._opened_for.supply:
            tenant = await self._broker.tenants.present(self._settings.tenant)  # that was a second old, perhaps
            if tenant.supply != self._opened_for.supply:
                raise LeadershipLost
        return tenant

    def _fence(self) -> dict[str, Any]:
        """The check of the leader's term. What a provider listed that is the tenant's no more is written nowhere.

        Raises:
            LeadershipLost: another leads, or others have these duties.
        """
        if self._retired:
            raise LeadershipLost
        return self._leadership.fence()

    async def seat(self, _: str) -> Counter[str]:
        """Let what was allocated before the tenant had a quota count in it."""
        limit = (await self._broker.tenants.get(self._settings.tenant)).limits.max_live
        return Counter() if limit is None else await self._broker.quota.seat(self._settings.tenant, limit)

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

    async def revive(self, request_id: str) -> Counter[str]:
        return await revive(
            self._broker.sandboxes,
            tenant=self._settings.tenant,
            now=int(self._clock()),
            after_s=round(self._settings.failed_retry_hours * 3600),
            request_id=request_id,
        )

    async def gauges(self, _: str) -> Counter[str]:
        tenant, now = self._settings.tenant, int(self._clock())
        pool = await count_pool(self._broker.sandboxes, self._broker.gauges, tenant=tenant, now=now)
        oldest_s = 0 if pool.oldest_pending_at is None else max(0, now - pool.oldest_pending_at)
        self.alerts.evaluate(depth=pool.pending, oldest_pending_s=oldest_s)
        counts = {state.value: count for state, count in pool.states.items()}
        log.info("pool counted", extra={"tenant": tenant, "missing": pool.missing, **counts})  # terraform/logs.tf
        return Counter()

    async def report(self, _: str) -> Counter[str]:
        """Say who leads, how the provider does and which alerts are on, for `GET /v1/admin/worker`."""
        if (term := self._leadership.term) is not None and term.holder is not None:
            report = WorkerReport(
                at=int(self._clock()),
                holder=term.holder,
                fence=term.fence,
                version=VERSION,
                provider=self.provider.states(),
                alerts={alert.value: TODO[alert] for alert in sorted(self.alerts.active)} | self._watch.alerts(),
                sync_failure=self._watch.failure,
            )
            failing = self._watch.failure and self._watch.failure.why
            told = (report.fence, report.provider, report.alerts, failing)
            self._told, self._news = told, told != self._told
            with suppress(WriteConflict):  # another leads by now
                await self._broker.reports.write(self._settings.tenant, report)
        return Counter()

    async def hand_back(self, timeout_s: float) -> None:
        """Begin nothing more, and give requested jobs back to the queue, within the time."""
        self.cleaner.begin_nothing_more()
        await self.runner.drain(timeout_s)

    async def retire(self, timeout_s: float) -> None:
        """Others have this tenant's duties now: begin nothing more, hand requested jobs back, end calls in hand.

        What is being deleted is deleted where it is. A listing under way is read to no purpose, and to its end.
        """
        self._retired = True
        await asyncio.gather(self.cleaner.drain(timeout_s), self.runner.drain(timeout_s))
        async with self._syncing:
            log.info("a tenant's former duties are done", extra={"tenant": self.tenant})

    async def stand_down(self) -> None:
        """Another leads: jobs are let go, deletions in flight end by their own leases, alerts are the other's."""
        await self.runner.cancel_all()
        self.alerts.clear()
