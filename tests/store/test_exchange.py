"""One connection after another: what is sent, what comes back, and which connection is used again."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from broker.store import exchange
from broker.store.exchange import Answer, AnswerBroken, AnswerCutOff, Connections, ConnectTimeout

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Amz-CRC32: 7\r\n\r\n{}"
REQUEST = b"POST / HTTP/1.1\r\nhost:x\r\ncontent-length:2\r\n\r\n{}"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Peer:
    """The other end: answers each request by the next of `script`; a number says how long it waits first.

    None closes the connection. What lies between two parts of an answer is a pause.
    """

    def __init__(self, *script: bytes | float | None) -> None:
        self.script = list(script)
        self.requests: list[tuple[int, bytes]] = []
        self.connections = 0
        self.closed = 0
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append((number, head + await reader.readexactly(2)))
                self.asked.set()
                while self.script:
                    said = self.script.pop(0)
                    if said is None:
                        return
                    if isinstance(said, bytes):
                        writer.write(said)
                        break
                    with suppress(TimeoutError):
                        async with asyncio.timeout(said):
                            await reader.read(1)  # nothing comes but the end
                            return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed += 1
            writer.close()

    async def closes(self, count: int) -> None:
        """Wait until so many connections are closed."""
        async with asyncio.timeout(10):
            while self.closed < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def run(loop: str, peer: Peer, scenario: Callable[[Connections], Awaitable[None]]) -> None:
    """The scenario on connections to the peer, on this kind of loop."""

    async def main() -> None:
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connections = Connections(host="127.0.0.1", port=port, tls=None, connect_timeout_s=5)
        try:
            await scenario(connections)
        finally:
            await connections.aclose()
            server.close()
            await server.wait_closed()
            await peer.closes(peer.connections)  # which shows that nothing stays open

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


def test_a_connection_serves_one_request_after_another(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER_BYTES", 2 * len(ANSWER))  # the bound is each one's own
    peer = Peer(ANSWER, ANSWER, ANSWER)

    async def scenario(connections: Connections) -> None:
        for _ in range(3):
            assert await connections.exchange(REQUEST) == Answer(
                200, {b"content-length": b"2", b"x-amz-crc32": b"7"}, b"{}"
            )

    run(loop, peer, scenario)
    assert peer.requests == [(1, REQUEST)] * 3


def test_requests_at_once_have_a_connection_each_and_get_their_own_answers(loop: str) -> None:
    def answer(number: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number

    peer = Peer(*(answer(n) for n in range(8)))

    async def scenario(connections: Connections) -> None:
        answers = await asyncio.gather(*(connections.exchange(REQUEST) for _ in range(8)))
        assert sorted(a.body for a in answers) == [b"%d" % n for n in range(8)]

    run(loop, peer, scenario)
    assert sorted(number for number, _ in peer.requests) == list(range(1, 9))


@pytest.mark.parametrize(
    "parts",
    [
        [ANSWER[:9], 0.01, ANSWER[9:]],
        [bytes([byte]) for byte in ANSWER],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", 0.01, b"1\r\n}\r\n0\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER],
    ],
    ids=["in two parts", "byte by byte", "in chunks", "after an interim one"],
)
def test_an_answer_is_whole_however_it_comes(loop: str, parts: list[bytes | float]) -> None:
    script: list[bytes | float] = []
    for part in parts:  # only the last is the end of the peer's turn
        script += [part] if isinstance(part, float) else [part, 0.0]

    class Dribbling(Peer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            for _ in range(2):
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                for part in script:
                    if isinstance(part, bytes):
                        writer.write(part)
                        await writer.drain()
                    await asyncio.sleep(part if isinstance(part, float) else 0)
            self.closed += 1
            writer.close()

    async def scenario(connections: Connections) -> None:
        for _ in range(2):
            answer = await connections.exchange(REQUEST)
            assert (answer.status, answer.body) == (200, b"{}")

    run(loop, peer := Dribbling(), scenario)
    assert peer.connections == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
    ],
    ids=["said so", "HTTP 1.0"],
)
def test_a_connection_that_the_other_end_closes_is_not_used_again(loop: str, head: bytes) -> None:
    peer = Peer(head + b"{}", ANSWER)

    async def scenario(connections: Connections) -> None:
        for _ in range(2):
            assert (await connections.exchange(REQUEST)).body == b"{}"

    run(loop, peer, scenario)
    assert [number for number, _ in peer.requests] == [1, 2]


def test_one_closed_while_it_was_idle_is_noticed_before_it_is_used(loop: str) -> None:
    class Impatient(Peer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(ANSWER)
            self.closed += 1
            writer.close()
            await writer.wait_closed()

    async def scenario(connections: Connections) -> None:
        for _ in range(3):
            assert (await connections.exchange(REQUEST)).body == b"{}"
            await asyncio.sleep(0.05)

    run(loop, peer := Impatient(), scenario)
    assert peer.connections == 3


def test_one_idle_for_long_is_not_trusted(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "IDLE_S", -1.0)
    peer = Peer(ANSWER, ANSWER)

    async def scenario(connections: Connections) -> None:
        for _ in range(2):
            await connections.exchange(REQUEST)

    run(loop, peer, scenario)
    assert [number for number, _ in peer.requests] == [1, 2]


def test_the_connection_of_a_request_that_was_given_up_is_used_by_nobody(loop: str) -> None:
    """Its answer is still to come, and would be taken for the next one's."""
    theirs = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntheirs"
    peer = Peer(30.0, theirs, ANSWER)

    async def scenario(connections: Connections) -> None:
        given_up = asyncio.create_task(connections.exchange(REQUEST))
        await peer.asked.wait()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await peer.closes(1)
        peer.script = [ANSWER]
        assert (await connections.exchange(REQUEST)).body == b"{}"

    run(loop, peer, scenario)
    assert [number for number, _ in peer.requests] == [1, 2]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (None, AnswerCutOff),
        (ANSWER[:-1], AnswerCutOff),
        (b"SSH-2.0-OpenSSH\r\n\r\n", AnswerBroken),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", AnswerBroken),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", AnswerBroken),
    ],
    ids=["nothing", "all but a byte", "another protocol", "a length that is none", "a change of protocol"],
)
def test_half_an_answer_is_none(loop: str, said: bytes | None, kind: type[Exception]) -> None:
    class Abrupt(Peer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write((self.script.pop(0) if self.script else ANSWER) or b"")  # type: ignore[arg-type]
            await writer.drain()
            await asyncio.sleep(0.05)
            self.closed += 1
            writer.close()

    async def scenario(connections: Connections) -> None:
        with pytest.raises(kind):
            await connections.exchange(REQUEST)
        assert (await connections.exchange(REQUEST)).body == b"{}"

    run(loop, peer := Abrupt(said), scenario)
    assert peer.connections == 2


ENDLESS = {
    "a body": b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
    "a head": b"HTTP/1.1 200 OK\r\n" + b"X-More: x\r\n" * 100,
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
}


@pytest.mark.parametrize("said", sorted(ENDLESS))
def test_an_answer_without_end_is_not_kept_in_memory(
    loop: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER_BYTES", 1000)
    peer = Peer(ENDLESS[said])

    async def scenario(connections: Connections) -> None:
        with pytest.raises(AnswerBroken, match="1000 bytes"):
            await connections.exchange(REQUEST)

    run(loop, peer, scenario)


@pytest.mark.parametrize("end", [None, -2, -len(ANSWER) + 1], ids=["whole", "without its body", "its first byte"])
def test_two_answers_to_one_request_are_one_too_many(loop: str, end: int | None) -> None:
    """Were the second one's beginning kept, the next answer would become its body."""
    peer = Peer(ANSWER + ANSWER.replace(b"{}", b"[]")[:end], ANSWER)

    async def scenario(connections: Connections) -> None:
        for _ in range(2):
            assert (await connections.exchange(REQUEST)).body == b"{}"

    run(loop, peer, scenario)
    assert [number for number, _ in peer.requests] == [1, 2]


def test_an_answer_that_nobody_asked_for_ends_the_connection(loop: str) -> None:
    class Talkative(Peer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(ANSWER)
            await asyncio.sleep(0.05)
            writer.write(ANSWER.replace(b"{}", b"["))  # and half of it at that
            await asyncio.sleep(0.05)
            self.closed += 1
            writer.close()

    async def scenario(connections: Connections) -> None:
        for _ in range(2):
            assert (await connections.exchange(REQUEST)).body == b"{}"
            await asyncio.sleep(0.1)

    run(loop, peer := Talkative(), scenario)
    assert peer.connections == 2


def test_no_connection_in_time_is_told_as_such(loop: str) -> None:
    """Nobody accepts: the backlog of a listener that is full."""

    async def main() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            connections = Connections(host="127.0.0.1", port=port, tls=None, connect_timeout_s=0.2)
            with pytest.raises(ConnectTimeout):
                await connections.exchange(REQUEST)
            for filler in fillers:
                filler.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


ZONES = ("127.0.0.2", "127.0.0.1")
"""The addresses of `store.example`. Nothing answers at the first one: its backlog is full."""


class _Asyncio(asyncio.SelectorEventLoop):
    async def getaddrinfo(self, host: Any, port: Any, **kinds: Any) -> list[Any]:
        found: list[Any] = []
        for end in ZONES if host == "store.example" else (host,):
            found += await super().getaddrinfo(end, port, **kinds)
        return found


class _Uvloop(uvloop.Loop):
    async def getaddrinfo(self, host: Any, port: Any, **kinds: Any) -> list[Any]:
        found: list[Any] = []
        for end in ZONES if host == "store.example" else (host,):
            found += await super().getaddrinfo(end, port, **kinds)
        return found


@pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2"])
def test_a_zone_that_is_gone_takes_none_of_the_others_along(loop: str) -> None:
    """An endpoint in a VPC has an address a zone."""
    peer = Peer(ANSWER)

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        server = await asyncio.start_server(peer.serve, sock=listener)
        port = server.sockets[0].getsockname()[1]
        with socket.socket() as hole:
            hole.bind(("127.0.0.2", port))
            hole.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.2", port))
            connections = Connections(host="store.example", port=port, tls=None, connect_timeout_s=10)
            assert (await connections.exchange(REQUEST)).body == b"{}"
            await connections.aclose()
            for filler in fillers:
                filler.close()
        server.close()
        await peer.closes(1)

    with asyncio.Runner(loop_factory={"asyncio": _Asyncio, "uvloop": _Uvloop}[loop]) as runner:
        runner.run(asyncio.wait_for(main(), 60))


def test_a_burst_asks_the_name_server_once_and_a_later_one_again(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, lookups = Peer(*[ANSWER] * 16), []

    class Counting(_Asyncio if loop == "asyncio" else _Uvloop):  # type: ignore[misc]
        async def getaddrinfo(self, host: Any, port: Any, **kinds: Any) -> Any:
            if host == "store.example":
                lookups.append(host)
            return await super().getaddrinfo("127.0.0.1", port, **kinds)

    async def scenario(connections: Connections) -> None:
        connections._host = "store.example"
        await asyncio.gather(*(connections.exchange(REQUEST) for _ in range(8)))
        assert len(lookups) == 1
        monkeypatch.setattr(exchange, "IDLE_S", -1.0)  # none of those is used again
        connections._addresses_until -= exchange.ADDRESSES_S
        await asyncio.gather(*(connections.exchange(REQUEST) for _ in range(8)))
        assert len(lookups) == 2

    monkeypatch.setitem(LOOPS, loop, Counting)
    run(loop, peer, scenario)


def test_a_connection_that_comes_after_the_end_sends_nothing(loop: str) -> None:
    """The process ends while a call waits for its connection."""
    peer = Peer(ANSWER)

    class Slow(_Asyncio if loop == "asyncio" else _Uvloop):  # type: ignore[misc]
        async def getaddrinfo(self, host: Any, port: Any, **kinds: Any) -> Any:
            asked.set()
            await ended.wait()
            return await super().getaddrinfo(host, port, **kinds)

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        server = await asyncio.start_server(peer.serve, sock=listener)
        port = server.sockets[0].getsockname()[1]
        connections = Connections(host="127.0.0.1", port=port, tls=None, connect_timeout_s=10)
        late = asyncio.create_task(connections.exchange(REQUEST))
        await asked.wait()
        await connections.aclose()
        ended.set()
        with pytest.raises(AnswerCutOff):
            await late
        server.close()
        await peer.closes(peer.connections)

    asked, ended = asyncio.Event(), asyncio.Event()
    with asyncio.Runner(loop_factory=Slow) as runner:
        runner.run(asyncio.wait_for(main(), 60))
    assert peer.requests == []


def test_nobody_there_is_told_at_once(loop: str) -> None:
    async def scenario(_: Connections) -> None:
        nowhere = Connections(host="127.0.0.1", port=1, tls=None, connect_timeout_s=5)
        with pytest.raises(ConnectionRefusedError):
            await nowhere.exchange(REQUEST)

    run(loop, Peer(), scenario)
