"""B2, H6: bounds, rules about two settings, and problems named by variable, all at once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from pydantic import SecretStr, ValidationError

from broker.settings import (
    ApiSettings,
    CoreSettings,
    WorkerSettings,
    csv,
    problems_of,
    weak_token,
)
from tests.api.service import ADMIN_TOKEN, API_TOKEN

TOKENS = {"BROKER_API_TOKEN": API_TOKEN, "BROKER_ADMIN_TOKEN": ADMIN_TOKEN}
PROVIDER_TOKEN = "a-provider-token-4f1c0a9be2"
PROVIDER = {"CSP_BASE_URL": "https://provider.example.org", "CSP_API_TOKEN": PROVIDER_TOKEN}
DEVELOPMENT = {"BROKER_ENV": "development"}

EXAMPLE_VALUE = "looks like an example value (a word such as changeme or password, one character, digits only)"


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine's environment sets is no part of a test."""
    for settings in (ApiSettings, WorkerSettings):
        for field in settings.model_fields.values():
            if field.alias:
                monkeypatch.delenv(field.alias, raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)


def api(**changes: Any) -> ApiSettings:
    return ApiSettings(**(TOKENS | changes))


def worker(**changes: Any) -> WorkerSettings:
    return WorkerSettings(**(PROVIDER | changes))


def problems(make: Any, **changes: Any) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        make(**changes)
    return problems_of(refused.value)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "is missing"),
        ("x9" * 9 + "y", "is shorter than 20 characters"),
        ("change-me-" + "x9" * 10, EXAMPLE_VALUE),
        ("CHANGEME" + "x9" * 10, EXAMPLE_VALUE),
        ("my-example-token-4f1c0a9be2", EXAMPLE_VALUE),
        ("your-token-here-4f1c0a9be2", EXAMPLE_VALUE),
        ("placeholder-4f1c0a9be2d77a31", EXAMPLE_VALUE),
        ("Password-4f1c0a9be2d77a31", EXAMPLE_VALUE),
        ("a" * 40, EXAMPLE_VALUE),
        ("1234567890" * 3, EXAMPLE_VALUE),
        ("two words 4f1c0a9be2d77a31", "holds characters that a header cannot carry"),
        ("schlüssel-4f1c0a9be2d77a31", "holds characters that a header cannot carry"),
        ("tab\t4f1c0a9be2d77a31-4f1c0a", "holds characters that a header cannot carry"),
        ("line\n4f1c0a9be2d77a31-4f1c", "holds characters that a header cannot carry"),
    ],
)
def test_a_token_that_guards_nothing_is_refused(token: str, why: str) -> None:
    assert weak_token(SecretStr(token)) == why
    assert problems(api, BROKER_API_TOKEN=token) == [f"BROKER_API_TOKEN: {why}"]
    assert problems(api, BROKER_ADMIN_TOKEN=token) == [f"BROKER_ADMIN_TOKEN: {why}"]


@pytest.mark.parametrize("token", ["x9" * 10, "4f1c0a9be2d77a314f1c0a9be2d77a31", "!#$%&'*+.^_`|~-/=?@0Az"])
def test_a_token_of_twenty_characters_and_up_is_good(token: str) -> None:
    assert weak_token(SecretStr(token)) is None


def test_a_token_that_is_not_set_is_named_by_its_variable() -> None:
    assert problems(ApiSettings) == ["BROKER_API_TOKEN: is missing", "BROKER_ADMIN_TOKEN: is missing"]
    assert [line.split(":")[0] for line in problems(WorkerSettings)] == ["CSP_BASE_URL", "CSP_API_TOKEN"]


TOKEN, FILE, MANAGED = "CSP_API_TOKEN", "CSP_API_TOKEN_FILE", "CSP_API_TOKEN_SECRET"
PASSWORD = "NIOSXAAS_PASSWORD"
SERVICES = {"NIOSXAAS_ENABLED": "true", "NIOSXAAS_EMAIL": "a@b.org", "NIOSXAAS_NAME_FILTER": "lab-"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, ["CSP_API_TOKEN: is missing"]),
        ({TOKEN: "too-short"}, ["CSP_API_TOKEN: is shorter than 20 characters"]),
        ({TOKEN: "changeme-4f1c0a9be2d77a31"}, [f"CSP_API_TOKEN: {EXAMPLE_VALUE}"]),
        ({TOKEN: "", FILE: "", MANAGED: ""}, ["CSP_API_TOKEN: is missing"]),
        ({TOKEN: PROVIDER_TOKEN, FILE: "/t"},
         ["CSP_API_TOKEN: is set, and CSP_API_TOKEN_FILE too: keep one of them"]),
        ({TOKEN: PROVIDER_TOKEN, MANAGED: "t"},
         ["CSP_API_TOKEN: is set, and CSP_API_TOKEN_SECRET too: keep one of them"]),
        ({FILE: "/t", MANAGED: "t"},
         ["CSP_API_TOKEN_SECRET: is set, and CSP_API_TOKEN_FILE too: keep one of them"]),
        ({TOKEN: PROVIDER_TOKEN}, []),
        ({FILE: "/t"}, []),
        ({MANAGED: "t#key", TOKEN: ""}, []),
    ],
    ids=repr,
)  # fmt: skip
def test_the_providers_token_is_kept_in_exactly_one_place(given: dict[str, str], said: list[str]) -> None:
    values = {"CSP_BASE_URL": "https://provider.example.org"} | given
    if said:
        assert problems(WorkerSettings, **values) == said
    else:
        WorkerSettings(**values)


def test_in_development_any_token_of_the_provider_will_do_but_none() -> None:
    assert worker(**DEVELOPMENT, CSP_API_TOKEN="x").provider_token.get_secret_value() == "x"
    assert problems(worker, **DEVELOPMENT, CSP_API_TOKEN="") == ["CSP_API_TOKEN: is missing"]


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({"NIOSXAAS_ENABLED": "true"}, ["NIOSXAAS_EMAIL", "NIOSXAAS_NAME_FILTER", PASSWORD]),
        (SERVICES, [PASSWORD]),
        (SERVICES | {PASSWORD: "p", f"{PASSWORD}_FILE": "/p"}, [PASSWORD]),
        (SERVICES | {f"{PASSWORD}_SECRET": "p", f"{PASSWORD}_FILE": "/p"}, [f"{PASSWORD}_SECRET"]),
        (SERVICES | {PASSWORD: "p", "NIOSXAAS_NAME_FILTER": "  "}, ["NIOSXAAS_NAME_FILTER"]),
        (SERVICES | {PASSWORD: "p", "NIOSXAAS_BASE_URL": "http://x"}, ["NIOSXAAS_BASE_URL"]),
        (SERVICES | {PASSWORD: "p"}, []),
        (SERVICES | {f"{PASSWORD}_FILE": "/p"}, []),
        (SERVICES | {f"{PASSWORD}_SECRET": "p"}, []),
        ({}, []),
    ],
)
def test_what_services_need_is_asked_for_where_they_are_enabled(
    given: dict[str, str], variables: list[str]
) -> None:
    if variables:
        assert [line.split(":")[0] for line in problems(worker, **given)] == variables
    else:
        assert worker(**given).services_shadow, "nothing is deleted unless somebody says so"


def test_a_floor_that_nobody_set_yields_to_a_lower_ceiling() -> None:
    """CLEANUP_CONCURRENCY=1 was good before there was a floor, and still is."""
    assert worker(CLEANUP_CONCURRENCY="1", CSP_DELETES_PER_SEC="0.1").clean_concurrency_floor == 1
    assert worker(CLEANUP_CONCURRENCY="1", CSP_DELETES_PER_SEC="0.1").deletes_per_s_floor == 0.1
    assert (worker().clean_concurrency_floor, worker().deletes_per_s_floor) == (2, 0.5)
    assert problems(worker, CLEANUP_CONCURRENCY="1", CLEANUP_CONCURRENCY_MIN="2") == [
        "CLEANUP_CONCURRENCY_MIN: is more than CLEANUP_CONCURRENCY"
    ]


def test_rules_about_two_settings_are_listed_with_everything_else() -> None:
    found = problems(
        api,
        BROKER_ADMIN_TOKEN=API_TOKEN,
        DDB_ENDPOINT_URL="http://store",
        CORS_ALLOWED_ORIGINS="*",
        TRUSTED_PROXIES="*",
        GRACEFUL_SHUTDOWN_TIMEOUT_SEC="5",
        API_PORT="0",
    )
    variables = {line.split(":")[0] for line in found}
    assert variables == {
        "BROKER_ADMIN_TOKEN", "DDB_ENDPOINT_URL", "CORS_ALLOWED_ORIGINS", "TRUSTED_PROXIES", "DRAIN_NOTICE_SEC",
        "API_PORT",
    }  # fmt: skip


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_where_the_environment_is_not_development_its_liberties_are_refused(environment: str) -> None:
    found = problems(api, BROKER_ENV=environment, DDB_ENDPOINT_URL="http://store")
    assert "DDB_ENDPOINT_URL: is plain http: set BROKER_ENV=development, or use https" in found


def test_in_development_they_are_there() -> None:
    settings = api(**DEVELOPMENT, DDB_ENDPOINT_URL="http://store", CORS_ALLOWED_ORIGINS="*", TRUSTED_PROXIES="*")
    assert settings.development
    assert worker(**DEVELOPMENT, CSP_BASE_URL="http://provider").provider_url == "http://provider"
    assert not api().development, "production is the default"


@pytest.mark.parametrize("url", ["https://dynamodb.example.org", None])
def test_an_encrypted_store_is_good_anywhere(url: str | None) -> None:
    assert api(DDB_ENDPOINT_URL=url).endpoint_url == url


NUMBERS = [
    (api, "DDB_SHARDS", 1, 64, 0, 65),
    (api, "STORE_TIMEOUT_SEC", 0.01, 30, 0, 30.5),
    (api, "STORE_CONNECTIONS", 1, 1000, 0, 1001),
    (api, "GRACEFUL_SHUTDOWN_TIMEOUT_SEC", 6, 600, 0, 600.5),
    (api, "BOOT_BUDGET_MS", 1, 600_000, 0, 600_001),
    (api, "BOOT_TIMEOUT_SEC", 1, 600, 0.9, 601),
    (api, "BOOT_FAILURE_COUNT", 0, 1_000_000, -1, 1_000_001),
    (api, "API_PORT", 1, 65535, 0, 65536),
    (api, "LAB_DURATION_HOURS", 0.01, 720, 0, 720.5),
    (api, "MAX_EXTENSION_HOURS", 0, 720, -0.5, 720.5),
    (api, "MAX_PER_HOLDER", 1, 100, 0, 101),
    (api, "REQUEST_TIMEOUT_SEC", 1, 120, 0.9, 121),
    (api, "DRAIN_NOTICE_SEC", 0, 29, -1, 61),
    (worker, "WORKER_PORT", 1, 65535, 0, 65536),
    (worker, "GRACE_PERIOD_MINUTES", 0, 1440, -1, 1441),
    (worker, "SYNC_INTERVAL_SEC", 0.5, 604800, 0, 604801),
    (worker, "CLEANUP_INTERVAL_SEC", 0.5, 604800, 0, 604801),
    (worker, "CLEANUP_POLL_SEC", 0.5, 60, 0, 61),
    (worker, "AUTO_EXPIRY_INTERVAL_SEC", 0.5, 604800, 0, 604801),
    (worker, "STALE_PURGE_INTERVAL_SEC", 0.5, 604800, 0, 604801),
    (worker, "STALE_PURGE_AFTER_HOURS", 0.5, 8760, 0, 8761),
    (worker, "GAUGES_INTERVAL_SEC", 0.5, 604800, 0, 604801),
    (worker, "CLEANUP_CONCURRENCY", 1, 200, 0, 201),
    (worker, "CLEANUP_MAX_ATTEMPTS", 1, 100, 0, 101),
    (worker, "CLEANUP_RETRY_BASE_SEC", 0.5, 604800, 0, 604801),
    (worker, "CLEANUP_RETRY_CAP_SEC", 0.5, 604800, 0, 604801),
    (worker, "CSP_DELETE_TIMEOUT_SEC", 0.5, 600, 0, 601),
    (worker, "CSP_READ_TIMEOUT_SEC", 0.5, 600, 0, 601),
    (worker, "CSP_PAGE_SIZE", 2, 1000, 1, 1001),
    (worker, "CSP_READ_ATTEMPTS", 1, 20, 0, 21),
    (worker, "CSP_MAX_BODY_MB", 0.01, 256, 0, 257),
    (worker, "CSP_DELETES_PER_SEC", 0.1, 1000, 0, 1001),
    (worker, "CLEANUP_CONCURRENCY_MIN", 1, 20, 0, 21),
    (worker, "CSP_DELETES_PER_SEC_MIN", 0.01, 10, 0, 10.1),
    (worker, "NIOSXAAS_TIMEOUT_SEC", 0.5, 600, 0, 601),
    (worker, "CSP_BREAKER_OPEN_SEC", 0.1, 3600, 0, 3601),
    (worker, "LEADER_LEASE_SEC", 1, 60, 0.9, 61),
    (worker, "CLEANUP_LEASE_SEC", 1, 600, 0.9, 601),
    (worker, "CLEANUP_FAILED_RETRY_HOURS", 0.1, 8760, 0, 8761),
]


@pytest.mark.parametrize(
    ("make", "name", "low", "high", "too_low", "too_high"), NUMBERS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_every_number_has_two_bounds(
    make: Any, name: str, low: float, high: float, too_low: float, too_high: float
) -> None:
    for good in (low, high):
        make(**{name: str(good)})
    for bad in (too_low, too_high, "nan", "inf", "-inf", "x", ""):
        assert [line.split(":")[0] for line in problems(make, **{name: str(bad)})] == [name], bad


def test_no_number_is_without_an_entry_in_that_table() -> None:
    numbers = {
        field.alias
        for settings in (ApiSettings, WorkerSettings)
        for field in settings.model_fields.values()
        if field.annotation in (int, float, int | None, float | None)
    }
    assert numbers == {name for _, name, *_ in NUMBERS}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("BROKER_ENV", ["production", "development"], ["Production", "test", ""]),
        ("BROKER_TENANT", ["a", "x" * 64, "A.b_c:d-1"], ["", "x" * 65, "a b", "a#b", "a/b"]),
        ("DDB_TABLE_NAME", ["abc", "x" * 255, "a.b_c-1"], ["ab", "x" * 256, "a b", "a:b"]),
        ("DDB_GSI1_NAME", ["abc"], ["ab", "a b"]),
        ("DDB_GSI2_NAME", ["abc"], ["ab", "a b"]),
        ("LOG_LEVEL", ["DEBUG", "INFO", "WARNING", "ERROR"], ["info", "LOUD", ""]),
        ("DDB_ENDPOINT_URL", ["https://x"], ["x", "ftp://x", "file:///x", ""]),
        ("RATE_LIMIT_PER_STUDENT", ["60/minute", "1 per 10 seconds", "5/2 hours", "1/9 days"],
         ["", "often", "60", "0/minute", "60/fortnight", "-1/minute", "60/minute;1/second", "1/0 seconds",
          "1/10 days", "1/100 hours", "1/10000 minutes", "1/100000 seconds"]),
        ("CORS_ALLOWED_ORIGINS", ["", "https://a.example.org", "https://a.org, http://b.org:8080"],
         ["example.org", "https://a.org/", "https://a.org/path", "https://", "ftp://a.org"]),
        ("TRUSTED_PROXIES", ["", "10.0.0.1", "10.0.0.0/16, 2001:db8::/32"],
         ["balancer", "10.0.0.0/33", "10.0.0.1/16", "10.0.0", "all"]),
    ],
)  # fmt: skip
def test_every_text_has_its_form(name: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        api(**{name: value})
    for value in bad:
        assert [line.split(":")[0] for line in problems(api, **{name: value})] == [name], value


@pytest.mark.parametrize("notice", ["30", "31", "60"])
def test_the_notice_leaves_time_to_drain(notice: str) -> None:
    (line,) = problems(api, DRAIN_NOTICE_SEC=notice)
    assert line.startswith("DRAIN_NOTICE_SEC: leaves nothing of GRACEFUL_SHUTDOWN_TIMEOUT_SEC")
    assert api(DRAIN_NOTICE_SEC=notice, GRACEFUL_SHUTDOWN_TIMEOUT_SEC="90").drain_notice_s == float(notice)


@given(
    st.integers(1, 999_999_999),
    st.sampled_from(["/", " per ", "/ ", " / "]),
    st.sampled_from(["", "9 ", "2"]),
    st.sampled_from(["second", "seconds", "minute", "minutes", "hour", "hours", "day", "days"]),
)
def test_whatever_passes_for_a_rate_limit_can_be_parsed(amount: int, per: str, multiple: str, unit: str) -> None:
    text = f"{amount}{per}{multiple}{unit}"
    try:
        settings = api(RATE_LIMIT_PER_STUDENT=text)
    except ValidationError:
        assert per == " / ", text
    else:
        assert parse(settings.limit_per_student).amount == amount


def test_no_problem_repeats_a_value() -> None:
    leaky = "hunter2-hunter2"
    found = problems(
        api,
        BROKER_API_TOKEN=leaky,
        BROKER_ENV=leaky,
        DDB_TABLE_NAME=leaky + " ",
        API_PORT=leaky,
        LAB_DURATION_HOURS=leaky,
        CORS_ALLOWED_ORIGINS=leaky,
        TRUSTED_PROXIES=leaky,
        RATE_LIMIT_PER_STUDENT=leaky,
        DDB_ENDPOINT_URL=leaky,
        LOG_LEVEL=leaky,
    )
    assert len(found) == 10
    assert leaky not in "".join(found)


def test_secrets_are_told_to_the_mask_and_to_nobody_else() -> None:
    settings = api()
    assert set(settings.secrets()) - {""} == {API_TOKEN, ADMIN_TOKEN}
    assert set(worker().secrets()) - {""} == {PROVIDER_TOKEN}
    for text in (repr(settings), str(settings), repr(settings.effective())):
        assert API_TOKEN not in text
        assert ADMIN_TOKEN not in text


def test_the_effective_configuration_names_every_variable_but_the_secrets() -> None:
    shown = api(AWS_REGION="eu-central-1", LAB_DURATION_HOURS="2.5").effective()
    assert shown["AWS_REGION"] == "eu-central-1"
    assert shown["LAB_DURATION_HOURS"] == 2.5
    assert shown["BROKER_ENV"] == "production"
    assert "BROKER_API_TOKEN" not in shown
    assert len(shown) == len(ApiSettings.model_fields) - 4
    assert "CSP_API_TOKEN" not in worker().effective()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDB_TABLE_NAME", "from-the-environment")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert CoreSettings().table_name == "from-the-environment"
    assert CoreSettings().region == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert CoreSettings().region == "eu-west-2", "AWS_REGION is the first of the two"


def test_lists_are_read_from_commas() -> None:
    settings = api(CORS_ALLOWED_ORIGINS=" https://a.org ,, https://b.org", TRUSTED_PROXIES="10.0.0.1")
    assert settings.cors_origins == ["https://a.org", "https://b.org"]
    assert settings.trusted_proxies == ["10.0.0.1"]
    assert csv(["as", "is"]) == ["as", "is"]
    assert csv("") == []


def test_hours_and_minutes_become_seconds() -> None:
    assert api(LAB_DURATION_HOURS="1.5").lease_s == 5400
    assert worker(GRACE_PERIOD_MINUTES="0.5").grace_s == 30


def test_the_defaults_are_those_of_the_design() -> None:
    a, w = api(), worker()
    assert (a.lab_duration_hours, a.drain_timeout_s, a.drain_notice_s, a.port) == (4, 30, 5, 8080)
    assert (a.status_index, a.track_index, a.max_per_holder) == ("StatusIndex", "TrackIndex", 5)
    assert (w.grace_minutes, w.sync_interval_s, w.sweep_interval_s, w.expiry_interval_s) == (30, 600, 300, 300)
    assert (w.delete_timeout_s, w.read_timeout_s, w.read_attempts, w.max_body_bytes) == (60, 10, 5, 8 * 2**20)


PEPPERS = ["3f8a1c97d2e64b05a9c17e60f4b28d53", "9c17e60f4b28d533f8a1c97d2e64b05a"]


def test_peppers_are_read_from_commas_and_masked_each() -> None:
    settings = api(API_KEY_PEPPER=f" {PEPPERS[0]} , {PEPPERS[1]}")
    assert settings.peppers == PEPPERS
    assert set(PEPPERS) <= set(settings.secrets())
    assert PEPPERS[0] not in repr(settings) + repr(settings.effective())
    assert api().peppers == []


@pytest.mark.parametrize(
    "value", ["x1" * 15, f"{PEPPERS[0]},short", "change-me-" * 5, f"{PEPPERS[0]},{PEPPERS[0]}", "a" * 40]
)
def test_a_weak_pepper_is_refused(value: str) -> None:
    with pytest.raises(ValidationError) as raised:
        api(API_KEY_PEPPER=value)
    (problem,) = problems_of(raised.value)
    assert problem.startswith("API_KEY_PEPPER: ")
    assert value not in problem
