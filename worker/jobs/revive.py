"""Revive: deletions that failed for good are tried again by themselves, after a long wait."""

from collections import Counter

from broker.action import Action
from broker.errors import WriteConflict
from broker.sandbox import State
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes


async def revive(sandboxes: Sandboxes, *, tenant: str, now: int, after_s: int, request_id: str) -> Counter[str]:
    """Put back into the queue what has been failed for `after_s` seconds at `now`, with all its attempts."""
    outcome: Counter[str] = Counter()
    cause = Cause(actor="worker:revive", action=Action.RETRY, request_id=request_id)
    async for failed in sandboxes.walk(tenant, State.DELETION_FAILED, up_to=now - after_s):
        try:
            await sandboxes.move(failed, failed.retry_deletion(reason=None, now=now), cause, now=now)
        except WriteConflict:
            outcome["lost_race"] += 1
        else:
            outcome["revived"] += 1
    return outcome
