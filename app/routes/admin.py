"""What operators call. Every answer is about one tenant: the caller's own, unless the platform names another."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query

from app.cursors import MAX_CHARS
from app.deps import Core, Settings, TenantNamed
from app.openapi import ANY_TENANT, answers
from app.schemas import AdminSandboxOut, ReconciliationOut, SandboxListOut, StatsOut, WorkerOut
from app.spelling import ID_PATTERN
from broker import errors
from broker.sandbox import State
from broker.store.leader import LEADER_SCOPE

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.get(
    "/sandboxes",
    response_model=SandboxListOut,
    responses=answers("One page of sandboxes.", errors.InvalidCursor, *ANY_TENANT),
)
async def sandboxes(
    tenant: TenantNamed,
    core: Core,
    status: Annotated[State | None, Query(description="Only this status.")] = None,
    track: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only this lab's.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Rows on a page.")] = 100,
    cursor: Annotated[str | None, Query(max_length=MAX_CHARS, description="`cursor` of the page before.")] = None,
) -> SandboxListOut:
    """List sandboxes, page by page until `cursor` is null; `?track=…&status=allocated`: what a lab holds now."""
    page = await core.inventory.page(tenant, status=status, track=track, limit=limit, cursor=cursor)
    rows = [AdminSandboxOut.of(sandbox) for sandbox in page.sandboxes]
    return SandboxListOut(sandboxes=rows, count=len(rows), cursor=page.cursor)


@router.get("/stats", response_model=StatsOut, responses=answers("Counts by status.", *ANY_TENANT))
async def stats(tenant: TenantNamed, core: Core) -> StatsOut:
    """Count sandboxes by status, now. Reads the whole index of this tenant: for people, not for scrapers."""
    counts = await asyncio.gather(*(core.broker.sandboxes.count(tenant, state) for state in State))
    return StatsOut.of(dict(zip(State, counts, strict=True)))


@router.get(
    "/reconciliation",
    response_model=ReconciliationOut,
    responses=answers("The last listing, account by account.", *ANY_TENANT),
)
async def reconciliation(tenant: TenantNamed, core: Core) -> ReconciliationOut:
    """Show what the provider's accounts are to us, which nothing explains, and whether the listing is believed."""
    state = await core.broker.sync_states.read(tenant)
    return ReconciliationOut.of(state, now=int(time.time()))


@router.get("/worker", response_model=WorkerOut, responses=answers("Who leads, and how it is.", *ANY_TENANT))
async def worker(tenant: TenantNamed, core: Core, settings: Settings) -> WorkerOut:
    """Show which worker leads, and how this tenant does with it: last word, provider, last sync, alerts."""
    broker = core.broker
    term, report, default, counted, served = await asyncio.gather(
        broker.leader.read(LEADER_SCOPE),
        broker.reports.read(tenant),
        broker.reports.read(settings.tenant),
        broker.gauges.read(tenant),
        broker.tenants.get(tenant),
    )
    return WorkerOut.of(term, report, counted, default=default, tenant=served, now=int(time.time()))
