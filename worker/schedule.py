"""When jobs run. APScheduler ticks; each run is measured, logged once, and never takes the process down.

It only ticks: what is due, what is leased and what was tried stands in the table.
"""

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from broker import tracing
from broker.errors import BrokerError, LeadershipLost
from broker.logs import request_id
from broker.metrics import Metrics
from worker.provider.client import ProviderError

log = logging.getLogger("worker")

Run = Callable[[str], Awaitable[Counter[str]]]
"""A job: takes the run's request id, returns counts by outcome."""
MIN_REST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """What runs, how often, and whether a run that did nothing is worth a log line."""

    name: str
    run: Run
    every_s: float
    first_after_s: float = 0.0
    quiet: bool = False
    in_maintenance: bool = False  # whether it runs while the broker is under maintenance
    at_work: Callable[[], bool] | None = None  # whether its last look found something: where not, it may rest


MayRun = Callable[[Job], Awaitable[bool]]
"""Asked before each run; a tick that may not run is passed over."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A job of one tenant, and its rest."""

    job: Job
    tenant: str
    may_run: MayRun
    rest_s: float
    pause_s: float = 0.0
    resting_until: float = 0.0

    def looked(self, now: float) -> None:
        """Rest longer with each look that found nothing."""
        if not self.rest_s or self.job.at_work is None:
            return
        longer_s = min(self.rest_s, max(MIN_REST_S, 2 * self.pause_s))
        self.pause_s = 0.0 if self.job.at_work() else longer_s
        self.resting_until = now + self.pause_s


class Schedule:
    """Ticks the jobs of all tenants for one term of a leader.

    One run of a job at a time; a missed tick runs late, once. No tenant's run waits for another's.

    Args:
        beat: called every second, for as long as the scheduler lives.
    """

    def __init__(self, metrics: Metrics, *, beat: Callable[[], None] = lambda: None) -> None:
        self._metrics = metrics
        self._beaten = beat
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._entries: dict[str, list[str]] = {}
        self._running: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(
        self, tenant: str, jobs: Iterable[Job], *, may_run: MayRun, spread_s: float = 0.0, rest_s: float = 0.0
    ) -> None:
        """Tick a tenant's jobs.

        Args:
            spread_s: each begins up to so much later than it asks for, so that many tenants do not tick at once.
            rest_s: a look that keeps finding nothing is repeated less and less often, so often at least.
        """
        for job in jobs:
            late_s = min(spread_s, job.every_s) * random.random()  # noqa: S311  jitter
            entry = self._scheduler.add_job(
                self._run,
                IntervalTrigger(seconds=job.every_s, timezone=UTC),
                args=[_Entry(job, tenant, may_run, rest_s)],
                next_run_time=datetime.now(UTC) + timedelta(seconds=job.first_after_s + late_s),
                misfire_grace_time=None,
                coalesce=True,
                max_instances=1,
            )
            self._entries.setdefault(tenant, []).append(entry.id)

    def drop(self, tenant: str) -> None:
        """Tick them no more. What runs goes on."""
        for entry_id in self._entries.pop(tenant, []):
            with suppress(JobLookupError):
                self._scheduler.remove_job(entry_id)

    def start(self) -> None:
        self._scheduler.add_job(self._beat, IntervalTrigger(seconds=1, timezone=UTC), misfire_grace_time=None)
        self._scheduler.start()

    def pause(self) -> None:
        """Start nothing new."""
        self._scheduler.pause()

    def stop(self) -> None:
        """Let go of the scheduler. What still runs is cancelled: pause, then wait for idle, first."""
        self._scheduler.shutdown(wait=False)

    async def until_idle(self, timeout_s: float) -> None:
        """Wait for the runs under way, up to `timeout_s` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    async def _beat(self) -> None:
        self._beaten()

    async def _run(self, entry: _Entry) -> None:
        """The edge around one job run: whatever happens in it is logged, counted, and over."""
        job = entry.job
        if time.monotonic() < entry.resting_until:
            return
        allowed = False
        with suppress(asyncio.CancelledError):  # the term is over; APScheduler would tell of it as an error
            allowed = await entry.may_run(job)
        if not allowed:
            return
        run_id = f"{job.name}-{secrets.token_hex(4)}"
        token = request_id.set(run_id)
        facts = {"broker.duty": job.name, "broker.tenant": entry.tenant, "broker.request_id": run_id}
        try:
            with tracing.root(f"duty {job.name}", facts, seldom_worth_it=job.quiet):
                await self._ran(entry, run_id)
        finally:
            request_id.reset(token)

    async def _ran(self, entry: _Entry, run_id: str) -> None:
        job = entry.job
        self._running.add(run_id)
        self._idle.clear()
        facts = {"job": job.name, "tenant": entry.tenant}
        began = time.perf_counter()
        try:
            outcome = await job.run(run_id)
        except asyncio.CancelledError:
            self._ended(entry, "cancelled")
        except LeadershipLost:
            self._ended(entry, "not_leading")
            log.info("job stopped: another worker leads, or has taken over", extra=facts)
        except (ProviderError, BrokerError) as error:
            self._ended(entry, "failed")
            log.warning("job failed, the next tick tries again", extra=facts | {"why": str(error)})
        except Exception:
            self._ended(entry, "crashed")
            log.exception("job crashed", extra=facts)
        else:
            self._ended(entry, "ok")
            entry.looked(time.monotonic())
            self._metrics.job_last_success.labels(entry.tenant, job.name).set_to_current_time()
            took_ms = round((time.perf_counter() - began) * 1000, 1)
            self._tell(entry, outcome, took_ms)
        finally:
            self._metrics.job_s.labels(job.name).observe(time.perf_counter() - began)
            self._running.discard(run_id)
            if not self._running:
                self._idle.set()

    def _ended(self, entry: _Entry, outcome: str) -> None:
        self._metrics.job_runs.labels(entry.tenant, entry.job.name, outcome).inc()
        if (span := tracing.current.get()) is not None:
            span.note({"broker.outcome": outcome})
            if outcome in ("failed", "crashed"):
                span.fail(outcome)

    def _tell(self, entry: _Entry, outcome: Counter[str], took_ms: float) -> None:
        job = entry.job
        counts = {name: count for name, count in outcome.items() if count}
        if job.name != "clean":  # deletions are counted one by one, as they end
            for name, count in counts.items():
                self._metrics.job_items.labels(entry.tenant, job.name, name).inc(count)
        if counts and (span := tracing.current.get()) is not None:
            span.note({f"broker.count.{name}": count for name, count in counts.items()})
            span.keep()
        level = logging.DEBUG if job.quiet and not counts else logging.INFO
        facts = {"job": job.name, "tenant": entry.tenant, "ms": took_ms, "counts": counts}
        log.log(level, "job done", extra=facts)
