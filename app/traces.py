"""The span of each request, where tracing is on: outermost, so that the request's own log line is within it."""

from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.headers import header
from app.middleware import METHODS, PROBES
from broker import tracing
from broker.tracing import Life, Span

_TOLD: Final = ("sandbox_id", "job_id")
"""Of what a route notes for the log, what a span tells too: neither student nor track, as they may be people."""


class Traces:
    """One span a request, part of the caller's trace where it sent a `traceparent`. Probes have none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        span = None
        if tracing.tracer is not None and scope["type"] == "http" and scope["path"] not in PROBES:
            span = tracing.tracer.begin(_method(scope), "server", {}, caller=_caller(scope))
        if span is None:
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = tracing.current.set(span)
        try:
            await self._app(scope, receive, watched)
        finally:
            _tell(span, scope, status)
            tracing.current.reset(token)
            span.end()


def _method(scope: Scope) -> str:
    return str(scope["method"]) if scope["method"] in METHODS else "HTTP"


def _caller(scope: Scope) -> dict[str, str] | None:
    """What the caller says of the trace that it is in."""
    parent = header(scope, b"traceparent")
    if parent is None:
        return None
    state = header(scope, b"tracestate") or b""
    return {"traceparent": parent.decode("latin-1"), "tracestate": state.decode("latin-1")}


def _tell(span: Span, scope: Scope, status: int) -> None:
    state: dict[str, Any] = scope.get("state", {})
    facts, credential = state.get("facts", {}), state.get("credential")
    route = getattr(scope.get("route"), "path", None)
    outcome = state.get("outcome", "ok" if status < 400 else "error")
    tenant = facts.get("of_tenant") or (None if credential is None else credential.tenant)
    if route is not None:
        span.rename(f"{_method(scope)} {route}")
    span.note(
        {
            "http.request.method": _method(scope),
            "http.route": route,
            "http.response.status_code": status,
            "broker.outcome": outcome,
            "broker.request_id": state.get("request_id"),
            "broker.tenant": tenant,
            **{f"broker.{name}": facts.get(name) for name in _TOLD},
        }
    )
    if status >= 500:
        span.fail(outcome)
    if status >= 400 or scope["method"] == "GET" or tenant is None:
        return
    if "sandbox_id" in facts:
        tracing.tell(Life("sandbox", tenant, facts["sandbox_id"]), outcome)
    if "job_id" in facts:
        tracing.tell(Life("job", tenant, facts["job_id"]), outcome)
