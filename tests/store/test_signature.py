"""SigV4: the same signature as the SDK's own signer makes."""

import time
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from broker.store.signature import Signer
from broker.version import VERSION

WORDS = st.text("abcXYZ0189/+=-_.", min_size=1, max_size=60)
NOON = 1_790_000_000.0


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST / HTTP/1.1"
    assert lines[-2:] == ["", ""]
    return dict(line.split(":", 1) for line in lines[1:-2])


def as_the_sdk_signs(sent: dict[str, str], body: bytes, keys: Any, *, region: str, host: str, at: float) -> str:
    """The Authorization header that botocore makes of the very headers that we sent."""
    request = AWSRequest("POST", f"https://{host}/", data=body)
    for name in ("content-type", "x-amz-target", "x-amz-date", "x-amz-security-token"):
        if name in sent:
            request.headers[name] = sent[name]
    request.context["timestamp"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    auth = SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token), "dynamodb", region)
    signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    names = auth.signed_headers(auth.headers_to_sign(request))
    return f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={names}, Signature={signature}"


@given(
    body=st.binary(max_size=300),
    keys=st.builds(ReadOnlyCredentials, WORDS, WORDS, st.none() | WORDS),
    operation=st.sampled_from(["GetItem", "TransactWriteItems"]),
    host=st.sampled_from(["dynamodb.eu-west-1.amazonaws.com", "127.0.0.1:4566"]),
    at=st.floats(0, 4_000_000_000),
)
def test_a_request_is_signed_as_the_sdk_signs_it(
    body: bytes, keys: ReadOnlyCredentials, operation: str, host: str, at: float
) -> None:
    sent = headers_of(Signer(region="eu-west-1", host=host).head(operation, body, keys, at=at))

    assert sent["authorization"] == as_the_sdk_signs(sent, body, keys, region="eu-west-1", host=host, at=at)
    assert sent["content-length"] == str(len(body))
    assert sent["user-agent"] == f"sandbox-broker/{VERSION}"
    assert sent["x-amz-target"] == f"DynamoDB_20120810.{operation}"
    assert sent.get("x-amz-security-token") == keys.token


def test_a_kept_signing_key_is_for_its_day_and_its_secret_alone() -> None:
    signer = Signer(region="us-east-1", host="h")
    first, second = ReadOnlyCredentials("a", "one", None), ReadOnlyCredentials("a", "two", None)
    moments = [(first, NOON), (first, NOON + 1), (second, NOON + 1), (first, NOON + 86_400), (first, NOON)]

    for keys, at in moments:
        sent = headers_of(signer.head("GetItem", b"{}", keys, at=at))
        assert sent["authorization"] == as_the_sdk_signs(sent, b"{}", keys, region="us-east-1", host="h", at=at)
