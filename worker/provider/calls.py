"""One HTTP call to the provider: a deadline over all of it, a bound on its body, a name for what goes wrong."""

import asyncio
import ssl
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx

from broker import tracing
from broker.metrics import Metrics
from worker.provider.errors import ProviderError, label

CONNECT_S: Final = 5.0
POOL_WAIT_S: Final = 5.0
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}
"""Bodies come as they are: a bound on what is read bounds nothing when a kilobyte unpacks to a gigabyte."""
_MARKUP_BEGINS: Final = b"\xef\xbb\xbf \t\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status that was expected, and the whole body."""

    status: int
    body: bytes


def http_client(
    base_url: str,
    *,
    connections: int,
    transport: httpx.AsyncBaseTransport | None,
    verify: ssl.SSLContext | bool = True,
) -> httpx.AsyncClient:
    """A pool of connections that keeps no cookies: one account's session is none of the next one's business."""
    return httpx.AsyncClient(
        base_url=base_url,
        limits=httpx.Limits(max_connections=connections),
        timeout=None,  # noqa: S113  each call brings its own
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        transport=transport,
        verify=verify,
    )


class Calls:
    """Makes calls over one pool and tells how they went. Decides nothing: no retry, no breaker."""

    def __init__(self, http: httpx.AsyncClient, metrics: Metrics, *, tenant: str) -> None:
        self._http = http
        self._tenant = tenant
        self._metrics = metrics

    async def call(
        self,
        name: str,
        method: str,
        path: str,
        *,
        expected: Collection[int],
        deadline_s: float,
        max_bytes: int,
        headers: dict[str, str],
        **arguments: Any,
    ) -> Answer:
        """One try. `name` is the call's in the metrics; connecting, headers and body share the deadline.

        Raises:
            ProviderError: no expected answer, or a page for people in place of one.
        """
        facts = {
            "http.request.method": method,
            "server.address": self._http.base_url.host,
            "broker.tenant": self._tenant,
        }
        began = time.perf_counter()
        with tracing.call(tracing.current.get(), f"provider {name}", facts) as span:  # neither path nor headers
            try:
                async with asyncio.timeout(deadline_s):
                    answer = await self._answer(method, path, expected, deadline_s, max_bytes, headers, arguments)
            except (TimeoutError, httpx.TimeoutException) as error:
                raise ProviderError("TIMEOUT", type(error).__name__) from error
            except (httpx.InvalidURL, UnicodeError) as error:  # a host's name that the client cannot encode
                raise ProviderError("BASE_URL_UNUSABLE", type(error).__name__) from error
            except (httpx.HTTPError, OSError) as error:  # a TLS error in the middle of a body comes as it is
                raise ProviderError(_trouble(error), type(error).__name__) from error
            finally:
                self._metrics.provider_calls.labels(self._tenant, name).inc()
                self._metrics.provider_s.labels(name).observe(time.perf_counter() - began)
            if span is not None:
                span.note({"http.response.status_code": answer.status})
            return answer

    async def _answer(
        self,
        method: str,
        path: str,
        expected: Collection[int],
        deadline_s: float,
        max_bytes: int,
        headers: dict[str, str],
        arguments: dict[str, Any],
    ) -> Answer:
        timeout = httpx.Timeout(deadline_s, connect=CONNECT_S, pool=POOL_WAIT_S)
        async with self._http.stream(
            method, path, headers=_HEADERS | headers, timeout=timeout, follow_redirects=False, **arguments
        ) as response:
            _check_head(response, expected)
            body = await _body(response, max_bytes)
        if body.lstrip(_MARKUP_BEGINS).startswith(b"<"):
            raise ProviderError("HTML_ANSWER")
        return Answer(response.status_code, body)

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Count what goes wrong inside, by kind."""
        try:
            yield
        except ProviderError as error:
            self._metrics.provider_errors.labels(self._tenant, name, label(error.kind)).inc()
            raise


def _check_head(response: httpx.Response, expected: Collection[int]) -> None:
    """Refuse what needs no body to be refused."""
    status = response.status_code
    if 300 <= status < 400:
        raise ProviderError("REDIRECT", f"status {status}")  # never where to: a redirect may carry a secret
    if status not in expected:
        asked_s = _retry_after_s(response) if status in (429, 503) else None
        raise ProviderError(f"HTTP_{status}", retry_after_s=asked_s)
    if "html" in response.headers.get("content-type", "").lower():
        raise ProviderError("HTML_ANSWER")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ProviderError("NOT_JSON", "an encoding that was not asked for")


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    parts = bytearray()
    async for part in response.aiter_bytes():
        parts += part
        if len(parts) > max_bytes:
            raise ProviderError("BODY_TOO_LARGE", f"over {max_bytes} bytes")
    return bytes(parts)


def _retry_after_s(response: httpx.Response) -> float | None:
    """How long the provider wants to be left alone: seconds or a date; nonsense is no wish."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _trouble(error: Exception) -> str:
    """The kind of a call that got no answer: whether it can have arrived, and whether TLS is to blame."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            break
        if isinstance(cause, ssl.SSLError):
            return "TLS"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ReadError | httpx.WriteError | httpx.CloseError | httpx.RemoteProtocolError):
        return "RESET"
    return "UNREACHABLE"
