"""The line from which CloudWatch reads how many sandboxes a tenant has left (terraform/logs.tf)."""

import json
import logging

import pytest

from broker.logs import JsonFormatter
from broker.masking import Masker
from broker.sandbox import State
from broker.wiring import Broker
from tests.allocation.students import allocate
from worker.duties import Worker


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
