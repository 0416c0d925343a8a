"""Both doors to the store: alike in what they ask, answer and refuse."""

import asyncio
import json
import re
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.errors import StoreUnavailable
from broker.metrics import Metrics
from broker.settings import CoreSettings
from broker.store.allowed import Guard
from broker.store.client import StoreClient
from broker.store.door import DirectDoor, Door, SdkDoor, host_of, open_door
from broker.store.exchange import AnswerBroken
from broker.wiring import table_of
from tests.api.service import a_table
from tests.conftest import settings_for

KEY = {"pk": {"S": "SBX#acme#1"}, "sk": {"S": "-"}}
OTHER = {"pk": {"S": "SBX#acme#2"}, "sk": {"S": "-"}}
ODD = '"\\\n\x00 Ünïcödé 🐙 </script>'
CALLS: dict[str, dict[str, Any]] = {
    "put_item": {
        "Item": KEY | {"name": {"S": ODD}, "n": {"N": "12.5"}, "m": {"M": {"a": {"L": [{"BOOL": True}]}}}}
    },
    "get_item": {"Key": KEY, "ConsistentRead": True},
    "update_item": {
        "Key": KEY,
        "UpdateExpression": "SET #n = #n + :one",
        "ExpressionAttributeNames": {"#n": "n"},
        "ExpressionAttributeValues": {":one": {"N": "1"}},
        "ReturnValues": "ALL_NEW",
    },
    "query": {
        "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": {":pk": KEY["pk"]},
    },
    "scan": {"Limit": 1},
    "delete_item": {"Key": OTHER},
}
"""What the store answers in full; each on the table, after those before it."""
ASIDE = frozenset({"ResponseMetadata", "ConsumedCapacity"})
REFUSED: dict[str, dict[str, Any]] = {
    "update_item": {
        "Key": KEY,
        "UpdateExpression": "SET a = :a",
        "ConditionExpression": "attribute_not_exists(pk)",
        "ExpressionAttributeValues": {":a": {"S": "a"}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    },
    "query": {"KeyConditionExpression": "nonsense", "ExpressionAttributeValues": {":pk": KEY["pk"]}},
}


@asynccontextmanager
async def a_door(kind: str, url: str, table_name: str, **more: str) -> AsyncIterator[Door]:
    settings = settings_for(url, table_name, STORE_DOOR=kind, STORE_TIMEOUT_SEC="20", **more)
    async with open_door(settings, Guard("worker", table_name=table_name)) as door:
        assert isinstance(door, DirectDoor if kind == "direct" else SdkDoor)
        yield door


def told(error: ClientError) -> dict[str, Any]:
    """What the broker looks at in a refusal."""
    response: Any = error.response
    facts = {name: response.get(name) for name in ("Item", "CancellationReasons")}
    return facts | {
        "code": response["Error"]["Code"],
        "message": response["Error"]["Message"],
        "status": response["ResponseMetadata"]["HTTPStatusCode"],
    }


async def asked(kind: str, url: str, table_name: str) -> list[Any]:
    """All answers and refusals of a fresh table, by one door."""
    seen: list[Any] = []
    async with a_table(url, table_name), a_door(kind, url, table_name) as door:
        for operation, arguments in CALLS.items():
            answer = await door.call(operation, {"TableName": table_name, **arguments})
            seen.append({name: value for name, value in answer.items() if name not in ASIDE})
        batch = {table_name: {"Keys": [KEY, OTHER], "ConsistentRead": True}}
        answer = await door.call("batch_get_item", {"RequestItems": batch})
        seen.append(answer["Responses"][table_name])
        transaction = [
            {
                "ConditionCheck": {
                    "TableName": table_name,
                    "Key": OTHER,
                    "ConditionExpression": "attribute_not_exists(pk)",
                }
            },
            {"Update": {"TableName": table_name, **REFUSED["update_item"]}},
        ]
        refused = [(operation, {"TableName": table_name, **given}) for operation, given in REFUSED.items()]
        for operation, arguments in [*refused, ("transact_write_items", {"TransactItems": transaction})]:
            with pytest.raises(ClientError) as error:
                await door.call(operation, arguments)
            seen.append(told(error.value))
    return seen


@pytest.mark.parametrize("engine_name", ["ministack", "moto"])
async def test_both_doors_answer_and_refuse_alike(
    engine_name: str, request: pytest.FixtureRequest, table_name: str
) -> None:
    url = str(request.getfixturevalue(engine_name))

    direct, sdk = [await asked(kind, url, f"{table_name}-{kind}") for kind in ("direct", "sdk")]

    assert direct == sdk
    assert direct[1]["Item"]["name"] == {"S": ODD}
    assert direct[-3]["Item"]["pk"] == KEY["pk"]
    assert [reason["Code"] for reason in direct[-1]["CancellationReasons"]] == ["None", "ConditionalCheckFailed"]


async def test_half_a_surrogate_pair_is_the_stores_to_judge(ministack: str, table_name: str) -> None:
    """A provider's JSON may hold one; it must not look like a bug of ours, nor like an outage."""
    item = {"TableName": table_name, "Item": KEY | {"name": {"S": "\ud800"}}}
    said = []
    async with a_table(ministack, table_name):
        for kind in ("direct", "sdk"):
            async with a_door(kind, ministack, table_name) as door:
                with pytest.raises(ClientError) as error:
                    await door.call("put_item", item)
                said.append(told(error.value))
    assert said[0] == said[1]


class FakeStore:
    """Answers as it is told, and keeps the requests' headers."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b"{}", {"Content-Type": "application/x-amz-json-1.0"}
        self.seen: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(
            {name.lower(): value for name, value in request.headers.items()}
            | {"body": (await request.read()).decode()}
        )
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Any], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    yield f"http{'s' if tls else ''}://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.fixture
async def store() -> FakeStore:
    return FakeStore()


def a_client(door: Door, settings: CoreSettings) -> StoreClient:
    return StoreClient(door, table_of(settings), timeout_s=5, connections=4, metrics=Metrics())


REFUSALS = {
    "namespaced": (400, b'{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow"}'),
    "bare": (400, b'{"__type":"ThrottlingException","Message":"slow"}'),
    "with a link": (400, b'{"__type":"ns#ThrottlingException:http://x/","message":"slow"}'),
    "no JSON": (503, b"<html>Service Unavailable</html>"),
    "empty": (502, b""),
}


@pytest.mark.parametrize("refusal", sorted(REFUSALS))
async def test_a_refusal_is_read_as_the_sdk_reads_it(store: FakeStore, table_name: str, refusal: str) -> None:
    store.status, store.body = REFUSALS[refusal]
    told_by = {}
    async with serving(store.answer) as url:
        for kind in ("direct", "sdk"):
            async with a_door(kind, url, table_name) as door:
                with pytest.raises((ClientError, OSError)) as error:
                    await door.call("get_item", {"TableName": table_name, "Key": KEY})
                caught = error.value
                assert isinstance(caught, ClientError)
                told_by[kind] = (caught.response["Error"]["Code"], told(caught)["status"])
    assert told_by["direct"] == told_by["sdk"]


async def test_an_answer_that_is_not_what_the_store_sent_is_no_answer(store: FakeStore, table_name: str) -> None:
    """DynamoDB sends a checksum of every answer."""
    store.body = b'{"Item":{}}'
    async with serving(store.answer) as url, a_door("direct", url, table_name) as door:
        store.headers["x-amz-crc32"] = str(zlib.crc32(store.body))
        assert await door.call("get_item", {"TableName": table_name, "Key": KEY}) == {"Item": {}}

        for other in (str(zlib.crc32(b"{}")), "none"):
            store.headers["x-amz-crc32"] = other
            with pytest.raises(AnswerBroken):
                await door.call("get_item", {"TableName": table_name, "Key": KEY})

        del store.headers["x-amz-crc32"]
        store.body = b"<html>"
        client = a_client(door, settings_for(url, table_name))
        with pytest.raises(StoreUnavailable, match="AnswerBroken"):
            await client.call("get_item", TableName=table_name, Key=KEY)


@asynccontextmanager
async def renewing(seconds: float) -> AsyncIterator[tuple[str, list[str]]]:
    """A container's credentials as ECS gives them, each good for so long; its URL and the key ids given."""
    given: list[str] = []

    async def answer(_: web.Request) -> web.Response:
        given.append(f"ASIA{len(given)}")
        ends = datetime.now(UTC) + timedelta(seconds=seconds)
        content = {"AccessKeyId": given[-1], "SecretAccessKey": "s", "Token": f"token-{len(given)}"}
        return web.json_response(content | {"Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")})

    async with serving(answer) as url:
        yield f"{url}/creds", given


def forget_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


async def test_a_tasks_credentials_are_taken_and_renewed(
    store: FakeStore, table_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Good for two minutes they are in their last fifteen: each call brings new ones, as the SDK decides it."""
    forget_keys(monkeypatch, tmp_path)
    async with serving(store.answer) as url, renewing(120) as (credentials, given):
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", credentials)
        async with a_door("direct", url, table_name) as door:
            for _ in range(3):
                await door.call("get_item", {"TableName": table_name, "Key": KEY})
    signed_by = [seen["authorization"].split("Credential=")[1].split("/")[0] for seen in store.seen]
    assert len(set(signed_by)) == 3
    assert set(signed_by) <= set(given)
    assert [seen["x-amz-security-token"] for seen in store.seen] == [
        f"token-{given.index(key) + 1}" for key in signed_by
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "NoCredentialsError"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound.*nobody"),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_CA_BUNDLE": "/no/ca.pem"}, "/no/ca.pem"),
    ],
    ids=["no credentials", "no such profile", "no such certificates"],
)
async def test_what_the_way_to_the_store_lacks_is_waited_for_as_the_store_is(
    changes: dict[str, str], why: str, table_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine's credentials may come a moment after its processes: a boot waits, and says what for."""
    forget_keys(monkeypatch, tmp_path)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnavailable) as error:
        async with a_door("direct", "https://127.0.0.1:1", table_name):
            pass
    assert re.search(why, str(error.value))


async def test_credentials_that_came_too_late_are_an_outage(
    store: FakeStore, table_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The SDK calls it a RuntimeError, which would be told as a bug of ours."""
    forget_keys(monkeypatch, tmp_path)
    async with serving(store.answer) as url, renewing(-60) as (credentials, _):
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", credentials)
        async with a_door("direct", url, table_name) as door:
            with pytest.raises(StoreUnavailable, match="CredentialsUseless"):
                await a_client(door, settings_for(url, table_name)).call("get_item", TableName=table_name, Key=KEY)
    assert not store.seen


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
async def test_credentials_with_the_line_end_of_their_file_are_not_sent(
    name: str, store: FakeStore, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end a header, and what follows be read as another."""
    monkeypatch.setenv(name, "a\n")
    async with serving(store.answer) as url, a_door("direct", url, table_name) as door:
        with pytest.raises(StoreUnavailable, match="CredentialsUseless"):
            await a_client(door, settings_for(url, table_name)).call("get_item", TableName=table_name, Key=KEY)
    assert not store.seen


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("https://dynamodb.eu-west-1.amazonaws.com:443/", "dynamodb.eu-west-1.amazonaws.com"),
        ("http://127.0.0.1:4566", "127.0.0.1:4566"),
        ("https://[fd00::1]", "[fd00::1]"),
        ("http://user:word@[::1]:4566/", "[::1]:4566"),
    ],
    ids=["its own port", "another port", "IPv6", "IPv6 with a port"],
)
def test_the_host_is_named_as_http_spells_it(endpoint: str, host: str) -> None:
    assert host_of(endpoint) == host


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, DirectDoor),
        ({"HTTP_PROXY": "http://127.0.0.1:3128"}, SdkDoor),
        ({"HTTPS_PROXY": "http://127.0.0.1:3128"}, DirectDoor),
        ({"HTTP_PROXY": "http://127.0.0.1:3128", "NO_PROXY": "127.0.0.1"}, DirectDoor),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1/a/path"}, SdkDoor),
    ],
    ids=["nothing", "a proxy", "one for https", "one for others", "a path"],
)
async def test_where_a_plain_connection_does_not_lead_to_the_store_the_sdk_does(
    changes: dict[str, str], kind: type[Door], table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    endpoint = None if "AWS_ENDPOINT_URL_DYNAMODB" in changes else "http://127.0.0.1:1"
    settings = settings_for(endpoint, table_name)
    async with open_door(settings, Guard("api", table_name=table_name)) as door:
        assert isinstance(door, kind)


def a_certificate(folder: Path, host: str) -> tuple[str, str]:
    """A certificate for the host, signed by itself, and its key: two PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    alt: x509.GeneralName = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alt]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{host}.pem", folder / f"{host}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(key.private_bytes(*pem))
    return str(paths[0]), str(paths[1])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("host", ["127.0.0.1", "elsewhere.example"])
def test_only_the_host_that_was_meant_is_spoken_to(
    host: str, loop: str, table_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS: by a CA that a variable names which the SDK knows, too, and for the host's own name."""
    certificate, key = a_certificate(tmp_path, host)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    store = FakeStore()

    async def main(*, trusting: str | None) -> None:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(serving(store.answer, tls))
            for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
                monkeypatch.delenv(name, raising=False)
            if trusting:
                monkeypatch.setenv(trusting, certificate)
            door = await stack.enter_async_context(a_door("direct", url, table_name))
            client = a_client(door, settings_for(url, table_name))
            if trusting and host == "127.0.0.1":
                for _ in range(3):
                    assert await client.call("get_item", TableName=table_name, Key=KEY) == {}
            else:
                with pytest.raises(StoreUnavailable, match="SSLCertVerificationError"):
                    await client.call("get_item", TableName=table_name, Key=KEY)

    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    for trusting in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", None):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(trusting=trusting))
    assert len(store.seen) == (6 if host == "127.0.0.1" else 0)


async def test_the_body_is_what_was_asked_and_nothing_more(store: FakeStore, table_name: str) -> None:
    async with serving(store.answer) as url, a_door("direct", url, table_name) as door:
        await door.call("get_item", {"TableName": table_name, "Key": KEY})
    (seen,) = store.seen
    assert json.loads(seen["body"]) == {"TableName": table_name, "Key": KEY}
    assert abs(time.mktime(time.strptime(seen["x-amz-date"], "%Y%m%dT%H%M%SZ")) - time.mktime(time.gmtime())) < 60
