"""Runs jobs: takes over those whose worker is gone, starts the queue in its order, gives back what is not done."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from broker import tracing
from broker.errors import WriteConflict
from broker.job import DEADLINE_S, PERMISSION_REVOKED, Job, JobState, Kind
from broker.lapse import Lapses
from broker.logs import request_id
from broker.metrics import Metrics
from broker.permission import Permissions
from broker.store.jobs import Jobs
from broker.tracing import Life
from worker.job_context import HandedBack, Handler
from worker.job_run import JobRun, Pace

log = logging.getLogger("worker")

LOOK_THROUGH: Final = 200
HAND_BACK_S: Final = 5.0
"""What is kept of a drain's time to write down that the jobs are handed back."""
ABANDON_S: Final = 10.0
WORST: Final = frozenset({JobState.DEAD, JobState.TIMED_OUT})
DEATHS: Final = ("attempts", "killed", "timed out", "permission")


class Take(Protocol):
    """Jobs.lease or Jobs.take_over."""

    async def __call__(self, job: Job, *, token: str) -> Job: ...


class Runner:
    """Keeps up to `concurrency` jobs of a tenant running. `tick` starts what is due and does not wait for it.

    Two runners do no harm to each other: each job has its own lease.
    """

    def __init__(
        self,
        jobs: Jobs,
        handlers: Mapping[Kind, Handler],
        metrics: Metrics,
        *,
        permissions: Permissions,
        tenant: str,
        pace: Pace,
        concurrency: int = 2,
        deadlines_s: Mapping[Kind, float] = DEADLINE_S,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if missing := set(Kind) - set(handlers):
            raise ValueError(f"jobs without a handler would wait for ever: {sorted(missing)}")
        self._jobs = jobs
        self._handlers = handlers
        self._metrics = metrics
        self._permissions = permissions
        self._tenant = tenant
        self._pace = pace
        self._concurrency = concurrency
        self._deadlines_s = deadlines_s
        self._monotonic = monotonic
        self._clock = clock
        self._lapses = Lapses(lapse_s=pace.lease_s, monotonic=monotonic)
        self._runs: dict[str, tuple[JobRun, asyncio.Task[None]]] = {}
        self._term = 0
        self._draining = False
        self._found = False
        for kind in Kind:
            for why in DEATHS:  # begin at 0: Prometheus takes a series that begins at 1 for no increase
                metrics.job_deaths.labels(tenant, kind.value, why)

    @property
    def at_work(self) -> bool:
        """Whether something runs, or the last look found something that waits for its time or place."""
        return self._found or bool(self._runs)

    async def tick(self, _: str) -> Counter[str]:
        """Take over jobs whose worker stopped beating, then start what is due, as many as there are free slots."""
        outcome: Counter[str] = Counter()
        self._found = False
        if not self._draining:
            term = self._term
            await self._take_over(term, outcome)
            await self._start(term, outcome)
        return outcome

    async def drain(self, timeout_s: float) -> None:
        """Start nothing more; what runs stops at its next checkpoint, or is cut, and goes back to the queue."""
        self._draining = True
        ends_at = time.monotonic() + timeout_s
        for run, _ in self._runs.values():
            run.stop(HandedBack())
        await self._gone(max(timeout_s / 2, timeout_s - HAND_BACK_S))
        for run, _ in self._runs.values():
            run.cut()
        await self._gone(ends_at - time.monotonic())

    async def cancel_all(self) -> None:
        """Another worker leads: let go of everything, and write nothing more. A later tick begins anew."""
        self._term += 1
        for run, _ in self._runs.values():
            run.abandon()
        await self._gone(ABANDON_S)

    async def idle(self) -> None:
        """Wait until nothing runs."""
        while self._runs:
            await asyncio.wait([task for _, task in self._runs.values()])

    async def _gone(self, timeout_s: float) -> None:
        if self._runs and timeout_s > 0:
            await asyncio.wait([task for _, task in self._runs.values()], timeout=timeout_s)

    async def _take_over(self, term: int, outcome: Counter[str]) -> None:
        """The index says whom to look at; whether a lease moves is read from the table itself."""
        async for row in self._jobs.walk(self._tenant, JobState.RUNNING):
            self._found = True
            if row.id in self._runs:
                continue
            present = await self._jobs.get(self._tenant, row.id)
            if present is None or present.state is not JobState.RUNNING:
                self._lapses.forget(row.id)
            elif self._lapses.lapsed(row.id, (present.lease_token, present.beat)) and self._free():
                await self._take(present, self._jobs.take_over, "taken_over", term, outcome)

    async def _start(self, term: int, outcome: Counter[str]) -> None:
        rows, after = await self._jobs.page(self._tenant, JobState.QUEUED, limit=LOOK_THROUGH)
        self._metrics.jobs_queued.labels(self._tenant).set(len(rows))
        self._found |= bool(rows)
        while True:
            for row in rows:
                if not self._free():
                    return
                if row.id not in self._runs and row.due_at <= self._clock():
                    await self._take(row, self._jobs.lease, "started", term, outcome)
            if after is None:
                return
            rows, after = await self._jobs.page(self._tenant, JobState.QUEUED, limit=LOOK_THROUGH, after=after)

    async def _take(self, job: Job, take: Take, what: str, term: int, outcome: Counter[str]) -> None:
        try:
            taken = await take(job, token=secrets.token_hex(8))
        except WriteConflict:
            outcome["lost_race"] += 1
            return
        self._lapses.forget(job.id)
        outcome[what] += 1
        if taken.state is not JobState.RUNNING:
            self._tell(taken, why="killed")
        elif self._draining:
            await self._jobs.conclude(taken, lambda present: present.hand_back(now=int(self._clock())))
        elif self._term == term:
            self._begin(taken)

    def _free(self) -> bool:
        return len(self._runs) < self._concurrency

    def _begin(self, leased: Job) -> None:
        run = JobRun(
            self._jobs,
            leased,
            self._handlers[leased.kind],
            permissions=self._permissions,
            pace=self._pace,
            deadline_s=self._deadlines_s[leased.kind],
            monotonic=self._monotonic,
            clock=self._clock,
        )
        self._runs[leased.id] = (run, asyncio.create_task(self._attempt(run)))
        self._metrics.jobs_running.labels(self._tenant).set(len(self._runs))

    async def _attempt(self, run: JobRun) -> None:
        """The edge around one run: whatever happens in it is logged, counted, and over."""
        job = run.job
        request_id.set(job.request_id)
        facts = {f"broker.{name}": fact for name, fact in _facts(job).items()} | {
            "broker.request_id": job.request_id
        }
        with tracing.root(f"job {job.kind.value}", facts, life=Life("job", job.tenant, job.id)):
            await self._attempted(run)

    async def _attempted(self, run: JobRun) -> None:
        log.info("job started", extra=_facts(run.job))
        began = time.perf_counter()
        ended: Job | None = None
        try:
            ended = await run.run()
        except Exception:
            log.exception("job run crashed", extra=_facts(run.job))
        finally:
            self._runs.pop(run.job.id, None)
            self._metrics.jobs_running.labels(self._tenant).set(len(self._runs))
        took_s = time.perf_counter() - began
        self._metrics.requested_job_s.labels(run.job.kind.value, ended.state.value if ended else "lost").observe(
            took_s
        )
        if (span := tracing.current.get()) is not None:
            span.note({"broker.outcome": ended.state.value if ended else "lost"})
            if ended is not None and ended.state in WORST:
                span.fail(ended.state.value)
        if ended is None:
            log.warning("job let go: its lease is lost, or its end could not be written", extra=_facts(run.job))
        else:
            self._tell(ended, why="attempts")

    def _tell(self, ended: Job, *, why: str) -> None:
        """One line an end. A job that nobody will try again is an alert."""
        facts = _facts(ended) | {"state": ended.state.value, "counts": dict(ended.result or {})}
        if ended.state is JobState.DEAD and (ended.error or "").startswith(PERMISSION_REVOKED):
            self._metrics.job_deaths.labels(self._tenant, ended.kind.value, "permission").inc()
            log.warning("job refused: who asked for it may not any more", extra=facts | {"why": ended.error})
        elif ended.state in WORST:
            why = "timed_out" if ended.state is JobState.TIMED_OUT else why
            self._metrics.job_deaths.labels(self._tenant, ended.kind.value, why).inc()
            log.error("job ended for good: requeue it by hand", extra=facts | {"why": ended.error})
        elif ended.state is JobState.QUEUED:
            log.warning("job goes back to the queue", extra=facts | {"why": ended.error, "due_at": ended.due_at})
        else:
            log.info("job ended", extra=facts)


def _facts(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "kind": job.kind.value,
        "tenant": job.tenant,
        "attempt": job.attempt,
        "requested_by": job.requested_by,
    }
