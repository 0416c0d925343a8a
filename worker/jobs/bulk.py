"""Bulk moves: one sandbox after the other, each in a step of its own; what fails is counted, the rest goes on."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from broker.action import Action
from broker.errors import BrokerError, StoreThrottled, StoreUnavailable, WriteConflict
from broker.selection import Selection, Selector
from broker.store.events import Cause
from worker.job_context import Context, Handler

log = logging.getLogger("worker")

MAX_TROUBLES: Final = 5
"""Sandboxes in a row at which the store was in trouble: then it is the store's, and the job comes again later."""

Act = Callable[[str], Awaitable[object]]


def bulk_handler(selector: Selector, move: Callable[[Context, str], Awaitable[object]]) -> Handler:
    """The handler of one kind of bulk move: `move` for each sandbox that the job's parameters select."""

    async def handle(context: Context) -> Counter[str]:
        selection = Selection.of(context.job.kind, context.params)
        picked = selector.ids(context.tenant, selection)
        return await bulk(context, picked, lambda sandbox_id: move(context, sandbox_id))

    return handle


def cause_of(context: Context) -> Cause:
    """Who asked for it stands in every event of the job."""
    return Cause(
        actor=context.requested_by,
        action=Action(context.job.kind.value),
        request_id=context.request_id,
        reason=context.reason or context.job.kind.value,  # what an operator did is told by its reason
    )


async def bulk(context: Context, pick: AsyncIterator[str], act: Act) -> Counter[str]:
    """Do `act` for every sandbox of `pick`, in the order of their ids; counts by outcome.

    They are counted before the first is moved, and it stops between any two. Idempotent as far as `act`
    is: run again, it meets those it moved before in a state that `act` refuses, and counts them so.

    Raises:
        Stopped, LeaseLost: from a checkpoint.
        StoreUnavailable, StoreThrottled: for several sandboxes in a row.
    """
    ids: set[str] = set()
    async for sandbox_id in pick:
        await context.checkpoint()
        ids.add(sandbox_id)
    context.progress(done=0, failed=0, total=len(ids))
    outcome: Counter[str] = Counter()
    troubles = 0
    for sandbox_id in sorted(ids):
        await context.checkpoint()
        try:
            await _whole(act(sandbox_id))
        except (BrokerError, WriteConflict) as error:
            trouble = isinstance(error, StoreUnavailable | StoreThrottled)
            troubles = troubles + 1 if trouble else 0
            if isinstance(error, BrokerError) and troubles >= MAX_TROUBLES:
                raise
            why = error.code.lower() if isinstance(error, BrokerError) else "lost_race"
            outcome[why] += 1
            log.warning("left alone in a bulk move", extra={"sandbox_id": sandbox_id, "why": why})
        else:
            troubles = 0
            outcome["done"] += 1
        context.progress(done=outcome["done"], failed=outcome.total() - outcome["done"])
    return outcome


async def _whole(step: Awaitable[object]) -> None:
    """Wait for a step to its end, also when the job is cut in the middle of it: no move is left half known."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, so that nobody misses it: the job is over
        raise
