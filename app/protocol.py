"""uvicorn's HTTP protocol with what it lacks: a cap on a request's head, errors in our envelope, whole answers."""

import asyncio
import json
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import FRAMEWORK_CODES

MAX_HEAD_BYTES: Final = 32 * 1024
HEAD_S: Final = 10.0
"""From the first byte of a request to the end of its headers: who dribbles holds a socket for no longer."""
_REASONS: Final = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class OneWrite:
    """A transport that sends what is written in one turn of the loop at once: uvicorn writes head, then body.

    Two are a system call, a packet and a wake-up of the caller more: 4 % of an allocation's processor time.
    """

    __slots__ = ("_held", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            head, self._held = self._held, None
            self._transport.writelines((head, data))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held is not None and not self.is_closing():
            self._transport.write(self._held)
        self._held = None


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose head never ends: the parser itself would keep all of it in memory."""

    _head_bytes = 0
    _in_head = False
    _ended_one = False
    _body_bytes = 0
    _framing = 0
    _head_timer: asyncio.TimerHandle | None = None
    _last_whole: RequestResponseCycle | None = None  # the last request that came to its end
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", OneWrite(transport, self.loop)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_timer()
        super().connection_lost(exc)

    def _end_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._refuse(408, f"The headers took over {HEAD_S:.0f} s.")

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # read, as an answer may be lost where a socket closes on what nobody has read
        self._ended_one = False
        self._body_bytes = 0
        in_body = not self._in_head
        super().data_received(data)
        if in_body and not (self._refused or self._in_head or self._ended_one or self.transport.is_closing()):
            self._framing += len(data) - self._body_bytes  # chunk sizes, extensions, trailers
            if self._framing > 1024 * 1024:
                self._refuse(431, "The chunk framing or trailers are too large.")
        # A chunk that ends one request and begins the next says little of the next one's head: let it pass.
        if self._refused or not self._in_head or self._ended_one or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "The request line and headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._end_head_timer()
        self._head_timer = self.loop.call_later(HEAD_S, self._head_too_slow)
        self._in_head = True
        self._head_bytes = 0
        self._framing = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._end_head_timer()
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._last_whole = self.cycle
        self._ended_one = True

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request, and close. Whole ones before it are answered instead, where they are not yet.

        They are carried out in any case: an error in the place of their answers would be taken for theirs.
        """
        self._refused = True
        self._end_head_timer()
        whole = self._last_whole
        if whole is not None and not whole.response_complete:
            if self.pipeline and self.pipeline[0][0] is not whole:
                self.pipeline.popleft()  # this very request, whose head was good
            whole.keep_alive = False
            return
        error: dict[str, Any] = {"code": FRAMEWORK_CODES[status], "message": message, "request_id": None}
        content = json.dumps({"error": error}).encode()
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + content)
        self.transport.close()
