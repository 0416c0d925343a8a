"""J3: a request's id comes in and goes out, and its one line says who, what, how it ended and how long it took."""

import json
import logging
from typing import Any

import pytest

from broker.logs import JsonFormatter
from broker.masking import Masker
from tests.api.keys import a_tenant, made_key
from tests.api.service import ADMIN, API_TOKEN, TRACK, Api, error_of


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """What was logged, through the real formatter."""
    caplog.set_level(logging.DEBUG, logger="app")
    formatter = JsonFormatter(Masker([API_TOKEN]), process="api")

    def said(event: str = "request") -> list[dict[str, Any]]:
        everything = [json.loads(formatter.format(record)) for record in caplog.records if record.name == "app"]
        return [line for line in everything if line["event"] == event]

    return said


@pytest.mark.parametrize("sent", ["x", "req-4711", "A.b_c:d-1", "r" * 128])
async def test_an_id_that_was_sent_is_sent_back_on_answers_and_errors(api: Api, sent: str) -> None:
    answer = await api.http.get("/healthz", headers={"X-Request-ID": sent})
    refused = await api.http.post("/v1/allocate", headers={"X-Request-ID": sent})
    assert answer.headers.get_list("X-Request-ID") == [sent]
    assert refused.headers.get_list("X-Request-ID") == [sent]
    assert error_of(refused)["request_id"] == sent


@pytest.mark.parametrize("sent", ["", " ", "r" * 129, "a b", "a#b", "a/b", "<script>", "\xe4", '{"a":1}'])
async def test_an_odd_id_is_replaced_and_never_repeated(api: Api, sent: str) -> None:
    answer = await api.http.get("/nowhere", headers=[(b"X-Request-ID", sent.encode("latin-1"))])
    made = answer.headers["X-Request-ID"]
    assert made != sent
    assert len(made) == 16
    assert error_of(answer)["request_id"] == made


async def test_the_id_goes_into_the_audit_event(api: Api) -> None:
    await api.fill(1)
    held = (await api.allocate("s-1", X_Request_ID="req-4711")).json()["sandbox_id"]
    page = await api.core.client.call("scan", TableName=api.core.client.table.name)
    events = [item for item in page["Items"] if item["pk"]["S"].startswith("EVT#acme")]
    (event,) = [e for e in events if e["action"]["S"] == "allocate"]
    assert (event["request_id"]["S"], event["sandbox_id"]["S"]) == ("req-4711", held)
    assert event["actor"]["S"] == "bootstrap-track"


async def test_each_outcome_is_one_line_with_tenant_caller_latency_and_what_it_was_about(
    api: Api, lines: Any
) -> None:
    await api.fill(1)
    held = (await api.allocate("s-1", X_Instruqt_Track_ID="lab")).json()["sandbox_id"]
    await api.allocate("s-1")
    await api.allocate("s-2")
    await api.view(held, "s-1")
    await api.release(held, "s-2")
    await api.release(held, "s-1")
    await api.admin("/stats")

    said = lines()
    assert [line["outcome"] for line in said] == [
        "allocated", "replayed", "NO_SANDBOXES_AVAILABLE", "viewed", "NOT_SANDBOX_OWNER", "released", "ok",
    ]  # fmt: skip
    assert {line["tenant"] for line in said} == {"acme"}
    assert [line["caller"] for line in said] == ["bootstrap-track"] * 6 + ["bootstrap-admin"]
    assert all(0 < line["ms"] < 60_000 for line in said)
    assert all(line["level"] == "info" for line in said)
    assert [line.get("sandbox_id") for line in said[:6]] == [held, held, None, held, held, held]
    assert [line["holder"] for line in said[:6]] == ["s-1", "s-1", "s-2", "s-1", "s-2", "s-1"]
    first = said[0]
    assert (first["sandbox_id"], first["holder"], first["track"]) == (held, "s-1", "lab")
    assert (first["method"], first["route"], first["status"]) == ("POST", "/v1/allocate", 201)


@pytest.mark.parametrize(
    ("path", "headers", "outcome"),
    [
        ("/v1/allocate", {}, "UNAUTHENTICATED"),
        ("/v1/allocate", ADMIN, "FORBIDDEN"),
        ("/v1/allocate", TRACK, "MISSING_SANDBOX_ID"),
        ("/v1/allocate", TRACK | {"X-Track-ID": "a b"}, "refused_input"),
        ("/nowhere", {}, "error"),
    ],
)
async def test_a_refusal_is_a_line_too(
    api: Api, lines: Any, path: str, headers: dict[str, str], outcome: str
) -> None:
    await api.http.post(path, headers=headers)
    (line,) = lines()
    assert line["outcome"] == outcome
    known = "Authorization" in headers and outcome != "refused_input"
    assert ("tenant" in line) == known


async def test_probes_are_quiet(api: Api, lines: Any) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        await api.http.get(path)
    assert {line["level"] for line in lines()} == {"debug"}


async def test_no_line_shows_a_header_a_path_or_a_query(api: Api, lines: Any) -> None:
    await api.http.get(f"/v1/sandboxes/{API_TOKEN}?token=hunter2", headers=TRACK | {"X-Track-ID": "s"})
    await api.http.get(
        "/nowhere/hunter2?hunter2", headers={"Authorization": "Bearer hunter2", "Cookie": "hunter2"}
    )
    text = json.dumps(lines())
    assert "hunter2" not in text
    assert API_TOKEN not in text


@pytest.mark.parametrize("declared", [{}, {"Content-Length": "17"}], ids=["no body", "half of a body"])
async def test_who_hangs_up_before_the_whole_request_is_there_is_no_crash_of_ours(
    api: Api, lines: Any, declared: dict[str, str]
) -> None:
    """No traceback, no 500 among the metrics; and a release without the generation that it was to name is none."""
    await api.fill(1)
    held = (await api.allocate("s-1")).json()["sandbox_id"]
    headers = TRACK | {"X-Instruqt-Sandbox-ID": "s-1"} | declared
    path = f"/v1/sandboxes/{held}/mark-for-deletion"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("203.0.113.7", 50_000),
    }

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def unheard(_: object) -> None:
        pass

    await api.app(scope, gone, unheard)

    assert lines("request crashed") == []
    assert [(line["status"], line["outcome"]) for line in lines()][1:] == [(400, "CLIENT_GONE")]
    assert not [series for series in await api.metrics() if 'status="5' in series]
    assert (await api.view(held, "s-1")).json()["status"] == "allocated"


async def test_a_key_that_is_found_by_its_id_says_in_the_log_whose_it_is(api: Api, lines: Any) -> None:
    await a_tenant(api, "north")
    key_id = (await made_key(api, "north")).key.id

    await api.admin(f"/keys/{key_id}")
    await api.http.post(f"/v1/admin/keys/{key_id}/revoke", headers=ADMIN, json={"reason": "INC-4711"})

    assert [(line["outcome"], line["of_tenant"]) for line in lines()] == [
        ("looked", "north"),
        ("revoke_key", "north"),
    ]
