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
    states = {State.PENDING_DELETION: len(pending)}
    for state in set(State) - set(states):
        states[state] = await sandboxes.count(tenant, state)
    there = [state for state in MISSING_MATTERS if states[state]]
    missing = sum([await sandboxes.count(tenant, state, missing=True) for state in there])
    snapshot = PoolGauges(at=now, states=states, missing=missing, oldest_pending_at=min(pending, default=None))
    with suppress(WriteConflict):  # a newer one is there
        await gauges.write(tenant, snapshot)
    return snapshot
