"""One job and its legal moves: work that a person asked for, with progress and an end. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Self

from broker.errors import IllegalMove
from broker.role import Role


class Kind(StrEnum):
    SYNC = "sync"
    CLEANUP = "cleanup"
    BULK_DELETE = "bulk_delete"
    BULK_RETRY = "bulk_retry"
    BULK_QUARANTINE = "bulk_quarantine"
    BULK_FORCE_RELEASE = "bulk_force_release"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.DONE, JobState.DEAD, JobState.CANCELLED, JobState.TIMED_OUT}
    ),
    JobState.DONE: frozenset(),
    JobState.DEAD: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.TIMED_OUT: frozenset({JobState.QUEUED}),
}
REQUEUEABLE: Final = frozenset(state for state, to in MOVES.items() if to == {JobState.QUEUED})
ENDED: Final = REQUEUEABLE | {JobState.DONE}

WORTH_S: Final[dict[Priority, int]] = {Priority.HIGH: 0, Priority.NORMAL: 300, Priority.LOW: 1800}
"""What a priority gives way, in seconds of age. The queue has one order, the second of queueing plus this:
among equals the older goes first, and a low job that has waited for over half an hour goes before a high one
that was queued this second, so that nothing starves however many high ones keep coming."""

DEADLINE_S: Final[dict[Kind, float]] = {
    Kind.SYNC: 600,
    Kind.CLEANUP: 1800,
    Kind.BULK_DELETE: 1800,
    Kind.BULK_RETRY: 1800,
    Kind.BULK_QUARANTINE: 1800,
    Kind.BULK_FORCE_RELEASE: 1800,
}
"""How long one attempt may run; past it the job is timed out, and is not tried again by itself."""

NEEDED_ROLE: Final[dict[Kind, Role]] = dict.fromkeys(Kind, Role.OPERATOR)
"""What whoever asks for it must be allowed when it is asked for, when it begins and while it runs."""

PERMISSION_REVOKED: Final = "PERMISSION_REVOKED"

MAX_ATTEMPTS: Final = 5
ARCHIVE_S: Final = 30 * 24 * 3600
"""How long an ended job is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an attempt is. `total` is None for as long as nobody knows."""

    done: int = 0
    failed: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job of one tenant. Instants are Unix seconds, UTC."""

    tenant: str
    id: str  # sorts by time
    kind: Kind
    params: Mapping[str, str] = field(default_factory=dict)
    state: JobState = JobState.QUEUED
    priority: Priority = Priority.NORMAL
    requested_by: str
    request_id: str
    reason: str | None = None
    created_at: int
    queued_at: int  # the age that counts in the queue: when it was created, or queued anew by a person
    due_at: int  # not before: the backoff of a failed attempt
    version: int = 1  # +1 per write; every write but a beat is conditional on it
    attempt: int = 0
    max_attempts: int = MAX_ATTEMPTS
    kills: int = 0  # attempts whose worker stopped beating
    lease_token: str | None = None  # of who runs it; stays when the run ends, to tell whose end that was
    beat: int = 0  # +1 per renewal: it moves for as long as the worker lives
    started_at: int | None = None  # of this attempt
    finished_at: int | None = None
    done: int = 0
    failed: int = 0
    total: int | None = None
    progress_at: int | None = None  # when the three above were written
    cancel_requested_by: str | None = None
    cancel_requested_at: int | None = None
    requeued_by: str | None = None
    requeued_at: int | None = None
    result: Mapping[str, int] | None = None  # counts by outcome
    error: str | None = None  # why the last attempt failed
    ttl: int | None = None

    @property
    def answers_for_it(self) -> str:
        """The credential by whose permission it runs: who asked for it, or who queued it again."""
        return self.requeued_by or self.requested_by

    @property
    def order_at(self) -> int:
        """Its place in the queue: see WORTH_S."""
        return self.queued_at + WORTH_S[self.priority]

    @property
    def about(self) -> dict[str, str]:
        """Its parameters as people are told them: of `ids`, which may be a thousand, only how many."""
        told = dict(self.params)
        if "ids" in told:
            told["ids"] = f"{len(told['ids'].split())} ids"
        return told

    @property
    def percent(self) -> float | None:
        if self.state is JobState.DONE:
            return 100.0
        if self.total is None:
            return None
        return round(min(100.0, 100 * (self.done + self.failed) / self.total), 1) if self.total else 100.0

    @property
    def eta_s(self) -> int | None:
        """Seconds that the rest takes at the rate of this attempt so far, None while there is no rate."""
        if self.state is not JobState.RUNNING or self.total is None or self.progress_at is None:
            return None
        handled, took_s = self.done + self.failed, self.progress_at - (self.started_at or self.progress_at)
        if not handled or took_s <= 0:
            return None
        return round(max(0, self.total - handled) * took_s / handled)

    def lease(self, *, token: str, now: int) -> Self:
        """Someone runs it; that counts as an attempt, whatever becomes of it."""
        self._must_be(JobState.QUEUED)
        return self._move(JobState.RUNNING, **self._begun(token, now))

    def take_over(self, *, token: str, now: int) -> Self:
        """Its worker stopped beating. It is run again, unless it was to be cancelled or has killed enough."""
        self._must_be(JobState.RUNNING)
        kills = self.kills + 1
        if self.cancel_requested_by is not None:
            return self._ended(JobState.CANCELLED, now, kills=kills, lease_token=None)
        if self.attempt >= self.max_attempts:
            error = f"KILLED_ITS_WORKER: {kills} of {self.attempt} attempts ended with their worker"
            return self._ended(JobState.DEAD, now, kills=kills, error=error, lease_token=None)
        return self._changed(kills=kills, **self._begun(token, now))

    def progressed(self, progress: Progress, *, now: int) -> Self:
        """How far it is, to be written with a move: by itself it is no write."""
        return replace(self, done=progress.done, failed=progress.failed, total=progress.total, progress_at=now)

    def finish(self, result: Mapping[str, int], *, now: int) -> Self:
        self._must_be(JobState.RUNNING)
        return self._ended(JobState.DONE, now, result=dict(result), error=None)

    def fail(self, *, error: str, now: int, retry_at: int) -> Self:
        """The attempt failed: due again at `retry_at`, or dead where it was the last one."""
        self._must_be(JobState.RUNNING)
        if self.cancel_requested_by is not None:
            return self._ended(JobState.CANCELLED, now, error=error)
        if self.attempt >= self.max_attempts:
            return self._ended(JobState.DEAD, now, error=error)
        return self._move(JobState.QUEUED, due_at=retry_at, error=error)

    def hand_back(self, *, now: int) -> Self:
        """Its worker leaves in good order: that is no attempt, and it keeps its place in the queue."""
        self._must_be(JobState.RUNNING)
        if self.cancel_requested_by is not None:
            return self._ended(JobState.CANCELLED, now)
        return self._move(JobState.QUEUED, due_at=now, attempt=self.attempt - 1)

    def refuse(self, *, why: str, now: int) -> Self:
        """Who asked for it may not any more: it is not run, or not to its end, and not tried again by itself."""
        self._must_be(JobState.RUNNING)
        return self._ended(JobState.DEAD, now, error=f"{PERMISSION_REVOKED}: {why}")

    def time_out(self, *, error: str, now: int) -> Self:
        self._must_be(JobState.RUNNING)
        return self._ended(JobState.TIMED_OUT, now, error=error)

    def stop(self, *, now: int) -> Self:
        """The run ended because someone asked for it."""
        self._must_be(JobState.RUNNING)
        return self._ended(JobState.CANCELLED, now)

    def request_cancel(self, *, by: str, now: int) -> Self:
        """Cancelled at once where nobody runs it; else whoever does sees it at the next beat."""
        if self.state is JobState.RUNNING:
            return self._changed(cancel_requested_by=by, cancel_requested_at=now)
        return self._ended(JobState.CANCELLED, now, cancel_requested_by=by, cancel_requested_at=now)

    def requeue(self, *, by: str, now: int) -> Self:
        """Run it again from the beginning, with all its attempts; its error stays until it succeeds."""
        if self.state not in REQUEUEABLE:
            raise IllegalMove(f"job {self.id} is {self.state}: nothing to queue again")
        return self._move(
            JobState.QUEUED,
            queued_at=now,
            due_at=now,
            attempt=0,
            kills=0,
            lease_token=None,
            started_at=None,
            finished_at=None,
            **_NO_PROGRESS,
            cancel_requested_by=None,
            cancel_requested_at=None,
            requeued_by=by,
            requeued_at=now,
            ttl=None,
        )

    def _begun(self, token: str, now: int) -> dict[str, Any]:
        begun = {"lease_token": token, "beat": 0, "attempt": self.attempt + 1, "started_at": now}
        return begun | _NO_PROGRESS

    def _ended(self, to: JobState, now: int, **changes: Any) -> Self:
        return self._move(to, finished_at=now, ttl=now + ARCHIVE_S, **changes)

    def _must_be(self, state: JobState) -> None:
        if self.state is not state:
            raise IllegalMove(f"job {self.id} is {self.state}, not {state}")

    def _move(self, to: JobState, **changes: Any) -> Self:
        if to not in MOVES[self.state]:
            raise IllegalMove(f"job {self.id}: {self.state} -> {to}")
        return self._changed(state=to, **changes)

    def _changed(self, **changes: Any) -> Self:
        return replace(self, version=self.version + 1, **changes)


_NO_PROGRESS: Final[dict[str, Any]] = {"done": 0, "failed": 0, "total": None, "progress_at": None}
