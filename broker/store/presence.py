"""Which processes of a kind are there: each says so every few seconds. A hint about load, never about right."""

from typing import Final

from broker.store import table
from broker.store.client import StoreClient

KEPT_S: Final = 3600
"""What a process that was killed leaves behind goes by itself after this long."""


class Presence:
    """One item for each process, all of a kind in one partition."""

    def __init__(self, client: StoreClient, kind: str) -> None:
        self._client = client
        self._kind = kind

    async def say(self, process: str, *, now: int) -> None:
        """This process is there."""
        key = table.presence_key(self._kind, process)
        values = {"v": table.ITEM_VERSION, "at": now, "ttl": now + KEPT_S}
        change = table.update_of({}, table.encode(values))
        await self._client.call("update_item", TableName=self._client.table.name, Key=key, **change)

    async def heard(self) -> dict[str, int]:
        """When each said so last, in Unix seconds by its own clock; those long gone may be among them."""
        pages = self._client.pages(
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": table.presence_pk(self._kind)}},
        )
        items = [table.decode(item) async for page in pages for item in page["Items"]]
        return {str(item["sk"]): int(item["at"]) for item in items}

    async def leave(self, process: str) -> None:
        key = table.presence_key(self._kind, process)
        await self._client.call("delete_item", TableName=self._client.table.name, Key=key)
