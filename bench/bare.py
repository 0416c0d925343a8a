"""The bare route that the broker is held against: FastAPI, one three-item transaction through aioboto3, an answer.

The transaction is the one of the broker's allocation, item for item and attribute for attribute (a test compares
them): the claim, the sandbox, the event. No authentication, no limits, no log, no metrics, no candidates: the
sandboxes are numbered, and each request takes the next number. It imports nothing of the broker, so that it stays
what it is while the broker changes.
"""

import argparse
import itertools
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3
import uvicorn
from aiobotocore.config import AioConfig
from fastapi import FastAPI, Request
from pydantic import BaseModel

TENANT = "default"
LEASE_S = 4 * 3600
DAY_S = 24 * 3600


class Allocation(BaseModel):
    sandbox_id: str
    name: str
    external_id: str
    allocated_at: int
    expires_at: int
    generation: int


def create_app(*, endpoint_url: str, table_name: str, first: int, shards: int, connections: int) -> FastAPI:
    numbers = itertools.count(first)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aioboto3.Session().client(
            "dynamodb",
            region_name="us-east-1",
            endpoint_url=endpoint_url,
            config=AioConfig(max_pool_connections=connections),
        ) as dynamodb:
            app.state.dynamodb = dynamodb
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/allocate", status_code=201, response_model=Allocation)
    async def allocate(request: Request) -> Allocation:
        now = time.time()
        allocation = allocation_of(next(numbers), now=int(now))
        student = request.headers["x-instruqt-sandbox-id"]
        items = transaction(table_name, allocation, student, shards=shards, now=now)
        await app.state.dynamodb.transact_write_items(TransactItems=items)
        return allocation

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    return app


def allocation_of(number: int, *, now: int) -> Allocation:
    """Of the sandbox as `bench.pool` numbers it."""
    return Allocation(
        sandbox_id=str(number),
        name=f"lab-{number:06d}",
        external_id=f"identity/accounts/{number:032x}",
        allocated_at=now,
        expires_at=now + LEASE_S,
        generation=2,
    )


def transaction(table_name: str, it: Allocation, student: str, *, shards: int, now: float) -> list[dict[str, Any]]:
    at, until, two = {"N": str(it.allocated_at)}, {"N": str(it.expires_at)}, {"N": "2"}
    id_, holder, tenant = {"S": it.sandbox_id}, {"S": student}, {"S": TENANT}
    event_id = {"S": f"{int(now * 1000):013d}-0123456789-{it.sandbox_id:>06}"}
    shard = int(it.sandbox_id) % shards
    claim = {
        "v": {"N": "1"},
        "tenant": tenant,
        "holder": holder,
        "sandbox_id": id_,
        "name": {"S": it.name},
        "external_id": {"S": it.external_id},
        "allocated_at": at,
        "expires_at": until,
        "wish": {"S": "fff0e5a0cb8587292c8f32d9"},
        "attempt_id": {"S": secrets.token_hex(8)},
        "generation": two,
        "pk": {"S": f"CLM#{TENANT}#{student}"},
        "sk": {"S": "-"},
    }
    values = {
        ":0": {"S": "allocated"},
        ":1": two,
        ":2": at,
        ":3": holder,
        ":4": two,
        ":5": at,
        ":6": until,
        ":7": {"S": f"{TENANT}#allocated#{shard}"},
        ":8": {"S": f"{it.expires_at:012d}"},
        ":version": {"N": "1"},
    }
    names = (
        "state", "version", "since", "holder", "generation", "allocated_at", "expires_at", "gsi1pk", "gsi1sk",
    )  # fmt: skip
    event = {
        "v": {"N": "1"},
        "tenant": tenant,
        "event_id": event_id,
        "at": at,
        "actor": {"S": "bootstrap-track"},
        "action": {"S": "allocate"},
        "request_id": {"S": secrets.token_hex(8)},
        "ttl": {"N": str(it.allocated_at + 30 * DAY_S)},
        "sandbox_id": id_,
        "before": {"S": "available"},
        "after": {"S": "allocated"},
        "version": two,
        "holder": holder,
        "expires_at": until,
        "gsi2pk": {"S": f"{TENANT}#sbx#{it.sandbox_id}"},
        "gsi2sk": event_id,
        "pk": {"S": f"EVT#{TENANT}#{it.allocated_at // 3600}#{shard}"},
        "sk": event_id,
    }
    common = {"TableName": table_name, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    return [
        {
            "Put": {
                "Item": claim,
                "ConditionExpression": "attribute_not_exists(pk) OR ended_at <= :long_ago",
                "ExpressionAttributeValues": {":long_ago": {"N": str(it.allocated_at - DAY_S)}},
                **common,
            }
        },
        {
            "Update": {
                "Key": {"pk": {"S": f"SBX#{TENANT}#{it.sandbox_id}"}, "sk": {"S": "-"}},
                "UpdateExpression": "SET " + ", ".join(f"#{n} = :{n}" for n in range(len(names))),
                "ExpressionAttributeNames": {f"#{n}": name for n, name in enumerate(names)},
                "ExpressionAttributeValues": values,
                "ConditionExpression": "version = :version",
                **common,
            }
        },
        {"Put": {"Item": event, "ConditionExpression": "attribute_not_exists(pk)", **common}},
    ]


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.bare", description="Serve the bare route.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--endpoint", required=True, help="the engine's URL")
    parser.add_argument("--table", required=True)
    parser.add_argument("--first", type=int, default=1, help="number of the first sandbox")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    app = create_app(
        endpoint_url=options.endpoint,
        table_name=options.table,
        first=options.first,
        shards=options.shards,
        connections=options.connections,
    )
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    main()
