"""J6: a collector that is down, hangs or refuses costs spans, which are counted, never a request or a drain."""

import asyncio
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from local.engine import free_port
from local.store_proxy import StoreProxy
from tests.api.process import Process, a_process, make_table
from tests.api.service import TRACK, an_api
from tests.conftest import a_broker
from tests.tracing.collector import Collector, a_collector, until
from tests.tracing.conftest import QUICK
from tests.tracing.in_process import traced
from tests.worker.conftest import Provider
from tests.worker.test_process import a_worker_process

STUDENTS = 30


def fill(url: str, table_name: str) -> None:
    async def add() -> None:
        async with an_api(url, table_name) as running:
            await running.fill(STUDENTS)

    asyncio.run(add())


def everybody_allocates(api: Process) -> Counter[int]:
    def one(number: int) -> int:
        headers = TRACK | {"X-Instruqt-Sandbox-ID": f"student-{number}"}
        return httpx.post(f"{api.url}/v1/allocate", headers=headers, timeout=15, trust_env=False).status_code

    with ThreadPoolExecutor(8) as students:
        return Counter(students.map(one, range(STUDENTS)))


def spans_of(api: Process) -> dict[str, float]:
    """What became of the spans of this process, as its metrics say."""
    found = re.findall(r'^broker_spans_total\{outcome="(\w+)"\} (\S+)$', api.get("/metrics").text, re.MULTILINE)
    return {outcome: float(count) for outcome, count in found}


def ended(api: Process) -> int:
    """Its exit code after SIGTERM: 0, or it was cut off."""
    api.terminate()
    return api.popen.wait(60)


@pytest.mark.parametrize("behaviour", ["down", "hang"])
def test_without_a_collector_everybody_is_served_and_what_is_lost_is_counted(
    ministack: str, table_name: str, behaviour: str
) -> None:
    """The SDK's own words about it stay out of the log: a line a batch, errors among them, would ring an alarm."""
    fill(ministack, table_name)
    with a_collector() as collector:
        collector.behave("hang")
        url = f"http://127.0.0.1:{free_port()}" if behaviour == "down" else collector.url
        with a_process(
            DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=table_name, OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_BSP_MAX_QUEUE_SIZE="32", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="32", OTEL_EXPORTER_OTLP_TIMEOUT="3",
            GRACEFUL_SHUTDOWN_TIMEOUT_SEC="20", LOG_LEVEL="DEBUG", **QUICK,
        ) as api:  # fmt: skip
            answered = everybody_allocates(api)
            until(lambda: spans_of(api)["undelivered"] > 0, 30, "spans that are counted as lost")
            counted = spans_of(api)
            healthy = api.get("/readyz").json()
            code = ended(api)
            lines = api.events()

    assert answered == {201: STUDENTS}
    assert counted["delivered"] == 0
    assert counted["queue_full"] > 0
    assert healthy["status"] == "ready"
    assert [line["event"] for line in lines if line["event"].startswith("spans ")] == [
        "spans do not reach the collector"
    ]
    assert [line for line in lines if line["level"] == "error" or "opentelemetry" in line.get("logger", "")] == []
    assert code == 0


def test_a_collector_that_comes_back_gets_what_is_new_and_what_waits_at_the_end(
    ministack: str, table_name: str
) -> None:
    """Spans leave in pairs here: the fifth one waits for the end of the process."""
    in_pairs = {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2", "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    make_table(ministack, table_name)
    with a_collector() as collector:
        collector.behave("refuse")
        with a_process(
            DDB_ENDPOINT_URL=ministack,
            DDB_TABLE_NAME=table_name,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            **(QUICK | in_pairs),
        ) as api:
            api.get("/v1/meta")
            api.get("/v1/meta")
            api.wait_for_event("spans do not reach the collector")
            collector.behave("ok")
            api.get("/v1/meta")
            api.get("/v1/meta")
            api.wait_for_event("spans reach the collector again")
            api.get("/v1/meta", **{"X-Request-ID": "the-last-one"})
            code = ended(api)
        last = collector.spans(request_id="the-last-one")

    assert code == 0
    assert len(last) == 1


async def test_a_worker_whose_collector_hangs_deletes_and_drains(
    ministack: str, table_name: str, provider: Provider
) -> None:
    with a_collector() as collector:
        collector.behave("hang")
        async with (
            a_broker(ministack, table_name),
            a_worker_process(
                ministack, table_name, provider, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
                GRACEFUL_SHUTDOWN_TIMEOUT_SEC="10", **QUICK,
            ) as worker,
        ):  # fmt: skip
            await worker.event("job done", job="sync")
            code = await worker.stop()
    events = [line["event"] for line in worker.events]

    assert code == 0
    assert "the last spans did not reach the collector" in events
    assert "the drain did not end in time: gone without it" not in events


async def test_a_store_in_trouble_is_seen_in_the_trace_and_a_lost_race_is_no_trouble(
    proxy: StoreProxy, table_name: str, collector: Collector
) -> None:
    async with an_api(proxy.url, table_name, TRACING="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as api:
        await api.fill(2)
        with traced(api.app.state.settings, api.app.state.metrics):
            first = await api.allocate("student-1")
            again = await api.allocate("student-1")
            proxy.faults.down = True
            down = await api.allocate("student-2")
    spans = {a.status_code: collector.wait(request_id=a.headers["x-request-id"])[0] for a in (first, again, down)}
    replay = collector.spans(parent=spans[200]["id"], name="DynamoDB.TransactWriteItems")
    tried = collector.spans(parent=spans[503]["id"])

    assert [span["failed"] for span in replay] == [False]
    assert replay[0]["facts"]["broker.outcome"].startswith("TransactionRefused: ConditionalCheckFailed")
    assert not spans[200]["failed"]
    assert spans[503]["failed"]
    assert spans[503]["facts"]["error.type"] == "STORE_UNAVAILABLE"
    assert tried
    assert all(span["failed"] for span in tried)
    assert {span["facts"]["error.type"] for span in tried} == {"STORE_UNAVAILABLE"}
