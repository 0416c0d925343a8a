"""A collector as a process of its own: takes OTLP over HTTP, and shows what it got."""

import asyncio
import gzip
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.engine import ROOT, free_port

KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass
class Received:
    """What came, and how the next one is answered: `ok`, `hang` or `refuse`."""

    bodies: list[bytes] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    behaviour: str = "ok"


def collector_app() -> Starlette:
    received = Received()

    async def take(request: Request) -> Response:
        received.asked[request.url.path] += 1
        body = await request.body()
        if received.behaviour == "hang":
            await asyncio.sleep(3600)
        if received.behaviour == "refuse":
            return Response(status_code=400)
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        received.bodies.append(body)
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")

    async def show(_: Request) -> Response:
        return JSONResponse([span for body in received.bodies for span in _spans(body)])

    async def raw(_: Request) -> Response:
        return Response(b"".join(received.bodies))

    async def asked(_: Request) -> Response:
        return JSONResponse(received.asked)

    async def behave(request: Request) -> Response:
        received.behaviour = request.query_params["as"]
        return Response()

    return Starlette(
        routes=[
            Route("/_spans", show),
            Route("/_raw", raw),
            Route("/_asked", asked),
            Route("/_behave", behave, methods=["POST"]),
            Route("/{path:path}", take, methods=["POST"]),
        ]
    )


def _spans(body: bytes) -> Iterator[dict[str, Any]]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "name": span.name,
                    "kind": KINDS.get(span.kind, str(span.kind)),
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "facts": _facts(span.attributes),
                    "failed": span.status.code == 2,
                    "marks": [event.name for event in span.events],
                    "links": [{"trace": link.trace_id.hex(), "id": link.span_id.hex()} for link in span.links],
                    "scope": scope.scope.name,
                    "of": _facts(resource.resource.attributes),
                }


def _facts(attributes: Any) -> dict[str, Any]:
    return {fact.key: getattr(fact.value, fact.value.WhichOneof("value")) for fact in attributes}


Found = dict[str, Any]


@dataclass(frozen=True)
class Collector:
    """A running one."""

    url: str

    def spans(self, **facts: Any) -> list[Found]:
        """All that came with these facts; `name`, `kind`, `trace`, `parent` are the span's own."""
        own = {name: facts.pop(name) for name in ("name", "kind", "trace", "parent") if name in facts}
        wanted = {f"broker.{name}": fact for name, fact in facts.items()}
        return [
            span
            for span in httpx.get(f"{self.url}/_spans", trust_env=False, timeout=10).json()
            if own.items() <= span.items() and wanted.items() <= span["facts"].items()
        ]

    def wait(self, *, least: int = 1, within_s: float = 30, **facts: Any) -> list[Found]:
        """Those with these facts, once there are so many."""
        found: list[Found] = []

        def there() -> bool:
            found[:] = self.spans(**facts)
            return len(found) >= least

        until(there, within_s, f"{least} spans with {facts}")
        return found

    def trace(self, trace_id: str, *, least: int) -> list[Found]:
        return self.wait(least=least, trace=trace_id)

    def raw(self) -> bytes:
        """Every body that came, as it was sent."""
        return httpx.get(f"{self.url}/_raw", trust_env=False, timeout=10).content

    def asked(self) -> dict[str, int]:
        """How often each path was sent to."""
        return dict(httpx.get(f"{self.url}/_asked", trust_env=False, timeout=10).json())

    def behave(self, how: str) -> None:
        httpx.post(f"{self.url}/_behave", params={"as": how}, trust_env=False, timeout=10).raise_for_status()


def until(happened: Callable[[], bool], within_s: float, what: str) -> None:
    ends_at = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < ends_at, f"it never came to {what}"
        time.sleep(0.05)


@contextmanager
def a_collector() -> Iterator[Collector]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tracing.collector", str(port)], cwd=ROOT, env={"PATH": os.environ["PATH"]}
    )
    running = Collector(f"http://127.0.0.1:{port}")
    try:
        until(lambda: _is_up(running), 30, "a collector that listens")
        yield running
    finally:
        process.kill()
        process.wait()


def _is_up(collector: Collector) -> bool:
    try:
        collector.asked()
    except httpx.TransportError:
        return False
    return True


if __name__ == "__main__":
    uvicorn.run(collector_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
