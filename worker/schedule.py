"""When jobs run. APScheduler ticks; each run is measured, logged once, and never takes the process down.

It only ticks: what is due, what is leased and what was tried stands in the table.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from broker.errors import BrokerError, LeadershipLost
from broker.logs import request_id
from broker.metrics import Metrics
from worker.provider.client import ProviderError

log = logging.getLogger("worker")

Run = Callable[[str], Awaitable[Counter[str]]]
"""A job: takes the run's request id, returns counts by outcome."""


@dataclass(frozen=True, slots=True)
class Job:
    """What runs, how often, and whether a run that did nothing is worth a log line."""

    name: str
    run: Run
    every_s: float
    first_after_s: float = 0.0
    quiet: bool = False
    in_maintenance: bool = False  # whether it runs while the broker is under maintenance


class Schedule:
    """Ticks jobs for one term of a leader. One run of a job at a time; a missed tick runs late, once.

    Args:
        may_run: asked before each run; a tick that may not run is passed over.
        beat: called every second, for as long as the scheduler lives.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        may_run: Callable[[Job], Awaitable[bool]],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._metrics = metrics
        self._may_run = may_run
        self._beaten = beat
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._running: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, job: Job) -> None:
        self._scheduler.add_job(
            self._run,
            IntervalTrigger(seconds=job.every_s, timezone=UTC),
            args=[job],
            id=job.name,
            next_run_time=datetime.now(UTC) + timedelta(seconds=job.first_after_s),
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
        )

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

    async def _run(self, job: Job) -> None:
        """The edge around one job run: whatever happens in it is logged, counted, and over."""
        allowed = False
        with suppress(asyncio.CancelledError):  # the term is over; APScheduler would tell of it as an error
            allowed = await self._may_run(job)
        if not allowed:
            return
        run_id = f"{job.name}-{secrets.token_hex(4)}"
        token = request_id.set(run_id)
        self._running.add(job.name)
        self._idle.clear()
        began = time.perf_counter()
        try:
            outcome = await job.run(run_id)
        except asyncio.CancelledError:
            self._ended(job, "cancelled")
        except LeadershipLost:
            self._ended(job, "not_leading")
            log.info("job stopped: another worker leads", extra={"job": job.name})
        except (ProviderError, BrokerError) as error:
            self._ended(job, "failed")
            log.warning("job failed, the next tick tries again", extra={"job": job.name, "why": str(error)})
        except Exception:
            self._ended(job, "crashed")
            log.exception("job crashed", extra={"job": job.name})
        else:
            self._ended(job, "ok")
            self._metrics.job_last_success.labels(job.name).set_to_current_time()
            took_ms = round((time.perf_counter() - began) * 1000, 1)
            self._tell(job, outcome, took_ms)
        finally:
            self._metrics.job_s.labels(job.name).observe(time.perf_counter() - began)
            self._running.discard(job.name)
            if not self._running:
                self._idle.set()
            request_id.reset(token)

    def _ended(self, job: Job, outcome: str) -> None:
        self._metrics.job_runs.labels(job.name, outcome).inc()

    def _tell(self, job: Job, outcome: Counter[str], took_ms: float) -> None:
        counts = {name: count for name, count in outcome.items() if count}
        if job.name != "clean":  # deletions are counted one by one, as they end
            for name, count in counts.items():
                self._metrics.job_items.labels(job.name, name).inc(count)
        level = logging.DEBUG if job.quiet and not counts else logging.INFO
        log.log(level, "job done", extra={"job": job.name, "ms": took_ms, "counts": counts})
