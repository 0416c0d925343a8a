"""One attempt at one job: the work, the heartbeat beside it, the deadline over it, and how it ends."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from broker.errors import BrokerError, LeadershipLost, LeaseLost
from broker.job import Job, Progress
from broker.permission import Permissions
from broker.policy import retry_delay_s
from broker.store.jobs import Jobs
from worker.job_context import (
    Context,
    DeadlinePassed,
    HandedBack,
    Handler,
    HeartbeatDied,
    JobCancelled,
    PermissionLost,
    Stopped,
)
from worker.provider.client import ProviderError

log = logging.getLogger("worker")

RETRY_BASE_S: Final = 5.0
RETRY_CAP_S: Final = 300.0
UNWIND_S: Final = 30.0
"""How long work that was cut short may take to finish the one step it is in."""
WRITE_PAUSES_S: Final = (0.1, 0.5, 2.0, 5.0)
MAX_ERROR_CHARS: Final = 300

PERMISSION_S: Final = 3.0
"""How often it is looked whether who asked for a running job still may."""

Move = Callable[[Job], Job]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The times of a run, in seconds.

    Others take a lease for lapsed when it has not moved for `lease_s`. The holder itself gives up at
    half of that, measured from before its last good beat: it has let go before anybody takes it.
    """

    lease_s: float = 15.0
    beat_s: float = 1.0
    patience_s: float = 20.0  # what a handler has to stop by itself once someone asked to cancel


class JobRun:
    """Runs one leased job to its end, whatever that is, and writes the end under the lease's token."""

    def __init__(
        self,
        jobs: Jobs,
        leased: Job,
        handler: Handler,
        *,
        permissions: Permissions,
        pace: Pace,
        deadline_s: float,
        monotonic: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.job = leased
        self._jobs = jobs
        self._handler = handler
        self._permissions = permissions
        self._pace = pace
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._clock = clock
        self._context = Context(leased)
        self._work: asyncio.Future[Counter[str]] | None = None

    def stop(self, why: Stopped) -> None:
        """End at the next checkpoint."""
        self._context.stop(why)

    def cut(self) -> None:
        """End now: the step under way is finished, nothing else."""
        if self._work is not None:
            self._work.cancel()

    def abandon(self) -> None:
        """End now, and write nothing: someone else may run it by now."""
        self._context.stop(LeaseLost())
        self.cut()

    async def run(self) -> Job | None:
        """The job as its end was written, None where there was none to write."""
        work = self._work = asyncio.ensure_future(self._permitted())
        beats = asyncio.create_task(self._beat())
        try:
            await asyncio.wait({work, beats}, timeout=self._deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._context.stop(self._cut_short_by(beats))
                work.cancel()
                await asyncio.wait({work}, timeout=UNWIND_S)
        finally:
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)
        if isinstance(lost := self._context.stopped, PermissionLost) and not _finished(work):
            return await self._written(lambda progress: self._permissions.refuse(self.job, str(lost), progress))
        move = self._end_of(work)
        return None if move is None else await self._written(lambda progress: self._concluded(move, progress))

    async def _permitted(self) -> Counter[str]:
        """The work, where who asked for it still may; else nothing of it is begun."""
        if why := await self._permissions.lost(self.job):
            self._context.stop(PermissionLost(why))
        await self._context.checkpoint()
        return await self._handler(self._context)

    def _cut_short_by(self, beats: asyncio.Task[None]) -> Stopped | LeaseLost:
        """Why work that has not ended is not waited for any longer."""
        if not beats.done():
            return DeadlinePassed()
        if (error := beats.exception()) is not None:
            log.error("heartbeat died", extra=self._facts(), exc_info=error)
        return self._context.stopped or HeartbeatDied()

    async def _beat(self) -> None:
        """Keep the lease. Returns once the work is to be cut short; the context says why."""
        kept_at = looked_at = self._monotonic()
        stopped_at: float | None = None
        while True:
            await asyncio.sleep(self._pace.beat_s)
            asked_at = self._monotonic()
            try:
                async with asyncio.timeout(self._pace.lease_s / 4):
                    present = await self._jobs.renew(self.job, self._context.so_far)
            except LeaseLost as lost:
                self._context.stop(lost)
                return
            except (BrokerError, TimeoutError) as error:
                log.warning("a beat failed", extra=self._facts(why=str(error)))
                if self._monotonic() - kept_at < self._pace.lease_s / 2:
                    continue
                self._context.stop(LeaseLost())
                return
            kept_at = asked_at
            if present.cancel_requested_by is not None:
                self._context.stop(JobCancelled())
            elif asked_at - looked_at >= min(PERMISSION_S, self._pace.lease_s / 4):
                looked_at = asked_at
                await self._look_again()
            if present.cancel_requested_by is None and not isinstance(self._context.stopped, PermissionLost):
                continue
            if stopped_at is None:
                stopped_at = asked_at
            elif asked_at - stopped_at >= self._pace.patience_s:
                return

    async def _look_again(self) -> None:
        """Stop where the permission is gone. What cannot be known now is asked again in a moment."""
        try:
            async with asyncio.timeout(self._pace.lease_s / 4):
                why = await self._permissions.lost(self.job)
        except (BrokerError, TimeoutError) as error:
            log.warning("whether a job may go on is not known", extra=self._facts(why=str(error)))
        else:
            if why is not None:
                self._context.stop(PermissionLost(why))

    def _end_of(self, work: asyncio.Future[Counter[str]]) -> Move | None:
        """The move that the run ends in, None where nothing is to be written."""
        now = int(self._clock())
        stopped = self._context.stopped
        error = work.exception() if work.done() and not work.cancelled() else None
        if isinstance(stopped or error, LeaseLost | LeadershipLost):
            return None
        if _finished(work):
            counts = dict(work.result())
            return lambda job: job.finish(counts, now=now)
        match stopped:
            case JobCancelled():
                return lambda job: job.stop(now=now)
            case HandedBack():
                return lambda job: job.hand_back(now=now)
            case DeadlinePassed():
                why = f"DEADLINE: it ran for over {self._deadline_s:g} s"
                return lambda job: job.time_out(error=why, now=now)
            case HeartbeatDied():
                return self._failure("HEARTBEAT_DIED", now)
        return self._failure(self._told(error), now)

    def _failure(self, why: str, now: int) -> Move:
        draw = random.random()  # noqa: S311  jitter
        delay_s = retry_delay_s(self.job.attempt, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, draw=draw)
        retry_at = now + max(1, round(delay_s))
        return lambda job: job.fail(error=why[:MAX_ERROR_CHARS], now=now, retry_at=retry_at)

    def _told(self, error: BaseException | None) -> str:
        """The error in the words that operators see. A crash shows its type alone: the log has the rest."""
        if isinstance(error, ProviderError | BrokerError):
            return str(error)
        log.error("job crashed", extra=self._facts(), exc_info=error)
        return f"CRASHED: {type(error).__name__}"

    async def _concluded(self, move: Move, progress: Progress) -> Job:
        now = int(self._clock())
        return await self._jobs.conclude(self.job, lambda job: move(job.progressed(progress, now=now)))

    async def _written(self, end: Callable[[Progress], Awaitable[Job]]) -> Job | None:
        """Write the end until it is certain. Where the store stays silent the lease lapses: safe too."""
        progress = self._context.so_far
        for pause_s in WRITE_PAUSES_S:
            if isinstance(self._context.stopped, LeaseLost):
                return None
            try:
                return await end(progress)
            except LeaseLost:
                return None
            except BrokerError as error:
                log.warning("a job's end is uncertain, trying again", extra=self._facts(why=str(error)))
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311  jitter
        return None

    def _facts(self, **more: str) -> dict[str, str | int]:
        job = self.job
        facts = {"job_id": job.id, "kind": job.kind.value, "tenant": job.tenant, "attempt": job.attempt}
        return facts | more


def _finished(work: asyncio.Future[Counter[str]]) -> bool:
    """Whether it came to its own good end."""
    return work.done() and not work.cancelled() and work.exception() is None
