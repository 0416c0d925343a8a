"""What browsers of other origins may do. A refused preflight answers in the envelope, like everything else."""

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.errors import plain_error

ALLOW: Final = [
    "Authorization", "Content-Type", "Idempotency-Key", "X-Track-ID", "X-Instruqt-Sandbox-ID",
    "X-Instruqt-Track-ID", "X-Sandbox-Name-Prefix", "X-Request-ID",
]  # fmt: skip
EXPOSE: Final = [
    "Retry-After", "X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
]  # fmt: skip


class Cors(CORSMiddleware):
    """Starlette's, with this API's methods and headers."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        methods = ["GET", "POST"]
        super().__init__(
            app, allow_origins=origins, allow_methods=methods, allow_headers=ALLOW, expose_headers=EXPOSE
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        kept = {name: v for name, v in response.headers.items() if not name.startswith("content-")}
        return plain_error(response.status_code, bytes(response.body).decode(), kept)
