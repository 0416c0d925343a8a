"""What the OpenAPI document says beyond what FastAPI derives: every error a route may answer, with an example."""

from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from app.access import ROUTES
from app.errors import STATUS, body
from app.headers import Header
from app.schemas import AllocationOut, ErrorOut
from app.schemas_jobs import JobOut
from app.spelling import ID_PATTERN
from broker import errors
from broker.errors import BrokerError

_REQUEST_ID: Final = {
    "description": "The request's id, as sent or made here. It finds the request in the log.",
    "schema": {"type": "string"},
}
_RATE: Final = {
    "X-RateLimit-Limit": {"description": "Requests allowed in the window.", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "Requests left in it.", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {"description": "Seconds until it begins anew.", "schema": {"type": "integer"}},
}
_LOCATION: Final = {"description": "Where to look for its end.", "schema": {"type": "string"}}
_SCHEMES: Final = {
    "HTTPBearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "BROKER_API_TOKEN for tracks, BROKER_ADMIN_TOKEN for /v1/admin, or an API key of the role.",
    }
}
_RETRY: Final = {
    "description": "Seconds after which a repeat makes sense.",
    "schema": {"type": "integer"},
}

EXAMPLES: Final[tuple[BrokerError, ...]] = (
    errors.MissingSandboxId(),
    errors.InvalidInput("x-track-id", "may hold 1 to 128 of the characters A-Z a-z 0-9 . _ : -"),
    errors.InvalidCursor(),
    errors.Unauthenticated(),
    errors.RoleMissing(needed="track", held="admin"),
    errors.PlatformOnly(),
    errors.TenantExists("north"),
    errors.NotSandboxOwner(),
    errors.SandboxNotFound(),
    errors.TenantNotFound(),
    errors.KeysNotConfigured(),
    errors.KeyNotFound(),
    errors.KeyLimitReached(1000),
    errors.KeyNotRotatable(state="live", replaced_by="k7m2x9q4w1zb"),
    errors.JobNotFound(),
    errors.JobWrongState(state="done", wanted="requeue"),
    errors.JobFailed(job_id="1760000000000-9f8e7d6c5b4a", state="dead", error="HTTP_500"),
    errors.NoSandboxAvailable("lab-", retry_after_s=10),
    errors.IdempotencyKeyReused(),
    errors.HolderLimitReached(5),
    errors.StaleGeneration(),
    errors.ExtensionLimit(max_expires_at=1_760_028_800, left_s=5400),
    errors.AllocationEnded(ended_by="released", ended_at=1_760_000_000),
    errors.AllocationExpired(ended_by="expired", ended_at=1_760_000_000),
    errors.RateLimited("student", limit="60 per 1 minute", retry_after_s=12),
    errors.AllocationInProgress(),
    errors.StoreThrottled(),
    errors.StoreUnavailable("ReadTimeoutError"),
    errors.WrongState("allocated", needs="available"),
    errors.QuotaExceeded(200),
    errors.PoolDrained("lab-7-", reason="INC-4711: lab 7 is broken"),
    errors.BrokerDrained("drained", reason="the provider is being repaired"),
    errors.DeadlineExceeded(),
    errors.NotReady("booting"),
)
"""One of every error, as a caller sees it."""

PUBLIC: Final = (errors.InvalidInput, errors.RateLimited)
"""What a route may answer that anybody may call."""

COMMON: Final = (
    *PUBLIC, errors.Unauthenticated, errors.RoleMissing,
    errors.StoreThrottled, errors.StoreUnavailable, errors.DeadlineExceeded, errors.NotReady,
)  # fmt: skip
"""What any route behind a token may answer."""

ANY_TENANT: Final = (errors.PlatformOnly, errors.TenantNotFound)
"""What a route may answer that takes the name of a tenant."""

_TEXTS: Final = {
    400: "The request breaks the contract.",
    401: "No valid token.",
    403: "Not yours, or not your role.",
    404: "Unknown, or another tenant's.",
    409: "The state of things forbids it.",
    410: "It has ended.",
    429: "Too many requests.",
    503: "Try again: the outcome is open, or the store is in trouble.",
}


_LIMITS: Final = {
    408: "The body took too long.",
    413: "The body is too large.",
    414: "The path is too long.",
    431: "The headers are too large.",
    500: "A bug of ours.",
}


def answers(
    success: str,
    *raised: type[BrokerError],
    status: int = 200,
    replay: str | None = None,
    queued: str | None = None,
) -> dict[int | str, Any]:
    """The `responses` of a route behind a token: its success with headers, and each error with examples."""
    documented = _errors(*COMMON, *raised)
    documented[500]["model"] = ErrorOut  # once is enough to have it among the document's schemas
    headers = {"X-Request-ID": _REQUEST_ID, **_RATE}
    if replay is not None:
        documented[201] = {"description": success, "headers": headers}
        documented[200] = {"model": AllocationOut, "description": replay, "headers": headers}
    else:
        documented[status] = {"description": success, "headers": headers}
    if queued is not None:
        documented[202] = {"model": JobOut, "description": queued, "headers": headers | {"Location": _LOCATION}}
    return documented


def takes(body: type[BaseModel], *, example: dict[str, Any] | None = None) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body by deps.body_of()."""
    schema = body.model_json_schema()
    content = {"schema": schema} | ({"example": example} if example else {})
    return {"requestBody": {"required": bool(schema.get("required")), "content": {"application/json": content}}}


def reads(*headers: Header) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads these headers itself."""
    return {
        "parameters": [
            {
                "name": one.name,
                "in": "header",
                "required": False,
                "description": one.text,
                "schema": {"type": "string", "pattern": ID_PATTERN, "examples": [one.example]},
            }
            for one in headers
        ]
    }


def probe_answers(success: str, *, limited: bool = False) -> dict[int | str, Any]:
    """The `responses` of a route for machines that anybody may call."""
    documented = _errors(*(PUBLIC if limited else PUBLIC[:1]))
    headers = {"X-Request-ID": _REQUEST_ID, **(_RATE if limited else {})}
    documented[200] = {"description": success, "headers": headers}
    return documented


def _errors(*raised: type[BrokerError]) -> dict[int | str, Any]:
    documented: dict[int | str, Any] = {}
    for error in EXAMPLES:
        if isinstance(error, raised):
            _add(documented, error)
    for status, text in _LIMITS.items():
        headers = {"X-Request-ID": _REQUEST_ID}
        documented[status] = {"description": text, "headers": headers, "content": _envelope()}
    return documented


def _envelope(**more: Any) -> dict[str, Any]:
    """JSON whatever the route's own media type is, which a `model` would be given."""
    return {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorOut"}, **more}}


def _add(documented: dict[int | str, Any], error: BrokerError) -> None:
    status = STATUS[type(error)]
    entry = documented.setdefault(
        status,
        {
            "description": _TEXTS[status],
            "headers": {"X-Request-ID": _REQUEST_ID, **_RATE},
            "content": _envelope(examples={}),
        },
    )
    if error.retry_after_s is not None:
        entry["headers"]["Retry-After"] = _RETRY
    example = body(error.code, error.message, retry_after_s=error.retry_after_s, details=error.details)
    example["error"]["request_id"] = "4f1c0a9be2d77a31"
    entry["content"]["application/json"]["examples"][error.code] = {"value": example}


class DocumentedApi(FastAPI):
    """FastAPI, without the 422 that it documents by itself: what it refuses is answered as 400.

    Which routes ask for a token is told by the table that decides it.
    """

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["securitySchemes"] = _SCHEMES
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    operation["responses"].pop("422", None)
                    if ROUTES[method.upper(), path].role is not None:
                        operation["security"] = [{name: []} for name in _SCHEMES]
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return super().openapi()
