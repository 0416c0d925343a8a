"""What track scripts call."""

from fastapi import APIRouter, Request, Response, status
from pydantic import BaseModel

from app.access import caller_of
from app.deps import SandboxId, cause_of, holder_of, json_or_nothing, note, parts_of, release_of, wish_of
from app.headers import KEY, PREFIX, STUDENT, TRACK
from app.openapi import answers, reads, takes
from app.schemas import AllocationOut, ReleaseIn, ReleaseOut, SandboxOut
from broker import errors
from broker.action import Action

router = APIRouter(prefix="/v1", tags=["sandboxes"])


def _answer(said: BaseModel, status_code: int = status.HTTP_200_OK) -> Response:
    """A whole answer, which FastAPI passes on as it is."""
    return Response(said.model_dump_json(), status_code, media_type="application/json")


@router.post(
    "/allocate",
    status_code=status.HTTP_201_CREATED,
    response_model=AllocationOut,
    responses=answers(
        "A sandbox, from now on this student's.",
        errors.MissingSandboxId,
        errors.NoSandboxAvailable,
        errors.IdempotencyKeyReused,
        errors.HolderLimitReached,
        errors.AllocationEnded,
        errors.AllocationInProgress,
        errors.QuotaExceeded,
        errors.BrokerDrained,
        errors.PoolDrained,
        replay="The sandbox that this student holds already.",
    ),
    openapi_extra=reads(*STUDENT, PREFIX, TRACK, KEY),
)
async def allocate(request: Request) -> Response:
    """Allocate a sandbox. A repeat for the same student repeats the answer, with 200."""
    await json_or_nothing(request)
    caller, wish, core = await caller_of(request), await wish_of(request), await parts_of(request)
    note(request, "allocate", holder=wish.holder, track=wish.track)
    cause = cause_of(request, caller, Action.ALLOCATE)
    allocation = await core.broker.allocator.allocate(caller.tenant, wish, cause)
    note(request, "allocated" if allocation.created else "replayed", sandbox_id=allocation.sandbox_id)
    code = status.HTTP_201_CREATED if allocation.created else status.HTTP_200_OK
    return _answer(AllocationOut.of(allocation), code)


@router.get(
    "/sandboxes/{sandbox_id}",
    response_model=SandboxOut,
    responses=answers(
        "The sandbox's state and times.",
        errors.MissingSandboxId,
        errors.NotSandboxOwner,
        errors.SandboxNotFound,
    ),
    openapi_extra=reads(*STUDENT),
)
async def view(request: Request, sandbox_id: SandboxId) -> Response:
    """Look at a sandbox that this student holds, or held last."""
    await json_or_nothing(request)
    caller, holder, core = await caller_of(request), await holder_of(request), await parts_of(request)
    note(request, "viewed", sandbox_id=sandbox_id, holder=holder)
    sandbox = await core.broker.lifecycle.view(caller.tenant, sandbox_id, holder=holder)
    return _answer(SandboxOut.of(sandbox))


@router.post(
    "/sandboxes/{sandbox_id}/mark-for-deletion",
    response_model=ReleaseOut,
    responses=answers(
        "Released. A repeat answers the same, whatever has happened since.",
        errors.MissingSandboxId,
        errors.NotSandboxOwner,
        errors.SandboxNotFound,
        errors.AllocationExpired,
        errors.StaleGeneration,
    ),
    openapi_extra=reads(*STUDENT) | takes(ReleaseIn, example={"generation": 1_760_000_017}),
)
async def release(request: Request, sandbox_id: SandboxId) -> Response:
    """Release a sandbox: it is deleted at the provider, and the student may allocate anew.

    With a generation in the body it is released only where that is the present allocation's.
    """
    sent = await json_or_nothing(request)
    caller, holder = await caller_of(request), await holder_of(request)
    said, core = await release_of(request, sent), await parts_of(request)
    note(request, "released", sandbox_id=sandbox_id, holder=holder)
    cause = cause_of(request, caller, Action.RELEASE)
    released = await core.broker.lifecycle.release(
        caller.tenant, sandbox_id, holder=holder, cause=cause, generation=said.generation
    )
    return _answer(ReleaseOut.of(released))
