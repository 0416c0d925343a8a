"""The worker's own /healthz and /metrics, over HTTP."""

import time
from contextlib import nullcontext
from typing import Any, Final

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.metrics import Metrics
from worker.schedule import Schedule

SILENT_S: Final = 30.0
"""The scheduler beats every second; a worker silent for this long is not alive, whatever its process says."""


def health_app(schedule: Schedule, metrics: Metrics) -> Starlette:
    """Liveness from the scheduler's heartbeat, metrics from the registry; neither asks the store."""

    async def healthz(_: Request) -> Response:
        silent_s = time.monotonic() - schedule.beat_at
        alive = silent_s < SILENT_S
        report = {"status": "ok" if alive else "silent", "last_beat_s": round(silent_s, 1)}
        return JSONResponse(report, status_code=200 if alive else 503)

    async def scrape(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", healthz), Route("/metrics", scrape)])


class QuietServer(uvicorn.Server):
    """Leaves the signals to the worker, which has an order of its own to stop things."""

    def capture_signals(self) -> Any:
        return nullcontext()


def health_server(app: Starlette, *, host: str, port: int) -> QuietServer:
    config = uvicorn.Config(
        app, host=host, port=port, ws="none", lifespan="off", log_config=None, server_header=False
    )
    return QuietServer(config)
