"""The bodies of requests and answers about jobs. Their names are public API."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints, model_validator

from app.dead_letters import Letters
from app.schemas import AdminSandboxOut
from app.spelling import ID_PATTERN
from broker.job import Job, JobState, Kind, Priority
from broker.sandbox import Sandbox
from broker.selection import Preview

MAX_IDS = 1000


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("may hold printable characters only")
    return text


Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=200),
    AfterValidator(_printable),
    Field(description="Why, for whoever asks later: 3 to 200 printable characters.", examples=["lab 7 is broken"]),
]
_Id = Annotated[str, StringConstraints(pattern=ID_PATTERN), Field(examples=["2009521"])]


class AskIn(BaseModel):
    """What may be said about any job that is asked for."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason | None = Field(
        None, description="Why, for those who look at the job later.", examples=["lab 7 is broken"]
    )


class SyncIn(AskIn):
    confirm: StrictBool = Field(
        False, description="Believe the provider's listing, also where it lacks half of what it should name."
    )


class BulkIn(AskIn):
    """A reason, and what to move: `ids`, or any of `status`, `track` and `prefix`."""

    reason: Reason
    ids: list[_Id] | None = Field(
        None, min_length=1, max_length=MAX_IDS, description="These sandboxes.", examples=[["2009521"]]
    )
    status: Literal["available", "allocated", "deletion_failed"] | None = Field(
        None, description="All of this status; it must be the one that the move starts from."
    )
    track: _Id | None = Field(None, description="Those of this lab.", examples=["kubernetes-101"])
    prefix: _Id | None = Field(None, description="Those whose name begins so.", examples=["lab-7-"])
    priority: Literal["high", "normal", "low"] = Field("normal", description="Its place in the queue.")

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        described = self.status or self.track or self.prefix
        if bool(self.ids) == bool(described):
            raise ValueError("send either `ids`, or one or more of `status`, `track` and `prefix`")
        return self

    def params(self) -> dict[str, str]:
        """As the job keeps it."""
        chosen = {"status": self.status, "track": self.track, "prefix": self.prefix}
        if self.ids:
            chosen["ids"] = " ".join(dict.fromkeys(self.ids))
        return {name: value for name, value in chosen.items() if value}


def _instant(what: str) -> Any:
    return Field(None, description=f"{what} Unix seconds, UTC.")


class JobOut(BaseModel):
    """A job. `queued` and `running` are on their way, `done` is the good end; the others may be queued again."""

    job_id: str = Field(examples=["1760000000000-9f8e7d6c5b4a"])
    kind: Kind
    state: JobState
    priority: Priority
    params: dict[str, str] = Field(description="What it is about. Of `ids` only how many there are.")
    reason: str | None = Field(None, description="As given by who asked for it.")
    requested_by: str = Field(description="The credential that asked for it.")
    request_id: str = Field(description="The request that asked for it: it finds the job's lines in the log.")
    created_at: int = Field(description="Unix seconds, UTC.")
    due_at: int = Field(description="Not before: the pause after a failed attempt. Unix seconds, UTC.")
    started_at: int | None = _instant("When the present or last attempt began.")
    finished_at: int | None = _instant("When it ended.")
    attempt: int = Field(description="Attempts so far, the present one included.")
    max_attempts: int
    done: int = Field(description="Handled well by this attempt.")
    failed: int = Field(description="Left alone by this attempt; `result` says why.")
    total: int | None = Field(None, description="To be handled; null while unknown.")
    percent: float | None = Field(None, description="Of `total`, handled well or left alone.")
    eta_s: int | None = Field(None, description="Seconds that the rest takes at the rate so far.")
    progress_at: int | None = _instant("When the progress was written: every second or two while it runs.")
    cancel_requested_by: str | None = None
    cancel_requested_at: int | None = _instant("When someone asked to cancel it.")
    requeued_by: str | None = None
    requeued_at: int | None = _instant("When it was last queued again by hand.")
    result: dict[str, int] | None = Field(None, description="Counts by outcome, once it is done.")
    error: str | None = Field(None, description="Why the last attempt failed.")

    @classmethod
    def of(cls, job: Job) -> Self:
        same = set(cls.model_fields) - {"job_id", "params"}
        return cls(job_id=job.id, params=job.about, **{name: getattr(job, name) for name in same})


class JobListOut(BaseModel):
    """One page. `cursor` asks for the next one; null after the last."""

    jobs: list[JobOut]
    count: int = Field(description="Rows on this page. A page may be short, or empty, before the last.")
    cursor: str | None


class PreviewOut(BaseModel):
    """What a bulk move would do now. Nothing was changed, no job was queued."""

    dry_run: Literal[True] = True
    kind: Kind
    total: int = Field(description="Sandboxes that it would move.")
    sample: list[str] = Field(description="Up to 20 of them.")
    left_alone: dict[str, int] = Field(
        description="Given ids that it would leave alone, by status or `not_found`."
    )

    @classmethod
    def of(cls, kind: Kind, preview: Preview) -> Self:
        left_alone = dict(preview.left_alone)
        return cls(kind=kind, total=preview.total, sample=preview.sample, left_alone=left_alone)


class ReasonOut(BaseModel):
    reason: str = Field(description="The errors' common text, ids and numbers left out.")
    count: int


class DeadJobsOut(BaseModel):
    total: int
    examined: int = Field(description="How many of them the reasons are of: the newest.")
    reasons: list[ReasonOut] = Field(description="The most frequent first.")
    sample: list[JobOut] = Field(description="The newest.")

    @classmethod
    def of(cls, dead: Letters[Job]) -> Self:
        sample = [JobOut.of(job) for job in dead.sample]
        return cls(total=dead.total, examined=dead.examined, reasons=_counted(dead.reasons), sample=sample)


class DeadSandboxesOut(BaseModel):
    total: int
    examined: int = Field(description="How many of them the reasons are of.")
    reasons: list[ReasonOut] = Field(description="The most frequent first.")
    sample: list[AdminSandboxOut]

    @classmethod
    def of(cls, failed: Letters[Sandbox]) -> Self:
        sample = [AdminSandboxOut.of(sandbox) for sandbox in failed.sample]
        return cls(total=failed.total, examined=failed.examined, reasons=_counted(failed.reasons), sample=sample)


class DeadLettersOut(BaseModel):
    """What nobody tries again by itself: dead and timed out jobs, and sandboxes whose deletion failed for good."""

    jobs: DeadJobsOut
    sandboxes: DeadSandboxesOut


def _counted(reasons: dict[str, int]) -> list[ReasonOut]:
    return [ReasonOut(reason=reason, count=count) for reason, count in reasons.items()]
