"""The bodies of requests and answers about tenants and their pools. Their names are public API."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.deps import ID_PATTERN
from app.schemas_jobs import Reason
from broker.settings import RATE_LIMIT
from broker.tenant import Limits, Provider, Tenant

TENANT_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
MAX_DRAINED = 20
SECRET_PATTERN = r"^(env:CSP_API_TOKEN_[A-Z0-9_]{1,100}|[A-Za-z0-9/_+=.@-]{1,512}(#[A-Za-z0-9_-]{1,100})?)$"  # noqa: S105  a form

TenantName = Annotated[
    str,
    StringConstraints(pattern=TENANT_PATTERN),
    Field(description="1 to 63 of a-z 0-9 -, beginning with a letter or digit.", examples=["north"]),
]
_Prefix = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


def _plain(url: str) -> str:
    """A user, a query or a fragment in it would be sent with every call, or never."""
    if any(mark in url for mark in "@?#\\") or not url.isascii() or not url.isprintable():
        raise ValueError("is scheme, host and path alone, such as https://csp.example.org")
    return url


class ProviderIn(BaseModel):
    """Where the tenant's sandboxes come from."""

    model_config = ConfigDict(extra="forbid")

    base_url: Annotated[str, AfterValidator(_plain)] = Field(
        pattern=r"^https?://[^/]+", max_length=500, description="The provider's API; https outside development."
    )
    secret: str = Field(
        pattern=SECRET_PATTERN,
        description="Where its token is kept: a name in Secrets Manager, `name#key` for one text of a JSON "
        "secret, or `env:CSP_API_TOKEN_…`, a variable of the worker.",
        examples=["sandbox-broker/north/csp"],
    )


class TenantFacts(BaseModel):
    """What may be set. What is not sent stays as it is; null sets it back."""

    model_config = ConfigDict(extra="forbid")

    max_live: int | None = Field(None, ge=0, le=10_000, description="Allocations at once; null: no limit.")
    lease_s: int | None = Field(
        None, ge=60, le=30 * 24 * 3600, description="Of an allocation; null: LAB_DURATION_HOURS."
    )
    max_extension_s: int | None = Field(
        None, ge=0, le=30 * 24 * 3600, description="Beyond the lease, by extending; null: MAX_EXTENSION_HOURS."
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


def _drained(tenant: Tenant) -> list[DrainOut]:
    return [
        DrainOut(prefix=prefix, reason=drain.reason, by=drain.by, at=drain.at)
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


class TenantListOut(BaseModel):
    tenants: list[TenantOut] = Field(description="By name.")


class PoolIn(BaseModel):
    """What a pool is to do from now on."""

    model_config = ConfigDict(extra="forbid")

    prefix: str = Field(
        pattern=r"^[A-Za-z0-9._:-]{0,128}$", description='What its names begin with; "" is all of the tenant.'
    )
    state: Literal["open", "drained"] = Field(description="drained: nothing new is handed out of it.")
    reason: Reason


class PoolsOut(BaseModel):
    """What is drained, every process goes by it within about 2 seconds; and how full the quota is."""

    tenant: str = Field(description="Whose pools these are.")
    max_live: int | None = Field(description="Sandboxes that may be held at once; null: no limit.")
    held: int | None = Field(description="How many of them are held; null where there is no limit.")
    state: Literal["active", "drained"] = Field(description="drained: all of the tenant is.")
    drained: list[DrainOut]

    @classmethod
    def of(cls, tenant: Tenant, *, held: int | None) -> Self:
        most = tenant.limits.max_live
        return cls(
            tenant=tenant.name, max_live=most, held=held, state=tenant.state.value, drained=_drained(tenant)
        )
