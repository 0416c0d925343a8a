"""Quota slots: an allocation under a limit fills one, its end empties it, each in the same transaction.

So many items of one tenant as it may hold sandboxes: nothing is counted, so that no count can be wrong.
"""

from typing import Any

from broker.sandbox import Sandbox
from broker.store import table
from broker.store.client import StoreClient


class Slots:
    """Reads slots, and makes the transaction items that fill and empty them."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def used(self, tenant: str) -> frozenset[int]:
        """The filled slots, read consistently: one query for some thousand of them."""
        pages = self._client.pages(
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": table.slots_pk(tenant)}},
            ProjectionExpression="sk",
            ConsistentRead=True,
        )
        return frozenset([int(item["sk"]["S"]) async for page in pages for item in page["Items"]])

    def fill(self, held: Sandbox) -> dict[str, Any]:
        """Put the slot of an allocated sandbox, where it is empty."""
        if held.slot is None:
            raise ValueError(f"{held.id} has no slot")
        facts = table.encode({"v": table.ITEM_VERSION, "tenant": held.tenant, "sandbox_id": held.id})
        return self._client.put(facts | table.slot_key(held.tenant, held.slot), "attribute_not_exists(pk)")

    def empty(self, held: Sandbox) -> dict[str, Any]:
        """Remove the slot of `held`, if it is that sandbox's."""
        if held.slot is None:
            raise ValueError(f"{held.id} has no slot")
        mine = {":me": table.encode_value(held.id)}
        return self._client.delete(table.slot_key(held.tenant, held.slot), "sandbox_id = :me", mine)
