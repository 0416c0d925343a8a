"""D8: what is too long or oddly spelled is 4xx in the envelope, and the store never hears of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from hashlib import sha256

import httpx
import pytest
from fastapi import Request

from app.middleware import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_PATH_CHARS, MAX_QUERY_BYTES
from app.protocol import MAX_HEAD_BYTES
from local.store_proxy import StoreProxy
from tests.api.service import ADMIN, TRACK, Api, asked_of, error_of, refusal

INVALID = (400, "INVALID_REQUEST")
HEADERS = (
    "X-Instruqt-Sandbox-ID",
    "X-Track-ID",
    "X-Instruqt-Track-ID",
    "X-Sandbox-Name-Prefix",
    "Idempotency-Key",
)
ODD = {
    "a space": b"a b",
    "a hash": b"a#b",
    "a slash": b"a/b",
    "a percent sign": b"a%23b",
    "a quote": b'a"b',
    "a control character": b"a\x01b",
    "a tab": b"a\tb",
    "Latin-1": b"\xe4rger",
    "UTF-8": "日本".encode(),
    "a null": b"a\x00b",
    "markup": b"<script>",
}


@pytest.fixture
async def watched(proxied: Api, proxy: StoreProxy) -> AsyncIterator[Api]:
    """Whatever the test sends, nothing of it reaches the store."""
    await proxied.fill(1)
    await proxied.core.tenants.shards("acme")
    proxy.counts.reset()
    yield proxied
    assert asked_of(proxy) == Counter()


async def allocate(api: Api, header: str, value: bytes) -> httpx.Response:
    student = {} if header == "X-Instruqt-Sandbox-ID" else {b"X-Instruqt-Sandbox-ID": b"student-1"}
    sent = {name.encode(): text.encode() for name, text in TRACK.items()} | student | {header.encode(): value}
    return await api.http.post("/v1/allocate", headers=list(sent.items()))


@pytest.mark.parametrize("header", HEADERS)
async def test_an_id_header_may_not_be_129_characters_long_or_oddly_spelled(watched: Api, header: str) -> None:
    for why, value in {"129 characters": b"x" * 129, **ODD}.items():
        answer = await allocate(watched, header, value)
        assert refusal(answer) == INVALID, why
        assert error_of(answer)["details"]["where"] == header.lower()


@pytest.mark.parametrize("header", HEADERS)
async def test_an_id_header_may_be_128_characters_of_the_whole_alphabet(api: Api, header: str) -> None:
    await api.fill(2)
    for value in (b"x" * 128, b"AZaz09._:-"):
        student = {} if header == "X-Instruqt-Sandbox-ID" else {"X-Instruqt-Sandbox-ID": f"s-{len(value)}"}
        answer = await api.http.post("/v1/allocate", headers=TRACK | student | {header: value.decode()})
        matches_nothing = header == "X-Sandbox-Name-Prefix"
        assert answer.status_code == (409 if matches_nothing else 201), answer.text


@pytest.mark.parametrize("header", HEADERS)
async def test_an_id_header_may_not_be_sent_twice(watched: Api, header: str) -> None:
    sent = [*TRACK.items(), (header, "one"), (header, "two")]
    answer = await watched.http.post("/v1/allocate", headers=sent)
    assert refusal(answer) == INVALID
    assert error_of(answer)["details"] == {"where": header.lower(), "why": "is sent twice"}


@pytest.mark.parametrize("what", ["", "/mark-for-deletion", "/extend", "/heartbeat"])
async def test_an_id_in_the_path_has_the_same_bounds(watched: Api, what: str) -> None:
    method, path = "POST" if what else "GET", f"/v1/sandboxes/{{}}{what}"
    for value in ("x" * 129, "a%23b", "a+b", "a@b", "%C3%A4", "a%00b", "a%20b", "%ff", "a%0Ab"):
        answer = await watched.http.request(method, path.format(value), headers=TRACK | {"X-Track-ID": "s"})
        assert refusal(answer) == INVALID, value


async def test_an_id_in_the_path_may_be_128_characters_long(api: Api) -> None:
    assert refusal(await api.view("x" * 128)) == (404, "SANDBOX_NOT_FOUND")


async def test_a_path_over_its_bound_is_414(watched: Api) -> None:
    assert refusal(await watched.http.get("/" + "x" * MAX_PATH_CHARS)) == (414, "PATH_TOO_LONG")


async def test_a_path_at_its_bound_is_looked_up(watched: Api) -> None:
    assert refusal(await watched.http.get("/" + "x" * (MAX_PATH_CHARS - 1))) == (404, "NOT_FOUND")


async def test_a_query_over_its_bound_is_414(watched: Api) -> None:
    query = "x=" + "y" * (MAX_QUERY_BYTES - 1)
    assert refusal(await watched.http.get(f"/v1/admin/stats?{query}", headers=ADMIN)) == (414, "PATH_TOO_LONG")


async def test_a_query_at_its_bound_is_good(api: Api) -> None:
    query = "x=" + "y" * (MAX_QUERY_BYTES - 2)
    assert (await api.http.get(f"/v1/meta?{query}")).status_code == 200


async def _with_headers_of(api: Api, size: int) -> httpx.Response:
    """A request whose header names and values add up to `size` bytes."""
    request = api.http.build_request("GET", "/v1/admin/stats", headers=ADMIN | {"X-Big": ""})
    rest = sum(len(name) + len(value) for name, value in request.headers.raw)
    request.headers["X-Big"] = "x" * (size - rest)
    return await api.http.send(request)


async def test_headers_over_their_bound_are_431(watched: Api) -> None:
    assert refusal(await _with_headers_of(watched, MAX_HEADER_BYTES + 1)) == (431, "HEADERS_TOO_LARGE")


async def test_headers_at_their_bound_are_good(api: Api) -> None:
    assert (await _with_headers_of(api, MAX_HEADER_BYTES)).status_code == 200


def a_json(size: int) -> bytes:
    """A text of that many bytes."""
    return b'"' + b"x" * (size - 2) + b'"'


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    """A body whose length nobody declares."""
    for first in range(0, len(body), 1024):
        yield body[first : first + 1024]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_its_bound_is_413(watched: Api, declared: bool) -> None:
    body = a_json(MAX_BODY_BYTES + 1)
    content = body if declared else chunks(body)
    answer = await watched.http.post("/v1/allocate", headers=TRACK | {"X-Track-ID": "s"}, content=content)
    assert refusal(answer) == (413, "BODY_TOO_LARGE")
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_at_its_bound_is_good(api: Api, declared: bool) -> None:
    await api.fill(1)
    body = a_json(MAX_BODY_BYTES)
    content = body if declared else chunks(body)
    answer = await api.http.post("/v1/allocate", headers=TRACK | {"X-Track-ID": "s"}, content=content)
    assert answer.status_code == 201


@pytest.mark.parametrize("declared", [True, False])
async def test_a_route_that_reads_its_body_gets_all_of_it_once(api: Api, declared: bool) -> None:
    @api.app.post("/digest")
    async def digest(request: Request) -> str:
        body = await request.body()
        return sha256(body).hexdigest()

    content = b"x" * 3000 if declared else chunks(b"x" * 3000)
    answer = await api.http.post("/digest", content=content)
    assert answer.json() == sha256(b"x" * 3000).hexdigest()


def test_the_bounds_are_those_that_are_documented() -> None:
    bounds = (MAX_HEADER_BYTES, MAX_PATH_CHARS, MAX_QUERY_BYTES, MAX_BODY_BYTES, MAX_HEAD_BYTES)
    assert bounds == (16 * 1024, 1024, 4096, 64 * 1024, 32 * 1024)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "9" * 30, "9" * 5000, "٣"])
async def test_an_odd_length_is_413(watched: Api, length: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in TRACK.items()]
    headers += [(b"content-length", length.encode()), (b"x-track-id", b"s")]
    assert refusal(await watched.http.post("/v1/allocate", headers=headers)) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_never_ends_is_given_up(watched: Api, declared: bool) -> None:
    """Someone who sends nothing more, whatever length was declared, holds no request for ever."""
    length = {"Content-Length": "2"} if declared else {}

    async def one_byte_and_silence() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    sent = watched.http.post(
        "/v1/allocate", headers=TRACK | {"X-Track-ID": "s"} | length, content=one_byte_and_silence(), timeout=None
    )
    assert refusal(await asyncio.wait_for(sent, 60)) == (408, "REQUEST_TIMEOUT")


async def test_a_down_store_is_not_asked_about_bad_input(proxied: Api, proxy: StoreProxy) -> None:
    proxy.faults.down = True
    refused = [
        await allocate(proxied, "X-Instruqt-Sandbox-ID", b"a b"),
        await proxied.admin("/sandboxes", limit="0"),
        await proxied.admin("/sandboxes", cursor="tampered"),
        await proxied.http.post("/v1/allocate", headers=TRACK),
        await proxied.http.post("/v1/allocate"),
    ]
    assert [answer.status_code for answer in refused] == [400, 400, 400, 400, 401]
