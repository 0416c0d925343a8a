"""B3: a tenant's own connection: which addresses may be called, which secrets sent, and what is one provider."""

from typing import Any

import pytest

from broker.masking import Masker
from broker.metrics import Metrics
from broker.settings import WorkerSettings
from broker.tenant import OWN_SETTINGS, Provider, origin_of
from tests.provider.conftest import settings_of
from worker.provider.connection import Connection, connection_of
from worker.provider.door import open_provider
from worker.provider.errors import ProviderError
from worker.provider.secrets import GivenSource, ManagedSource, Secret, Unreadable

HELD = {
    "CSP_API_TOKEN_TEAM": "their-token",
    "CSP_API_TOKEN_EMPTY": "",
    "CSP_API_TOKEN": "the-installations-own",
    "CSP_API_TOKEN_FILE": "/run/secrets/token",
    "CSP_API_TOKEN_SECRET": "prod/csp",
    "BROKER_ADMIN_TOKEN": "not-for-providers",
    "XCSP_API_TOKEN_TEAM": "not-for-providers",
    "CSP_API_TOKEN_TEAM\n": "not-for-providers",
}


def connected(
    base_url: str = "https://csp.example.org", reference: str = "env:CSP_API_TOKEN_TEAM", **more: Any
) -> Connection:
    settings = settings_of(**({"BROKER_ENV": "production", "CSP_API_TOKEN": "0a1b2c3d4e5f6071829a"} | more))
    return connection_of(Provider(base_url=base_url, secret=reference), settings, environment=HELD)


@pytest.mark.parametrize(
    ("base_url", "why"),
    [
        ("http://csp.example.org", "is plain http"),
        ("ftp://csp.example.org", "must begin with https://"),
        ("csp.example.org", "must begin with https://"),
        ("", "must begin with https://"),
        ("https://user:word@csp.example.org", "neither user nor password"),
        ("https://user@csp.example.org", "neither user nor password"),
        ("https://csp.example.org/?token=word", "neither query nor fragment"),
        ("https://csp.example.org/#x", "neither query nor fragment"),
        ("https://csp.example.org:port", "is no URL"),
        ("https://", "plain URL"),
        ("https:///path", "plain URL"),
        ("https://csp.example.org\\@elsewhere.example.org", "neither user nor password"),
        ("https://csp.example.org/a b", "plain URL"),
        (" https://csp.example.org", "plain URL"),
        ("https://csp.example.org\n", "plain URL"),
        ("https://csp.ex\u00e4mple.org", "plain URL"),
        ("https://10.01.02.03", "names no host that can be called"),
        ("https://999.999.999.999/a", "names no host that can be called"),
        ("https://xn--a:8443", "names no host that can be called"),
        ("https://csp..example.org", "names no host that can be called"),
        (f"https://{'c' * 64}.example.org", "names no host that can be called"),
    ],
)
async def test_an_address_that_may_not_be_called_never_is_and_its_name_says_why(base_url: str, why: str) -> None:
    connection = connected(base_url)

    with pytest.raises(Unreadable, match=why) as refused:
        await connection.source.read()
    assert refused.value.kind == "BASE_URL_UNUSABLE"
    assert "word" not in str(refused.value).replace("password", "")
    assert (connection.usable, connection.base_url) == (False, "https://unusable.invalid")


@pytest.mark.parametrize(
    "base_url", ["https://csp.example.org", "https://csp.example.org:8443/a/v1/", "https://[::1]:8443"]
)
async def test_a_plain_address_may_be_called(base_url: str) -> None:
    assert (connected(base_url).usable, connected(base_url).base_url) == (True, base_url)
    assert connected("http://127.0.0.1:9100", BROKER_ENV="development").usable


@pytest.mark.parametrize(
    "name",
    [
        "BROKER_ADMIN_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "CSP_API_TOKEN",
        "CSP_API_TOKEN_",
        "XCSP_API_TOKEN_TEAM",
        "CSP_API_TOKEN_TEAM\n",
        " CSP_API_TOKEN_TEAM",
        "csp_api_token_team",
        "",
    ],
)
async def test_no_other_variable_may_be_named(name: str) -> None:
    connection = connected(reference=f"env:{name}")

    with pytest.raises(Unreadable, match="begins with CSP_API_TOKEN_ and no other") as refused:
        await connection.source.read()
    assert refused.value.kind == "SECRET_REFUSED"
    assert not connection.usable


def test_the_settings_that_look_like_a_tenants_token_are_all_known() -> None:
    aliases = {field.alias or "" for field in WorkerSettings.model_fields.values()}

    assert {alias for alias in aliases if alias.startswith("CSP_API_TOKEN_")} == OWN_SETTINGS


@pytest.mark.parametrize("name", sorted(OWN_SETTINGS))
async def test_a_setting_of_the_brokers_own_is_called_that(name: str) -> None:
    connection = connected(reference=f"env:{name}")

    with pytest.raises(Unreadable, match="names a setting of the broker's own") as refused:
        await connection.source.read()
    assert (refused.value.kind, connection.usable) == ("SECRET_REFUSED", False)


async def test_which_variable_is_not_set_can_be_read_in_the_log() -> None:
    connection = connected(reference="env:CSP_API_TOKEN_NONE")
    secret = Secret(
        connection.source, variable=connection.variable, for_header=True, metrics=Metrics(), tenant="team"
    )

    with pytest.raises(ProviderError) as missing:
        await secret.get()
    assert "CSP_API_TOKEN_NONE is not set" in Masker().text(str(missing.value))


@pytest.mark.parametrize(
    ("reference", "rotate"),
    [
        ("env:CSP_API_TOKEN_TEAM", "rotate CSP_API_TOKEN_TEAM in the workers' environment, and restart them"),
        ("teams/one#token", "rotate teams/one#token in Secrets Manager"),
        (None, "rotate CSP_API_TOKEN in the workers' environment, and restart them"),
    ],
    ids=["variable", "managed", "the installation's"],
)
def test_a_token_that_is_refused_is_named_with_where_it_is_kept(reference: str | None, rotate: str) -> None:
    own = connection_of(None, settings_of(), environment=HELD)
    connection = own if reference is None else connected(reference=reference)

    assert {connection.todo(kind, "team") for kind in ("HTTP_401", "HTTP_403")} == {rotate}
    assert Masker().text(f"HTTP_401: {rotate}") == f"HTTP_401: {rotate}"


def test_a_tenants_own_connection_that_cannot_be_used_is_mended_at_the_tenant() -> None:
    for kind in ("SECRET_UNREADABLE", "BASE_URL_UNUSABLE", "UNREACHABLE"):
        assert "sandbox-broker tenants show team, then tenants set team" in connected().todo(kind, "team")
        assert "tenants" not in connection_of(None, settings_of(), environment=HELD).todo(kind, "team")


async def test_a_variable_that_may_be_named_is_the_token_or_is_not_set() -> None:
    assert await connected().source.read() == "their-token"
    for name in ("CSP_API_TOKEN_EMPTY", "CSP_API_TOKEN_NONE"):
        with pytest.raises(Unreadable, match=f"{name} is not set") as missing:
            await connected(reference=f"env:{name}").source.read()
        assert missing.value.kind == "SECRET_UNREADABLE"


def test_any_other_reference_is_a_secret_of_secrets_manager() -> None:
    assert isinstance(connected(reference="teams/one#token").source, ManagedSource)


def test_without_a_provider_of_its_own_a_tenant_has_the_environments() -> None:
    connection = connection_of(None, settings_of(), environment=HELD)

    assert isinstance(connection.source, GivenSource)
    assert (connection.base_url, connection.origin, connection.own) == (settings_of().provider_url, None, False)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://csp.example.org", "https://CSP.example.org/", True),
        ("https://csp.example.org", "https://csp.example.org:443/v1", True),
        ("https://csp.example.org", "https://csp.example.org./v1", True),
        ("https://csp.example.org", "https://csp.example.com", False),
        ("https://csp.example.org", "https://csp.example.org:8443", False),
    ],
)
def test_which_connections_lead_to_one_provider(one: str, other: str, same: bool) -> None:
    assert (origin_of(one) == origin_of(other)) is same
    own = connection_of(Provider(base_url=other, secret="x"), settings_of(CSP_BASE_URL=one), environment=HELD)
    assert (own.origin is None) is same, "the environment's own, under whatever spelling"


async def test_services_are_cleared_at_the_environments_provider_alone() -> None:
    """Signing in elsewhere would show another provider the installation's password."""
    settings = settings_of(
        NIOSXAAS_ENABLED="true", NIOSXAAS_EMAIL="a@example.org", NIOSXAAS_PASSWORD="pw", NIOSXAAS_NAME_FILTER="x-"
    )
    own = connection_of(Provider(base_url="https://other.example.org", secret="x"), settings, environment=HELD)

    async with (
        open_provider(settings, Metrics()) as ours,
        open_provider(settings, Metrics(), connection=own) as theirs,
    ):
        assert ours.services is not None
        assert theirs.services is None
        assert [theirs.leads_to(provider) for provider in (None, "other.example.org:443")] == [False, True]
        assert ours.leads_to(None)


async def named(connection: Connection) -> str:
    async with open_provider(settings_of(), Metrics(), connection=connection) as door:
        return door.client.connection


async def test_a_connection_is_another_where_its_address_or_the_place_of_its_secret_is() -> None:
    """What one has listed is not gone because the other knows nothing of it."""
    environment = {"CSP_API_TOKEN_TEAM": "their-token", "CSP_API_TOKEN_OTHER": "their-token"}
    settings = settings_of()
    all_of_them = [
        connection_of(Provider(base_url=base_url, secret=secret), settings, environment=environment)
        for base_url in ("https://csp.example.org", "https://csp.example.org/other", "https://csp.example.com")
        for secret in ("env:CSP_API_TOKEN_TEAM", "env:CSP_API_TOKEN_OTHER", "teams/one#token", "teams/one#other")
    ]
    own = [settings, settings_of(CSP_API_TOKEN="", CSP_API_TOKEN_FILE="/run/token")]
    all_of_them += [connection_of(None, each, environment=environment) for each in own]

    assert len({await named(connection) for connection in all_of_them}) == 14


async def test_a_new_value_in_the_same_place_is_the_same_connection() -> None:
    team = Provider(base_url="https://csp.example.org", secret="env:CSP_API_TOKEN_TEAM")
    slashed = Provider(base_url="https://csp.example.org/", secret="env:CSP_API_TOKEN_TEAM")
    pairs = [(team, "one"), (team, "two"), (slashed, "one")]
    names = [
        await named(connection_of(provider, settings_of(), environment={"CSP_API_TOKEN_TEAM": value}))
        for provider, value in pairs
    ]
    assert len(set(names)) == 1
    assert "one" not in names[0]
