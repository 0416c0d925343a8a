"""The way to the engine: forwarded calls, and the proxy's own."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from local.store_proxy.answers import Answer, Body, end_to_end

TARGET_PREFIX = "DynamoDB_20120810."
CONNECTIONS = 512
LARGE_BYTES = 2**20  # above this aiohttp warns when it is given plain bytes
IDLE_S = 2.0  # below the 5 s after which uvicorn closes an idle connection: a race there would look like a fault


class Unreachable(Exception):
    """The engine gave no HTTP answer; whether it did the work is unknown."""


class EngineRefused(Exception):
    """The engine answered one of the proxy's own calls with an error."""

    def __init__(self, op: str, answer: Answer) -> None:
        super().__init__(f"{op}: {answer.status} {answer.body.decode(errors='replace')}")
        self.missing = b"ResourceNotFoundException" in answer.body


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose tables a call speaks of: engines keep them apart by account and region.

    Engines take an access key of twelve digits for an account number, and all others for one account.
    """

    account: str
    region: str
    authorization: str = field(compare=False)

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Scope":
        authorization = headers.get("Authorization", "")
        parts = authorization.partition("Credential=")[2].split("/", 3)
        if len(parts) < 4:
            return cls("", "", authorization)
        digits = len(parts[0]) == 12 and parts[0].isdigit()
        return cls(parts[0] if digits else "", parts[2], authorization)


class Upstream:
    """One pool of connections to one engine. Neither follows redirects nor retries nor unpacks bodies."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(
        self, headers: Mapping[str, str], body: bytes, *, method: str = "POST", path: str = "/"
    ) -> Answer:
        """Raises `Unreachable` when there is no HTTP answer."""
        assert self._session is not None, "the proxy is not running"  # noqa: S101 - a misuse, not an input
        data = io.BytesIO(body) if len(body) > LARGE_BYTES else body or None
        try:
            async with self._session.request(
                method, self.url + path, data=data, headers=end_to_end(headers), allow_redirects=False
            ) as response:
                return Answer(response.status, end_to_end(response.headers), await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            raise Unreachable(f"the engine at {self.url} does not answer: {failure!r}") from failure

    async def call(self, op: str, params: Body, scope: Scope) -> Body:
        """A call of the proxy's own, made as `scope`. Raises `EngineRefused` and `Unreachable`."""
        headers = {
            "X-Amz-Target": TARGET_PREFIX + op,
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": scope.authorization,
        }
        answer = await self.send(headers, json.dumps(params).encode())
        if not answer.succeeded:
            raise EngineRefused(op, answer)
        decoded: Body = json.loads(answer.body)
        return decoded
