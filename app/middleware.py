"""What happens to every request around its route. Pure ASGI: no task a request, streams stay streams."""

import asyncio
import logging
import re
import secrets
import time
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import broker_error, plain_error
from app.headers import header, malformed
from app.metrics_page import Waiting
from app.readiness import Readiness
from broker.errors import DeadlineExceeded, InvalidInput
from broker.logs import request_id
from broker.metrics import Metrics

log = logging.getLogger("app")

MAX_HEADER_BYTES: Final = 16 * 1024
MAX_PATH_CHARS: Final = 1024
MAX_QUERY_BYTES: Final = 4096
MAX_BODY_BYTES: Final = 64 * 1024
BODY_S: Final = 10.0
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_PATH: Final = re.compile(r"[\x21-\x7e]*")
PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})

SECURITY_HEADERS: Final = [
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-store"),
]
"""Styles inline: Swagger UI sets them on its elements. Scripts come from this origin alone."""


class RequestContext:
    """Outermost: request id in and out, one log line, metrics, security headers.

    While the process drains every answer ends its connection: the next request goes to another process.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, readiness: Readiness, waiting: Waiting) -> None:
        self._app = app
        self._metrics = metrics
        self._readiness = readiness
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = header(scope, b"x-request-id")
        current = sent.decode() if sent and _REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = current
        state["late"] = self._readiness.refusing
        token = request_id.set(current)
        began = time.perf_counter()
        status = 500
        counted = scope["path"] not in PROBES

        async def with_headers(message: Message) -> None:
            nonlocal status, counted
            if message["type"] == "http.response.start":
                status = message["status"]
                self._waiting.count -= counted  # who reads slowly waits no more
                counted = False
                message["headers"] = _merged(message["headers"], current)
                if self._readiness.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self._waiting.count += counted
        try:
            await self._app(scope, receive, with_headers)
        finally:
            self._waiting.count -= counted
            self._record(scope, status, time.perf_counter() - began)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, took_s: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.request_s.labels(route).observe(took_s)
        level = logging.INFO
        if scope["path"] in PROBES:  # told where one fails alone: a metric filter counts these lines
            level = logging.WARNING if status >= 500 else logging.DEBUG
        if not log.isEnabledFor(level):
            return
        state = scope["state"]
        credential = state.get("credential")
        facts = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(took_s * 1000, 2),
            "outcome": state.get("outcome", "ok" if status < 400 else "error"),
        }
        if credential is not None:
            facts |= {"tenant": credential.tenant, "caller": credential.name}
        log.log(level, "request", extra=facts | state.get("facts", {}))


METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def _merged(headers: list[tuple[bytes, bytes]], current: str) -> list[tuple[bytes, bytes]]:
    """The answer's own headers win, so that a file may be cached where an answer may not."""
    own = {name.lower() for name, _ in headers}
    added = [(name, value) for name, value in SECURITY_HEADERS if name not in own]
    return [*headers, *added, (b"x-request-id", current.encode())]


class Crashes:
    """A bug of ours is a 500 in the envelope, and a traceback in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:  # before the whole request was here: nobody's fault, and nobody to be answered
            scope["state"]["outcome"] = "CLIENT_GONE"
            if not started:
                await Response(status_code=400)(scope, receive, send)
        except Exception:
            if scope["type"] != "http":
                raise
            log.exception("request crashed", extra={"path": scope["path"][:200]})
            scope["state"]["outcome"] = "INTERNAL_ERROR"
            if started:
                raise
            message = "This is our fault. The request id finds it in the log."
            await plain_error(500, message)(scope, receive, send)


class Deadlines:
    """One deadline for a request, whatever it waits for. An answer that has begun may take its time.

    Probes have none: they wait a second at the most and answer whatever the store does.
    """

    def __init__(self, app: ASGIApp, *, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                scope["state"]["deadline"] = deadline

                async def begun(message: Message) -> None:
                    if not deadline.expired():
                        deadline.reschedule(None)
                    await send(message)

                await self._app(scope, receive, begun)
        except TimeoutError:
            if not deadline.expired():
                raise  # a bug of ours, not this deadline
            scope["state"]["outcome"] = DeadlineExceeded.code
            await broker_error(DeadlineExceeded())(scope, receive, send)


class AdminAlias:
    """/admin/... is /v1/admin/...: the same routes, present and future."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/admin/"):
            scope["path"] = "/v1" + scope["path"]
            scope["raw_path"] = scope["path"].encode()
        await self._app(scope, receive, send)


class InputLimits:
    """Refuses what is too long or oddly spelled before anything reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = _refusal(scope)
        if refusal is None and _has_body(scope):
            refusal, receive = await _read_first(receive)
        if refusal is not None:
            scope["state"]["outcome"] = "refused_input"
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _has_body(scope: Scope) -> bool:
    """Whether a body follows: of a declared length, or of one that only its end tells."""
    return header(scope, b"transfer-encoding") is not None or int(header(scope, b"content-length") or 0) > 0


async def _read_first(receive: Receive) -> tuple[ASGIApp | None, Receive]:
    """The refusal of a body that is too large or too slow, or a `receive` that gives it again.

    Read before anything is decided by it: no route waits for a body without end, and none answers
    with a part of it still on its way.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            more = True
            while more and len(body) <= MAX_BODY_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect  # half a request is none: without its body it would mean something else
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        return plain_error(408, f"The body took over {BODY_S:.0f} s.", {"Connection": "close"}), receive
    if len(body) > MAX_BODY_BYTES:
        return _too_large(), receive
    whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return None, again


def _refusal(scope: Scope) -> ASGIApp | None:
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return plain_error(431, f"The headers are over {MAX_HEADER_BYTES} bytes.")
    if len(scope["path"]) > MAX_PATH_CHARS or len(scope["query_string"]) > MAX_QUERY_BYTES:
        return plain_error(414, f"The path is over {MAX_PATH_CHARS} or the query over {MAX_QUERY_BYTES} bytes.")
    if not _PATH.fullmatch(scope["path"]):
        return plain_error(400, "The path may hold visible ASCII characters only.")
    if problem := malformed(scope):
        return broker_error(InvalidInput(*problem))
    length = header(scope, b"content-length")
    if length is not None and (not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY_BYTES):
        return _too_large()
    return None


def _too_large() -> ASGIApp:
    return plain_error(413, f"The body is over {MAX_BODY_BYTES} bytes.", {"Connection": "close"})
