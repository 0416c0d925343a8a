"""Who changed what, and when: the audit log of one tenant."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.cursors import MAX_CHARS
from app.deps import Core, TenantNamed, ViewerCaller
from app.instants import Instant
from app.openapi import ANY_TENANT, answers
from app.schemas_events import EventListOut, EventOut
from app.spelling import ID_PATTERN
from broker import errors
from broker.action import Action
from broker.store.event_log import Sought

router = APIRouter(prefix="/v1/admin", tags=["audit"])


async def sought_of(
    sandbox: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only this sandbox's.")] = None,
    actor: Annotated[
        str | None, Query(min_length=1, max_length=128, description="Only by this credential, or worker's task.")
    ] = None,
    action: Annotated[Action | None, Query(description="Only what was done by this.")] = None,
    request: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only what this request caused.")] = None,
    since: Annotated[
        Instant | None, Query(description="From this instant on: Unix seconds, or ISO 8601 in UTC.")
    ] = None,
    until: Annotated[Instant | None, Query(description="Up to this instant, its second included.")] = None,
) -> Sought:
    """Which events are asked for.

    Raises:
        InvalidInput: of a span that ends before it begins.
    """
    if since is not None and until is not None and since > until:
        begins, ends = (f"{at} ({datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ})" for at in (since, until))
        raise errors.InvalidInput("query.since", f"{begins} is later than `until`, {ends}: nothing lies between")
    return Sought(sandbox_id=sandbox, actor=actor, action=action, request_id=request, since=since, until=until)


@router.get(
    "/events",
    response_model=EventListOut,
    responses=answers("One page of events.", errors.InvalidCursor, *ANY_TENANT),
)
async def events(
    caller: ViewerCaller,
    tenant: TenantNamed,
    core: Core,
    sought: Annotated[Sought, Depends(sought_of)],
    limit: Annotated[int, Query(ge=1, le=1000, description="Rows on a page.")] = 100,
    cursor: Annotated[str | None, Query(max_length=MAX_CHARS, description="`cursor` of the page before.")] = None,
) -> EventListOut:
    """List who changed what in the last 30 days, newest first; `?sandbox=…` is one sandbox's whole history.

    Of what was done to another tenant's things, only the platform's operators and admins see `before` and `after`.
    Follow `cursor` until it is null: a page may be empty, as a page walks through some hours only.
    """
    page = await core.audit.page(tenant, sought, limit=limit, cursor=cursor)
    found = page.events if caller.platform else await core.audit.for_tenant(page.events, tenant)
    names = await core.audit.names(found, tenant=None if caller.platform else tenant)
    rows = [EventOut.of(event, names) for event in found]
    return EventListOut(events=rows, count=len(rows), cursor=page.cursor)
