"""G4: a store call has two waits, each with its deadline: for a connection, and for the answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.errors import StoreUnavailable
from broker.store import table
from broker.store.client import TransactionRefused
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.conftest import a_broker


@pytest.fixture
async def narrow(proxy: StoreProxy, table_name: str) -> AsyncIterator[Broker]:
    """One connection, two seconds."""
    async with a_broker(proxy.url, table_name, STORE_CONNECTIONS="1", STORE_TIMEOUT_SEC="2") as core:
        yield core


async def test_waiting_for_a_connection_takes_nothing_from_the_time_of_the_call(
    narrow: Broker, proxy: StoreProxy
) -> None:
    """Two calls of 1.3 s over one connection: the second ends 2.6 s after it was asked for."""

    async def slowly(_: dict[str, Any]) -> None:
        await asyncio.sleep(1.3)

    with proxy.before("GetItem", slowly):
        items = await asyncio.gather(*(narrow.client.get(table.meta_key()) for _ in range(2)))

    assert items[0] == items[1] is not None


async def test_who_gets_no_connection_in_time_is_told_and_asks_nobody(narrow: Broker, proxy: StoreProxy) -> None:
    proxy.faults.change({"hang_next": 100, "hang_s": 60})
    proxy.counts.reset()

    answers = await asyncio.gather(
        *(narrow.claims.get("acme", "s", None) for _ in range(20)), return_exceptions=True
    )

    assert {type(answer) for answer in answers} == {StoreUnavailable}
    told = [str(answer) for answer in answers]
    assert sum("no connection in time" in text for text in told) >= 15
    assert proxy.counts.calls["GetItem:consistent"] <= 4
    proxy.faults.hang_next = 0
    assert await narrow.client.get(table.meta_key()) is not None


async def test_a_transaction_that_was_throttled_counts_as_throttled_and_a_lost_race_as_one(
    narrow: Broker, proxy: StoreProxy
) -> None:
    """Both come as a cancelled transaction; only the first is an alert."""

    def counted(kind: str) -> float | None:
        labels = {"operation": "transact_write_items", "kind": kind}
        return narrow.metrics.registry.get_sample_value("broker_store_errors_total", labels)

    proxy.faults.throttle_in_reasons_next = 1
    with pytest.raises(TransactionRefused):
        await narrow.client.transact(narrow.client.check(table.meta_key(), "attribute_exists(pk)", {}))
    assert (counted("StoreThrottled"), counted("TransactionRefused")) == (1, None)

    with pytest.raises(TransactionRefused):
        await narrow.client.transact(narrow.client.check(table.meta_key(), "attribute_not_exists(pk)", {}))
    assert (counted("StoreThrottled"), counted("TransactionRefused")) == (1, 1)
