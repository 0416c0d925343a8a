"""The broker's HTTP API as the commands call it: one client, what it repeats, and how it waits its turn."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import httpx

from broker.version import VERSION
from cli.connection import Connection
from cli.errors import PROGRAM, Refused, Unreachable

Body = dict[str, Any]
"""A body of the API, as it came."""

CONNECT_S: Final = 5.0
PAUSES_S: Final = (0.3, 1.0)
"""Before the repeats of a GET: trouble of the connection, and 503 with Retry-After."""
MAX_PAUSE_S: Final = 5.0
MAX_TURNS: Final = 3
"""So often a call waits for its turn after 429, which was refused before anything was done."""
MAX_TURN_S: Final = 90.0


class Api:
    """A client of one broker. Bodies are the API's own; every error is one of cli.errors."""

    def __init__(
        self, connection: Connection, *, say: Callable[[str], None], headers: Mapping[str, str] | None = None
    ) -> None:
        self.url = connection.url
        self._timeout_s = connection.timeout_s
        self._say = say
        self._http = httpx.Client(
            base_url=connection.url,
            headers={
                "Authorization": f"Bearer {connection.token}",
                "User-Agent": f"{PROGRAM}/{VERSION}",
                **(headers or {}),
            },
            timeout=httpx.Timeout(connection.timeout_s, connect=min(CONNECT_S, connection.timeout_s)),
            trust_env=not connection.loopback,  # a proxy for the world is none for this machine
        )
        self._remaining, self._reset_s = 1000, 1.0

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, *, patient: bool = True, **query: Any) -> Body:
        """Read. Repeated a little where it is `patient`.

        Raises:
            Refused: the API said no.
            Unreachable: it said nothing, or something else answered.
        """
        return self._call("GET", path, pauses=iter(PAUSES_S if patient else ()), query=query)

    def post(self, path: str, body: Body | None = None, **query: Any) -> Body:
        """Ask for a change. Never repeated, as a lost answer may be one of a change that was made.

        Raises:
            Refused, Unreachable: as for get().
        """
        return self._call("POST", path, pauses=iter(()), query=query, body=body)

    def patch(self, path: str, body: Body) -> Body:
        """Change what is named in the body. Never repeated, as for post().

        Raises:
            Refused, Unreachable: as for get().
        """
        return self._call("PATCH", path, pauses=iter(()), query={}, body=body)

    def ready(self) -> Body:
        """What /readyz says, also where that is 503.

        Raises:
            Unreachable: no answer, or none of the broker's.
        """
        response = self._sent("GET", "/readyz", query={}, body=None)
        body = _object(response)
        if body is None or not isinstance(body.get("status"), str):
            raise _foreign(response)
        return body

    def pause_s(self, at_least_s: float) -> float:
        """How long to wait between two looks, so that half of what the API allows is left to other commands."""
        if self._remaining <= 0:
            return max(at_least_s, self._reset_s)
        return max(at_least_s, 2 * self._reset_s / self._remaining)

    def _call(
        self, method: str, path: str, *, pauses: Iterator[float], query: Body, body: Body | None = None
    ) -> Body:
        turns = iter(range(MAX_TURNS))
        while True:
            try:
                return _answer(self._sent(method, path, query=query, body=body))
            except (Refused, Unreachable) as error:
                pause_s = self._pause_before_repeat(error, pauses, turns)
                if pause_s is None:
                    raise
            time.sleep(pause_s)

    def _pause_before_repeat(
        self, error: Refused | Unreachable, pauses: Iterator[float], turns: Iterator[int]
    ) -> float | None:
        if isinstance(error, Unreachable):
            return next(pauses, None) if error.passing else None
        if error.retry_after_s is None:
            return None
        if error.status == httpx.codes.TOO_MANY_REQUESTS and error.retry_after_s <= MAX_TURN_S:
            if next(turns, None) is None:
                return None
            self._say(f"{error.message} Going on in {error.retry_after_s:.0f} s.")
            return error.retry_after_s
        if error.status == httpx.codes.SERVICE_UNAVAILABLE and (pause_s := next(pauses, None)) is not None:
            return max(pause_s, min(MAX_PAUSE_S, error.retry_after_s))
        return None

    def _sent(self, method: str, path: str, *, query: Body, body: Body | None) -> httpx.Response:
        request_id = f"cli-{secrets.token_hex(6)}"  # ours, so that a request without an answer has one, too
        params = {name: value for name, value in query.items() if value is not None}
        headers = {"X-Request-ID": request_id}
        try:
            response = self._http.request(method, path, params=params, json=body, headers=headers)
        except httpx.HTTPError as error:
            unknown = "" if method == "GET" else " Whether it was done is unknown: look before repeating it."
            why = f"{self.url} cannot be reached: {self._why(error)}.{unknown}"
            raise Unreachable(why, request_id=request_id) from None
        self._remaining = int(response.headers.get("X-RateLimit-Remaining", self._remaining))
        self._reset_s = float(response.headers.get("X-RateLimit-Reset", self._reset_s))
        return response

    def _why(self, error: httpx.HTTPError) -> str:
        if isinstance(error, httpx.ConnectTimeout):
            return "no connection within its time"
        if isinstance(error, httpx.TimeoutException):
            return f"no answer within {self._timeout_s:g} s (--timeout)"
        text = str(error).rpartition("] ")[2].strip().rstrip(".")
        return text or type(error).__name__


def _answer(response: httpx.Response) -> Body:
    """The body of a good answer.

    Raises:
        Refused, Unreachable: it is none.
    """
    body = _object(response)
    if response.is_success and body is not None:
        return body
    error = None if body is None else body.get("error")
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        raise Refused(
            status=response.status_code,
            code=error["code"],
            message=str(error.get("message", "")),
            request_id=error.get("request_id") or _request_id(response),
            retry_after_s=error.get("retry_after"),
            details=error.get("details"),
        )
    raise _foreign(response)


def _object(response: httpx.Response) -> Body | None:
    """The JSON object that it is, None where it is something else."""
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _request_id(response: httpx.Response) -> str:
    return str(response.headers.get("X-Request-ID") or response.request.headers["X-Request-ID"])


def _foreign(response: httpx.Response) -> Unreachable:
    """Something answered, and it was not the broker."""
    request_id = _request_id(response)
    status, at = response.status_code, f"{response.url.scheme}://{response.url.netloc.decode()}"
    if response.is_redirect:
        why = f"{at} redirects elsewhere ({status}): is BROKER_URL right, is it https?"
        return Unreachable(why, request_id=request_id, passing=False)
    if response.is_server_error:
        return Unreachable(f"{at}: something before the broker answered {status}.", request_id=request_id)
    why = f"{at} is not the broker's API (it answered {status}): is BROKER_URL right?"
    return Unreachable(why, request_id=request_id, passing=False)
