"""J6: what the worker did is found from the request that caused it; what found nothing is not told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.otlp import trace_of
from broker.tracing import Life
from tests.allocation.students import allocate
from tests.api.service import ADMIN, an_api
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker
from tests.tracing.collector import Collector
from tests.tracing.conftest import QUICK
from tests.tracing.in_process import collected, traced
from tests.worker.conftest import TOKEN, Provider
from tests.worker.test_process import Process, a_worker_process
from worker.jobs.expire import expire

pytestmark = pytest.mark.timeout(180)


@asynccontextmanager
async def a_traced_worker(
    url: str, table_name: str, provider: Provider, collector: Collector, **more: str
) -> AsyncIterator[Process]:
    sent = QUICK | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    async with a_broker(url, table_name), a_worker_process(url, table_name, provider, **sent, **more) as worker:
        yield worker


async def test_a_deletion_is_told_in_the_life_of_its_sandbox_with_the_providers_part_in_it(
    ministack: str, table_name: str, provider: Provider, collector: Collector
) -> None:
    async with (
        a_traced_worker(ministack, table_name, provider, collector) as worker,
        an_api(ministack, table_name, TRACING="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as api,
    ):
        await worker.event("job done", job="sync")
        with traced(api.app.state.settings, api.app.state.metrics):
            allocated = (await api.allocate("student-1")).json()
            released = await api.release(allocated["sandbox_id"])
        deleted = await worker.event("deleted at the provider", sandbox_id=allocated["sandbox_id"])
        await provider.faults(delete_500_rate=1.0)
        other = (await api.allocate("student-2")).json()["sandbox_id"]
        await api.release(other, "student-2")
        await worker.event("deletion failed, will be tried again", sandbox_id=other)
        code = await worker.stop()
    [deletion] = collector.wait(name="delete", sandbox_id=allocated["sandbox_id"])
    life = collector.trace(deletion["trace"], least=3)
    parts = {span["name"]: span for span in life if span["parent"] == deletion["id"]}
    [request] = collector.wait(request_id=released.headers["x-request-id"])

    assert code == 0
    assert [span["name"] for span in life if not span["parent"]] == ["allocated", "released", "delete"]
    assert request["links"][0]["trace"] == deletion["trace"]
    assert deletion["facts"]["broker.outcome"] == "deleted"
    assert deletion["facts"]["broker.attempt"] == 1
    assert deletion["of"]["service.name"] == "sandbox-broker-worker"
    assert parts["provider delete"]["kind"] == "client"
    assert parts["provider delete"]["facts"] == {
        "http.request.method": "DELETE",
        "server.address": "127.0.0.1",
        "broker.tenant": "acme",
        "http.response.status_code": 204,
    }
    assert "DynamoDB.TransactWriteItems" in parts
    assert deleted["trace_id"] == deletion["trace"]

    failed = collector.wait(name="delete", sandbox_id=other)[0]
    [called] = collector.spans(name="provider delete", parent=failed["id"])
    assert (failed["failed"], called["failed"], deletion["failed"]) == (True, True, False)
    assert failed["facts"]["broker.outcome"] == "delete_attempt_failed"
    assert called["facts"]["error.type"] == "HTTP_500"
    assert TOKEN.encode() not in collector.raw()


async def test_a_sync_and_a_job_are_told_and_a_look_that_finds_nothing_is_not(
    ministack: str, table_name: str, provider: Provider, collector: Collector
) -> None:
    quiet = {"BROKER_TENANT": "quiet"}
    sent = {"TRACING": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    async with (
        a_traced_worker(ministack, table_name, provider, collector, LOG_LEVEL="DEBUG", **quiet) as worker,
        an_api(ministack, table_name, **sent, **quiet) as api,
    ):
        synced = await worker.event("job done", job="sync")
        for duty in ("clean", "requested", "expire", "report", "gauges"):
            await worker.event("job done", job=duty, counts={})
        with traced(api.app.state.settings, api.app.state.metrics):
            asked = await api.http.post("/v1/admin/sync?wait=0", headers=ADMIN)
        await worker.event("job ended", kind="sync")
        await worker.stop()
    [duty] = collector.wait(name="duty sync", tenant="quiet")
    [job] = collector.wait(name="job sync", tenant="quiet")
    parts = {span["name"] for span in collector.spans(parent=duty["id"])}
    [told] = [span for span in collector.spans(trace=job["trace"], parent="") if span["id"] != job["id"]]
    roots = [span for span in collector.spans() if not span["parent"]]

    assert synced["trace_id"] == duty["trace"]
    assert duty["facts"]["broker.request_id"] == synced["request_id"]
    assert (duty["facts"]["broker.outcome"], duty["facts"]["broker.count.added"]) == ("ok", 10)
    assert {"provider list", "DynamoDB.TransactWriteItems"} <= parts
    assert job["facts"]["broker.request_id"] == asked.headers["x-request-id"]
    assert job["facts"]["broker.outcome"] == "done"
    assert (told["name"], len(told["links"])) == ("job_queued", 1)
    assert {span["name"] for span in roots if span["facts"].get("broker.tenant") == "quiet"} == {
        "duty sync", "duty requested", "job sync", "job_queued", "POST /v1/admin/sync",
    }  # fmt: skip
    assert {span["trace"] for span in collector.spans()} == {
        span["trace"] for span in roots
    }  # no part without its whole


async def test_an_expiry_is_told_in_the_life_of_its_sandbox(
    ministack: str, table_name: str, collector: Collector
) -> None:
    async with a_broker(ministack, table_name, lease_s=60) as core:
        await core.sandboxes.add(a_sandbox(), TEST_CAUSE, now=NOW)
        held = await allocate(core, "student-1")
        with traced(collected(collector), core.metrics):
            now = held.expires_at + 1
            await expire(
                core.sandboxes, core.lifecycle, tenant="acme", now=now, grace_s=0, request_id="expire-4711"
            )
    life = f"{trace_of(Life('sandbox', 'acme', held.sandbox_id)):032x}"
    assert "expired" in [span["name"] for span in collector.spans(trace=life)]
