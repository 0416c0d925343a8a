"""Whose table this is: created here, recognised here, refused here."""

import contextlib
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from broker.errors import ForeignTable, StoreUnavailable, WriteConflict
from broker.store import table
from broker.store.client import StoreClient
from broker.store.table import SCHEMA, Table

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient


async def create_table(dynamodb: "DynamoDBClient", names: Table) -> bool:
    """Create the table and wait until it serves, with TTL and point-in-time recovery; False where it exists.

    For local engines and first steps. In production terraform owns the table.
    """
    try:
        await dynamodb.create_table(**table.definition(names))
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceInUseException":
            raise
        return False
    await dynamodb.get_waiter("table_exists").wait(
        TableName=names.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    await dynamodb.update_time_to_live(
        TableName=names.name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl"}
    )
    with contextlib.suppress(ClientError):  # local engines do without
        await dynamodb.update_continuous_backups(
            TableName=names.name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
        )
    return True


async def claim_table(client: StoreClient, *, now: int) -> None:
    """Make sure that the table is the broker's own; mark an empty one as such.

    Raises:
        ForeignTable: it does not exist, has other keys, or holds what the broker did not write.
    """
    name = client.table.name
    try:
        meta = await client.get(table.meta_key())
        await _ask_indexes(client)
        if meta is None:
            await _mark(client, now=now)
            return
    except StoreUnavailable as error:
        if error.why != "ResourceNotFoundException":
            raise
        raise ForeignTable(
            f"{name}: not found. Are DDB_TABLE_NAME and AWS_REGION right? Where there is none yet: "
            "terraform, or sandbox-broker create-table"
        ) from error
    except ClientError as error:
        raise ForeignTable(f"{name}: {error.response['Error'].get('Message')}") from error
    schema = meta.get("schema", {}).get("S", "")
    if schema != SCHEMA:
        raise ForeignTable(f"{name} {_of_schema(schema)}")


def _of_schema(schema: str) -> str:
    """What is to be done about a table of another schema."""
    ours, _, number = SCHEMA.partition("/")
    theirs, _, other = schema.partition("/")
    said = f"holds schema {schema!r}; this release knows {SCHEMA!r}"
    if theirs != ours or not other.isdigit():
        return f"{said}: it is someone else's. Check DDB_TABLE_NAME"
    if int(other) > int(number):
        return f"{said}: a newer release has taken it over. Deploy that one again, or restore the table to before"
    return f"{said}: deploy the releases between, one after the other (docs/upgrade.md)"


async def _ask_indexes(client: StoreClient) -> None:
    """A wrong index name must end the boot, not every request."""
    for index, key in ((client.table.status_index, "gsi1pk"), (client.table.track_index, "gsi2pk")):
        await client.read(
            "query",
            TableName=client.table.name,
            IndexName=index,
            KeyConditionExpression=f"{key} = :none",
            ExpressionAttributeValues={":none": {"S": "-"}},
            Limit=1,
        )


async def _mark(client: StoreClient, *, now: int) -> None:
    """Runs once in a table's life. One item is enough to tell a used table from a new one."""
    first = await client.call("scan", TableName=client.table.name, Limit=1, ConsistentRead=True)
    if first["Items"] and (await client.get(table.meta_key())) is None:
        raise ForeignTable(f"{client.table.name} holds items but not the broker's mark: it is someone else's")
    item = table.encode({"schema": SCHEMA, "created_at": now, "v": table.ITEM_VERSION}) | table.meta_key()
    put = client.put(item, "attribute_not_exists(pk)")["Put"]
    with contextlib.suppress(WriteConflict):  # another process was first
        await client.call("put_item", **put)
