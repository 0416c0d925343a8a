"""J6: one request is one trace, its store calls within it; who asked for it, and what becomes of the sandbox."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

import httpx
import pytest

from tests.api.process import Process, a_process
from tests.api.service import ADMIN, API_TOKEN, TRACK, an_api
from tests.tracing.collector import Collector, Found
from tests.tracing.conftest import QUICK

TABLE = "broker-test-traced-requests"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def api(ministack: str, collector: Collector) -> Iterator[Process]:
    """An API whose spans go to the collector, of all of FastAPI's own it is asked for as well."""

    async def fill() -> None:
        async with an_api(ministack, TABLE) as running:
            await running.fill(40)

    asyncio.run(fill())
    with a_process(
        DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=TABLE, FASTAPI_OTEL_AUTO_CONFIGURE="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **QUICK,
    ) as running:  # fmt: skip
        yield running


@dataclass(frozen=True)
class Asked:
    answer: httpx.Response
    request_id: str


def ask(api: Process, method: str, path: str, request_id: str, **headers: str) -> Asked:
    sent = {
        **TRACK,
        "X-Request-ID": request_id,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    answer = httpx.request(method, api.url + path, headers=sent, timeout=15, trust_env=False)
    return Asked(answer, request_id)


def allocate(api: Process, student: str, **headers: str) -> Asked:
    return ask(api, "POST", "/v1/allocate", f"req-{student}", X_Instruqt_Sandbox_ID=student, **headers)


def span_of(collector: Collector, asked: Asked) -> Found:
    [span] = collector.wait(request_id=asked.request_id)
    return span


def parts_of(collector: Collector, span: Found) -> dict[str, Found]:
    """The parts of a span, by name."""
    return {part["name"]: part for part in collector.spans(trace=span["trace"], parent=span["id"])}


def test_an_allocation_is_one_trace_with_its_transaction_in_it(api: Process, collector: Collector) -> None:
    asked = allocate(api, "one")
    span = span_of(collector, asked)
    parts = parts_of(collector, span)
    write = parts["DynamoDB.TransactWriteItems"]

    assert asked.answer.status_code == 201
    assert (span["name"], span["kind"], span["parent"]) == ("POST /v1/allocate", "server", "")
    assert span["facts"] == {
        "http.request.method": "POST",
        "http.route": "/v1/allocate",
        "http.response.status_code": 201,
        "broker.tenant": "acme",
        "broker.outcome": "allocated",
        "broker.request_id": "req-one",
        "broker.sandbox_id": asked.answer.json()["sandbox_id"],
    }
    assert not span["failed"]
    assert write["kind"] == "client"
    assert write["facts"] == {
        "db.system.name": "aws.dynamodb",
        "db.operation.name": "TransactWriteItems",
        "db.collection.name": TABLE,
    }
    assert write["marks"] == ["connection"]
    assert span["of"]["service.name"] == "sandbox-broker-api"


def test_log_lines_and_spans_name_each_other(api: Process, collector: Collector) -> None:
    asked = allocate(api, "logged")
    span = span_of(collector, asked)
    [line] = [line for line in api.events() if line.get("request_id") == asked.request_id]

    assert line["event"] == "request"
    assert line["trace_id"] == span["trace"]
    assert asked.answer.headers["x-request-id"] == span["facts"]["broker.request_id"]


def test_a_callers_trace_goes_on_in_here(api: Process, collector: Collector) -> None:
    span = span_of(collector, allocate(api, "caller", traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="a=1"))

    assert (span["trace"], span["parent"]) == (TRACE, PARENT)
    assert "DynamoDB.TransactWriteItems" in parts_of(collector, span)


@pytest.mark.parametrize(
    "sent",
    [
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-and-more",
        "x" * 4000,
        "\xff\xfe",
    ],
    ids=["word", "no flags", "no trace", "no parent", "version ff", "no hex", "too much", "long", "bytes"],
)
def test_what_is_no_trace_is_as_if_it_was_not_sent(api: Process, collector: Collector, sent: str) -> None:
    student = f"odd-{sha1(sent.encode(), usedforsecurity=False).hexdigest()}"
    with httpx.Client(trust_env=False, timeout=15) as http:
        request = http.build_request(
            "GET",
            f"{api.url}/v1/sandboxes/none",
            headers=[
                (b"authorization", TRACK["Authorization"].encode()),
                (b"x-instruqt-sandbox-id", student.encode()),
                (b"x-request-id", student.encode()),
                (b"traceparent", sent.encode("latin-1")),
                (b"tracestate", b"\xff=,,;" * 40),
            ],
        )
        answer = http.send(request)
    span = span_of(collector, Asked(answer, student))

    assert answer.status_code == 404
    assert span["trace"] != TRACE
    assert span["parent"] == ""


def test_who_does_not_want_to_be_recorded_is_not(api: Process, collector: Collector) -> None:
    unwanted = allocate(api, "unwanted", traceparent=f"00-{TRACE[::-1]}-{PARENT}-00")
    span_of(collector, allocate(api, "wanted"))
    [line] = [line for line in api.events() if line.get("request_id") == unwanted.request_id]

    assert unwanted.answer.status_code == 201
    assert collector.spans(trace=TRACE[::-1]) == []
    assert collector.spans(request_id=unwanted.request_id) == []
    assert "trace_id" not in line


def test_probes_and_what_they_ask_of_the_store_are_not_told(api: Process, collector: Collector) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert api.get(path).status_code == 200
    told = span_of(collector, ask(api, "GET", "/v1/meta", "after-the-probes"))
    roots = {span["name"] for span in collector.spans(parent="")}

    assert told["name"] == "GET /v1/meta"
    assert {name for name in roots if "DynamoDB" in name} == set()
    assert {name for name in roots if re.search("healthz|readyz|metrics", name)} == set()


@pytest.mark.parametrize(
    ("method", "path", "name", "status", "outcome"),
    [
        ("GET", "/v1/sandboxes/unknown", "GET /v1/sandboxes/{sandbox_id}", 404, "SANDBOX_NOT_FOUND"),
        ("GET", "/v1/admin/stats", "GET /v1/admin/stats", 403, "FORBIDDEN"),
        ("GET", "/nowhere/at/all", "GET", 404, "error"),
        ("PROPFIND", "/v1/nothing", "HTTP", 404, "error"),
    ],
    ids=["unknown sandbox", "wrong role", "no route", "odd method"],
)
def test_a_refusal_is_told_by_its_route_and_is_no_failure(
    api: Process, collector: Collector, method: str, path: str, name: str, status: int, outcome: str
) -> None:
    asked = ask(api, method, path, f"refused-{status}-{len(path)}", X_Instruqt_Sandbox_ID="refused")
    span = span_of(collector, asked)

    assert asked.answer.status_code == status
    assert span["name"] == name
    assert span["facts"]["http.response.status_code"] == status
    assert not span["failed"]
    assert span["facts"]["broker.outcome"] == outcome


def test_no_span_holds_a_token_a_query_or_a_student(api: Process, collector: Collector) -> None:
    query = "/v1/sandboxes/none?token=query-secret-1&X-Amz-Signature=query-secret-2&looks=harmless-query"
    answers = [
        ask(api, "GET", query, "secretive-1", X_Instruqt_Sandbox_ID="student-by-name", Cookie="sid=cookie-secret"),
        ask(api, "GET", "/password=path-secret-1/harmless-path", "secretive-2"),
        ask(api, "GET", "/v1/admin/stats", "secretive-3", Authorization="Bearer wrong-secret-0123456789"),
    ]
    for asked in answers:
        span_of(collector, asked)
    sent = collector.raw()

    assert b"secretive-1" in sent
    for secret in (
        API_TOKEN,
        "query-secret",
        "cookie-secret",
        "path-secret",
        "wrong-secret",
        "student-by-name",
        "harmless",
    ):
        assert secret.encode() not in sent


def test_a_life_of_a_sandbox_is_one_trace_and_names_the_requests_of_it(api: Process, collector: Collector) -> None:
    asked = allocate(api, "living")
    sandbox_id = asked.answer.json()["sandbox_id"]
    released = ask(
        api, "POST", f"/v1/sandboxes/{sandbox_id}/mark-for-deletion", "req-release", X_Instruqt_Sandbox_ID="living"
    )
    requests = [span_of(collector, asked), span_of(collector, released)]
    collector.wait(name="released", sandbox_id=sandbox_id)
    [begun] = collector.spans(name="allocated", sandbox_id=sandbox_id)
    life = collector.trace(begun["trace"], least=2)

    assert [span["name"] for span in life] == ["allocated", "released"]
    assert [span["parent"] for span in life] == ["", ""]
    for request, told in zip(requests, life, strict=True):
        assert told["links"] == [{"trace": request["trace"], "id": request["id"]}]
        assert request["links"] == [{"trace": told["trace"], "id": told["id"]}]
    assert requests[0]["trace"] != requests[1]["trace"] != begun["trace"]


def test_looking_at_a_sandbox_leaves_nothing_in_its_life(api: Process, collector: Collector) -> None:
    asked = allocate(api, "looked-at")
    sandbox_id = asked.answer.json()["sandbox_id"]
    looked = ask(api, "GET", f"/v1/sandboxes/{sandbox_id}", "req-look", X_Instruqt_Sandbox_ID="looked-at")
    span = span_of(collector, looked)
    [begun] = collector.wait(name="allocated", sandbox_id=sandbox_id)

    assert span["links"] == []
    assert len(collector.spans(trace=begun["trace"])) == 1


def test_the_frameworks_own_telemetry_stays_off_whatever_the_environment_says(
    api: Process, collector: Collector
) -> None:
    span_of(collector, ask(api, "GET", "/v1/meta?token=as-it-is", "frameworks-own"))

    assert {span["scope"] for span in collector.spans()} == {"sandbox-broker"}
    assert set(collector.asked()) == {"/v1/traces"}


def test_meta_shows_the_switch_and_where_spans_go(api: Process, collector: Collector) -> None:
    told: dict[str, Any] = httpx.get(f"{api.url}/v1/meta", headers=ADMIN, trust_env=False, timeout=10).json()
    assert told["configuration"]["TRACING"] == "otlp"
    assert told["configuration"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == collector.url
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in told["configuration"]
