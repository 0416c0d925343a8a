"""Clients, items, transactions and questions that the tests of the proxy share."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

REPOSITORY = Path(__file__).parents[2]


def connect(
    url: str, *, region: str = "us-east-1", read_timeout_s: float = 20
) -> "AbstractAsyncContextManager[DynamoDBClient]":
    """A client with one attempt, so that a test sees what the proxy did, and with no checks of its own."""
    config = Config(
        retries={"max_attempts": 0},
        parameter_validation=False,
        read_timeout=read_timeout_s,
        max_pool_connections=50,
    )
    return _session().client("dynamodb", region_name=region, endpoint_url=url, config=config)


@cache
def _session() -> aioboto3.Session:
    """Shared, as it reads the service's model from disk once."""
    return aioboto3.Session(aws_access_key_id="test", aws_secret_access_key="test")


def table_definition(name: str) -> dict[str, Any]:
    def keys(partition: str, sort: str) -> list[dict[str, str]]:
        return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]

    index = {
        "IndexName": "StatusIndex",
        "KeySchema": keys("state", "name"),
        "Projection": {"ProjectionType": "ALL"},
    }
    names = ("pk", "sk", "state", "name")
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in names],
        "KeySchema": keys("pk", "sk"),
        "GlobalSecondaryIndexes": [index],
    }


def key(pk: str = "a") -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": "-"}}


def an_item(pk: str = "a", *, state: str = "free", **more: Any) -> dict[str, Any]:
    return key(pk) | {"state": {"S": state}, "name": {"S": pk}} | more


def put(table: str, pk: str, **changes: Any) -> dict[str, Any]:
    return {"Put": {"TableName": table, "Item": an_item(pk, **changes)}}


def check(table: str, pk: str) -> dict[str, Any]:
    return {
        "ConditionCheck": {
            "TableName": table,
            "Key": key(pk),
            "ConditionExpression": "attribute_not_exists(nope)",
        }
    }


def to_state(table: str, pk: str, state: str) -> dict[str, Any]:
    """Arguments of an update that moves the item to another partition of the index."""
    return {
        "TableName": table,
        "Key": key(pk),
        "UpdateExpression": "SET #s = :s, #n = :n",
        "ExpressionAttributeNames": {"#s": "state", "#n": "name"},
        "ExpressionAttributeValues": {":s": {"S": state}, ":n": {"S": pk}},
    }


def in_state(table: str, state: str, **more: Any) -> dict[str, Any]:
    """Arguments of a query of the index."""
    return {
        "TableName": table,
        "IndexName": "StatusIndex",
        "KeyConditionExpression": "#s = :s",
        "ExpressionAttributeNames": {"#s": "state"},
        "ExpressionAttributeValues": {":s": {"S": state}},
    } | more


async def indexed(client: Any, table: str, state: str = "free") -> list[str]:
    """Partition keys of the items that the index shows in this state."""
    answer = await client.query(**in_state(table, state))
    return [item["pk"]["S"] for item in answer["Items"]]


async def exists(client: Any, table: str, pk: str = "a") -> bool:
    return "Item" in await client.get_item(TableName=table, Key=key(pk), ConsistentRead=True)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition` holds; fails after 10 s or more."""
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to pass")


async def refusal(call: Any) -> ClientError:
    """The error that the store answered to `call`."""
    with pytest.raises(ClientError) as caught:
        await call
    return caught.value


def code(error: ClientError) -> str:
    return error.response["Error"]["Code"]


def reasons(error: ClientError) -> list[str]:
    """The codes of a cancelled transaction, slot by slot."""
    assert code(error) == "TransactionCanceledException"
    return [reason["Code"] for reason in error.response["CancellationReasons"]]  # type: ignore[typeddict-item]
