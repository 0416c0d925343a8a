"""What both APIs answer in the same way: errors as JSON, and numbers in a query."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from simulator.fields import InvalidInput, whole
from simulator.inventory import DuplicateAccount


def refusal(status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


async def json_body(request: Request) -> object:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise InvalidInput(["the body must be a JSON object"]) from None


def whole_parameter(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    """A whole number of the query.

    Raises:
        InvalidInput: anything but plain digits, or out of bounds.
    """
    given = request.query_params.get(name, str(default))
    plain = given.isascii() and given.isdigit() and len(given) <= len(str(high))
    try:
        value: int = whole(low, high)(int(given) if plain else given)
    except ValueError as problem:
        raise InvalidInput([f"{name} {problem}"]) from None
    return value


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette's signature is wider than its calls
    return refusal(error.status_code, error.detail, headers=error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    return refusal(400, str(error))


async def _duplicate(_: Request, error: Exception) -> Response:
    return refusal(409, str(error))


ERROR_HANDLERS: dict[Any, Any] = {
    HTTPException: _http_error,
    InvalidInput: _invalid,
    DuplicateAccount: _duplicate,
}
