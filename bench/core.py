"""The broker's core in this process, on a store of the bench's choice: for what is counted and not timed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench import pool
from bench.rig import ADMIN_TOKEN, API_TOKEN
from broker.boot import Boot
from broker.metrics import Metrics
from broker.settings import ApiSettings
from broker.wiring import Broker, open_broker

LEASE_S = 4 * 3600


@asynccontextmanager
async def open_core(store: str, table_name: str, *, shards: int) -> AsyncIterator[Broker]:
    """As a process that has just started has it; credentials are in the environment."""
    settings = ApiSettings.model_validate(
        {
            "BROKER_ENV": "development",
            "BROKER_TENANT": pool.TENANT,
            "BROKER_API_TOKEN": API_TOKEN,
            "BROKER_ADMIN_TOKEN": ADMIN_TOKEN,
            "DDB_ENDPOINT_URL": store,
            "DDB_TABLE_NAME": table_name,
            "DDB_SHARDS": shards,
            "STORE_TIMEOUT_SEC": 30,
        }
    )
    async with open_broker(settings, metrics=Metrics(), boot=Boot(), lease_s=LEASE_S) as broker:
        yield broker
