"""Tenants: today their shard count, which only ever rises and which every reader asks."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from broker.errors import WriteConflict
from broker.store import table
from broker.store.client import StoreClient

_REMEMBER_S = 1.0


class Tenants:
    """Reads the tenant's item, at most once a second per tenant."""

    def __init__(
        self, client: StoreClient, *, default_shards: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._default_shards = default_shards
        self._monotonic = monotonic
        self._known: dict[str, tuple[float, int]] = {}
        self._reading = asyncio.Lock()

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
        self._known.pop(tenant, None)

    async def shards(self, tenant: str) -> int:
        """How many shards to ask. A tenant without an item has the default."""
        if (shards := self._remembered(tenant)) is not None:
            return shards
        async with self._reading:
            if (shards := self._remembered(tenant)) is not None:
                return shards
            item = await self._client.get(table.tenant_key(tenant))
            shards = self._default_shards if item is None else int(item["shards"]["N"])
            self._known[tenant] = (self._monotonic(), shards)
            return shards

    def _remembered(self, tenant: str) -> int | None:
        read_at, shards = self._known.get(tenant, (0.0, None))
        return shards if shards is not None and self._monotonic() - read_at < _REMEMBER_S else None
