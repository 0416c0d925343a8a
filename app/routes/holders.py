"""What a holder calls while the lab runs, with the generation of the allocation: a past holder is refused."""

from typing import Annotated

from fastapi import APIRouter, Request

from app.deps import Core, Holder, SandboxId, TrackCaller, body_of, cause_of, note
from app.headers import STUDENT
from app.openapi import answers, reads, takes
from app.schemas import AllocationOut, ExtendIn, HeartbeatOut, HolderIn
from broker import errors
from broker.action import Action

router = APIRouter(prefix="/v1", tags=["sandboxes"])

_REFUSALS = (
    errors.MissingSandboxId,
    errors.NotSandboxOwner,
    errors.SandboxNotFound,
    errors.StaleGeneration,
    errors.AllocationExpired,
)


@router.post(
    "/sandboxes/{sandbox_id}/extend",
    response_model=AllocationOut,
    responses=answers("Held for as long as was asked for, or longer.", *_REFUSALS, errors.ExtensionLimit),
    openapi_extra=reads(*STUDENT) | takes(ExtendIn, example={"generation": 1_760_000_017, "for_s": 3600}),
)
async def extend(
    request: Request,
    caller: TrackCaller,
    sandbox_id: SandboxId,
    holder: Holder,
    said: Annotated[ExtendIn, body_of(ExtendIn)],
    core: Core,
) -> AllocationOut:
    """Hold a sandbox for at least so many seconds from now. Never shortened; a repeat adds nothing up."""
    note(request, "extended", sandbox_id=sandbox_id, holder=holder, for_s=said.for_s)
    cause = cause_of(request, caller, Action.EXTEND)
    extended = await core.broker.lifecycle.extend(
        caller.tenant, sandbox_id, holder=holder, generation=said.generation, for_s=said.for_s, cause=cause
    )
    return AllocationOut.held(extended)


@router.post(
    "/sandboxes/{sandbox_id}/heartbeat",
    response_model=HeartbeatOut,
    responses=answers("Noted.", *_REFUSALS),
    openapi_extra=reads(*STUDENT) | takes(HolderIn, example={"generation": 1_760_000_017}),
)
async def heartbeat(
    request: Request,
    caller: TrackCaller,
    sandbox_id: SandboxId,
    holder: Holder,
    said: Annotated[HolderIn, body_of(HolderIn)],
    core: Core,
) -> HeartbeatOut:
    """Give a sign of life, for operators to see. Nobody has to, and it extends nothing."""
    note(request, "heartbeat", sandbox_id=sandbox_id, holder=holder)
    held = await core.broker.lifecycle.heartbeat(
        caller.tenant, sandbox_id, holder=holder, generation=said.generation
    )
    return HeartbeatOut.of(held)
