"""What an allocation by prefix costs as the pool grows: round trips and rows examined must stay flat.

Times are shown because one looks for them; they are the local engine's, which walks a whole index
partition for each query. DynamoDB finds a prefix by key.
"""

import asyncio
import os
import platform
import sys
import time
from collections import Counter
from typing import Any

import aioboto3

from broker.action import Action
from broker.allocation import Wish
from broker.metrics import Metrics
from broker.sandbox import Sandbox, State
from broker.settings import CoreSettings
from broker.store import table
from broker.store.client import StoreClient
from broker.store.events import Cause
from broker.store.schema import create_table
from broker.wiring import build, client_config, table_of
from local.engine import engine

SHARDS = 4
CAUSE = Cause(actor="bench", action=Action.ALLOCATE, request_id="bench")


class CountingClient(StoreClient):
    """Counts calls and the rows that queries examined."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.calls: Counter[str] = Counter()

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answer = await super().call(operation, **arguments)
        self.calls[operation] += 1
        self.calls["rows examined"] += int(answer.get("ScannedCount", 0))
        return answer


def a_row(number: int, name: str) -> Sandbox:
    return Sandbox(
        tenant="bench",
        id=str(number),
        state=State.AVAILABLE,
        version=1,
        name=name,
        external_id=f"identity/accounts/{number}",
        since=0,
    )


async def fill(client: CountingClient, first: int, last: int) -> None:
    """Write rows first..last in batches, a few at a time."""
    batches = iter(range(first, last, 25))

    async def lane() -> None:
        for start in batches:
            rows = (a_row(n, f"lab-{n:06d}") for n in range(start, min(start + 25, last)))
            puts = [{"PutRequest": {"Item": table.sandbox_item(row, SHARDS)}} for row in rows]
            await client.call("batch_write_item", RequestItems={client.table.name: puts})

    await asyncio.gather(*(lane() for _ in range(8)))


async def measure(sizes: list[int]) -> None:
    """Print a table: one row a pool size, for the first allocation by a prefix that a process makes."""
    with engine() as url:
        settings = CoreSettings.model_validate(
            {"BROKER_ENV": "development", "DDB_ENDPOINT_URL": url, "STORE_TIMEOUT_SEC": 30, "DDB_SHARDS": SHARDS}
        )
        async with aioboto3.Session().client(
            "dynamodb", region_name="us-east-1", endpoint_url=url, config=client_config(settings)
        ) as dynamodb:
            names = table_of(settings)
            await create_table(dynamodb, names)
            metrics = Metrics()
            client = CountingClient(dynamodb, names, timeout_s=30, connections=64, metrics=metrics)
            print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, ministack")
            print(f"{'pool':>8} {'queries':>8} {'rows examined':>14} {'transactions':>13} {'engine ms':>10}")
            filled = 0
            for size in sizes:
                await fill(client, filled + 1, size + 1)
                filled = size
                await client.call(
                    "put_item",
                    TableName=names.name,
                    Item=table.sandbox_item(a_row(10_000_000 + size, f"zz-{size}"), SHARDS),
                )
                broker = build(client, metrics, settings, lease_s=3600, max_per_holder=5)
                await broker.tenants.shards("bench")
                client.calls.clear()
                began = time.perf_counter()
                await broker.allocator.allocate("bench", Wish(holder=f"s-{size}", prefix="zz-"), CAUSE)
                took_ms = (time.perf_counter() - began) * 1000
                counts = [client.calls[name] for name in ("query", "rows examined", "transact_write_items")]
                print("{:>8} {:>8} {:>14} {:>13} {:>10.0f}".format(size, *counts, took_ms))


if __name__ == "__main__":
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "local")
    asyncio.run(measure([int(size) for size in sys.argv[1:]] or [100, 1_000, 10_000, 100_000]))
