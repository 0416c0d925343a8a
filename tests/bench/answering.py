"""A server of the tests' own that answers HTTP as it is told: what the load and the delay are measured against."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[bytes], Awaitable[bytes | None]]
"""Takes a request's first line; gives a body, or None to cut the connection off."""


@dataclass
class Server:
    """What it saw."""

    port: int = 0
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    lines: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def answering(answer: Answer, *, status: int = 201) -> AsyncIterator[Server]:
    """Serve on a free port of 127.0.0.1."""
    seen = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line = head.split(b"\r\n")[0]
                seen.lines.append(line)
                seen.in_flight += 1
                seen.most_in_flight = max(seen.most_in_flight, seen.in_flight)
                body = await answer(line)
                seen.in_flight -= 1
                if body is None:
                    break
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
