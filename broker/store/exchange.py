"""HTTP/1.1 to one host: a request, its answer, and the connections kept for the next ones.

As little as the store's calls need: one request at a time on a connection, no redirects, no cookies, no
content coding. httptools (llhttp) parses. A connection is used again only after a whole answer: one whose
request was given up carries an answer that is nobody's.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final, cast

import httptools
from aiohappyeyeballs import start_connection

IDLE_S: Final = 12.0
"""A connection unused for longer is not trusted: who is at its other end may be about to close it."""
ADDRESSES_S: Final = 10.0
"""A burst that opens many connections at once asks the name server once."""
NEXT_ADDRESS_S: Final = 0.25
"""A host of several addresses, one a zone: where one has not answered for so long, the next is tried beside it."""
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""Twice what DynamoDB answers at the most (BatchGetItem, 16 MB)."""


class ConnectTimeout(OSError):
    """No connection in time: nothing was sent."""


class AnswerCutOff(OSError):
    """The connection ended before the answer did."""


class AnswerBroken(OSError):
    """What came is no answer."""


_Addresses = list[tuple[Any, ...]]
"""As getaddrinfo() tells them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers`: names in lower case, the last of a name."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Connection(asyncio.Protocol):
    """One connection. `exchange` is for one caller at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self.used_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Answer] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._bytes = 0  # of the answer that is coming in, its head and framing too

    async def exchange(self, request: bytes) -> Answer:
        """Send the request, wait for its whole answer. Where there is none, abort() is the caller's.

        Raises:
            AnswerCutOff, AnswerBroken, OSError: there is none; whether the request was carried out is unknown.
        """
        if self._transport is None or not self.is_open or self._waiting is not None:
            raise AnswerCutOff("the connection is closed or taken")
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._waiting
        finally:
            self._waiting = None

    def abort(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self.is_open = True
        if (sock := transport.get_extra_info("socket")) is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(exc or AnswerCutOff("closed by the other end"))

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:  # an answer that nobody asked for would be taken for the next one's
            self.abort()
            return
        self._bytes += len(data)
        if self._bytes > MAX_ANSWER_BYTES:
            self._break(f"over {MAX_ANSWER_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(str(error))

    def on_message_begin(self) -> None:
        if self._waiting is None or self._waiting.done():  # the beginning of one too many
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer: the real one follows
            self._headers, self._body = {}, []
            return
        answer = Answer(status, self._headers, b"".join(self._body))
        self.is_open = self.is_open and self._parser.should_keep_alive()
        self._headers, self._body, self._bytes = {}, [], 0
        if self._waiting is None or self._waiting.done():  # a second one at once
            self.abort()
        else:
            self._waiting.set_result(answer)

    def _break(self, why: str) -> None:
        self._fail(AnswerBroken(why))
        self.abort()

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


class Connections:
    """Connections to one host, the last used first. How many there are at once is its caller's business."""

    def __init__(self, *, host: str, port: int, tls: ssl.SSLContext | None, connect_timeout_s: float) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._addresses: _Addresses = []
        self._addresses_until = 0.0
        self._looking_up = asyncio.Lock()
        self._closed = False

    async def exchange(self, request: bytes) -> Answer:
        """Send a request over a connection that is open, or a new one.

        Raises:
            ConnectTimeout, OSError, AnswerCutOff, AnswerBroken: see Connection.exchange().
        """
        connection = self._taken() or await self._opened()
        try:
            answer = await connection.exchange(request)
        except BaseException:
            self._drop(connection)
            raise
        if connection.is_open:
            connection.used_at = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            self._drop(connection)
        return answer

    async def aclose(self) -> None:
        """Close all, whoever waits for an answer; after this the sockets are closed, and none is opened."""
        self._closed = True
        self._idle.clear()
        for connection in tuple(self._open):
            self._drop(connection)
        await asyncio.sleep(0)  # in which the loop closes what was aborted

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _taken(self) -> Connection | None:
        """The one used last. Those below it, too old by then, go when it is their turn."""
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.used_at >= oldest:
                return connection
            self._drop(connection)
        return None

    async def _opened(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._connected(loop)
        except TimeoutError:
            raise ConnectTimeout(f"{self._host}:{self._port}") from None
        if self._closed:
            connection.abort()
            raise AnswerCutOff("closed while it was being opened")
        self._open.add(connection)
        return connection

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> Connection:
        """To whichever address answers first: uvloop by itself would wait for the first one alone."""
        sock: socket.socket | None = await start_connection(
            await self._looked_up(loop), happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1, loop=loop
        )
        try:
            host = self._host if self._tls else None
            _, connection = await loop.create_connection(
                Connection, sock=sock, ssl=self._tls, server_hostname=host
            )
            sock = None  # it is the transport's
        finally:
            if sock is not None:
                sock.close()
        return connection

    async def _looked_up(self, loop: asyncio.AbstractEventLoop) -> _Addresses:
        async with self._looking_up:
            if loop.time() >= self._addresses_until:
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._addresses, self._addresses_until = list(found), loop.time() + ADDRESSES_S
            return self._addresses
