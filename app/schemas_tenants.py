"""The bodies of requests and answers about tenants and their pools. Their names are public API."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.schemas_jobs import Reason
from app.spelling import ID_PATTERN, NEW_TENANT_PATTERN, POOL_PATTERN, SECRET_PATTERN, URL_PATTERN
from broker.settings import RATE_LIMIT
from broker.tenant import OWN_SETTINGS, SETTING_NAMED, Limits, Provider, Tenant, is_host, origin_of

MAX_DRAINED = 20
MAX_WARNINGS = 20

TenantName = Annotated[
    str,
    StringConstraints(pattern=NEW_TENANT_PATTERN),
    Field(description="1 to 63 of a-z 0-9 -, beginning with a letter or digit.", examples=["north"]),
]
_Prefix = Annotated[str, StringConstraints(pattern=ID_PATTERN), Field(examples=["north-"])]


def _plain(url: str) -> str:
    """A user, a query or a fragment in it would be sent with every call, or never."""
    if any(mark in url for mark in "@?#\\") or not url.isascii() or not url.isprintable():
        raise ValueError("is scheme, host and path alone, such as https://csp.example.org")
    if not origin_of(url) or not is_host(urlsplit(url).hostname or ""):
        raise ValueError("names no host that can be called; a good one is https://csp.example.org")
    return url


def _tenants_own(secret: str) -> str:
    """The form allows two variables too many; pydantic's patterns know no exceptions."""
    if secret.removeprefix("env:") in OWN_SETTINGS and secret.startswith("env:"):
        raise ValueError(SETTING_NAMED)
    return secret


class ProviderIn(BaseModel):
    """Where the tenant's sandboxes come from."""

    model_config = ConfigDict(extra="forbid")

    base_url: Annotated[str, AfterValidator(_plain)] = Field(
        pattern=URL_PATTERN,
        max_length=500,
        description="The provider's API; https outside development.",
        examples=["https://csp.example.org"],
    )
    secret: Annotated[str, AfterValidator(_tenants_own)] = Field(
        pattern=SECRET_PATTERN,
        description="Where its token is kept: a name in Secrets Manager, `name#key` for one text of a JSON "
        "secret, or `env:CSP_API_TOKEN_…`, a variable of the worker.",
        examples=["sandbox-broker/north/csp"],
    )


class TenantFacts(BaseModel):
    """What may be set. What is not sent stays as it is; null sets it back."""

    model_config = ConfigDict(extra="forbid")

    max_live: int | None = Field(
        None, ge=0, le=10_000, description="Allocations at once; null: no limit.", examples=[200]
    )
    lease_s: int | None = Field(
        None,
        ge=60,
        le=30 * 24 * 3600,
        description="Of an allocation; null: LAB_DURATION_HOURS.",
        examples=[14_400],
    )
    max_extension_s: int | None = Field(
        None,
        ge=0,
        le=30 * 24 * 3600,
        description="Beyond the lease, by extending; null: MAX_EXTENSION_HOURS.",
        examples=[7200],
    )
    requests: str | None = Field(
        None,
        pattern=RATE_LIMIT,
        description="Of all its credentials together, in each API process; null: no limit.",
        examples=["500/10 seconds"],
    )
    provider: ProviderIn | None = Field(None, description="null: the installation's own connection.")
    prefixes: list[_Prefix] = Field(
        [],
        max_length=20,
        description="Of the provider's accounts those whose name begins so; empty: all of them.",
        examples=[["north-"]],
    )
    reason: Reason

    def applied(self, tenant: Tenant) -> Tenant:
        """The tenant with what was sent."""
        sent = self.model_fields_set
        limits = {name: getattr(self, name) for name in Limits.__dataclass_fields__ if name in sent}
        changed = tenant.limited(**limits)
        provider = changed.provider
        if "provider" in sent:
            said = self.provider
            provider = None if said is None else Provider(base_url=said.base_url.rstrip("/"), secret=said.secret)
        prefixes = tuple(dict.fromkeys(self.prefixes)) if "prefixes" in sent else changed.prefixes
        return changed.supplied(provider=provider, prefixes=prefixes)


class TenantIn(TenantFacts):
    """A new tenant."""

    name: TenantName


class TenantChangeIn(TenantFacts):
    """A change of a tenant."""

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if not self.model_fields_set - {"reason"}:
            raise ValueError("says nothing that is to be changed")
        return self


class DrainOut(BaseModel):
    """A pool that hands out nothing new."""

    prefix: str = Field(description='What its names begin with; "" is all of the tenant.')
    reason: str
    by: str = Field(description="The credential that drained it.")
    at: int = Field(description="Unix seconds, UTC.")
    platform: bool = Field(description="Drained by the installation's operators: they alone open it.")


def _drained(tenant: Tenant) -> list[DrainOut]:
    return [
        DrainOut(prefix=prefix, reason=drain.reason, by=drain.by, at=drain.at, platform=drain.platform)
        for prefix, drain in sorted(tenant.drained.items())
    ]


class ProviderOut(BaseModel):
    base_url: str
    secret: str = Field(description="Where the token is kept; never the token.")


class TenantOut(BaseModel):
    """A tenant. A limit of null is the installation's default."""

    name: str
    state: Literal["active", "drained"]
    created_at: int = Field(description="Unix seconds, UTC.")
    max_live: int | None
    lease_s: int | None
    max_extension_s: int | None
    requests: str | None
    provider: ProviderOut | None = Field(description="null: the installation's own connection.")
    prefixes: list[str]
    drained: list[DrainOut]

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        limits: dict[str, Any] = {name: getattr(tenant.limits, name) for name in Limits.__dataclass_fields__}
        provider = tenant.provider
        return cls(
            name=tenant.name,
            state=tenant.state.value,
            created_at=tenant.created_at,
            provider=None if provider is None else ProviderOut(base_url=provider.base_url, secret=provider.secret),
            prefixes=list(tenant.prefixes),
            drained=_drained(tenant),
            **limits,
        )


def _warnings(what: str) -> Any:
    return Field([], description=f"It was done; but look whether this is meant: {what}")


class TenantSetOut(TenantOut):
    """A tenant as it was just set up, and what may not be meant so."""

    warnings: list[str] = _warnings("a prefix or secret that another tenant has; a token sent in the clear.")

    @classmethod
    def set_up(cls, tenant: Tenant, doubts: list[str]) -> Self:
        told = cls.of(tenant)
        more = len(doubts) - MAX_WARNINGS
        told.warnings = doubts[:MAX_WARNINGS] + ([f"and {more} more of the kind"] if more > 0 else [])
        return told


class TenantListOut(BaseModel):
    """One page, by name. `cursor` asks for the next one; null after the last."""

    tenants: list[TenantOut]
    count: int = Field(description="Rows on this page.")
    cursor: str | None


class PoolIn(BaseModel):
    """What a pool is to do from now on."""

    model_config = ConfigDict(extra="forbid")

    prefix: str = Field(
        pattern=POOL_PATTERN,
        description='What its names begin with; "" is all of the tenant.',
        examples=["lab-7-"],
    )
    state: Literal["open", "drained"] = Field(description="drained: nothing new is handed out of it.")
    reason: Reason


class PoolsOut(BaseModel):
    """What is drained, every process goes by it within about 2 seconds; and how full the quota is."""

    tenant: str = Field(description="Whose pools these are.")
    max_live: int | None = Field(description="Sandboxes that may be held at once; null: no limit.")
    held: int | None = Field(
        description="How many are held, those from before there was a limit, too; null where there is no limit."
    )
    prefixes: list[str] = Field(description="What the names of its accounts begin with; empty: no such choice.")
    state: Literal["active", "drained"] = Field(description="drained: all of the tenant is.")
    drained: list[DrainOut]

    @classmethod
    def of(cls, tenant: Tenant, *, held: int | None) -> Self:
        most = tenant.limits.max_live
        return cls(
            tenant=tenant.name,
            max_live=most,
            held=held,
            prefixes=list(tenant.prefixes),
            state=tenant.state.value,
            drained=_drained(tenant),
        )


class PoolSetOut(PoolsOut):
    """The same, after a change."""

    warnings: list[str] = _warnings("a prefix with which no sandbox begins yet.")
