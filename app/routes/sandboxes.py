"""What track scripts call."""

from fastapi import APIRouter, Depends, Request, Response, status

from app.deps import (
    Core,
    Holder,
    ReleaseSaid,
    SandboxId,
    TrackCaller,
    WishIn,
    cause_of,
    json_or_nothing,
    note,
)
from app.openapi import answers, takes
from app.schemas import AllocationOut, ReleaseIn, ReleaseOut, SandboxOut
from broker import errors
from broker.action import Action

router = APIRouter(prefix="/v1", tags=["sandboxes"], dependencies=[Depends(json_or_nothing)])


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
)
async def allocate(
    request: Request, response: Response, caller: TrackCaller, wish: WishIn, core: Core
) -> AllocationOut:
    """Allocate a sandbox. A repeat for the same student repeats the answer, with 200."""
    note(request, "allocate", holder=wish.holder, track=wish.track)
    cause = cause_of(request, caller, Action.ALLOCATE)
    allocation = await core.broker.allocator.allocate(caller.tenant, wish, cause)
    if not allocation.created:
        response.status_code = status.HTTP_200_OK
    note(request, "allocated" if allocation.created else "replayed", sandbox_id=allocation.sandbox_id)
    return AllocationOut.of(allocation)


@router.get(
    "/sandboxes/{sandbox_id}",
    response_model=SandboxOut,
    responses=answers(
        "The sandbox's state and times.",
        errors.MissingSandboxId,
        errors.NotSandboxOwner,
        errors.SandboxNotFound,
    ),
)
async def view(
    request: Request, caller: TrackCaller, sandbox_id: SandboxId, holder: Holder, core: Core
) -> SandboxOut:
    """Look at a sandbox that this student holds, or held last."""
    note(request, "viewed", sandbox_id=sandbox_id, holder=holder)
    sandbox = await core.broker.lifecycle.view(caller.tenant, sandbox_id, holder=holder)
    return SandboxOut.of(sandbox)


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
    openapi_extra=takes(ReleaseIn, example={"generation": 1_760_000_017}),
)
async def release(
    request: Request, caller: TrackCaller, sandbox_id: SandboxId, holder: Holder, said: ReleaseSaid, core: Core
) -> ReleaseOut:
    """Release a sandbox: it is deleted at the provider, and the student may allocate anew.

    With a generation in the body it is released only where that is the present allocation's.
    """
    note(request, "released", sandbox_id=sandbox_id, holder=holder)
    cause = cause_of(request, caller, Action.RELEASE)
    released = await core.broker.lifecycle.release(
        caller.tenant, sandbox_id, holder=holder, cause=cause, generation=said.generation
    )
    return ReleaseOut.of(released)
