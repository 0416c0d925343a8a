"""What machines ask: alive, ready, numbers, version."""

from pathlib import Path
from typing import Annotated

import fastapi_offline
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from app.deps import Settings, readiness_of
from app.openapi import probe_answers
from app.readiness import Readiness
from app.schemas import AliveOut, MetaOut, ReadyOut
from broker.store.leader import LEADER_SCOPE
from broker.store.table import SCHEMA
from broker.version import VERSION

router = APIRouter(tags=["operations"])

_ASSETS = Path(fastapi_offline.__file__).parent / "static"
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_DAY = {"Cache-Control": "public, max-age=86400"}

_DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sandbox Broker API</title>
<link rel="stylesheet" href="docs/swagger-ui.css"><link rel="icon" href="docs/favicon.png"></head>
<body><div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
_START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true,
  tryItOutEnabled: true, persistAuthorization: false, validatorUrl: null});
"""


@router.get(
    "/healthz",
    summary="Alive: asks nobody else.",
    response_model=AliveOut,
    responses=probe_answers("The process serves."),
)
async def healthz() -> AliveOut:
    return AliveOut(status="ok")


@router.get(
    "/readyz",
    summary="503 while booting or draining; trouble of the store is 200 `degraded`.",
    response_model=ReadyOut,
    response_model_exclude_none=True,
    responses=probe_answers("Send traffic here.")
    | {503: {"model": ReadyOut, "description": "Booting or draining: send traffic elsewhere."}},
)
async def readyz(readiness: Annotated[Readiness, Depends(readiness_of)], response: Response) -> ReadyOut:
    response.status_code, report = await readiness.report()
    return ReadyOut(**report)


@router.get(
    "/metrics",
    summary="Prometheus metrics.",
    response_class=PlainTextResponse,
    responses=probe_answers("The numbers of this process, and the pool's as the worker last counted them."),
)
async def metrics(request: Request) -> Response:
    if (parts := request.app.state.parts) is not None:
        await parts.gauges.refresh()
    return Response(await request.app.state.metrics_page.text(), media_type=CONTENT_TYPE_LATEST)


meta = APIRouter(tags=["operations"])


@meta.get(
    "/v1/meta",
    summary="Version and effective configuration, secrets left out.",
    response_model=MetaOut,
    responses=probe_answers("What runs here.", limited=True),
)
async def show_meta(settings: Settings) -> MetaOut:
    return MetaOut(
        service="sandbox-broker",
        version=VERSION,
        table_schema=SCHEMA,
        election=LEADER_SCOPE,
        configuration=settings.effective(),
        sources=settings.sources(),
    )


docs = APIRouter(include_in_schema=False)


@docs.get("/v1/docs")
async def docs_page() -> HTMLResponse:
    return HTMLResponse(_DOCS)


@docs.get("/v1/docs/start.js")
async def docs_start() -> Response:
    return Response(_START, media_type="text/javascript")


@docs.get("/v1/docs/{name}")
async def docs_asset(name: str) -> Response:
    if name not in _FILES:
        raise HTTPException(404)
    return FileResponse(_ASSETS / name, media_type=_FILES[name], headers=_DAY)
