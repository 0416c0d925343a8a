"""Where operators ask the worker for something: it is queued, waited for a little, and listed."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from app.auth import Credential
from app.cursors import Cursors
from broker.errors import BrokerError, JobFailed, JobNotFound
from broker.job import ENDED, Job, JobState, Kind, Priority
from broker.store.jobs import Jobs

_PAUSE_S: Final = 0.25
_MAX_PAUSE_S: Final = 2.0
_MAX_QUERIES: Final = 20
"""Per page of a list: see Inventory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What someone wants done."""

    kind: Kind
    params: Mapping[str, str]
    priority: Priority
    reason: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class JobPage:
    jobs: list[Job]
    cursor: str | None


class JobDesk:
    """Queues jobs and waits for them; `leaving` says that this process is about to end and waits no more."""

    def __init__(self, jobs: Jobs, cursors: Cursors, *, leaving: Callable[[], bool]) -> None:
        self._jobs = jobs
        self._cursors = cursors
        self._leaving = leaving

    async def ask(self, caller: Credential, ask: Ask, *, wait_s: float) -> Job:
        """Queue a job, or join one that waits, and wait up to `wait_s` seconds; done, or still on its way.

        Raises:
            JobFailed: it ended otherwise meanwhile.
        """
        job = await self._jobs.enqueue(
            caller.tenant,
            ask.kind,
            params=ask.params,
            priority=ask.priority,
            requested_by=caller.name,
            request_id=ask.request_id,
            reason=ask.reason,
        )
        job = await self._waited(job, wait_s)
        if job.state in ENDED - {JobState.DONE}:
            raise JobFailed(job_id=job.id, state=job.state.value, error=job.error)
        return job

    async def get(self, tenant: str, job_id: str) -> Job:
        """Raises JobNotFound: unknown, archived, or another tenant's."""
        if (job := await self._jobs.get(tenant, job_id)) is None:
            raise JobNotFound
        return job

    async def page(self, tenant: str, *, state: JobState | None, limit: int, cursor: str | None) -> JobPage:
        """Up to `limit` jobs and the cursor of the next page: the queue in its order, what ended newest first.

        Raises:
            InvalidCursor: not one of this tenant's for this filter.
        """
        scope = (tenant, "jobs", state.value if state else "*")
        position: dict[str, Any] = self._cursors.decode(cursor, scope=scope) if cursor else {}
        states = [state] if state else list(JobState)
        at, after = position.get("p", 0), position.get("k")
        rows: list[Job] = []
        for _ in range(_MAX_QUERIES):
            if at >= len(states) or len(rows) >= limit:
                break
            found, after = await self._jobs.page(
                tenant, states[at], limit=limit - len(rows), newest_first=states[at] in ENDED, after=after
            )
            rows += found
            at += after is None
        done = at >= len(states)
        return JobPage(rows, None if done else self._cursors.encode({"p": at, "k": after}, scope=scope))

    async def _waited(self, job: Job, wait_s: float) -> Job:
        """The job once it has ended, or as it is when the time is over. The store in trouble ends no wait:
        the job is queued, and an error would only have it queued twice."""
        ends_at = time.monotonic() + wait_s
        pause_s = _PAUSE_S
        while job.state not in ENDED and not self._leaving():
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, _MAX_PAUSE_S)
            with suppress(BrokerError):
                job = await self._jobs.get(job.tenant, job.id) or job
        return job
