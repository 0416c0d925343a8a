"""G4 and bad input over real sockets: black holes, cut connections, bad TLS, bodies without end."""

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.metrics import Metrics
from local.engine import free_port
from tests.provider.conftest import Clock, Door, a_door, listed
from tests.provider.sockets import Behave, hang, own_certificate, request_of, saying, serving
from worker.provider.calls import http_client
from worker.provider.errors import ProviderError

OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def a_door_to(url: str, clock: Clock, **changes: Any) -> AsyncIterator[Door]:
    async with http_client(url, connections=8, transport=None) as http:
        yield a_door(http, clock=clock, metrics=Metrics(), **changes)


async def failure_of_a_listing(behave: Behave, clock: Clock, **changes: Any) -> str:
    async with serving(behave) as port, a_door_to(f"http://127.0.0.1:{port}", clock, **changes) as door:
        with pytest.raises(ProviderError) as failed:
            await listed(door.client)
    return failed.value.kind


async def failure_of_a_deletion(behave: Behave, clock: Clock) -> str:
    async with serving(behave) as port, a_door_to(f"http://127.0.0.1:{port}", clock) as door:
        with pytest.raises(ProviderError) as failed:
            await door.client.delete(door.permit())
    return failed.value.kind


async def dribble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, for ever: no pause is ever long enough for a timeout of reads."""
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    found: socket.socket = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


BLACK_HOLES: dict[str, Behave] = {
    "says nothing": hang,
    "says nothing to a request": saying(then=hang),
    "stops in the head": saying(b"HTTP/1.1 200 OK\r\nContent-", then=hang),
    "stops before the body": saying(OK + b"Content-Length: 100\r\n\r\n", then=hang),
    "dribbles a head": saying(b"HTTP/1.1 200 OK\r\nX-Slow: ", then=dribble),
    "dribbles a body": saying(OK + b"Content-Length: 1000000\r\n\r\n", then=dribble),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("behave", BLACK_HOLES.values(), ids=BLACK_HOLES)
async def test_a_black_hole_holds_no_call_past_its_deadline(behave: Behave, clock: Clock) -> None:
    """Each of them would go on for ever: that the test ends is the check."""
    assert await failure_of_a_listing(behave, clock) == "TIMEOUT"
    assert await failure_of_a_deletion(behave, clock) == "TIMEOUT"


CUTS: dict[str, Behave] = {
    "at once": saying(),
    "by a reset": saying(then=reset),
    "in the head": saying(b"HTTP/1.1 200 OK\r\nContent-"),
    "in the body": saying(OK + b"Content-Length: 100\r\n\r\n{"),
    "in a chunk": saying(OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\n{"),
    "with what is no HTTP": saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
}


@pytest.mark.parametrize("behave", CUTS.values(), ids=CUTS)
async def test_a_connection_that_breaks_after_the_request_was_sent_is_a_reset(
    behave: Behave, clock: Clock
) -> None:
    assert await failure_of_a_listing(behave, clock) == "RESET"
    assert await failure_of_a_deletion(behave, clock) == "RESET"


async def test_where_nobody_listens_is_unreachable(clock: Clock) -> None:
    async with a_door_to(f"http://127.0.0.1:{free_port()}", clock) as door:
        with pytest.raises(ProviderError, match="UNREACHABLE"):
            await listed(door.client)
        with pytest.raises(ProviderError, match="UNREACHABLE"):
            await door.client.delete(door.permit())


async def test_a_certificate_that_nobody_vouches_for_is_a_tls_error(clock: Clock, tmp_path: Path) -> None:
    server = serving(saying(OK + b"\r\n"), tls=own_certificate(tmp_path))
    async with server as port, a_door_to(f"https://127.0.0.1:{port}", clock) as door:
        with pytest.raises(ProviderError, match="TLS"):
            await listed(door.client)
        with pytest.raises(ProviderError, match="TLS"):
            await door.client.delete(door.permit())


async def test_a_port_that_speaks_no_tls_is_a_tls_error(clock: Clock) -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with serving(plain) as port, a_door_to(f"https://127.0.0.1:{port}", clock) as door:
        with pytest.raises(ProviderError, match="TLS"):
            await listed(door.client)


async def test_a_body_without_end_is_cut_off(clock: Clock) -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
            sent += 65_536
            await writer.drain()

    endless = saying(OK + b"Transfer-Encoding: chunked\r\n\r\n", then=flood)

    kind = await failure_of_a_listing(endless, clock, CSP_MAX_BODY_MB="1", CSP_READ_TIMEOUT_SEC="30")

    assert kind == "BODY_TOO_LARGE"
    assert sent < 20 * 2**20, "it was read on and on"


async def test_ten_megabytes_are_too_large_and_eight_are_not(clock: Clock) -> None:
    def padded(megabytes: float) -> Behave:
        body = json.dumps({"results": [], "padding": ""}).encode()
        body = body[:-2] + b"x" * (round(megabytes * 2**20) - len(body)) + b'"}'
        return saying(OK + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body), body)

    patient = {"CSP_READ_TIMEOUT_SEC": "30"}
    assert await failure_of_a_listing(padded(10), clock, **patient) == "BODY_TOO_LARGE"
    async with serving(padded(8)) as port, a_door_to(f"http://127.0.0.1:{port}", clock, **patient) as door:
        assert await listed(door.client) == ([], 0)


async def test_what_was_not_asked_to_be_packed_is_not_unpacked(clock: Clock) -> None:
    """A hundred megabytes of nothing fit into a hundred kilobytes."""
    bomb = gzip.compress(b" " * 100 * 2**20, 1)
    asked: list[str] = []

    async def packed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await request_of(reader))
        writer.write(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)
        await writer.drain()

    assert await failure_of_a_listing(packed, clock) == "NOT_JSON"
    assert "accept-encoding: identity" in asked[0].lower()


async def test_a_redirect_is_not_followed(clock: Clock) -> None:
    visited: list[str] = []

    async def elsewhere(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        visited.append(await request_of(reader))

    async with serving(elsewhere) as port:
        there = f"http://127.0.0.1:{port}/login"
        behave = saying(b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % there.encode())
        assert await failure_of_a_listing(behave, clock) == "REDIRECT"
        assert await failure_of_a_deletion(behave, clock) == "REDIRECT"

    assert visited == []
