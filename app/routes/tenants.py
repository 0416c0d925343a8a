"""Tenants, for the default tenant's admins; and each tenant's own pools, for its operators."""

import asyncio
import time
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, status

from app.auth import Credential
from app.cursors import MAX_CHARS
from app.deps import (
    Core,
    OperatorCaller,
    Parts,
    PlatformAdmin,
    PlatformOperator,
    Settings,
    TenantNamed,
    ViewerCaller,
    body_of,
    cause_of,
    note,
)
from app.openapi import ANY_TENANT, answers, takes
from app.schemas import ReasonIn
from app.schemas_tenants import (
    MAX_DRAINED,
    PoolIn,
    PoolSetOut,
    PoolsOut,
    TenantChangeIn,
    TenantIn,
    TenantListOut,
    TenantOut,
    TenantSetOut,
)
from broker import errors
from broker.action import Action
from broker.sandbox import State
from broker.selection import Selection
from broker.settings import TENANT_PATTERN, ApiSettings
from broker.store.events import Cause
from broker.tenant import Drain, Tenant

router = APIRouter(prefix="/v1/admin", tags=["tenants"])

_Name = Annotated[str, Path(pattern=TENANT_PATTERN, description="The tenant's name.", examples=["north"])]
_IN_A_POOL = (
    State.AVAILABLE,
    State.ALLOCATED,
    State.QUARANTINED,
    State.PENDING_DELETION,
    State.DELETION_FAILED,
)
_LOOK_S = 1.0
_EXAMPLE = {
    "max_live": 200,
    "provider": {"base_url": "https://csp.example.org", "secret": "sandbox-broker/north/csp"},
    "prefixes": ["north-"],
    "reason": "CHG-812: the north team's courses",
}


@router.get(
    "/tenants",
    response_model=TenantListOut,
    responses=answers("One page of tenants.", errors.PlatformOnly, errors.InvalidCursor),
)
async def tenants(
    caller: PlatformOperator,
    core: Core,
    limit: Annotated[int, Query(ge=1, le=1000, description="Rows on a page.")] = 100,
    cursor: Annotated[str | None, Query(max_length=MAX_CHARS, description="`cursor` of the page before.")] = None,
) -> TenantListOut:
    """List all tenants, page by page until `cursor` is null: for the default tenant's operators."""
    page = await core.tenant_desk.page(limit=limit, cursor=cursor)
    rows = [TenantOut.of(tenant) for tenant in page.tenants]
    return TenantListOut(tenants=rows, count=len(rows), cursor=page.cursor)


@router.post(
    "/tenants",
    status_code=status.HTTP_201_CREATED,
    response_model=TenantSetOut,
    responses=answers("The tenant.", errors.PlatformOnly, errors.TenantExists, status=201),
    openapi_extra=takes(TenantIn, example={"name": "north", **_EXAMPLE}),
)
async def create(
    request: Request,
    caller: PlatformAdmin,
    wanted: Annotated[TenantIn, body_of(TenantIn)],
    core: Core,
    settings: Settings,
) -> TenantSetOut:
    """Add a tenant: for the default tenant's admins. Its pool fills within a minute; then make it keys.

    The provider is not asked for anything here: `GET /v1/admin/worker?tenant=` shows whether it answers.
    """
    note(request, "create_tenant", of_tenant=wanted.name, reason=wanted.reason)
    _encrypted(wanted, settings)
    cause = cause_of(request, caller, Action.CREATE_TENANT, reason=wanted.reason)
    tenant = wanted.applied(Tenant(name=wanted.name))
    doubts = await core.tenant_desk.doubts(tenant)
    return TenantSetOut.set_up(await core.broker.tenants.create(tenant, cause, now=time.time()), doubts)


@router.get("/tenants/{tenant}", response_model=TenantOut, responses=answers("The tenant.", errors.TenantNotFound))
async def show(caller: ViewerCaller, tenant: _Name, core: Core) -> TenantOut:
    """Show a tenant: the caller's own, or any to the default tenant's operators and admins."""
    _within_sight(caller, tenant)
    return TenantOut.of(await core.broker.tenants.present(tenant))


@router.patch(
    "/tenants/{tenant}",
    response_model=TenantSetOut,
    responses=answers("The tenant as it is now.", *ANY_TENANT),
    openapi_extra=takes(TenantChangeIn, example=_EXAMPLE),
)
async def change(
    request: Request,
    caller: PlatformAdmin,
    tenant: _Name,
    wanted: Annotated[TenantChangeIn, body_of(TenantChangeIn)],
    core: Core,
    settings: Settings,
) -> TenantSetOut:
    """Change a tenant's limits or provider: for the default tenant's admins. In force within about 2 seconds."""
    note(request, "change_tenant", of_tenant=tenant, reason=wanted.reason)
    _encrypted(wanted, settings)
    cause = cause_of(request, caller, Action.CHANGE_TENANT, reason=wanted.reason)
    changed, moved = await _changed(tenant, wanted, cause, core)
    supplied_anew = wanted.model_fields_set & {"provider", "prefixes"}
    doubts = await core.tenant_desk.doubts(changed) if supplied_anew else []
    return TenantSetOut.set_up(changed, (await _left_behind(tenant, core) if moved else []) + doubts)


@router.post(
    "/tenants/{tenant}/drain",
    response_model=TenantOut,
    responses=answers("Drained.", *ANY_TENANT),
    openapi_extra=takes(ReasonIn, example={"reason": "INC-4711: its course eats the budget"}),
)
async def drain(
    request: Request,
    caller: PlatformOperator,
    tenant: _Name,
    said: Annotated[ReasonIn, body_of(ReasonIn)],
    core: Core,
) -> TenantOut:
    """Hand out nothing new to a tenant: for the default tenant's operators, who alone can end it.

    What its students hold stays held and can be released.
    """
    note(request, "drain_tenant", of_tenant=tenant, reason=said.reason)
    cause = cause_of(request, caller, Action.DRAIN_TENANT, reason=said.reason)
    now = time.time()
    drained = Drain(reason=said.reason, by=caller.name, at=int(now), platform=True)
    changed = await core.broker.tenants.change(tenant, lambda found: found.drain("", drained), cause, now=now)
    return TenantOut.of(changed)


@router.post(
    "/tenants/{tenant}/resume",
    response_model=TenantOut,
    responses=answers("Handing out again, but for its pools that are drained by themselves.", *ANY_TENANT),
    openapi_extra=takes(ReasonIn, example={"reason": "INC-4711 is over"}),
)
async def resume(
    request: Request,
    caller: PlatformOperator,
    tenant: _Name,
    said: Annotated[ReasonIn, body_of(ReasonIn)],
    core: Core,
) -> TenantOut:
    """Hand out to a drained tenant again, whoever drained it: for the default tenant's operators."""
    note(request, "resume_tenant", of_tenant=tenant, reason=said.reason)
    cause = cause_of(request, caller, Action.RESUME_TENANT, reason=said.reason)
    changed = await core.broker.tenants.change(tenant, lambda found: found.open(""), cause, now=time.time())
    return TenantOut.of(changed)


@router.get("/pools", response_model=PoolsOut, responses=answers("What is drained.", *ANY_TENANT))
async def pools(tenant: TenantNamed, core: Core) -> PoolsOut:
    """Show which pools of the tenant hand out nothing new, since when and why."""
    return PoolsOut.of(found := await core.broker.tenants.get(tenant), held=await _held(found, core))


@router.post(
    "/pools",
    response_model=PoolSetOut,
    responses=answers("What is drained from now on.", *ANY_TENANT),
    openapi_extra=takes(
        PoolIn, example={"prefix": "lab-7-", "state": "drained", "reason": "INC-4711: lab 7 is broken"}
    ),
)
async def set_pool(
    request: Request, caller: OperatorCaller, wanted: Annotated[PoolIn, body_of(PoolIn)], core: Core
) -> PoolSetOut:
    """Drain a pool, or open it again. What is held of it stays held and can be released.

    A pool is what begins with the prefix; with the prefix "" it is all of the tenant.
    """
    note(request, f"{wanted.state}_pool", pool=wanted.prefix, reason=wanted.reason)
    cause = cause_of(
        request, caller, Action.DRAIN_POOL if wanted.state == "drained" else Action.OPEN_POOL, reason=wanted.reason
    )
    now = time.time()

    def edit(tenant: Tenant) -> Tenant:
        held = tenant.drained.get(wanted.prefix)
        if held is not None and held.platform and not caller.platform:
            raise errors.PlatformOnly(f"This was drained by the platform ({held.reason}). To change that is")
        if wanted.state == "open":
            return tenant.open(wanted.prefix)
        if wanted.prefix not in tenant.drained and len(tenant.drained) >= MAX_DRAINED:
            raise errors.InvalidInput(
                "prefix", f"{MAX_DRAINED} pools are drained: drain a wider one, or open some"
            )
        return tenant.drain(wanted.prefix, Drain(reason=wanted.reason, by=caller.name, at=int(now)))

    changed = await core.broker.tenants.change(caller.tenant, edit, cause, now=now)
    told = PoolSetOut.of(changed, held=await _held(changed, core))
    if not await _has_some(caller.tenant, wanted.prefix, core):
        told.warnings = [f"prefix {wanted.prefix}: no sandbox begins with it now; it holds for those to come"]
    return told


async def _changed(name: str, wanted: TenantChangeIn, cause: Cause, core: Parts) -> tuple[Tenant, bool]:
    """The tenant as it is now, and whether its connection is another than before."""
    before: list[Tenant] = []

    def edit(tenant: Tenant) -> Tenant:
        before[:] = [tenant]
        return wanted.applied(tenant)

    changed = await core.broker.tenants.change(name, edit, cause, now=time.time())
    return changed, bool(before) and before[0].provider != changed.provider


async def _left_behind(tenant: str, core: Parts) -> list[str]:
    """What the former connection had still to delete: the next one cannot tell whether that is gone."""
    waiting: int | None = None
    with suppress(errors.BrokerError, TimeoutError):
        async with asyncio.timeout(_LOOK_S):
            waiting = await core.broker.sandboxes.count(tenant, State.PENDING_DELETION)
    if waiting == 0:
        return []
    how_many = (
        "some may have" if waiting is None else "1 sandbox has" if waiting == 1 else f"{waiting} sandboxes have"
    )
    return [
        f"connection: {how_many} still to be deleted; what the new one does not list and calls gone ends as "
        "deletion_failed, PROVIDER_CHANGED: look where it was, then abandon it, or set that connection again"
    ]


async def _held(tenant: Tenant, core: Parts) -> int | None:
    """By the slots; or by the index, where what was held before there was a limit has no slot yet."""
    if tenant.limits.max_live is None:
        return None
    broker = core.broker
    return max(await broker.quota.held(tenant.name), await broker.sandboxes.count(tenant.name, State.ALLOCATED))


async def _has_some(tenant: str, prefix: str, core: Parts) -> bool:
    """Whether a pool has a sandbox. Of a change that was made no more than a hint: without an answer it has."""
    selection = Selection(states=_IN_A_POOL, prefix=prefix)
    with suppress(errors.BrokerError, TimeoutError):
        async with asyncio.timeout(_LOOK_S):
            async for _ in core.selector.ids(tenant, selection):
                return True
            return prefix == ""
    return True


def _within_sight(caller: Credential, tenant: str) -> None:
    if tenant != caller.tenant and not caller.platform:
        raise errors.TenantNotFound


def _encrypted(wanted: TenantIn | TenantChangeIn, settings: ApiSettings) -> None:
    """A token is sent with every call: outside development never in the clear."""
    provider = wanted.provider
    if provider is not None and not settings.development and not provider.base_url.startswith("https://"):
        raise errors.InvalidInput("body.provider.base_url", "must begin with https:// outside development")
