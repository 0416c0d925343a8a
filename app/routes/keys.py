"""API keys of a tenant: made, looked at, rotated and revoked by its admins."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status

from app.access import TENANT
from app.cursors import MAX_CHARS
from app.deps import AdminCaller, Core, TenantNamed, body_of, cause_of, note
from app.key_desk import KeyDesk
from app.openapi import ANY_TENANT, answers, takes
from app.schemas import ReasonIn
from app.schemas_keys import KeyIn, KeyListOut, KeyMadeOut, KeyOut, KeyRevokedOut, KeyShownOut, RotateIn
from app.spelling import ID_PATTERN
from broker import errors
from broker.action import Action
from broker.errors import KeysNotConfigured
from broker.key import KeyState

router = APIRouter(prefix="/v1/admin/keys", tags=["keys"])
_OFF = (errors.KeysNotConfigured, *ANY_TENANT)


async def desk_of(core: Core) -> KeyDesk:
    """Raises KeysNotConfigured: keys are off."""
    if core.key_desk is None:
        raise KeysNotConfigured
    return core.key_desk


async def whose_of(request: Request, caller: AdminCaller, tenant: TenantNamed) -> str | None:
    """Whose a key may be that is named by its id; None, anybody's, for the default tenant's admins who name none.

    An id is all that a log says of a leaked key, and it is good for one key of the whole table.
    """
    return None if caller.platform and TENANT not in request.query_params else tenant


Desk = Annotated[KeyDesk, Depends(desk_of)]
Whose = Annotated[str | None, Depends(whose_of)]
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
    tenant: TenantNamed,
    wanted: Annotated[KeyIn, body_of(KeyIn)],
) -> KeyMadeOut:
    """Make a key. Its token is in this answer and nowhere else; a repeat makes another key."""
    note(request, "create_key", role=wanted.role.value, of_tenant=tenant)
    cause = cause_of(request, caller, Action.CREATE_KEY)
    made = await desk.create(tenant, wanted.role, wanted.name, lasts_s=wanted.lasts_s, cause=cause)
    note(request, "key_created", key_id=made.key.id)
    response.headers["Cache-Control"] = "no-store"
    return KeyMadeOut.made(made, [], now=time.time())


@router.get("", response_model=KeyListOut, responses=answers("One page of keys.", *_OFF, errors.InvalidCursor))
async def keys(
    caller: AdminCaller,
    desk: Desk,
    tenant: TenantNamed,
    limit: Annotated[int, Query(ge=1, le=200, description="Rows on a page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=MAX_CHARS, description="`cursor` of the page before.")] = None,
) -> KeyListOut:
    """List keys, the newest first: who may come in, since when, and who of them still does."""
    page = await desk.page(tenant, limit=limit, cursor=cursor)
    rows = [KeyOut.of(key, now=time.time()) for key in page.keys]
    return KeyListOut(keys=rows, count=len(rows), cursor=page.cursor)


@router.get(
    "/{key_id}",
    response_model=KeyShownOut,
    responses=answers("The key as it is now.", *_OFF, errors.KeyNotFound),
)
async def look(request: Request, caller: AdminCaller, desk: Desk, whose: Whose, key_id: KeyId) -> KeyShownOut:
    """Look at one key. The default tenant's admins find that of any tenant, without naming it."""
    key, now = await desk.get(whose, key_id), time.time()
    if key.tenant != caller.tenant:
        note(request, "looked", of_tenant=key.tenant)
    last = key.state(now) is KeyState.LIVE and await desk.is_last_admin(key)
    return KeyShownOut.of(key, now=now, last_admin=last)


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
    whose: Whose,
    key_id: KeyId,
    wanted: Annotated[RotateIn, body_of(RotateIn)],
) -> KeyMadeOut:
    """Make a key in the place of this one: same name, role and end. Both are good for `overlap_s` seconds.

    The default tenant's admins rotate that of any tenant, without naming it.
    """
    note(request, "rotate_key", key_id=key_id, of_tenant=whose)
    cause = cause_of(request, caller, Action.ROTATE_KEY)
    made = await desk.rotate(whose, key_id, overlap_s=wanted.overlap_s, cause=cause)
    note(request, "key_rotated", new_key_id=made.key.id, of_tenant=made.key.tenant)
    response.headers["Cache-Control"] = "no-store"
    return KeyMadeOut.made(made, await desk.warnings(made.key), now=time.time())


@router.post(
    "/{key_id}/revoke",
    response_model=KeyRevokedOut,
    responses=answers("Revoked, from now on or before.", *_OFF, errors.KeyNotFound),
    openapi_extra=takes(ReasonIn, example={"reason": "INC-4712: it was committed to a repository"}),
)
async def revoke(
    request: Request,
    caller: AdminCaller,
    desk: Desk,
    whose: Whose,
    key_id: KeyId,
    said: Annotated[ReasonIn, body_of(ReasonIn)],
) -> KeyRevokedOut:
    """End a key: every process refuses it within 10 seconds, and jobs that it asked for are not run.

    The default tenant's admins end that of any tenant, without naming it.

    Also the last one that may make keys: `warnings` then says that nobody of the tenant is left who may.
    """
    note(request, "revoke_key", key_id=key_id, of_tenant=whose, reason=said.reason)
    cause = cause_of(request, caller, Action.REVOKE_KEY, reason=said.reason)
    revoked = await desk.revoke(whose, key_id, cause=cause)
    note(request, "revoke_key", of_tenant=revoked.tenant)
    return KeyRevokedOut.of(revoked, now=time.time(), warnings=await desk.warnings(revoked))
