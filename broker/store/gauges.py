"""The pool's numbers as the worker last counted them: one item, so that a scrape is one read."""

from collections.abc import Mapping
from dataclasses import dataclass

from broker.sandbox import State
from broker.store import table
from broker.store.client import StoreClient


@dataclass(frozen=True, slots=True)
class PoolGauges:
    """Sandboxes by state, and how many of them the provider no longer lists, at `at` (Unix seconds)."""

    at: int
    states: Mapping[State, int]
    missing: int = 0
    oldest_pending_at: int | None = None  # since when the oldest pending deletion is due

    @property
    def pending(self) -> int:
        return self.states[State.PENDING_DELETION]


class GaugesStore:
    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def read(self, tenant: str) -> PoolGauges | None:
        """The last snapshot; eventually consistent, which a gauge may be."""
        item = await self._client.get(table.gauges_key(tenant), consistent=False)
        if item is None:
            return None
        values = table.decode(item)
        states = {state: int(values.get(f"n_{state.value}", 0)) for state in State}
        return PoolGauges(
            at=values["at"],
            states=states,
            missing=values.get("missing", 0),
            oldest_pending_at=values.get("oldest_pending_at"),
        )

    async def write(self, tenant: str, gauges: PoolGauges) -> None:
        """Keep the newer snapshot.

        Raises:
            WriteConflict: the store has a newer one.
        """
        values = {f"n_{state.value}": count for state, count in gauges.states.items()}
        facts = {"v": table.ITEM_VERSION, "at": gauges.at, "missing": gauges.missing}
        item = table.encode({**facts, "oldest_pending_at": gauges.oldest_pending_at, **values})
        change = table.update_of({"oldest_pending_at": {}}, item)
        update = self._client.update(
            table.gauges_key(tenant),
            change,
            "attribute_not_exists(pk) OR #at <= :now",
            {":now": table.encode_value(gauges.at)},
        )["Update"]
        update["ExpressionAttributeNames"]["#at"] = "at"
        await self._client.call("update_item", **update)
