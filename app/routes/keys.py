"""API keys of a tenant: made, looked at, rotated and revoked by its admins."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status

from app.cursors import MAX_CHARS
from app.deps import ID_PATTERN, AdminCaller, Core, body_of, cause_of, note
from app.key_desk import KeyDesk
from app.openapi import answers, takes
from app.schemas import ReasonIn
from app.schemas_keys import KeyIn, KeyListOut, KeyMadeOut, KeyOut, RotateIn
from broker import errors
from broker.errors import KeysNotConfigured, PlatformOnly
from broker.settings import TENANT_PATTERN

router = APIRouter(prefix="/v1/admin/keys", tags=["keys"])
_OFF = (errors.KeysNotConfigured, errors.TenantNotFound)


async def desk_of(core: Core) -> KeyDesk:
    """Raises KeysNotConfigured: keys are off."""
    if core.key_desk is None:
        raise KeysNotConfigured
    return core.key_desk


async def tenant_of(
    caller: AdminCaller,
    core: Core,
    tenant: Annotated[
        str | None,
        Query(pattern=TENANT_PATTERN, description="Another tenant's keys: for admins of the default tenant."),
    ] = None,
) -> str:
    """Whose keys this is about: the caller's own tenant's, unless it may name another.

    Raises:
        PlatformOnly: it may not, whether there is such a tenant or not.
        TenantNotFound: there is none.
    """
    if tenant is None or tenant == caller.tenant:
        return caller.tenant
    if not caller.platform:
        raise PlatformOnly
    return (await core.broker.tenants.present(tenant)).name


Desk = Annotated[KeyDesk, Depends(desk_of)]
Tenant = Annotated[str, Depends(tenant_of)]
KeyId = Annotated[str, Path(pattern=ID_PATTERN, description="Its public part.", examples=["k7m2x9q4w1zb"])]
_SHOWN_ONCE = "The new key and its token, which is told this once."


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=KeyMadeOut,
    responses=answers(_SHOWN_ONCE, *_OFF, errors.KeyLimitReached, status=201),
    openapi_extra=takes(KeyIn, example={"name": "kubernetes-101 tracks", "role": "track", "expires_in_days": 90}),
)
async def create(
    request: Request,
    response: Response,
    caller: AdminCaller,
    desk: Desk,
    tenant: Tenant,
    wanted: Annotated[KeyIn, body_of(KeyIn)],
) -> KeyMadeOut:
    """Make a key. Its token is in this answer and nowhere else; a repeat makes another key."""
    note(request, "create_key", role=wanted.role.value, of_tenant=tenant)
    cause = cause_of(request, caller, "create_key")
    made = await desk.create(tenant, wanted.role, wanted.name, lasts_s=wanted.lasts_s, cause=cause)
    note(request, "key_created", key_id=made.key.id)
    response.headers["Cache-Control"] = "no-store"
    return KeyMadeOut.made(made, now=time.time())


@router.get("", response_model=KeyListOut, responses=answers("One page of keys.", *_OFF, errors.InvalidCursor))
async def keys(
    caller: AdminCaller,
    desk: Desk,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=200, description="Rows on a page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=MAX_CHARS, description="`cursor` of the page before.")] = None,
) -> KeyListOut:
    """List keys, the newest first: who may come in, since when, and who of them still does."""
    page = await desk.page(tenant, limit=limit, cursor=cursor)
    rows = [KeyOut.of(key, now=time.time()) for key in page.keys]
    return KeyListOut(keys=rows, count=len(rows), cursor=page.cursor)


@router.get(
    "/{key_id}", response_model=KeyOut, responses=answers("The key as it is now.", *_OFF, errors.KeyNotFound)
)
async def look(caller: AdminCaller, desk: Desk, tenant: Tenant, key_id: KeyId) -> KeyOut:
    """Look at one key."""
    return KeyOut.of(await desk.get(tenant, key_id), now=time.time())


@router.post(
    "/{key_id}/rotate",
    status_code=status.HTTP_201_CREATED,
    response_model=KeyMadeOut,
    responses=answers(
        _SHOWN_ONCE, *_OFF, errors.KeyNotFound, errors.KeyNotRotatable, errors.KeyLimitReached, status=201
    ),
    openapi_extra=takes(RotateIn, example={"overlap_s": 3600}),
)
async def rotate(
    request: Request,
    response: Response,
    caller: AdminCaller,
    desk: Desk,
    tenant: Tenant,
    key_id: KeyId,
    wanted: Annotated[RotateIn, body_of(RotateIn)],
) -> KeyMadeOut:
    """Make a key in the place of this one: same name, role and end. Both are good for `overlap_s` seconds."""
    note(request, "rotate_key", key_id=key_id, of_tenant=tenant)
    cause = cause_of(request, caller, "rotate_key")
    made = await desk.rotate(tenant, key_id, overlap_s=wanted.overlap_s, cause=cause)
    note(request, "key_rotated", new_key_id=made.key.id)
    response.headers["Cache-Control"] = "no-store"
    return KeyMadeOut.made(made, now=time.time())


@router.post(
    "/{key_id}/revoke",
    response_model=KeyOut,
    responses=answers("Revoked, from now on or before.", *_OFF, errors.KeyNotFound),
    openapi_extra=takes(ReasonIn, example={"reason": "INC-4712: it was committed to a repository"}),
)
async def revoke(
    request: Request,
    caller: AdminCaller,
    desk: Desk,
    tenant: Tenant,
    key_id: KeyId,
    said: Annotated[ReasonIn, body_of(ReasonIn)],
) -> KeyOut:
    """End a key: every process refuses it within 10 seconds, and jobs that it asked for are not run."""
    note(request, "revoke_key", key_id=key_id, of_tenant=tenant, reason=said.reason)
    cause = cause_of(request, caller, "revoke_key", reason=said.reason)
    return KeyOut.of(await desk.revoke(tenant, key_id, cause=cause), now=time.time())
