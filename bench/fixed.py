"""A server that gives everybody the same answer at once: what the scales themselves can do at the most.

`python -m bench.fixed --port 4567`
"""

import argparse
import asyncio
import signal

import uvloop

BODY = b'{"sandbox_id":"2009001","name":"lab-adventure-0001","external_id":"identity/accounts/' + b"0" * 32 + b'"}'
ANSWER = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY


class Fixed(asyncio.Protocol):
    """One request at a time on a connection, each in one piece, as the load sends them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


async def _main(port: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await asyncio.get_running_loop().create_server(Fixed, "127.0.0.1", port, backlog=1024)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m bench.fixed", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="the port to listen on")
    uvloop.run(_main(parser.parse_args().port))
