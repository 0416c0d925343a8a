"""Expire: allocations whose time and grace are over."""

from collections import Counter

from broker import tracing
from broker.action import Action
from broker.errors import WriteConflict
from broker.lifecycle import Lifecycle
from broker.sandbox import State
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes
from broker.tracing import Life


async def expire(
    sandboxes: Sandboxes, lifecycle: Lifecycle, *, tenant: str, now: int, grace_s: int, request_id: str
) -> Counter[str]:
    """Move allocations that ended over `grace_s` seconds before `now` to pending deletion.

    Reads only what is due, not what is allocated. Idempotent and safe beside the API: a release or an
    extension that lands first wins.
    """
    outcome: Counter[str] = Counter()
    cause = Cause(actor="worker:expire", action=Action.EXPIRE, request_id=request_id)
    async for held in sandboxes.walk(tenant, State.ALLOCATED, up_to=now - grace_s):
        try:
            await lifecycle.expire(held, cause)
        except WriteConflict:
            outcome["lost_race"] += 1
        else:
            outcome["expired"] += 1
            tracing.tell(Life("sandbox", held.tenant, held.id), "expired")
    return outcome
