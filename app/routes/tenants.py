"""Tenants, for the default tenant's admins; and each tenant's own pools, for its operators."""

import time
from typing import Annotated

from fastapi import APIRouter, Path, Request, status

from app.auth import Credential
from app.deps import Core, OperatorCaller, Parts, PlatformAdmin, Settings, ViewerCaller, body_of, cause_of, note
from app.openapi import answers, takes
from app.schemas_tenants import (
    MAX_DRAINED,
    PoolIn,
    PoolsOut,
    TenantChangeIn,
    TenantIn,
    TenantListOut,
    TenantOut,
)
from broker import errors
from broker.settings import ApiSettings
from broker.tenant import Drain, Tenant

router = APIRouter(prefix="/v1/admin", tags=["tenants"])

_Name = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9._:-]{1,64}$", description="The tenant's name.", examples=["north"])
]
_EXAMPLE = {
    "max_live": 200,
    "provider": {"base_url": "https://csp.example.org", "secret": "sandbox-broker/north/csp"},
    "prefixes": ["north-"],
    "reason": "CHG-812: the north team's courses",
}


@router.get("/tenants", response_model=TenantListOut, responses=answers("Every tenant.", errors.PlatformOnly))
async def tenants(caller: PlatformAdmin, core: Core) -> TenantListOut:
    """List all tenants: for the default tenant's admins."""
    return TenantListOut(tenants=[TenantOut.of(tenant) async for tenant in core.broker.tenants.all()])


@router.post(
    "/tenants",
    status_code=status.HTTP_201_CREATED,
    response_model=TenantOut,
    responses=answers("The tenant.", errors.PlatformOnly, errors.TenantExists, status=201),
    openapi_extra=takes(TenantIn, example={"name": "north", **_EXAMPLE}),
)
async def create(
    request: Request,
    caller: PlatformAdmin,
    wanted: Annotated[TenantIn, body_of(TenantIn)],
    core: Core,
    settings: Settings,
) -> TenantOut:
    """Add a tenant: for the default tenant's admins. Its pool fills within a minute; then make it keys."""
    note(request, "create_tenant", of_tenant=wanted.name, reason=wanted.reason)
    _encrypted(wanted, settings)
    cause = cause_of(request, caller, "create_tenant", reason=wanted.reason)
    tenant = wanted.applied(Tenant(name=wanted.name))
    return TenantOut.of(await core.broker.tenants.create(tenant, cause, now=time.time()))


@router.get("/tenants/{tenant}", response_model=TenantOut, responses=answers("The tenant.", errors.TenantNotFound))
async def show(caller: ViewerCaller, tenant: _Name, core: Core) -> TenantOut:
    """Show a tenant: the caller's own, or any to the default tenant's people."""
    _within_sight(caller, tenant)
    return TenantOut.of(await core.broker.tenants.present(tenant))


@router.patch(
    "/tenants/{tenant}",
    response_model=TenantOut,
    responses=answers("The tenant as it is now.", errors.PlatformOnly, errors.TenantNotFound),
    openapi_extra=takes(TenantChangeIn, example=_EXAMPLE),
)
async def change(
    request: Request,
    caller: PlatformAdmin,
    tenant: _Name,
    wanted: Annotated[TenantChangeIn, body_of(TenantChangeIn)],
    core: Core,
    settings: Settings,
) -> TenantOut:
    """Change a tenant's limits or provider: for the default tenant's admins. In force within about 2 seconds."""
    note(request, "change_tenant", of_tenant=tenant, reason=wanted.reason)
    _encrypted(wanted, settings)
    cause = cause_of(request, caller, "change_tenant", reason=wanted.reason)
    return TenantOut.of(await core.broker.tenants.change(tenant, wanted.applied, cause, now=time.time()))


@router.get("/pools", response_model=PoolsOut, responses=answers("What is drained."))
async def pools(caller: ViewerCaller, core: Core) -> PoolsOut:
    """Show which pools of the caller's tenant hand out nothing new, since when and why."""
    return await _pools(await core.broker.tenants.get(caller.tenant), core)


@router.post(
    "/pools",
    response_model=PoolsOut,
    responses=answers("What is drained from now on.", errors.TenantNotFound),
    openapi_extra=takes(
        PoolIn, example={"prefix": "lab-7-", "state": "drained", "reason": "INC-4711: lab 7 is broken"}
    ),
)
async def set_pool(
    request: Request, caller: OperatorCaller, wanted: Annotated[PoolIn, body_of(PoolIn)], core: Core
) -> PoolsOut:
    """Drain a pool, or open it again. What is held of it stays held and can be released.

    A pool is what begins with the prefix; with the prefix "" it is all of the tenant.
    """
    note(request, f"{wanted.state}_pool", pool=wanted.prefix, reason=wanted.reason)
    cause = cause_of(
        request, caller, "drain_pool" if wanted.state == "drained" else "open_pool", reason=wanted.reason
    )
    now = time.time()

    def edit(tenant: Tenant) -> Tenant:
        if wanted.state == "open":
            return tenant.open(wanted.prefix)
        if wanted.prefix not in tenant.drained and len(tenant.drained) >= MAX_DRAINED:
            raise errors.InvalidInput(
                "prefix", f"{MAX_DRAINED} pools are drained: drain a wider one, or open some"
            )
        return tenant.drain(wanted.prefix, Drain(reason=wanted.reason, by=caller.name, at=int(now)))

    return await _pools(await core.broker.tenants.change(caller.tenant, edit, cause, now=now), core)


async def _pools(tenant: Tenant, core: Parts) -> PoolsOut:
    limited = tenant.limits.max_live is not None
    return PoolsOut.of(tenant, held=await core.broker.quota.held(tenant.name) if limited else None)


def _within_sight(caller: Credential, tenant: str) -> None:
    if tenant != caller.tenant and not caller.platform:
        raise errors.TenantNotFound


def _encrypted(wanted: TenantIn | TenantChangeIn, settings: ApiSettings) -> None:
    """A token is sent with every call: outside development never in the clear."""
    provider = wanted.provider
    if provider is not None and not settings.development and not provider.base_url.startswith("https://"):
        raise errors.InvalidInput("body.provider.base_url", "must begin with https:// outside development")
