"""What `make run` shows of what its parts say."""

import json

import pytest

from local.lines import readable

AT = "2026-11-21T09:47:08.123Z"


def event(**facts: object) -> str:
    return json.dumps({"at": AT, "level": "info", "process": "api", "event": "request"} | facts)


def test_a_request_is_its_method_route_and_facts() -> None:
    said = readable("api", event(method="POST", route="/v1/allocate", status=201, ms=4.2, outcome="allocated"))
    assert said == "09:47:08 api       POST /v1/allocate  outcome=allocated status=201 ms=4.2"


def test_whose_it_is_is_shown() -> None:
    said = readable(
        "api", event(method="GET", route="/v1/admin/stats", tenant="default", of_tenant="north", status=200)
    )
    assert said == "09:47:08 api       GET /v1/admin/stats  tenant=default of_tenant=north status=200"


def test_a_job_shows_its_counts() -> None:
    said = readable("worker", event(event="job done", job="sync", counts={"added": 3, "stale": 1}))
    assert said == "09:47:08 worker    job done  job=sync counts=added:3,stale:1"
    assert "counts=nothing" in (readable("worker", event(event="job done", counts={})) or "")


def test_what_is_not_listed_is_left_out_and_noughts_are_not() -> None:
    said = readable("api", event(event="x", request_id="secretive", attempt=0, why=None)) or ""
    assert "request_id" not in said
    assert "why" not in said
    assert "attempt=0" in said


@pytest.mark.parametrize("level", ["warning", "error", "critical"])
def test_what_is_wrong_is_marked(level: str) -> None:
    said = readable("api", event(event="store down", level=level, code="STORE_UNAVAILABLE"))
    assert said == f"09:47:08 api       {level.upper()}: store down  code=STORE_UNAVAILABLE"


def test_a_traceback_follows_its_line() -> None:
    said = readable("api", event(event="crashed", level="error", traceback="Traceback\n  x")) or ""
    assert said.splitlines()[1:] == ["Traceback", "  x"]


def test_uvicorns_chatter_is_left_out_and_its_warnings_are_not() -> None:
    assert readable("api", event(event="Started server process", logger="uvicorn.error")) is None
    assert readable("api", event(event="Invalid HTTP", logger="uvicorn.error", level="warning")) is not None


@pytest.mark.parametrize("line", ["plain text", "{broken", '"a text"', "[1, 2]", '{"no": "event"}', "3"])
def test_what_is_no_event_is_shown_as_it_is(line: str) -> None:
    assert readable("store", line) == f"         store     {line}"


def test_an_empty_line_is_nothing() -> None:
    assert readable("store", "") is None


def test_an_event_without_an_instant_or_level_is_still_shown() -> None:
    assert "happened" in (readable("store", '{"event": "happened"}') or "")
