"""Pools filled exactly: so many sandboxes, numbered, as sync would have written them."""

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from broker.sandbox import Sandbox, State
from broker.store import table

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

TENANT = "default"
STATUS_INDEX = "StatusIndex"
TRACK_INDEX = "TrackIndex"
BATCH = 25
LANES = 8


def a_row(number: int, *, tenant: str = TENANT, name: str | None = None) -> Sandbox:
    """The sandbox of this number; its id, name and account follow from that."""
    return Sandbox(
        tenant=tenant,
        id=str(number),
        state=State.AVAILABLE,
        version=1,
        name=name or f"lab-{number:06d}",
        external_id=f"identity/accounts/{number:032x}",
        since=0,
    )


def indexes(table_name: str) -> list[dict[str, Any]]:
    """The definitions of the table's indexes."""
    found: list[dict[str, Any]] = table.definition(names(table_name))["GlobalSecondaryIndexes"]
    return found


def names(table_name: str) -> table.Table:
    return table.Table(table_name, STATUS_INDEX, TRACK_INDEX)


async def fill(
    dynamodb: "DynamoDBClient", table_name: str, first: int, last: int, *, shards: int, tenant: str = TENANT
) -> None:
    """Write the available sandboxes first..last (without `last`)."""
    rows = (a_row(number, tenant=tenant) for number in range(first, last))
    await put(dynamodb, table_name, rows, shards=shards)


async def put(dynamodb: "DynamoDBClient", table_name: str, rows: Iterable[Sandbox], *, shards: int) -> None:
    """Write these sandboxes as they are, 25 to a batch, a few batches at a time."""
    left = iter(rows)

    async def lane() -> None:
        while batch := list(islice(left, BATCH)):
            puts = [{"PutRequest": {"Item": table.sandbox_item(row, shards)}} for row in batch]
            await dynamodb.batch_write_item(RequestItems={table_name: puts})  # type: ignore[dict-item]

    await asyncio.gather(*(lane() for _ in range(LANES)))
