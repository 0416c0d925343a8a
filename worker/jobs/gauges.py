"""Gauges: count the pool once, for every process that is scraped, and for the alerts."""

from contextlib import suppress

from broker.errors import WriteConflict
from broker.policy import MISSING_MATTERS
from broker.sandbox import State
from broker.store.gauges import GaugesStore, PoolGauges
from broker.store.sandboxes import Sandboxes


async def count_pool(sandboxes: Sandboxes, gauges: GaugesStore, *, tenant: str, now: int) -> PoolGauges:
    """Count the sandboxes by state and leave the numbers in the store."""
    pending = [sandbox.since async for sandbox in sandboxes.walk(tenant, State.PENDING_DELETION)]
    states, missing = {State.PENDING_DELETION: len(pending)}, 0
    for state in set(State) - {State.PENDING_DELETION}:
        if state in MISSING_MATTERS:
            states[state], gone = await sandboxes.count_missing(tenant, state)
            missing += gone
        else:
            states[state] = await sandboxes.count(tenant, state)
    snapshot = PoolGauges(at=now, states=states, missing=missing, oldest_pending_at=min(pending, default=None))
    with suppress(WriteConflict):  # a newer one is there
        await gauges.write(tenant, snapshot)
    return snapshot
