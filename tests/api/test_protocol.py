"""What the HTTP parser itself refuses, over a real socket to the real process."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.middleware import MAX_BODY_BYTES, MAX_HEADER_BYTES
from app.protocol import MAX_HEAD_BYTES, OneWrite
from tests.api.process import Process, a_process, drained, make_table
from tests.api.service import API_TOKEN

OPEN = "1000000/second"


@pytest.fixture(scope="module")
def served(ministack: str) -> Iterator[Process]:
    """One process for all of this file: each test has its own connections."""
    make_table(ministack, "broker-test-protocol")
    limits = {f"RATE_LIMIT_PER_{name}": OPEN for name in ("STUDENT", "CREDENTIAL", "ADDRESS")}
    with a_process(DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME="broker-test-protocol", **limits) as process:
        yield process


def head(method: str = "POST", path: str = "/v1/allocate", *lines: str) -> bytes:
    fixed = ("Host: broker.test", f"Authorization: Bearer {API_TOKEN}", "X-Track-ID: student-1")
    return ("\r\n".join([f"{method} {path} HTTP/1.1", *fixed, *lines]) + "\r\n\r\n").encode()


def text(size: int) -> bytes:
    """A body of that many bytes that is JSON: a number where a text has no room."""
    return b'"' + b"x" * (size - 2) + b'"' if size > 1 else b"1"


def parsed(received: bytes) -> tuple[int, dict[str, str], bytes]:
    """The first answer in these bytes."""
    top, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, rest[: int(headers.get("content-length", len(rest)))]


def code(received: bytes) -> tuple[int, str]:
    status, headers, body = parsed(received)
    assert headers["content-type"] == "application/json", received
    error = json.loads(body)["error"]
    assert {"code", "message", "request_id"} <= set(error)
    return status, error["code"]


def statuses(received: bytes) -> list[int]:
    return [int(part.split()[0]) for part in received.split(b"HTTP/1.1 ")[1:]]


def alive(process: Process) -> None:
    assert process.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\r\n\tfolded: b\x00\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT db.internal:5432 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/allocate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/allocate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/allocate HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"POST /v1/allocate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /v1/allocate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_no_http_is_400_in_the_envelope_and_the_connection_closes(served: Process, data: bytes) -> None:
    received = served.raw(data)
    assert code(received) == (400, "INVALID_REQUEST")
    assert parsed(received)[1]["connection"] == "close"
    alive(served)


def test_the_options_of_everything_are_refused_in_the_envelope(served: Process) -> None:
    status, _ = code(served.raw(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert 400 <= status < 500


def test_a_head_that_never_ends_is_431_and_closed(served: Process) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        received = b""
        sent = 0
        line = b"X-Endless: " + b"a" * 1000 + b"\r\n"
        try:
            while sent < 1_600_000:
                connection.sendall(line)
                sent += len(line)
                time.sleep(0.001)
        except OSError:
            pass
        received = drained(connection)
    assert sent < 800_000, "the server took far more than its 32 KB and what lies in buffers"
    if received:  # the answer may be lost to the reset that our own last lines caused
        assert code(received) == (431, "HEADERS_TOO_LARGE")
    alive(served)


@pytest.mark.parametrize("what", ["one header", "the path"])
def test_a_head_over_its_bound_in_slow_pieces_is_431(served: Process, what: str) -> None:
    begin = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Big: " if what == "one header" else b"GET /"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(begin)
        for _ in range(MAX_HEAD_BYTES // 4096 + 1):
            connection.sendall(b"x" * 4096)
            time.sleep(0.02)
        assert code(drained(connection)) == (431, "HEADERS_TOO_LARGE")


def test_a_complete_head_between_the_two_bounds_is_431_with_a_request_id(served: Process) -> None:
    received = served.raw(head("POST", "/v1/allocate", "X-Big: " + "x" * MAX_HEADER_BYTES, "Connection: close"))
    assert code(received) == (431, "HEADERS_TOO_LARGE")
    assert parsed(received)[1]["x-request-id"]


def test_a_long_path_is_414(served: Process) -> None:
    assert code(served.raw(head("GET", "/" + "x" * 8000, "Connection: close"))) == (414, "PATH_TOO_LONG")


@pytest.mark.parametrize("size", [1, 33 * 1024, 40 * 1024, MAX_BODY_BYTES])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_body_within_its_bound_is_no_part_of_the_head(served: Process, size: int, pieces: int) -> None:
    data = head("POST", "/v1/allocate", f"Content-Length: {size}") + text(size)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        for n in range(pieces):
            connection.sendall(data[n * len(data) // pieces : (n + 1) * len(data) // pieces])
            time.sleep(0.02)
        received = drained(connection)
    assert statuses(received) == [409], received
    assert code(received) == (409, "NO_SANDBOXES_AVAILABLE")


def test_large_bodies_one_after_the_other_on_one_connection_are_good(served: Process) -> None:
    size = 40 * 1024
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        for _ in range(5):
            connection.sendall(head("POST", "/v1/allocate", f"Content-Length: {size}") + text(size))
            assert statuses(drained(connection, quiet_s=0.3)) == [409]


def test_pipelined_requests_with_large_bodies_are_all_answered(served: Process) -> None:
    size = 40 * 1024
    one = head("POST", "/v1/allocate", f"Content-Length: {size}") + text(size)
    last = head("POST", "/v1/allocate", "Connection: close")
    assert statuses(served.raw(one * 3 + last)) == [409] * 4


@pytest.mark.parametrize(
    ("behind", "whole"),
    [
        (b'{"generation": 1}', 1),
        (head("POST", "/v1/allocate", "Content-Length: 0") + b"nonsense\r\n\r\n", 2),
        (head("POST", "/v1/allocate", "Transfer-Encoding: chunked") + b"zz\r\n", 1),
    ],
    ids=["a body of no length", "nonsense", "a broken chunk"],
)
def test_what_is_no_request_takes_no_answer_from_whole_ones_before_it(
    served: Process, behind: bytes, whole: int
) -> None:
    """They are carried out: a 400 in the place of their answer would say that they were not."""
    first = head("POST", "/v1/allocate", "Content-Length: 0")
    received = served.raw(first + behind)
    assert statuses(received) == [409] * whole
    assert b"connection: close" in received.rpartition(b"HTTP/1.1 ")[2].lower()
    alive(served)


def test_a_head_that_begins_behind_a_large_body_is_not_charged_with_it(served: Process) -> None:
    size = 40 * 1024
    first = head("POST", "/v1/allocate", f"Content-Length: {size}") + text(size)
    second = head("POST", "/v1/allocate")
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(first + second[:20])
        time.sleep(0.2)
        connection.sendall(second[20:])
        assert statuses(drained(connection)) == [409, 409]


def test_many_small_requests_on_one_connection_do_not_add_up(served: Process) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        count = 2 * MAX_HEAD_BYTES // len(head()) + 1
        connection.sendall(head("GET", "/healthz") * count)
        assert statuses(drained(connection)) == [200] * count


def test_a_body_that_declares_too_much_is_413_before_it_is_sent(served: Process) -> None:
    declared = head("POST", "/v1/allocate", f"Content-Length: {MAX_BODY_BYTES + 1}", "Expect: 100-continue")
    received = served.raw(declared)
    assert code(received) == (413, "BODY_TOO_LARGE")
    assert b"100 Continue" not in received
    assert parsed(received)[1]["connection"] == "close"


def _chunked(body: bytes) -> bytes:
    pieces = [body[first : first + 1024] for first in range(0, len(body), 1024)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(MAX_BODY_BYTES, (409, "NO_SANDBOXES_AVAILABLE")), (MAX_BODY_BYTES + 1, (413, "BODY_TOO_LARGE"))],
)
def test_a_body_of_undeclared_length_has_the_same_bound(
    served: Process, size: int, expected: tuple[int, str]
) -> None:
    chunked = head("POST", "/v1/allocate", "Transfer-Encoding: chunked", "Connection: close")
    assert code(served.raw(chunked + _chunked(text(size)))) == expected


def test_an_upgrade_to_a_protocol_that_is_not_spoken_is_an_ordinary_request(served: Process) -> None:
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    assert statuses(served.raw(head("GET", "/healthz", *upgrade))) == [200]
    assert code(served.raw(head("POST", "/v1/allocate", *upgrade))) == (409, "NO_SANDBOXES_AVAILABLE")


def test_header_names_are_read_in_any_case(served: Process) -> None:
    data = f"POST /v1/allocate HTTP/1.1\r\nhost: x\r\nAUTHORIZATION: bearer {API_TOKEN}\r\nx-TRACK-id: s\r\n"
    assert code(served.raw(data.encode() + b"Connection: close\r\n\r\n")) == (409, "NO_SANDBOXES_AVAILABLE")


def test_no_answer_names_the_server_software(served: Process) -> None:
    for received in (served.raw(head("GET", "/healthz", "Connection: close")), served.raw(b"nonsense\r\n\r\n")):
        assert "server" not in parsed(received)[1]
        assert b"uvicorn" not in received.lower()


def test_an_answer_comes_whole(served: Process) -> None:
    """Head and body apart are two packets, and wake the caller twice."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        for _ in range(50):
            connection.sendall(head("GET", "/healthz"))
            status, headers, body = parsed(connection.recv(65536))
            assert (status, len(body)) == (200, int(headers["content-length"]))


class Wire(asyncio.Transport):
    """Keeps what is written, each time it is."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@pytest.fixture
async def wire() -> tuple[Wire, OneWrite]:
    wire = Wire()
    return wire, OneWrite(wire, asyncio.get_running_loop())


async def test_what_is_written_in_one_turn_goes_out_at_once(wire: tuple[Wire, OneWrite]) -> None:
    sent, transport = wire
    transport.write(b"head,")
    transport.write(b"body")
    assert sent.writes == [b"head,body"]
    await asyncio.sleep(0)
    assert sent.writes == [b"head,body"]


async def test_a_head_whose_body_takes_its_time_does_not_wait_for_it(wire: tuple[Wire, OneWrite]) -> None:
    sent, transport = wire
    transport.write(b"head,")
    await asyncio.sleep(0)
    transport.write(b"body")
    await asyncio.sleep(0)
    assert sent.writes == [b"head,", b"body"]


async def test_what_was_written_goes_out_before_the_connection_closes(wire: tuple[Wire, OneWrite]) -> None:
    sent, transport = wire
    for piece in (b"head,", b"body,", b"end"):
        transport.write(piece)
    transport.close()
    assert (sent.writes, sent.closed) == ([b"head,body,", b"end"], True)


async def test_nothing_is_written_to_a_connection_that_the_caller_closed(wire: tuple[Wire, OneWrite]) -> None:
    """A loop's own transport raises where it is closed."""
    sent, transport = wire
    transport.write(b"head,")
    sent.closed = True
    await asyncio.sleep(0)
    assert sent.writes == []


def test_what_the_parser_refuses_is_a_json_line_without_the_data(served: Process) -> None:
    served.raw(b"GET /healthz HTTP/1.1\r\nAuthorization hunter2-hunter2\r\n\r\n")
    line = served.wait_for_event("Invalid HTTP request received.")
    assert line["level"] == "warning"
    assert not any("hunter2" in text for text in served.lines)


def test_a_head_that_dribbles_is_408_and_closed(served: Process) -> None:
    """Half a head holds a socket for ten seconds and no longer."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        said = connection.recv(65536)
        closed = connection.recv(65536)

    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"REQUEST_TIMEOUT" in said
    assert closed == b""


def test_trailers_are_no_headers_and_have_a_bound(served: Process) -> None:
    """Whoever sends trailers without end is cut off; it needs no token to try."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        line = b"t: " + b"v" * 1000 + b"\r\n"
        sent = 0
        try:
            while sent < 50_000_000:
                connection.sendall(line * 100)
                sent += len(line) * 100
        except OSError:
            pass  # reset: that is the point

    assert sent < 50_000_000
    assert served.get("/healthz").status_code == 200
