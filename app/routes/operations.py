"""What operators do by hand: move one sandbox, and open or drain the whole broker. Each says why."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request

from app.auth import Credential
from app.deps import (
    Core,
    OperatorCaller,
    PlatformOperator,
    SandboxId,
    TenantNamed,
    ViewerCaller,
    body_of,
    cause_of,
    note,
)
from app.openapi import ANY_TENANT, answers, takes
from app.schemas import AdminSandboxOut, ModeIn, ModeOut, ReasonIn
from broker import errors
from broker.action import Action
from broker.operations import Operations
from broker.sandbox import Sandbox
from broker.store.events import Cause
from broker.store.modes import ModeName

router = APIRouter(prefix="/v1/admin", tags=["operators"])


class Operation(Protocol):
    def __call__(self, tenant: str, sandbox_id: str, *, cause: Cause) -> Awaitable[Sandbox]: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator wants done: to which sandbox, and why."""

    request: Request
    caller: Credential
    sandbox_id: str
    reason: str
    operations: Operations

    async def carried_out(self, action: Action, operation: Operation) -> AdminSandboxOut:
        note(self.request, action, sandbox_id=self.sandbox_id, reason=self.reason)
        cause = cause_of(self.request, self.caller, action, reason=self.reason)
        return AdminSandboxOut.of(await operation(self.caller.tenant, self.sandbox_id, cause=cause))


async def order_of(
    request: Request,
    caller: OperatorCaller,
    sandbox_id: SandboxId,
    said: Annotated[ReasonIn, body_of(ReasonIn)],
    core: Core,
) -> Order:
    return Order(request, caller, sandbox_id, said.reason, core.broker.operations)


OrderIn = Annotated[Order, Depends(order_of)]


def _moves(success: str) -> dict[str, Any]:
    """What every move of a sandbox takes and answers."""
    return {
        "response_model": AdminSandboxOut,
        "responses": answers(success, errors.SandboxNotFound, errors.WrongState),
        "openapi_extra": takes(ReasonIn, example={"reason": "INC-4711: the provider lost its network"}),
    }


@router.get(
    "/sandboxes/{sandbox_id}",
    response_model=AdminSandboxOut,
    responses=answers("The sandbox as operators see it.", errors.SandboxNotFound, *ANY_TENANT),
)
async def look(tenant: TenantNamed, sandbox_id: SandboxId, core: Core) -> AdminSandboxOut:
    """Look at one sandbox, whoever holds it."""
    return AdminSandboxOut.of(await core.broker.operations.look(tenant, sandbox_id))


@router.post("/sandboxes/{sandbox_id}/quarantine", **_moves("In quarantine."))
async def quarantine(order: OrderIn) -> AdminSandboxOut:
    """Take an available sandbox out of the pool. From the answer on, no process can hand it out."""
    return await order.carried_out(Action.QUARANTINE, order.operations.quarantine)


@router.post("/sandboxes/{sandbox_id}/reinstate", **_moves("Available again."))
async def reinstate(order: OrderIn) -> AdminSandboxOut:
    """Put a quarantined sandbox back into the pool."""
    return await order.carried_out(Action.REINSTATE, order.operations.reinstate)


@router.post("/sandboxes/{sandbox_id}/discard", **_moves("Due for deletion."))
async def discard(order: OrderIn) -> AdminSandboxOut:
    """Have a quarantined sandbox deleted at the provider."""
    return await order.carried_out(Action.DISCARD, order.operations.discard)


@router.post("/sandboxes/{sandbox_id}/force-release", **_moves("Due for deletion."))
async def force_release(order: OrderIn) -> AdminSandboxOut:
    """End an allocation by hand. The student's own release then answers 410; allocating anew gives another."""
    return await order.carried_out(Action.FORCE_RELEASE, order.operations.force_release)


@router.post("/sandboxes/{sandbox_id}/retry", **_moves("Due for deletion again."))
async def retry(order: OrderIn) -> AdminSandboxOut:
    """Try a failed deletion again, at once and with all its attempts."""
    return await order.carried_out(Action.RETRY, order.operations.retry)


@router.post("/sandboxes/{sandbox_id}/abandon", **_moves("Given up: a tombstone."))
async def abandon(order: OrderIn) -> AdminSandboxOut:
    """Give up a failed deletion, where the account was seen to by other means."""
    return await order.carried_out(Action.ABANDON, order.operations.abandon)


@router.get("/mode", response_model=ModeOut, responses=answers("The mode in force."))
async def show_mode(caller: ViewerCaller, core: Core) -> ModeOut:
    """Show whether the broker is open, drained or in maintenance, as this process goes by it now."""
    return ModeOut.of(await core.broker.modes.current())


@router.post(
    "/mode",
    response_model=ModeOut,
    responses=answers("The mode from now on."),
    openapi_extra=takes(ModeIn, example={"mode": "drained", "reason": "INC-4711: the provider lost its network"}),
)
async def set_mode(
    request: Request, caller: PlatformOperator, wanted: Annotated[ModeIn, body_of(ModeIn)], core: Core
) -> ModeOut:
    """Open, drain or pause the whole broker, all tenants: for the default tenant's operators.

    What is held stays held and can be released.
    """
    note(request, "set_mode", mode=wanted.mode, reason=wanted.reason)
    cause = cause_of(request, caller, Action.SET_MODE, reason=wanted.reason)
    mode = await core.broker.operations.set_mode(caller.tenant, ModeName(wanted.mode), cause=cause)
    return ModeOut.of(mode)
