"""How many boots of a kind of process failed in a row: kept where the process that replaces this one finds it."""

from typing import Final

from broker.errors import WriteConflict
from broker.store import table
from broker.store.client import StoreClient
from broker.supervisor import FORGET_S

KEPT_S: Final = 24 * 3600


class Boots:
    """One item for each kind of process: for all of its tasks together."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def failures(self, process: str, *, now: int) -> int:
        """The failures in a row, the last of them within the hour; one consistent read."""
        item = await self._client.get(table.boot_key(process))
        if item is None:
            return 0
        values = table.decode(item)
        return int(values["failures"]) if now - values["failed_at"] < FORGET_S else 0

    async def failed(self, process: str, *, now: int) -> int:
        """Count one more, and say how many there are. One that is long after the last is the first again."""
        recent = {":recent": now - FORGET_S}
        try:
            return await self._count("ADD failures :one SET", "failed_at > :recent", process, recent, now=now)
        except WriteConflict:
            condition = "attribute_not_exists(pk) OR failed_at <= :recent"
            return await self._count("SET failures = :one,", condition, process, recent, now=now)

    async def clear(self, process: str, *, seen: int) -> None:
        """A process of this kind has become ready; failures that came after these were `seen` stay."""
        await self._client.call(
            "update_item",
            TableName=self._client.table.name,
            Key=table.boot_key(process),
            UpdateExpression="SET failures = :none",
            ConditionExpression="failures = :seen",
            ExpressionAttributeValues=table.encode({":none": 0, ":seen": seen}),
        )

    async def _count(self, how: str, condition: str, process: str, values: dict[str, int], *, now: int) -> int:
        stored = {":one": 1, ":now": now, ":until": now + KEPT_S, ":v": table.ITEM_VERSION}
        answer = await self._client.call(
            "update_item",
            TableName=self._client.table.name,
            Key=table.boot_key(process),
            UpdateExpression=f"{how} failed_at = :now, #ttl = :until, v = :v",
            ConditionExpression=condition,
            ExpressionAttributeNames={"#ttl": "ttl"},
            ExpressionAttributeValues=table.encode(stored | values),
            ReturnValues="UPDATED_NEW",
        )
        return int(answer["Attributes"]["failures"]["N"])
