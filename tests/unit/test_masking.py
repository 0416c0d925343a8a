"""J3: thirteen kinds of secrets, in a message's arguments, in nested facts and in tracebacks."""

import io
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from broker.logs import JsonFormatter
from broker.masking import MASK, Masker, is_secret_name

OWN = "our-own-bootstrap-token-4711"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7f9c24e52f364b1c\nnot+really/4b1c9d6e==\n"
    "-----END RSA PRIVATE KEY-----"
)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzdHVkZW50LTEifQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"

KINDS: dict[str, list[tuple[str, str]]] = {
    "1 bearer tokens": [
        ("Authorization: Bearer 7f9c24e52f364b1c9d6e", "7f9c24e52f364b1c9d6e"),
        ("{'Authorization': 'Bearer 7f9c24e52f364b1c9d6e'}", "7f9c24e52f364b1c9d6e"),
        ("sent bearer 7f9c24e5+/2f364b1c== twice", "7f9c24e5+/2f364b1c"),
        ("Authorization: Bearer abc12", "abc12"),
    ],
    "2 the provider's tokens": [
        ("Authorization: Token 0a1b2c3d4e5f6a7b", "0a1b2c3d4e5f6a7b"),
        ('{"authorization": "Token 0a1b2c3d4e5f6a7b"}', "0a1b2c3d4e5f6a7b"),
        ("CSP_API_TOKEN=0a1b2c3d4e5f6a7b", "0a1b2c3d4e5f6a7b"),
        ("authorization=0a1b2c3d4e5f6a7b", "0a1b2c3d4e5f6a7b"),
    ],
    "3 basic credentials": [
        ("Authorization: Basic YWRtaW46aHVudGVyMg==", "YWRtaW46aHVudGVyMg"),
        ("Proxy-Authorization: Basic YWRtaW46aHVudGVyMg==", "YWRtaW46aHVudGVyMg"),
    ],
    "4 cookies": [
        ("Cookie: session=ab12cd34; theme=dark; csrf=ef56ab78", "ab12cd34"),
        ("Cookie: session=ab12cd34; theme=dark; csrf=ef56ab78", "ef56ab78"),
        ("Set-Cookie: sid=ab12cd34; HttpOnly", "ab12cd34"),
        ("[(b'host', b'x'), (b'cookie', b'sid=ab12cd34')]", "ab12cd34"),
        ('{"cookie": "sid=ab12cd34"}', "ab12cd34"),
    ],
    "5 passwords": [
        ("password=hunter2hunter2", "hunter2hunter2"),
        ("db_password: hunter2hunter2", "hunter2hunter2"),
        ('{"email": "a@b.org", "password": "correct horse battery staple"}', "horse battery staple"),
        ("{'passwd': 'correct horse battery staple'}", "battery"),
        ('{"password": "with \\" quote and tail"}', "quote and tail"),
        ("https://api/?password=hunter2hunter2&next=1", "hunter2hunter2"),
        ("{'password': b'hunter2hunter2'}", "hunter2hunter2"),
        ("LabUserPassword = hunter2hunter2", "hunter2hunter2"),
    ],
    "6 API keys": [
        ("X-Api-Key: 9d8e7f6a5b4c3d2e", "9d8e7f6a5b4c3d2e"),
        ("api_key=9d8e7f6a5b4c3d2e", "9d8e7f6a5b4c3d2e"),
        ('{"apiKey": "9d8e7f6a5b4c3d2e"}', "9d8e7f6a5b4c3d2e"),
    ],
    "7 our own API keys": [
        ("created sbk_4f1c0a9be2d77a31 for acme", "4f1c0a9be2d77a31"),
        ("key sbk_4f1c0a9b-e2d7_7a31.", "4f1c0a9b-e2d7_7a31"),
    ],
    "8 AWS access key ids": [
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("Credential=ASIAIOSFODNN7EXAMPLE/20260101/us-east-1", "ASIAIOSFODNN7EXAMPLE"),
    ],
    "9 AWS secret keys": [
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPxRfiCY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"),
        ('{"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"}', "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG+bPxRfiCY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"),
    ],
    "10 AWS session tokens and signatures": [
        ("X-Amz-Security-Token=IQoJb3JpZ2luX2VjEJr%2F%2F", "IQoJb3JpZ2luX2VjEJr"),
        ('{"SessionToken": "IQoJb3JpZ2luX2VjEJr//"}', "IQoJb3JpZ2luX2VjEJr"),
        ("AWS4-HMAC-SHA256 SignedHeaders=host, Signature=fe5f80f77d5fa3beca038a248ff027d0", "fe5f80f77d5fa3be"),
        ("?X-Amz-Signature=fe5f80f77d5fa3beca038a248ff027d0&x=1", "fe5f80f77d5fa3be"),
    ],
    "11 JSON web tokens": [
        (f"signed in: {JWT}", JWT),
        (f'{{"jwt": "{JWT}"}}', JWT),
        (f"{JWT.rsplit('.', 1)[0]}.", "eyJzdWIiOiJzdHVkZW50LTEifQ"),
    ],
    "12 private keys": [
        (PEM, "MIIEpAIBAAKCAQEA7f9c24e52f364b1c"),
        (PEM, "not+really/4b1c9d6e"),
        (PEM.split("-----END", maxsplit=1)[0], "not+really/4b1c9d6e"),
        (json.dumps({"key": PEM.replace("RSA ", "")}), "not+really/4b1c9d6e"),
    ],
    "13 credentials in addresses": [
        ("postgres://admin:hunter2hunter2@db.internal:5432/x", "hunter2hunter2"),
        ("https://user:p%40ss-word-9@host/path", "p%40ss-word-9"),
        ("redis://:hunter2hunter2@cache:6379", "hunter2hunter2"),
    ],
}
MORE: list[tuple[str, str]] = [
    (f"own value bare: {OWN}", OWN),
    (f"in a path /v1/{OWN}/x", OWN),
    ("client_secret=abcdef1234567890", "abcdef1234567890"),
    ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c6912E7710c838347Ae178B4a"),
    ("xoxb-123456789012-abcdefABCDEF", "123456789012-abcdefABCDEF"),
    ("sk_live_4eC39HqLyjWDarjtT1zdp7dc", "4eC39HqLyjWDarjtT1zdp7dc"),
    ('{\\"password\\": \\"hunter2hunter2\\"}', "hunter2hunter2"),
    ("refresh_token=abcdef1234567890", "abcdef1234567890"),
]
CASES = [pytest.param(text, secret, id=f"{kind}: {text[:40]!r}") for kind in KINDS for text, secret in KINDS[kind]]
CASES += [pytest.param(text, secret, id=f"more: {text[:40]!r}") for text, secret in MORE]


@pytest.fixture
def said() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with the real formatter, and what it wrote."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter(Masker([OWN]), process="api"))
    logger = logging.getLogger("app.masking-test")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger, out
    logger.handlers[:] = []


def test_there_are_thirteen_kinds() -> None:
    assert len(KINDS) == 13


@pytest.mark.parametrize(("text", "secret"), CASES)
def test_a_secret_is_masked_wherever_it_stands(
    said: tuple[logging.Logger, io.StringIO], text: str, secret: str
) -> None:
    logger, out = said
    assert secret in text
    logger.info(text.replace("%", "%%"))
    logger.info("argument %s", text)
    logger.info("repr %r", {"a": [text]})
    logger.info("nested", extra={"facts": {"deep": [{"er": (text, {"x": text})}]}, "lines": [text]})
    logger.info("object", extra={"error": ValueError(text), "raw": text.encode()})
    logger.info("as a name", extra={"facts": {text: 1}})
    try:
        _raise(text)
    except RuntimeError:
        logger.exception("crashed")

    lines = out.getvalue().splitlines()
    assert len(lines) == 7
    for line in lines:
        json.loads(line)
        assert secret not in line
        assert json.dumps(secret)[1:-1] not in line
        assert MASK in line


def _raise(text: str) -> None:
    try:
        {}[text]
    except KeyError as error:
        raise RuntimeError(f"while doing it: {text}") from error


@pytest.mark.parametrize(
    "name",
    [
        "password", "Password", "db_password", "passwd", "token", "api_token", "csp_api_token", "secret",
        "client_secret", "api_key", "apiKey", "X-Api-Key", "authorization", "Authorization", "cookie",
        "Set-Cookie", "private_key", "jwt", "credential", "credentials", "signature", "session_id",
        "aws_secret_access_key", "aws_session_token",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["short", 4711, ["a", "b"], {"x": "y"}, None, b"raw", SecretStr("deep")])
def test_what_goes_under_a_secret_name_is_masked_whole_whatever_it_is(name: str, value: Any) -> None:
    assert Masker().value({"outer": [{name: value}]}) == {"outer": [{name: MASK}]}


@pytest.mark.parametrize(
    "name", ["idempotency_key", "claim_key", "sandbox_id", "tenant", "holder", "route", "outcome", "token_count",
             "tokens_left", "key"],
)  # fmt: skip
def test_what_the_log_needs_is_not_masked(name: str) -> None:
    assert not is_secret_name(name)
    assert Masker().value({name: "visible-4711"}) == {name: "visible-4711"}


@pytest.mark.parametrize(
    "text",
    [
        "allocated 2009521 to student-1 in 4.2 ms",
        "identity/accounts/7f9c24e5-2f36-4b1c-9d6e-0a1b2c3d4e5f",
        "GET http://127.0.0.1:9100/current_user/accounts?_limit=500&_offset=0",
        "Idempotency-Key: second-vm",
        "https://user@host/path",
        "lab-adventure-0087 of track kubernetes-101",
        "STORE_THROTTLED: ProvisionedThroughputExceededException",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert Masker([OWN]).text(text) == text


def test_headers_kept_as_pairs_are_masked_by_their_names() -> None:
    pairs = [(b"cookie", b"sid=ab12cd34"), ("Authorization", "Custom ab12cd34"), ("host", "x"), (1, 2)]
    masked = Masker().value({"headers": pairs})
    assert masked == {"headers": [["cookie", MASK], ["Authorization", MASK], ["host", "x"], [1, 2]]}


def test_what_stands_around_a_secret_stays() -> None:
    said = '{"email": "a@b.org", "password": "x y", "next": 1}'
    assert Masker().text(said) == '{"email": "a@b.org", "password": "***", "next": 1}'
    assert Masker().text("password=a&next=1") == "password=***&next=1"
    assert Masker().text("Authorization: Token abc, then") == "Authorization: Token ***, then"


def test_numbers_and_truths_keep_their_types() -> None:
    value = {"ms": 4.2, "count": 3, "ok": True, "none": None}
    assert Masker().value(value) == value


def test_what_lies_too_deep_is_still_masked_by_its_shape() -> None:
    value: Any = {"password": "hunter2hunter2"}
    for _ in range(20):
        value = {"in": value}
    assert "hunter2hunter2" not in json.dumps(Masker().value(value))


def test_a_structure_that_holds_itself_ends() -> None:
    value: dict[str, Any] = {"password": "hunter2hunter2"}
    value["self"] = value
    assert "hunter2hunter2" not in json.dumps(Masker().value(value))


AROUND = "before {} after"


@given(st.text(min_size=6, max_size=80).filter(lambda text: text not in AROUND.format(MASK)))
def test_the_processs_own_secrets_never_show_whatever_they_are_made_of(secret: str) -> None:
    masker = Masker([secret])
    assert masker.text(AROUND.format(secret)) == AROUND.format(MASK)
    assert masker.value([{"x": (secret,)}]) == [{"x": [MASK]}]


def test_the_longer_of_two_own_secrets_leaves_no_tail() -> None:
    assert Masker(["secret", "secret-and-more"]).text("a secret-and-more b") == f"a {MASK} b"


def test_a_long_line_without_secrets_is_quick() -> None:
    """No shape may backtrack without end: a log line is as long as a caller makes it."""
    hard = (
        "a",
        "token",
        "=",
        "eyJ",
        "eyJ-",
        "a:",
        "a-",
        "a+",
        "a://",
        "-----BEGIN ",
        "token ",
        'password="',
        "\\",
    )
    for piece in hard:
        text = piece * (100_000 // len(piece))
        began = time.perf_counter()
        Masker([OWN]).text(text)
        assert time.perf_counter() - began < 5, piece


def test_a_secret_that_is_learned_later_is_masked_from_then_on() -> None:
    masker = Masker(["the-first-one"])
    assert masker.text("the-first-one, the-second-one") == f"{MASK}, the-second-one"

    masker.learn(["the-second-one"])

    assert masker.text("the-first-one, the-second-one") == f"{MASK}, {MASK}"


def test_a_thousand_rotations_are_remembered_and_not_for_ever_more() -> None:
    masker = Masker()
    for first in range(0, 1500, 125):  # in a few goes, as each makes the pattern anew
        masker.learn([f"rotated-{n:06d}" for n in range(first, first + 125)])

    assert masker.text("rotated-001499 rotated-000500") == f"{MASK} {MASK}"
    assert masker.text("rotated-000499") == "rotated-000499"


KEY_ID, KEY_SECRET = "k7m2x9q4w1zb", "Zm9vYmFyLWJhel9xdXV4MTIzNDU2Nzg5MGFiY2RlZmc"


@pytest.mark.parametrize(
    "text",
    [
        "sbk_{}_{}", "Authorization is Bearer sbk_{}_{}", "GET /x?k=sbk_{}_{}&y=1", "%3Dsbk_{}_{}",
        "('sbk_{}_{}',)", "xsbk_{}_{}", "bearer  sbk_{}_{} and more",
    ],
)  # fmt: skip
def test_an_api_key_is_masked_wherever_it_stands_and_its_public_id_stays(text: str) -> None:
    masked = Masker().text(text.format(KEY_ID, KEY_SECRET))
    assert KEY_SECRET not in masked
    assert f"sbk_{KEY_ID}_{MASK}" in masked
    assert KEY_SECRET[:8] not in Masker().text(text.format(KEY_ID, KEY_SECRET[:8])), "a part of it, too"
    assert Masker().text(masked) == masked, "masked once is masked"


USUAL = {
    "event": "request",
    "method": "POST",
    "route": "/v1/allocate",
    "status": 201,
    "ms": 4.2,
    "tenant": "acme",
    "caller": "key:k7m2x9q4w1zb",
    "holder": "ins-4711",
    "track": "kubernetes-101",
    "idempotent": True,
    "none": None,
}
SAID = st.sampled_from([text for kind in KINDS.values() for text, _ in kind] + [text for text, _ in MORE])
NAMES = st.sampled_from(
    [
        *("event", "why", "Authorization", "set-cookie", "passwd", "SECRET", "x_token", "api-key", "privateKey"),
        *("credential", "Signature", "jwt", "sessionId", "session_id", "idempotency_key"),
    ]
)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | SAID


@given(st.dictionaries(NAMES | st.text(max_size=8), VALUES | st.lists(VALUES, max_size=3), max_size=6))
@example({"to\N{KELVIN SIGN}en": "x", "event": "y"})
@example({"event": "\N{LATIN SMALL LETTER LONG S}ecret=abcdef1234567890"})
@example({"event": "it said hunter2hunter2 to us"})
@example({"hunter2hunter2": 1})
def test_to_look_through_a_line_at_once_masks_what_one_by_one_is_masked(facts: dict[str, Any]) -> None:
    masker = Masker([OWN, 'of "many\nlines" \\', "hunter2hunter2"])
    assert masker.facts(facts) == masker.value(facts)


def test_letters_that_count_as_others_hide_no_secret() -> None:
    odd = "\N{LATIN SMALL LETTER LONG S}ecret=abcdef1234567890"
    assert Masker().text(odd) == f"{odd.partition('=')[0]}={MASK}"


def test_a_usual_line_is_not_looked_at_text_by_text() -> None:
    """The ten times that the log of a request costs less hang on it."""
    masker = Masker([OWN])
    assert masker.facts(USUAL) is USUAL
    assert masker.facts(USUAL | {"why": f"a {OWN}"})["why"] == f"a {MASK}"
    assert masker.facts(USUAL | {OWN: "why"}) == masker.value(USUAL | {OWN: "why"})
