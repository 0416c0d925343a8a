"""Connections that the application can cut: uvicorn's own close in good order only."""

import asyncio
import socket
import struct
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

EXTENSION = "simulator.transport"
RESET_AT_ONCE = struct.pack("ii", 1, 0)  # linger, for no time: what is unsent is dropped and the peer sees RST


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen when uvicorn is imported
    """uvicorn's HTTP protocol, with the transport in each scope's extensions."""

    app: ASGIApp

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        serve = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            extensions: dict[str, Any] = scope.get("extensions", {})
            await serve({**scope, "extensions": {**extensions, EXTENSION: transport}}, receive, send)

        self.app = app


async def cut(scope: Scope, receive: Receive) -> None:
    """Reset the TCP connection; returns when the server has noticed, and so asks for no answer any more."""
    transport: asyncio.Transport = scope["extensions"][EXTENSION]
    peer: socket.socket = transport.get_extra_info("socket")
    if not transport.is_closing():
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        transport.abort()
    await until_gone(receive)


async def until_gone(receive: Receive) -> None:
    """Wait for the end of the connection. Only once the request was read, or its body is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass
