"""A proxy that delays what a client sends by N ms, and nothing else: the store that is N ms away.

It reads no HTTP: bytes go through in order, each connection has its own to the engine, and none waits for another.
The store proxy of the tests can delay too, but parses every call, which costs more than what is measured here.

`python -m bench.delay --upstream 4566 --port 4567 --ms 5`
"""

import argparse
import asyncio
import signal
import time
from collections import deque

import uvloop


class Delay:
    """Hands bytes on when they are due. As all wait equally long, they stand in one queue with one timer."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, Upstream, bytes]] = deque()

    def put(self, upstream: "Upstream", data: bytes) -> None:
        self._waiting.append((time.perf_counter() + self._delay_s, upstream, data))
        if len(self._waiting) == 1:
            self._loop.call_later(self._delay_s, self._hand_on)

    def _hand_on(self) -> None:
        now = time.perf_counter()
        while self._waiting and self._waiting[0][0] <= now:
            _, upstream, data = self._waiting.popleft()
            upstream.send(data)
        if self._waiting:  # timers have a resolution of 1 ms: nothing goes early, all up to so much late
            self._loop.call_later(max(0.001, self._waiting[0][0] - now), self._hand_on)


class Upstream(asyncio.Protocol):
    """The engine's side of one connection."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.writelines(self._early)
        if self._closed:
            transport.close()

    def send(self, data: bytes) -> None:
        """Hand on what is due; of a caller that has gone meanwhile it is nobody's."""
        if self._closed:
            return
        if self._transport is None:
            self._early.append(data)
        else:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if not self._closed:
            self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._client.close()

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()


class Client(asyncio.Protocol):
    """The caller's side of one connection."""

    def __init__(self, delay: Delay, upstream_port: int) -> None:
        self._delay = delay
        self._port = upstream_port
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._upstream = Upstream(transport)
        self._connecting = asyncio.create_task(self._connect(self._upstream, transport))

    async def _connect(self, upstream: Upstream, client: asyncio.Transport) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: upstream, "127.0.0.1", self._port)
        except OSError:
            client.close()

    def data_received(self, data: bytes) -> None:
        if self._upstream is not None:
            self._delay.put(self._upstream, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._upstream is not None:
            self._upstream.close()


async def serve(port: int, *, upstream_port: int, delay_s: float) -> asyncio.Server:
    """Listen on 127.0.0.1."""
    delay = Delay(delay_s)
    return await asyncio.get_running_loop().create_server(
        lambda: Client(delay, upstream_port), "127.0.0.1", port, backlog=1024
    )


async def _main(port: int, upstream_port: int, delay_s: float) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await serve(port, upstream_port=upstream_port, delay_s=delay_s)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m bench.delay", description=__doc__)
    parser.add_argument("--upstream", type=int, required=True, help="the engine's port on 127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="the port to listen on")
    parser.add_argument("--ms", type=float, required=True, help="how long what is sent takes more")
    options = parser.parse_args()
    uvloop.run(_main(options.port, options.upstream, options.ms / 1000))
