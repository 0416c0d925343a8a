"""A table's state at an instant, as point-in-time recovery would bring it back: its items, copied to another."""

from typing import Any

from broker.store.door import client_config
from broker.store.schema import create_table
from broker.wiring import table_of
from tests.conftest import aws_session, settings_for


async def restore(url: str, source: str, target: str) -> None:
    """Make `target`, with what `source` holds now."""
    settings = settings_for(url, target)
    async with aws_session().client(
        "dynamodb", region_name=settings.region, endpoint_url=url, config=client_config(settings)
    ) as dynamodb:
        await create_table(dynamodb, table_of(settings))
        start: dict[str, Any] = {}
        while True:
            page = await dynamodb.scan(TableName=source, ConsistentRead=True, **start)
            for item in page["Items"]:
                await dynamodb.put_item(TableName=target, Item=item)
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
