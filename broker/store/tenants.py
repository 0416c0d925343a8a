"""Tenants: today their shard count, which only ever rises and which every reader asks."""

import contextlib

from broker.errors import WriteConflict
from broker.store import table
from broker.store.client import StoreClient
from broker.store.known import Known


class Tenants:
    """Reads the tenant's item, at most once a second per tenant."""

    def __init__(self, client: StoreClient, known: Known, *, default_shards: int) -> None:
        self._client = client
        self._known = known
        self._default_shards = default_shards

    async def ensure(self, tenant: str, *, shards: int, now: int) -> None:
        """Create the tenant, or raise its shard count. It never falls: items stay where they are."""
        change = {
            "UpdateExpression": "SET shards = :shards, v = :v, tenant = :tenant, "
            "created_at = if_not_exists(created_at, :now)",
            "ExpressionAttributeValues": table.encode(
                {":shards": shards, ":v": table.ITEM_VERSION, ":tenant": tenant, ":now": now}
            ),
        }
        condition = "attribute_not_exists(shards) OR shards < :shards"
        update = self._client.update(table.tenant_key(tenant), change, condition)["Update"]
        with contextlib.suppress(WriteConflict):  # it has as many already, or more
            await self._client.call("update_item", **update)
        self._known.forget(table.tenant_key(tenant))

    async def shards(self, tenant: str) -> int:
        """How many shards to ask. A tenant without an item has the default.

        Raises:
            StoreThrottled, StoreUnavailable: it could not be read, said at once to everyone who waited.
        """
        item = await self._known.get(table.tenant_key(tenant))
        return self._default_shards if item is None else int(item["shards"]["N"])
