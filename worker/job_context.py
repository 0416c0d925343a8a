"""What a running job is told and may say: its parameters, when to stop, how far it is."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from broker.errors import LeaseLost
from broker.job import Job, Progress


class Stopped(Exception):
    """The work is to end here. A handler lets it pass; whoever catches it must raise it again."""


class JobCancelled(Stopped):
    """Someone asked for it."""


class HandedBack(Stopped):
    """This worker leaves: the job goes back to the queue, and that is no failed attempt."""


class DeadlinePassed(Stopped):
    """The attempt took longer than its kind may."""


class PermissionLost(Stopped):
    """Who asked for it may not any more; says why."""


class HeartbeatDied(Stopped):
    """Nobody keeps the lease any more: a bug of ours."""


class Context:
    """One attempt at a job, as its handler sees it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tenant: str = job.tenant
        self.params: Mapping[str, str] = job.params
        self.request_id: str = job.request_id
        self.requested_by: str = job.requested_by
        self.reason: str | None = job.reason
        self._progress = Progress()
        self._stop: Stopped | LeaseLost | None = None

    async def checkpoint(self) -> None:
        """To be called between steps, where it is fine to stop. Costs nothing.

        Raises:
            Stopped: the work is to end here: JobCancelled, HandedBack, ...
            LeaseLost: likewise, and nothing is to be written any more.
        """
        if self._stop is not None:
            raise self._stop
        await asyncio.sleep(0)

    def progress(self, *, done: int | None = None, failed: int | None = None, total: int | None = None) -> None:
        """Say how far this attempt is, in whole numbers since its beginning; None leaves a number as it is.

        The next beat writes it: operators see it within two seconds.
        """
        now = self._progress
        self._progress = Progress(
            done=now.done if done is None else done,
            failed=now.failed if failed is None else failed,
            total=now.total if total is None else total,
        )

    @property
    def so_far(self) -> Progress:
        return self._progress

    @property
    def stopped(self) -> Stopped | LeaseLost | None:
        """Why the work is to end, None while it is not."""
        return self._stop

    def stop(self, why: Stopped | LeaseLost) -> None:
        """End the work at its next checkpoint. The first reason counts; a lost lease always does."""
        if self._stop is None or isinstance(why, LeaseLost):
            self._stop = why


Handler = Callable[[Context], Awaitable[Counter[str]]]
"""Does the work of one kind of job; returns counts by outcome. Idempotent: it may be run again from the
beginning at any time. It writes one conditional step at a time and shields it from being cancelled."""
