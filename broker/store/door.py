"""The way to DynamoDB: signed requests of our own over kept connections, or the AWS SDK's client.

Both are given the same arguments, answer the same, and raise botocore's ClientError for what the store
refuses. Neither repeats anything. Credentials, region and endpoint are the SDK's findings in both; see
docs/adr/0014-a-leaner-door-to-the-store.md for what that leaves out.
"""

import json
import os
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from pydantic_core import PydanticSerializationError, from_json, to_json

from broker.errors import StoreUnavailable
from broker.settings import CoreSettings
from broker.store.allowed import Guard
from broker.store.exchange import Answer, AnswerBroken, Connections
from broker.store.signature import CredentialsUseless, Signer

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

CONNECT_S: Final = 2.0


class Door(Protocol):
    """Makes one call of DynamoDB."""

    async def call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """`operation` as botocore spells its methods, arguments and answer as it spells those.

        Raises:
            ClientError: the store refused; `response` carries its words.
            BotoCoreError, OSError: no answer; whether it was carried out is unknown.
            CallRefused: this process may not call that.
        """


class SdkDoor:
    """Through the SDK's own client."""

    def __init__(self, dynamodb: "DynamoDBClient") -> None:
        self._dynamodb = dynamodb

    async def call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await getattr(self._dynamodb, operation)(**arguments)
        return answer


@cache
def spelled(operation: str) -> str:
    """An operation as DynamoDB spells it.

    >>> spelled("transact_write_items")
    'TransactWriteItems'
    """
    return "".join(word.capitalize() for word in operation.split("_"))


class DirectDoor:
    """By requests of our own: a quarter of the SDK's CPU a call."""

    def __init__(
        self, connections: Connections, signer: Signer, credentials: AioCredentials, guard: Guard
    ) -> None:
        self._connections = connections
        self._signer = signer
        self._credentials = credentials
        self._guard = guard

    async def call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        name = spelled(operation)
        self._guard.check("dynamodb", name, arguments)
        try:
            keys = await self._credentials.get_frozen_credentials()
        except RuntimeError as error:  # the SDK's: new ones came, and they have ended too
            raise CredentialsUseless(str(error)) from error
        body = _body(arguments)
        head = self._signer.head(name, body, keys, at=time.time())
        return _content(await self._connections.exchange(head + body), name)


def client_config(settings: CoreSettings) -> AioConfig:
    """Deadlines and pool of the SDK's client. It repeats nothing: see StoreClient."""
    return AioConfig(
        connect_timeout=min(CONNECT_S, settings.store_timeout_s),
        read_timeout=settings.store_timeout_s,
        max_pool_connections=settings.store_connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        tcp_keepalive=True,
        parameter_validation=False,  # a tenth of a call's CPU, to check shapes that `store` alone builds
    )


@asynccontextmanager
async def open_door(settings: CoreSettings, guard: Guard) -> AsyncIterator[Door]:
    """The door that STORE_DOOR names; the SDK's wherever the direct one does not lead to the store.

    Raises:
        StoreUnavailable: no credentials, no certificates: what may be there a moment later, as the store may.
    """
    async with AsyncExitStack() as stack:
        try:
            door = await _found(settings, guard, stack)
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        yield door


async def _found(settings: CoreSettings, guard: Guard, stack: AsyncExitStack) -> Door:
    core = guard.core()
    dynamodb = await stack.enter_async_context(
        core.create_client(
            "dynamodb",
            region_name=settings.region,
            endpoint_url=settings.endpoint_url,
            config=client_config(settings),
        )
    )
    endpoint, region = dynamodb.meta.endpoint_url, dynamodb.meta.region_name
    if settings.store_door == "sdk" or not leads_there(endpoint):
        return SdkDoor(dynamodb)
    await stack.aclose()  # it said where to go, which is all that is wanted of it
    credentials = await core.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    named = core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")  # as the SDK has them
    connect_timeout_s = min(CONNECT_S, settings.store_timeout_s)
    to = connections_to(endpoint, named or get_cert_path(verify=True), connect_timeout_s=connect_timeout_s)
    await stack.enter_async_context(aclosing(to))
    return DirectDoor(to, Signer(region=region, host=host_of(endpoint)), credentials, guard)


def leads_there(endpoint: str) -> bool:
    """Whether a plain connection reaches this endpoint: without a proxy, and at its root."""
    url = urlsplit(endpoint)
    proxied = url.scheme in getproxies() and not proxy_bypass(url.hostname or "")
    return not proxied and url.path in ("", "/")


def host_of(endpoint: str) -> str:
    """What goes into the Host header: with the port where that is not the scheme's own.

    >>> host_of("https://dynamodb.eu-west-1.amazonaws.com"), host_of("http://127.0.0.1:4566")
    ('dynamodb.eu-west-1.amazonaws.com', '127.0.0.1:4566')
    >>> host_of("https://[fd00::1]"), host_of("http://[::1]:4566/")
    ('[fd00::1]', '[::1]:4566')
    """
    url = urlsplit(endpoint)
    host = f"[{url.hostname}]" if ":" in str(url.hostname) else str(url.hostname)
    return host if url.port in (None, _PORTS[url.scheme]) else f"{host}:{url.port}"


_PORTS: Final = {"http": 80, "https": 443}


def connections_to(endpoint: str, certificates: str | None, *, connect_timeout_s: float) -> Connections:
    url = urlsplit(endpoint)
    tls = None
    if url.scheme == "https":
        try:
            tls = ssl.create_default_context(cafile=certificates)
        except OSError as error:
            raise OSError(f"no certificates in {certificates}: {error}") from error
    return Connections(
        host=str(url.hostname),
        port=url.port or _PORTS[url.scheme],
        tls=tls,
        connect_timeout_s=connect_timeout_s,
    )


def _body(arguments: Mapping[str, Any]) -> bytes:
    try:
        return to_json(arguments)
    except PydanticSerializationError:  # half a surrogate pair: the store shall say what it thinks of it
        return json.dumps(arguments).encode()


def _content(answer: Answer, operation: str) -> dict[str, Any]:
    """What the store answered.

    Raises:
        ClientError: it refused.
        AnswerBroken: it is not what the store sent, or no JSON.
    """
    checksum = answer.headers.get(b"x-amz-crc32")
    if checksum is not None and checksum != b"%d" % zlib.crc32(answer.body):
        raise AnswerBroken("its checksum is another one")
    content = _parsed(answer.body or b"{}")
    if answer.status >= 300:
        raise _refusal(content or {}, answer, operation)
    if content is None:
        raise AnswerBroken("no JSON object")
    return content


def _parsed(body: bytes) -> dict[str, Any] | None:
    """The object of a body, None where it holds none."""
    for parse in (from_json, json.loads):  # the second lets half a surrogate pair pass
        try:
            content = parse(body)
        except ValueError:
            continue
        return content if isinstance(content, dict) else None
    return None


def _refusal(said: dict[str, Any], answer: Answer, operation: str) -> ClientError:
    """As botocore tells it: the code without its namespace, else the status."""
    code = str(said.get("__type") or said.get("code") or answer.status).rpartition("#")[2].partition(":")[0]
    message = said.get("message") or said.get("Message") or ""
    metadata = {
        "HTTPStatusCode": answer.status,
        "RequestId": answer.headers.get(b"x-amzn-requestid", b"").decode("latin-1"),
    }
    response: Any = {**said, "Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}
    return ClientError(response, operation)
