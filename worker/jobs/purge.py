"""Purge: sandboxes that have been stale for long leave the table; their events stay."""

from collections import Counter

from broker.action import Action
from broker.errors import WriteConflict
from broker.sandbox import State
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes


async def purge(sandboxes: Sandboxes, *, tenant: str, now: int, after_s: int, request_id: str) -> Counter[str]:
    """Remove what has been stale for `after_s` seconds at `now`. If the account returns, it is new again."""
    outcome: Counter[str] = Counter()
    cause = Cause(actor="worker:purge", action=Action.PURGED, request_id=request_id)
    async for stale in sandboxes.walk(tenant, State.STALE, up_to=now - after_s):
        try:
            await sandboxes.remove(stale, cause, now=now)
        except WriteConflict:
            outcome["lost_race"] += 1
        else:
            outcome["purged"] += 1
    return outcome
