"""The worker's own /healthz, /readyz and /metrics, over HTTP. None of them asks the store."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Final

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.metrics import Metrics

SILENT_S: Final = 30.0
"""The scheduler beats every second; a worker silent for this long is not alive, whatever its process says."""


class Health:
    """What the worker says of itself: when it last beat, what it is at, and the details of its parts."""

    def __init__(self) -> None:
        self.beat_at = time.monotonic()
        self.phase = "booting"  # then standby, leading, draining
        self.details: Callable[[], Mapping[str, object]] = dict

    def beat(self) -> None:
        self.beat_at = time.monotonic()


def health_app(health: Health, metrics: Metrics) -> Starlette:
    """Liveness from the heartbeat, readiness from the phase, metrics from the registry."""

    async def healthz(_: Request) -> Response:
        silent_s = time.monotonic() - health.beat_at
        alive = silent_s < SILENT_S
        report = {"status": "ok" if alive else "silent", "last_beat_s": round(silent_s, 1)}
        return JSONResponse(report, status_code=200 if alive else 503)

    async def readyz(_: Request) -> Response:
        """200 for a leader and a standby alike: both do what they are there for."""
        ready = health.phase in ("leading", "standby")
        report = {"status": health.phase, "details": dict(health.details())}
        return JSONResponse(report, status_code=200 if ready else 503)

    async def scrape(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", scrape)]
    return Starlette(routes=routes)


class QuietServer(uvicorn.Server):
    """Leaves the signals to the worker, which has an order of its own to stop things."""

    def capture_signals(self) -> Any:
        return nullcontext()


def health_server(app: Starlette, *, host: str, port: int) -> QuietServer:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return QuietServer(config)
