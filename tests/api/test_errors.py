"""One envelope for every error, the framework's and our own bugs included."""

import logging

import httpx
import pytest
from fastapi.responses import StreamingResponse

from app.errors import FRAMEWORK_CODES, STATUS, body
from app.openapi import EXAMPLES
from broker.errors import BrokerError
from tests.api.service import ADMIN, TRACK, Api, error_of, refusal


def leaves(error: type[BrokerError]) -> set[type[BrokerError]]:
    """The errors that are raised: those without a subclass."""
    below = error.__subclasses__()
    return {leaf for sub in below for leaf in leaves(sub)} if below else {error}


def test_every_error_is_mapped_to_a_status_and_no_other_is() -> None:
    assert set(STATUS) == leaves(BrokerError)
    assert set(STATUS.values()) <= set(range(400, 500)) | {503}


def test_every_error_has_an_example_and_codes_are_unique() -> None:
    assert {type(error) for error in EXAMPLES} == leaves(BrokerError)
    assert len(EXAMPLES) == len(STATUS)
    assert len({error.code for error in leaves(BrokerError)}) == len(leaves(BrokerError))


def test_what_asks_for_a_repeat_says_when() -> None:
    for error in EXAMPLES:
        repeat = STATUS[type(error)] in (429, 503) or error.code in (
            "NO_SANDBOXES_AVAILABLE",
            "QUOTA_EXCEEDED",
        )
        assert (error.retry_after_s is not None) == repeat, error.code


def test_the_envelope_leaves_out_what_there_is_not() -> None:
    assert body("X", "text") == {"error": {"code": "X", "message": "text", "request_id": None}}
    assert body("X", "text", retry_after_s=1, details={"a": 1}) == {
        "error": {"code": "X", "message": "text", "request_id": None, "retry_after": 1, "details": {"a": 1}}
    }


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("GET", "/nowhere", {}, (404, "NOT_FOUND")),
        ("GET", "/", {}, (404, "NOT_FOUND")),
        ("GET", "/v1/docs/nowhere", {}, (404, "NOT_FOUND")),
        ("GET", "/v1/docs/..%2f..%2fapp", {}, (404, "NOT_FOUND")),
        ("POST", "/v1/allocate/", TRACK, (404, "NOT_FOUND")),
        ("GET", "/v1/admin/stats/", ADMIN, (404, "NOT_FOUND")),
        ("GET", "//v1/meta", {}, (404, "NOT_FOUND")),
        ("GET", "/V1/META", {}, (404, "NOT_FOUND")),
        ("GET", "/v1/allocate", TRACK, (405, "METHOD_NOT_ALLOWED")),
        ("DELETE", "/v1/sandboxes/1", TRACK, (405, "METHOD_NOT_ALLOWED")),
        ("HEAD", "/healthz", {}, (405, "METHOD_NOT_ALLOWED")),
        ("MADEUP", "/v1/allocate", TRACK, (405, "METHOD_NOT_ALLOWED")),
        ("OPTIONS", "/v1/allocate", {}, (405, "METHOD_NOT_ALLOWED")),
        ("GET", "/v1/admin/sandboxes?limit=ten", ADMIN, (400, "INVALID_REQUEST")),
        ("GET", "/v1/sandboxes/a%20b", TRACK, (400, "INVALID_REQUEST")),
    ],
)
async def test_what_the_framework_refuses_is_in_the_envelope(
    api: Api, method: str, path: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    answer = await api.http.request(method, path, headers=headers)
    if method == "HEAD":
        assert (answer.status_code, answer.content) == (405, b"")
        return
    assert refusal(answer) == expected
    assert error_of(answer)["request_id"] == answer.headers["X-Request-ID"]
    if answer.status_code == 405:
        assert answer.headers["Allow"]


async def test_no_redirect_sends_a_token_to_another_address(api: Api) -> None:
    """Behind a balancer that ends TLS a redirect would name plain http, and the token would follow."""
    for path in ("/v1/allocate/", "/v1/admin/stats/", "/admin/stats/", "/v1/docs/", "/healthz/"):
        answer = await api.http.get(path, headers=TRACK | {"Host": "evil.example.org"})
        assert answer.status_code == 404
        assert "location" not in answer.headers


SECRET = "db-password-hunter2-4711"


@pytest.fixture
async def crashing(api: Api) -> Api:
    """The app with two routes that hold a bug."""

    @api.app.get("/crash")
    async def crash() -> None:
        raise RuntimeError(f"postgres://admin:{SECRET}@db refused at /srv/app/secret.py")

    @api.app.get("/crash-in-answer")
    async def crash_in_answer() -> dict[str, object]:
        return {"not": {1, 2}, "able": object()}

    return api


@pytest.mark.parametrize("path", ["/crash", "/crash-in-answer"])
async def test_a_bug_of_ours_is_500_in_the_envelope_and_leaks_nothing(
    crashing: Api, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="app"):
        answer = await crashing.http.get(path, headers={"X-Request-ID": "req-4711"})

    assert refusal(answer) == (500, "INTERNAL_ERROR")
    assert error_of(answer)["request_id"] == "req-4711" == answer.headers["X-Request-ID"]
    for leak in (SECRET, "RuntimeError", "Traceback", "postgres", ".py", "object at 0x"):
        assert leak not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    crashed = next(record for record in caplog.records if record.getMessage() == "request crashed")
    assert crashed.exc_info is not None
    line = next(record for record in caplog.records if record.getMessage() == "request")
    assert (vars(line)["status"], vars(line)["outcome"]) == (500, "INTERNAL_ERROR")


async def test_a_crash_is_counted_under_its_route(crashing: Api) -> None:
    await crashing.http.get("/crash")
    counted = await crashing.metrics()
    assert counted['broker_http_requests_total{method="GET",route="/crash",status="500"}'] == 1


async def test_an_error_after_the_answer_began_is_not_answered_twice(api: Api) -> None:
    @api.app.get("/half")
    async def half() -> StreamingResponse:
        async def rows():  # type: ignore[no-untyped-def]
            yield b"one"
            raise RuntimeError("the second row")

        return StreamingResponse(rows())

    with pytest.raises(RuntimeError, match="the second row"):  # the server closes the connection
        await api.http.get("/half")


def test_every_status_that_the_http_layer_makes_has_a_code() -> None:
    assert {400, 404, 405, 408, 413, 414, 431, 500} <= set(FRAMEWORK_CODES)


async def test_a_missing_request_id_is_made_and_differs_each_time(api: Api) -> None:
    answers: list[httpx.Response] = [await api.http.get("/nowhere") for _ in range(3)]
    assert len({error_of(answer)["request_id"] for answer in answers}) == 3
