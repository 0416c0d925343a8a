"""Gauges: count the pool once, for every process that is scraped."""

from contextlib import suppress

from broker.errors import WriteConflict
from broker.policy import MISSING_MATTERS
from broker.sandbox import State
from broker.store.gauges import GaugesStore, PoolGauges
from broker.store.sandboxes import Sandboxes


async def count_pool(sandboxes: Sandboxes, gauges: GaugesStore, *, tenant: str, now: int) -> PoolGauges:
    """Count the sandboxes by state and leave the numbers in the store."""
    states = {state: await sandboxes.count(tenant, state) for state in State}
    missing = sum([await sandboxes.count(tenant, state, missing=True) for state in MISSING_MATTERS])
    snapshot = PoolGauges(at=now, states=states, missing=missing)
    with suppress(WriteConflict):  # a newer one is there
        await gauges.write(tenant, snapshot)
    return snapshot
