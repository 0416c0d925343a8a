"""A table as the old broker left it: PK and SK in capitals, `SBX#{id}` and `META`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3

from broker.store import table
from broker.store.door import client_config
from tests.conftest import settings_for


class OldTable:
    def __init__(self, dynamodb: Any, name: str) -> None:
        self.dynamodb = dynamodb
        self.name = name

    async def put(self, pk: str, sk: str = "META", **values: Any) -> None:
        item = {"PK": {"S": pk}, "SK": {"S": sk}} | table.encode(values)
        await self.dynamodb.put_item(TableName=self.name, Item=item)

    async def sandbox(self, number: int, status: str = "available", **values: Any) -> None:
        """Sandbox number `number`, as a_sandbox() has it; None takes an attribute away."""
        id_ = str(2_009_000 + number)
        facts = {
            "sandbox_id": id_,
            "name": f"lab-adventure-{number:04d}",
            "external_id": f"identity/accounts/{number:032x}",
            "status": status,
        }
        await self.put(f"SBX#{id_}", **(facts | values))

    async def items(self) -> list[dict[str, Any]]:
        return list((await self.dynamodb.scan(TableName=self.name, ConsistentRead=True))["Items"])


@asynccontextmanager
async def an_old_table(url: str, name: str) -> AsyncIterator[OldTable]:
    settings = settings_for(url, name)
    async with aioboto3.Session().client(
        "dynamodb", region_name=settings.region, endpoint_url=url, config=client_config(settings)
    ) as dynamodb:
        keys = [("PK", "HASH"), ("SK", "RANGE")]
        await dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": part, "AttributeType": "S"} for part, _ in keys],
            KeySchema=[{"AttributeName": part, "KeyType": kind} for part, kind in keys],
        )
        yield OldTable(dynamodb, name)
