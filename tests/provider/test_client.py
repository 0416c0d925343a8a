"""G2, E7: the listing with its retries, the deletion with its one try; what each answer means."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import respx

from tests.provider.conftest import ACCOUNT, BASE, LIST, UUID, Door, an_entry, listed, paged
from worker.provider.client import ListingShifted, ProviderError
from worker.provider.errors import is_outage, is_pressure, label, may_pass

DELETE = f"{BASE}/sandbox/accounts/{UUID}"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 20])
@respx.mock
async def test_every_account_is_listed_once_whatever_their_number(door: Door, count: int) -> None:
    respx.get(LIST).mock(side_effect=paged([an_entry(n) for n in range(count)]))

    ids, invalid = await listed(door.client)

    assert ids == [str(2_009_000 + n) for n in range(count)]
    assert invalid == 0


@respx.mock
async def test_the_token_goes_along_as_the_provider_wants_it(door: Door) -> None:
    route = respx.get(LIST).mock(side_effect=paged([]))

    await listed(door.client)

    assert route.calls.last.request.headers["authorization"] == "Token t0ken"


@respx.mock
async def test_a_deletion_between_two_pages_is_a_shifted_listing(door: Door) -> None:
    entries = [an_entry(n) for n in range(8)]

    def shrinking(request: httpx.Request) -> httpx.Response:
        answer: httpx.Response = paged(list(entries))(request)
        if len(entries) == 8:
            del entries[0]
        return answer

    respx.get(LIST).mock(side_effect=shrinking)

    with pytest.raises(ListingShifted):
        await listed(door.client)


HTML = {"content-type": "text/html"}
FAILURES = [
    # what is answered, its name, how often it is asked for: an outage opens the breaker at the third
    (httpx.Response(500), "HTTP_500", 3),
    (httpx.Response(503), "HTTP_503", 3),
    (httpx.Response(408), "HTTP_408", 3),
    (httpx.Response(429), "HTTP_429", 5),
    (httpx.Response(400), "HTTP_400", 1),
    (httpx.Response(401, json={}), "HTTP_401", 1),
    (httpx.Response(403), "HTTP_403", 1),
    (httpx.Response(404), "HTTP_404", 1),
    (httpx.Response(302, headers={"location": "https://elsewhere.test"}), "REDIRECT", 1),
    (httpx.Response(304), "REDIRECT", 1),
    (httpx.Response(502, html="<html>bad gateway</html>"), "HTTP_502", 3),
    (httpx.Response(200, html="<html>busy</html>"), "HTML_ANSWER", 3),
    (httpx.Response(200, content=b" \n<!doctype html>"), "HTML_ANSWER", 3),
    (httpx.Response(204), "HTTP_204", 1),
    (httpx.ConnectError("refused"), "UNREACHABLE", 3),
    (httpx.RemoteProtocolError("cut off"), "RESET", 3),
    (httpx.ReadError("cut off"), "RESET", 3),
    (httpx.ReadTimeout("slow"), "TIMEOUT", 3),
    (httpx.ConnectTimeout("slow"), "TIMEOUT", 3),
    (httpx.PoolTimeout("none free"), "TIMEOUT", 3),
]


DELETE_FAILURES = [(answer, kind) for answer, kind, _ in FAILURES if kind not in ("HTTP_204", "HTTP_404")]


def failing(answer: httpx.Response | httpx.HTTPError) -> Any:
    """The same answer for ever."""

    def answered(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.HTTPError):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    return answered


@pytest.mark.parametrize(("answer", "kind", "tries"), FAILURES, ids=lambda v: v if isinstance(v, str) else "")
@respx.mock
async def test_a_listing_that_fails_has_a_name_and_a_number_of_tries(
    door: Door, answer: Any, kind: str, tries: int
) -> None:
    route = respx.get(LIST).mock(side_effect=failing(answer))

    with pytest.raises(ProviderError) as failed:
        await listed(door.client)

    assert failed.value.kind == kind
    assert route.call_count == tries
    assert door.sample("worker_provider_errors_total", tenant="acme", call="list", kind=kind) == tries
    assert len(door.clock.rests) == tries - 1


@respx.mock
async def test_a_listing_that_fails_now_and_then_is_read_to_its_end(door: Door) -> None:
    entries = [an_entry(n) for n in range(5)]
    calls = 0

    def flaky(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(500) if calls % 3 else paged(entries)(request)

    respx.get(LIST).mock(side_effect=flaky)

    assert await listed(door.client) == ([str(2_009_000 + n) for n in range(5)], 0)


@respx.mock
async def test_pauses_double_from_half_a_second_with_jitter(door: Door) -> None:
    respx.get(LIST).mock(side_effect=failing(httpx.Response(429)))

    with pytest.raises(ProviderError):
        await listed(door.client)

    for rest, base in zip(door.clock.rests, (0.5, 1, 2, 4), strict=True):
        assert base <= rest <= base + 0.5
    assert len({round(rest % 0.5, 6) for rest in door.clock.rests}) > 1, "no jitter"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        ("7", 7, 7),
        ("3600", 30, 30),
        ("0", 0.5, 1),
        ("-5", 0.5, 1),
        ("soon", 0.5, 1),
        ("", 0.5, 1),
        ("9" * 400, 0.5, 1),
        (format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 30, 30),
        (format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 0.5, 1),
    ],
    ids=["short", "long", "none", "negative", "a word", "empty", "endless", "tomorrow", "yesterday"],
)
@respx.mock
async def test_a_retry_after_is_honoured_up_to_the_cap(
    door: Door, status: int, asked: str, low: float, high: float
) -> None:
    busy = httpx.Response(status, headers={"retry-after": asked})
    respx.get(LIST).mock(side_effect=[busy, httpx.Response(200, json={"results": []})])

    await listed(door.client)

    (rest,) = door.clock.rests
    assert low <= rest <= high


@respx.mock
async def test_a_retry_after_of_another_status_is_nobodys_wish(door: Door) -> None:
    broken = httpx.Response(500, headers={"retry-after": "20"})
    respx.get(LIST).mock(side_effect=[broken, httpx.Response(200, json={"results": []})])

    await listed(door.client)

    assert door.clock.rests[0] <= 1


# ------------------------------------------------------------------------------------------ deletions


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200),
        httpx.Response(200, json={"deleted": True}),
        httpx.Response(202),
        httpx.Response(204),
        httpx.Response(404),
        httpx.Response(404, json={"detail": "Account not found."}),
        httpx.Response(404, json=["not found"]),
    ],
    ids=lambda a: f"{a.status_code}-{a.text}",
)
@respx.mock
async def test_a_deletion_is_done_when_the_provider_says_that_it_is_gone(
    door: Door, answer: httpx.Response
) -> None:
    route = respx.delete(DELETE).mock(side_effect=[answer])

    await door.client.delete(door.permit())

    assert route.call_count == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(404, html="<html>nginx</html>"), "HTML_ANSWER"),
        (httpx.Response(404, content=b"", headers=HTML), "HTML_ANSWER"),
        (httpx.Response(404, content=b"<html>no type</html>"), "HTML_ANSWER"),
        (httpx.Response(404, text="default backend - 404"), "NOT_JSON"),
        (httpx.Response(404, content=b"{"), "NOT_JSON"),
        (httpx.Response(404, content=b"\xff\xfe\xff"), "NOT_JSON"),
        (httpx.Response(404, content=b'"' + b"x" * 70_000 + b'"'), "BODY_TOO_LARGE"),
        (httpx.Response(200, html="<html>please wait</html>"), "HTML_ANSWER"),
    ],
)
@respx.mock
async def test_what_a_proxy_or_another_server_says_deletes_nothing(
    door: Door, answer: httpx.Response, kind: str
) -> None:
    """A wrong base URL answers 404 to everything: the pool would be taken for deleted."""
    respx.delete(DELETE).mock(side_effect=[answer])

    with pytest.raises(ProviderError) as failed:
        await door.client.delete(door.permit())

    assert failed.value.kind == kind


@pytest.mark.parametrize(("answer", "kind"), DELETE_FAILURES, ids=lambda v: v if isinstance(v, str) else "")
@respx.mock
async def test_a_deletion_that_is_not_known_to_be_done_is_one_failed_try(
    door: Door, answer: Any, kind: str
) -> None:
    route = respx.delete(DELETE).mock(side_effect=failing(answer))

    with pytest.raises(ProviderError) as failed:
        await door.client.delete(door.permit())

    assert failed.value.kind == kind
    assert route.call_count == 1
    assert door.sample("worker_provider_errors_total", tenant="acme", call="delete", kind=kind) == 1


@respx.mock
async def test_an_external_id_cannot_reach_another_path(door: Door) -> None:
    """Whatever the listing said, a deletion names one account under /sandbox/accounts/."""
    route = respx.route(method="DELETE").respond(404)

    await door.client.delete(door.permit("identity/accounts/..%2f..?all=1#x"))

    assert route.calls.last.request.url.raw_path == b"/sandbox/accounts/..%252f..%3Fall%3D1%23x"


@respx.mock
async def test_cookies_of_one_answer_are_not_sent_with_the_next_request(door: Door) -> None:
    route = respx.delete(DELETE).mock(
        side_effect=lambda _: httpx.Response(204, headers={"set-cookie": "session=of-another; Path=/"})
    )

    await door.client.delete(door.permit())
    await door.client.delete(door.permit())

    assert "cookie" not in route.calls.last.request.headers


@respx.mock
async def test_a_cancelled_deletion_says_nothing_of_the_provider(door: Door) -> None:
    began = asyncio.Event()

    async def hanging(_: httpx.Request) -> httpx.Response:
        began.set()
        await asyncio.sleep(60)
        raise AssertionError("unreachable")

    respx.route(method="DELETE").mock(side_effect=hanging)
    for n in range(4):
        began.clear()
        deletion = asyncio.create_task(door.client.delete(door.permit(f"{ACCOUNT}{n}")))
        await began.wait()
        deletion.cancel()
        await asyncio.gather(deletion, return_exceptions=True)

    assert door.client.states()["delete"] == "closed"
    assert door.client.states()["pacing"].startswith("0 of 20 at once, 10.0 a second")


# ------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize(
    ("kind", "outage", "pressure", "again"),
    [
        ("TIMEOUT", True, True, True),
        ("UNREACHABLE", True, True, True),
        ("RESET", True, True, True),
        ("TLS", True, True, True),
        ("HTML_ANSWER", True, True, True),
        ("NOT_JSON", True, True, True),
        ("HTTP_500", True, True, True),
        ("HTTP_599", True, True, True),
        ("HTTP_408", True, True, True),
        ("REDIRECT", True, True, False),
        ("HTTP_429", False, True, True),
        ("WRONG_SHAPE", False, False, True),
        ("HTTP_400", False, False, False),
        ("HTTP_404", False, False, False),
        ("BODY_TOO_LARGE", False, False, False),
        ("ENDLESS_LISTING", False, False, False),
        ("LISTING_SHIFTED", False, False, False),
        ("BREAKER_OPEN", False, False, False),
        ("SECRET_UNREADABLE", False, False, False),
        ("PERMIT_LAPSED", False, False, False),
    ],
)
def test_what_a_kind_means_to_breaker_pacing_and_retries(
    kind: str, outage: bool, pressure: bool, again: bool
) -> None:
    assert (is_outage(kind), is_pressure(kind), may_pass(kind)) == (outage, pressure, again)


def test_a_provider_that_invents_statuses_invents_no_time_series() -> None:
    labels = {label(f"HTTP_{status}") for status in range(100, 1000)}
    assert len(labels) < 80
    assert label("HTTP_500") == "HTTP_500"
    assert label("HTTP_777") == "HTTP_OTHER"
    assert label("TIMEOUT") == "TIMEOUT"
