"""The only place that knows which error is which HTTP status. One envelope for every error."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from app.wording import plain_refusal
from broker import errors
from broker.errors import BrokerError
from broker.logs import request_id

log = logging.getLogger("app")

STATUS: dict[type[BrokerError], int] = {
    errors.MissingSandboxId: 400,
    errors.InvalidInput: 400,
    errors.InvalidCursor: 400,
    errors.Unauthenticated: 401,
    errors.RoleMissing: 403,
    errors.PlatformOnly: 403,
    errors.NotSandboxOwner: 403,
    errors.SandboxNotFound: 404,
    errors.TenantNotFound: 404,
    errors.TenantExists: 409,
    errors.KeysNotConfigured: 409,
    errors.KeyNotFound: 404,
    errors.KeyLimitReached: 409,
    errors.KeyNotRotatable: 409,
    errors.JobNotFound: 404,
    errors.JobWrongState: 409,
    errors.JobFailed: 409,
    errors.NoSandboxAvailable: 409,
    errors.QuotaExceeded: 409,
    errors.IdempotencyKeyReused: 409,
    errors.HolderLimitReached: 409,
    errors.StaleGeneration: 409,
    errors.ExtensionLimit: 409,
    errors.WrongState: 409,
    errors.AllocationEnded: 410,
    errors.AllocationExpired: 410,
    errors.RateLimited: 429,
    errors.AllocationInProgress: 503,
    errors.StoreThrottled: 503,
    errors.StoreUnavailable: 503,
    errors.BrokerDrained: 503,
    errors.PoolDrained: 503,
    errors.DeadlineExceeded: 503,
    errors.NotReady: 503,
}

FRAMEWORK_CODES: dict[int, str] = {
    400: "INVALID_REQUEST",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "BODY_TOO_LARGE",
    414: "PATH_TOO_LONG",
    431: "HEADERS_TOO_LARGE",
    500: "INTERNAL_ERROR",
}


def body(
    code: str,
    message: str,
    *,
    retry_after_s: int | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The envelope: {"error": {"code", "message", "request_id", "retry_after"?, "details"?}}."""
    error: dict[str, Any] = {"code": code, "message": message, "request_id": request_id.get()}
    if retry_after_s is not None:
        error["retry_after"] = retry_after_s
    if details:
        error["details"] = dict(details)
    return {"error": error}


def answer(status: int, content: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        json.dumps(content, separators=(",", ":")),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )


def plain_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error of the HTTP layer itself, which no BrokerError stands for."""
    return answer(status, body(FRAMEWORK_CODES.get(status, "HTTP_ERROR"), message), headers)


def broker_error(error: BrokerError) -> Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    content = body(error.code, error.message, retry_after_s=error.retry_after_s, details=error.details)
    return answer(STATUS[type(error)], content, headers)


async def on_broker_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, BrokerError):
        raise error
    request.scope["state"]["outcome"] = error.code
    if isinstance(error, errors.StoreUnavailable):
        log.warning("store unavailable", extra={"why": error.why})
    return broker_error(error)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """What pydantic refused, named but not repeated: the value may be a secret."""
    if not isinstance(error, RequestValidationError):
        raise error
    problems = [{"where": ".".join(map(str, e["loc"])), "why": plain_refusal(e)} for e in error.errors()]
    text = "; ".join(f"{p['where']}: {p['why']}" for p in problems)
    return answer(400, body("INVALID_REQUEST", text, details={"problems": problems}))


async def on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    texts = {404: "No such route.", 405: "This route does not take that method."}
    return plain_error(error.status_code, texts.get(error.status_code, str(error.detail)), error.headers)
