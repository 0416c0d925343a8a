"""The line from which CloudWatch reads how many sandboxes a tenant has left (terraform/logs.tf)."""

import json
import logging
from collections import Counter

import pytest

from broker.logs import JsonFormatter
from broker.masking import Masker
from broker.sandbox import State
from broker.store import table
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate
from tests.builders import TEST_CAUSE, a_sandbox, an_allocated_sandbox
from tests.conftest import a_broker
from tests.store.conftest import Clock
from worker.duties import Worker
from worker.jobs.gauges import count_pool


async def test_counting_the_pool_reads_each_partition_of_the_index_once(
    proxy: StoreProxy, table_name: str, clock: Clock
):
    """What a filter leaves out is billed in full: a second look at what is missing would cost as much again."""
    async with a_broker(proxy.url, table_name, clock=clock) as core:
        for row in (a_sandbox(), an_allocated_sandbox(number=2), an_allocated_sandbox(number=3, missing_since=1)):
            await core.sandboxes.add(row, TEST_CAUSE, now=clock.now)
        seen = len(proxy.calls)
        counted = await count_pool(core.sandboxes, core.gauges, tenant="acme", now=int(clock.now))

    asked = Counter(key for call in proxy.calls[seen:] if call.index == "StatusIndex" for key in call.keys)
    assert asked == {table.status_partition("acme", state, shard): 1 for state in State for shard in range(4)}
    assert (counted.states[State.AVAILABLE], counted.states[State.ALLOCATED], counted.missing) == (1, 2, 1)


async def test_each_count_of_the_pool_is_one_line_with_the_tenant_and_every_state(
    core: Broker, worker: Worker, caplog: pytest.LogCaptureFixture
):
    await worker.sync("run-1")
    await allocate(core, "student-1")

    with caplog.at_level(logging.INFO, logger="worker"):
        caplog.clear()
        await worker.gauges("run-2")

    formatter = JsonFormatter(Masker(), process="worker")
    [line] = [json.loads(formatter.format(record)) for record in caplog.records]
    counted = {state.value: line[state.value] for state in State}
    assert (line["event"], line["tenant"], line["missing"]) == ("pool counted", "acme", 0)
    assert counted == {state.value: 0 for state in State} | {"available": 9, "allocated": 1}
