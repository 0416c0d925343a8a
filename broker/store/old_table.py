"""The old broker's table: recognised by its keys, read slowly, never written."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from broker.arrival import Origin
from broker.errors import ForeignTable
from broker.store.table import decode

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

KEYS: Final = [("PK", "HASH"), ("SK", "RANGE")]
_PAGE: Final = 100
_PREFIX: Final = "SBX#"
_SORT: Final = "META"


async def must_be_old(dynamodb: "DynamoDBClient", name: str) -> None:
    """Look at the table's keys.

    Raises:
        ForeignTable: it is not there, or no table of the old broker; says so of one of ours.
    """
    try:
        described = await dynamodb.describe_table(TableName=name)
    except ClientError as error:
        raise ForeignTable(f"{name}: {error.response['Error'].get('Message', 'cannot be read')}") from error
    keys = [(key["AttributeName"], key["KeyType"]) for key in described["Table"]["KeySchema"]]
    if keys == [(part.lower(), kind) for part, kind in KEYS]:
        raise ForeignTable(f"{name} has the keys pk and sk: it is a table of this broker, not of the old one")
    if keys != KEYS:
        found = ", ".join(part for part, _ in keys)
        raise ForeignTable(f"{name} has the keys {found}; a table of the old broker has PK and SK")


async def sandboxes_of(
    dynamodb: "DynamoDBClient", name: str, *, items_per_s: float, page_size: int = _PAGE
) -> AsyncIterator[Origin | None]:
    """Every sandbox of the table, read consistently; None for each item that is something else.

    A walk through the whole table, for a command that is run once: no faster than `items_per_s`.
    """
    start: dict[str, Any] = {}
    while True:
        began = time.monotonic()
        page = await dynamodb.scan(TableName=name, Limit=page_size, ConsistentRead=True, **start)
        for item in page["Items"]:
            pk, sk = item["PK"].get("S", ""), item["SK"].get("S", "")
            ours = pk.startswith(_PREFIX) and sk == _SORT
            yield Origin(pk, decode(item)) if ours else None
        if not (last := page.get("LastEvaluatedKey")):
            return
        start = {"ExclusiveStartKey": last}
        await asyncio.sleep(max(0.0, len(page["Items"]) / items_per_s - (time.monotonic() - began)))
