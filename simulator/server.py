"""Serving a simulation over HTTP: for `python -m simulator`, and for a test in its own process."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from simulator.connection import Connection
from simulator.control import create_control
from simulator.provider import create_provider
from simulator.services_api import create_services
from simulator.simulation import Simulation

DRAIN_S = 5  # `Simulation.close` ends what is in hand at once; this bounds a caller that does not read its answer


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Leave the signals alone: uvicorn raises them again after its shutdown, and would not end with 0."""
        return nullcontext()


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def create_app(simulation: Simulation) -> Starlette:
    return Starlette(
        routes=[
            Route("/healthz", _healthz, methods=["GET"]),
            Mount("/_simulator", create_control(simulation)),
            *create_services(simulation),
            Mount("/", create_provider(simulation)),
        ]
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: the port is in use, or the host is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is spelled out, which socket.create_server does not do;
    # without it an answer of two writes waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serving(simulation: Simulation, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """Serve until the block ends; yields the base URL. Without a listener: loopback, on a free port."""
    listener = listener or listen("127.0.0.1", 0)
    url = url_of(listener)
    config = uvicorn.Config(
        create_app(simulation),
        http=Connection,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,  # the control routes trust the address of the connection, not a header
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not (server.started or task.done()):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        yield url
    finally:
        simulation.close()
        server.should_exit = True
        await task
