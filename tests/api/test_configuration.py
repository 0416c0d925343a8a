"""B2, H6: a wrong configuration ends the process with 78, says everything at once, and shows no secret."""

import re

import pytest

from tests.api.process import environment, run_to_the_end
from tests.api.service import ADMIN_TOKEN, API_TOKEN

SHORT = "Sh0rt-t0ken-of-19ch"
EXAMPLE = "my-changeme-token-4711-abcdef"


def problems(module: str, **changes: str | None) -> str:
    """Standard error of a process that refused to start; asserts how it ended."""
    ended = run_to_the_end(module, environment(**changes))
    assert ended.returncode == 78, (ended.returncode, ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr + ended.stdout
    assert ended.stdout == ""
    for line in ended.stderr.splitlines():
        assert line.startswith("configuration: "), line
    return ended.stderr


def test_missing_tokens_are_both_named_in_one_run() -> None:
    said = problems("app", BROKER_API_TOKEN=None, BROKER_ADMIN_TOKEN=None)
    assert "BROKER_API_TOKEN: is missing" in said
    assert "BROKER_ADMIN_TOKEN: is missing" in said


def test_an_empty_token_is_a_missing_one() -> None:
    assert "BROKER_API_TOKEN: is missing" in problems("app", BROKER_API_TOKEN="")


def test_a_short_and_an_example_token_are_refused_and_not_shown() -> None:
    said = problems("app", BROKER_API_TOKEN=SHORT, BROKER_ADMIN_TOKEN=EXAMPLE)
    assert "BROKER_API_TOKEN: is shorter than 20 characters" in said
    assert "BROKER_ADMIN_TOKEN: looks like an example value" in said
    assert SHORT not in said
    assert EXAMPLE not in said


def test_equal_tokens_are_refused_and_not_shown() -> None:
    said = problems("app", BROKER_ADMIN_TOKEN=API_TOKEN)
    assert "BROKER_ADMIN_TOKEN: is the same as BROKER_API_TOKEN" in said
    assert API_TOKEN not in said


def test_everything_that_is_wrong_is_listed_in_one_run() -> None:
    """Fields, pairs of fields and rules about the environment alike."""
    said = problems(
        "app",
        BROKER_ENV="production",
        BROKER_ADMIN_TOKEN=API_TOKEN,
        DDB_ENDPOINT_URL="http://dynamodb.internal:8000",
        DDB_TABLE_NAME="no spaces",
        BROKER_TENANT="a b",
        API_PORT="eighty",
        LAB_DURATION_HOURS="0",
        CORS_ALLOWED_ORIGINS="https://a.example.org, *",
        RATE_LIMIT_PER_STUDENT="often",
        STORE_TIMEOUT_SEC="31",
        DRAIN_NOTICE_SEC="60",
        LOG_LEVEL="LOUD",
        AWS_REGION="x",
    )
    named = {
        match for line in said.splitlines() for match in re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", line)
    }
    assert {
        "BROKER_ADMIN_TOKEN", "DDB_ENDPOINT_URL", "DDB_TABLE_NAME", "BROKER_TENANT", "API_PORT",
        "LAB_DURATION_HOURS", "CORS_ALLOWED_ORIGINS", "RATE_LIMIT_PER_STUDENT", "STORE_TIMEOUT_SEC",
        "DRAIN_NOTICE_SEC", "LOG_LEVEL", "AWS_REGION",
    } <= named  # fmt: skip
    assert API_TOKEN not in said


def test_the_worker_names_a_missing_provider_address_and_token_in_one_run() -> None:
    said = problems("worker", CSP_BASE_URL=None, CSP_API_TOKEN=None)
    assert "CSP_BASE_URL" in said
    assert "CSP_API_TOKEN" in said


def test_the_worker_lists_everything_that_is_wrong_and_shows_no_token() -> None:
    said = problems(
        "worker",
        BROKER_ENV="production",
        CSP_BASE_URL="http://provider.internal",
        CSP_API_TOKEN="",
        DDB_ENDPOINT_URL="http://dynamodb.internal:8000",
        WORKER_PORT="0",
        SYNC_INTERVAL_SEC="inf",
    )
    for name in ("CSP_BASE_URL", "CSP_API_TOKEN", "DDB_ENDPOINT_URL", "WORKER_PORT", "SYNC_INTERVAL_SEC"):
        assert name in said


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://provider", "provider.example.org", "http://"])
def test_a_provider_address_that_is_not_http_is_refused_even_in_development(address: str) -> None:
    said = problems("worker", CSP_BASE_URL=address, CSP_API_TOKEN="provider-token-value")
    assert "CSP_BASE_URL" in said
    assert "provider-token-value" not in said


@pytest.mark.parametrize(
    ("module", "name"), [("app", "DDB_ENDPOINT_URL"), ("worker", "CSP_BASE_URL"), ("worker", "DDB_ENDPOINT_URL")]
)
def test_plain_http_is_refused_outside_development(module: str, name: str) -> None:
    provider = {"CSP_BASE_URL": "https://provider.example.org", "CSP_API_TOKEN": "provider-token-value"}
    said = problems(module, **(provider | {"BROKER_ENV": "production", name: "http://10.0.0.1:8000"}))
    assert name in said
    assert "http" in said
    assert ADMIN_TOKEN not in said
