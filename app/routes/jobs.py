"""What operators ask the worker to do, and what became of it. Jobs are asked for in one's own tenant alone."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status

from app.cursors import MAX_CHARS
from app.deps import (
    Core,
    OperatorCaller,
    Settings,
    TenantNamed,
    body_of,
    cause_of,
    extend_deadline,
    note,
)
from app.job_desk import Ask
from app.openapi import ANY_TENANT, answers, takes
from app.schemas_jobs import (
    AskIn,
    BulkIn,
    DeadJobsOut,
    DeadLettersOut,
    DeadSandboxesOut,
    JobListOut,
    JobOut,
    PreviewOut,
    SyncIn,
)
from app.spelling import ID_PATTERN
from broker import errors
from broker.action import Action
from broker.errors import InvalidInput
from broker.job import ENDED, Job, JobState, Kind, Priority
from broker.selection import SOURCES, Selection

router = APIRouter(prefix="/v1/admin", tags=["jobs"])


async def patience(
    request: Request,
    settings: Settings,
    wait: Annotated[
        float, Query(ge=0, le=60, description="Seconds to wait for the end before answering 202.")
    ] = 20,
) -> float:
    """How long the caller waits; the request's own deadline is later by that."""
    extend_deadline(request, wait + settings.request_timeout_s)
    return wait


Wait = Annotated[float, Depends(patience)]
DryRun = Annotated[bool, Query(description="Only say what it would do.")]
JobId = Annotated[
    str, Path(pattern=ID_PATTERN, description="As the 202 answered it.", examples=["1760000000000-9f8e7d6c5b4a"])
]
_QUEUED = "Queued or running: `Location` tells where to look. It goes on by itself."
_ASKED = answers("It was done, and this is the result.", errors.JobFailed, queued=_QUEUED)
_BULK = answers("It was done; or, with `dry_run`, what it would do.", errors.JobFailed, queued=_QUEUED)
_CHANGED = answers("The job as it is now.", errors.JobNotFound, errors.JobWrongState)


@router.post(
    "/sync",
    response_model=JobOut,
    responses=_ASKED,
    openapi_extra=takes(SyncIn, example={"confirm": True, "reason": "the provider closed half of the labs"}),
)
async def sync(
    request: Request,
    response: Response,
    caller: OperatorCaller,
    core: Core,
    body: Annotated[SyncIn, body_of(SyncIn)],
    wait: Wait,
) -> JobOut:
    """Bring the pool in line with the provider's listing now; joins a sync that waits already."""
    params = {"confirm": "true"} if body.confirm else {}
    ask = _ask(request, Kind.SYNC, params, Priority.HIGH, body.reason)
    return _told(request, response, await core.desk.ask(caller, ask, wait_s=wait))


@router.post(
    "/cleanup",
    response_model=JobOut,
    responses=_ASKED,
    openapi_extra=takes(AskIn, example={"reason": "before the workshop"}),
)
async def cleanup(
    request: Request,
    response: Response,
    caller: OperatorCaller,
    core: Core,
    body: Annotated[AskIn, body_of(AskIn)],
    wait: Wait,
) -> JobOut:
    """Delete everything that is due at the provider now; joins a cleanup that waits already."""
    ask = _ask(request, Kind.CLEANUP, {}, Priority.HIGH, body.reason)
    return _told(request, response, await core.desk.ask(caller, ask, wait_s=wait))


@router.post(
    "/bulk-delete",
    response_model=JobOut | PreviewOut,
    responses=_BULK,
    openapi_extra=takes(AskIn, example={"reason": "the provider closed these accounts"}),
)
async def bulk_delete(
    request: Request,
    response: Response,
    caller: OperatorCaller,
    core: Core,
    from_status: Annotated[
        Literal["stale", "deletion_failed"],
        Query(alias="status", description="stale: they are removed. deletion_failed: abandoned, as tombstones."),
    ],
    body: Annotated[AskIn, body_of(AskIn)],
    wait: Wait,
    dry_run: DryRun = False,
) -> JobOut | PreviewOut:
    """Remove what is stale, or abandon what cannot be deleted. What is in use is never deleted by status."""
    ask = _ask(request, Kind.BULK_DELETE, {"status": from_status}, Priority.NORMAL, body.reason)
    if dry_run:
        return await _preview(core, caller.tenant, ask)
    return _told(request, response, await core.desk.ask(caller, ask, wait_s=wait))


@router.post(
    "/bulk/{move}",
    response_model=JobOut | PreviewOut,
    responses=_BULK,
    openapi_extra=takes(BulkIn, example={"reason": "the provider is back", "status": "deletion_failed"}),
)
async def bulk(
    request: Request,
    response: Response,
    caller: OperatorCaller,
    core: Core,
    move: Annotated[Literal["retry", "quarantine", "force-release"], Path(description="What to do with each.")],
    body: Annotated[BulkIn, body_of(BulkIn)],
    wait: Wait,
    dry_run: DryRun = False,
) -> JobOut | PreviewOut:
    """Retry failed deletions, quarantine available sandboxes, or end allocations, for many at once."""
    kind = Kind(f"bulk_{move.replace('-', '_')}")
    if body.status is not None and body.status not in SOURCES[kind]:
        raise InvalidInput("body.status", f"{move} starts from {', '.join(SOURCES[kind])}")
    ask = _ask(request, kind, body.params(), Priority(body.priority), body.reason)
    if dry_run:
        return await _preview(core, caller.tenant, ask)
    return _told(request, response, await core.desk.ask(caller, ask, wait_s=wait))


@router.get(
    "/jobs",
    response_model=JobListOut,
    responses=answers("One page of jobs.", errors.InvalidCursor, *ANY_TENANT),
)
async def jobs(
    tenant: TenantNamed,
    core: Core,
    state: Annotated[JobState | None, Query(description="Only this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Rows on a page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=MAX_CHARS, description="`cursor` of the page before.")] = None,
) -> JobListOut:
    """List jobs: the queue in the order it is taken, what runs, then what has ended in the last 30 days."""
    page = await core.desk.page(tenant, state=state, limit=limit, cursor=cursor)
    rows = [JobOut.of(job) for job in page.jobs]
    return JobListOut(jobs=rows, count=len(rows), cursor=page.cursor)


@router.get(
    "/jobs/{job_id}",
    response_model=JobOut,
    responses=answers("The job as it is now.", errors.JobNotFound, *ANY_TENANT),
)
async def job(tenant: TenantNamed, core: Core, job_id: JobId) -> JobOut:
    """Look at a job: how far it is, how long it will take, what came of it."""
    return JobOut.of(await core.desk.get(tenant, job_id))


@router.post(
    "/jobs/{job_id}/cancel",
    response_model=JobOut,
    responses=_CHANGED,
    openapi_extra=takes(AskIn, example={"reason": "the wrong lab"}),
)
async def cancel(
    request: Request, caller: OperatorCaller, core: Core, job_id: JobId, body: Annotated[AskIn, body_of(AskIn)]
) -> JobOut:
    """Cancel a job: a queued one at once, a running one between two sandboxes, within 30 s."""
    note(request, "job_cancel_requested", job_id=job_id, reason=body.reason)
    cause = cause_of(request, caller, Action.CANCEL_JOB, reason=body.reason)
    return JobOut.of(await core.broker.jobs.request_cancel(caller.tenant, job_id, cause=cause))


@router.post(
    "/jobs/{job_id}/requeue",
    response_model=JobOut,
    responses=_CHANGED,
    openapi_extra=takes(AskIn, example={"reason": "the provider is back"}),
)
async def requeue(
    request: Request, caller: OperatorCaller, core: Core, job_id: JobId, body: Annotated[AskIn, body_of(AskIn)]
) -> JobOut:
    """Queue a dead, timed out or cancelled job again, with all its attempts."""
    note(request, "job_requeued", job_id=job_id, reason=body.reason)
    cause = cause_of(request, caller, Action.REQUEUE_JOB, reason=body.reason)
    return JobOut.of(await core.broker.jobs.requeue(caller.tenant, job_id, cause=cause))


@router.get(
    "/dead-letters",
    response_model=DeadLettersOut,
    responses=answers("What nobody tries again by itself.", *ANY_TENANT),
)
async def dead_letters(tenant: TenantNamed, core: Core) -> DeadLettersOut:
    """Show what failed for good and why most often: jobs to requeue, sandboxes to retry or to abandon."""
    dead = await core.dead_letters.jobs(tenant)
    failed = await core.dead_letters.sandboxes(tenant)
    return DeadLettersOut(jobs=DeadJobsOut.of(dead), sandboxes=DeadSandboxesOut.of(failed))


def _ask(request: Request, kind: Kind, params: dict[str, str], priority: Priority, reason: str | None) -> Ask:
    """What is asked for, noted for the request's log line also where it is refused."""
    note(request, "job_asked_for", kind=kind.value, reason=reason)
    request_id = request.scope["state"]["request_id"]
    return Ask(kind=kind, params=params, priority=priority, reason=reason, request_id=request_id)


def _told(request: Request, response: Response, asked: Job) -> JobOut:
    note(request, f"job_{asked.state.value}", job_id=asked.id)
    if asked.state not in ENDED:
        response.status_code = status.HTTP_202_ACCEPTED
        response.headers["Location"] = f"/v1/admin/jobs/{asked.id}"
    return JobOut.of(asked)


async def _preview(core: Core, tenant: str, ask: Ask) -> PreviewOut:
    return PreviewOut.of(ask.kind, await core.selector.preview(tenant, Selection.of(ask.kind, ask.params)))
