"""The pool's numbers as the worker last counted them: one item, so that a scrape is one read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.sandbox import State
from broker.store import table
from broker.store.client import StoreClient
from broker.store.table import Item

_BATCH: Final = 100
"""Keys that one batch read of the store takes."""


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
        return None if item is None else _gauges_from(item)

    async def read_many(self, tenants: Iterable[str]) -> dict[str, PoolGauges]:
        """The last snapshots of those that were ever counted, by tenant, 100 to a read."""
        names = {table.gauges_key(tenant)["pk"]["S"]: tenant for tenant in tenants}
        keys = [table.primary(pk) for pk in names]
        found: dict[str, PoolGauges] = {}
        for first in range(0, len(keys), _BATCH):
            for item in await self._client.batch_get(keys[first : first + _BATCH]):
                found[names[item["pk"]["S"]]] = _gauges_from(item)
        return found

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


def _gauges_from(item: Item) -> PoolGauges:
    values = table.decode(item)
    return PoolGauges(
        at=values["at"],
        states={state: int(values.get(f"n_{state.value}", 0)) for state in State},
        missing=values.get("missing", 0),
        oldest_pending_at=values.get("oldest_pending_at"),
    )
