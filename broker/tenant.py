"""A tenant: whose sandboxes these are, from which provider they come, and how much of them it may hold. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Self
from urllib.parse import urlsplit


class TenantState(StrEnum):
    ACTIVE = "active"
    DRAINED = "drained"  # hands out nothing new; releases, syncs and deletions go on


OWN_SETTINGS: Final = frozenset({"CSP_API_TOKEN_FILE", "CSP_API_TOKEN_SECRET"})
"""Variables that look like a tenant's token, and say where the installation's own is kept."""
SETTING_NAMED: Final = "names a setting of the broker's own, not a tenant's token: call the variable otherwise"


def origin_of(base_url: str) -> str:
    """The host and port of a provider, in one spelling: two connections with the same are to one provider.

    The path says nothing: to take two providers for one costs an account that both name, to take one for two
    would hand an account out twice. "" for what is no URL.
    """
    try:
        url = urlsplit(base_url.strip())
        host = (url.hostname or "").rstrip(".")
        port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:
        return ""
    return f"{host}:{port}" if host and port else ""


def is_host(name: str) -> bool:
    """Whether a host of this name can be called: what looks like an address is one, and what says that it is
    encoded (`xn--`) can be decoded. Some client or other refuses the rest, and none says so in the same way."""
    try:
        if re.fullmatch(r"[0-9.]+", name):
            IPv4Address(name)
        elif ":" in name:
            IPv6Address(name)
        else:
            name.encode("idna").decode("idna")
    except (ValueError, UnicodeError):
        return False
    return bool(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a tenant may. None is the installation's default: no quota, the lab's duration, its extension."""

    max_live: int | None = None  # allocations at once
    lease_s: int | None = None  # of an allocation
    max_extension_s: int | None = None  # beyond that, by extending
    requests: str | None = None  # all of its credentials together, in one process: "500/10 seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Where its sandboxes come from. The token is never kept here: `secret` names it.

    `name` or `name#key` in Secrets Manager, or `env:CSP_API_TOKEN_…` in the worker's environment.
    """

    base_url: str
    secret: str

    @property
    def origin(self) -> str:
        """Which provider it is: see origin_of()."""
        return origin_of(self.base_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Nothing new is handed out of this pool."""

    reason: str
    by: str
    at: int  # Unix seconds, UTC
    platform: bool = False  # by the installation's operators, who alone end it


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """As its item says. A pool is what begins with a prefix; the prefix "" is all of the tenant's."""

    name: str
    version: int = 0  # +1 per change; every change is conditional on it
    created_at: int = 0
    limits: Limits = field(default_factory=Limits)
    provider: Provider | None = None  # None: the installation's own, from the environment
    prefixes: tuple[str, ...] = ()  # of the provider's accounts those whose name begins so; none: all
    drained: Mapping[str, Drain] = field(default_factory=dict)  # by the pool's prefix

    @property
    def supply(self) -> tuple[object, ...]:
        """What a door to its provider, and what is made of a listing there, depend on."""
        return self.provider, self.prefixes

    @property
    def state(self) -> TenantState:
        return TenantState.DRAINED if "" in self.drained else TenantState.ACTIVE

    def rivals(self, tenants: Iterable["Tenant"], *, installation: str) -> frozenset[str]:
        """The prefixes of the other tenants whose sandboxes come from the same provider; "" of who has none.

        Args:
            installation: the origin of the provider that those without one of their own have.
        """

        def origin(tenant: Tenant) -> str:
            return tenant.provider.origin if tenant.provider else installation

        others = [t for t in tenants if t.name != self.name and origin(t) == origin(self)]
        return frozenset(prefix for other in others for prefix in other.prefixes or ("",))

    def doubts(self, tenants: Iterable["Tenant"]) -> list[str]:
        """What whoever set this up may not have meant: accounts and tokens that are another tenant's, too."""
        found: list[str] = []
        if self.provider and self.provider.base_url.startswith("http://"):
            found.append(f"{self.provider.base_url}: the token is sent in the clear")
        for other in tenants:
            if other.name == self.name:
                continue
            if self._shares_provider(other):
                pairs = [(own, its) for own in self.prefixes or ("",) for its in other.prefixes or ("",)]
                found += [doubt for own, its in pairs if (doubt := _overlap(own, its, other.name))]
            if self.provider and other.provider and self.provider.secret == other.provider.secret:
                found.append(f"secret {self.provider.secret}: tenant {other.name} has it, too")
        return found

    def taken_from(self, tenants: Iterable["Tenant"]) -> list[tuple["Tenant", str]]:
        """Whose sandboxes of which of its prefixes become its own: of each tenant that had them by a wider one."""
        others = [other for other in tenants if other.name != self.name and self._shares_provider(other)]
        return [
            (other, own)
            for other in others
            for own in self.prefixes
            if any(own.startswith(its) for its in other.prefixes or ("",)) and own not in other.prefixes
        ]

    def _shares_provider(self, other: "Tenant") -> bool:
        return (self.provider and self.provider.origin) == (other.provider and other.provider.origin)

    def owns(self, account_name: str, rivals: frozenset[str] = frozenset()) -> bool:
        """Whether an account of this name is one of its pool: of several prefixes that fit, the longest has it.

        Who has no prefixes has what no rival's prefix names. An equal prefix of two is whoever's was first.
        """
        fits = [len(prefix) for prefix in self.prefixes or ("",) if account_name.startswith(prefix)]
        if not fits:
            return False
        longer = range(max(fits) + 1, len(account_name) + 1)
        return not any(account_name[:length] in rivals for length in longer)  # however many tenants there are

    @staticmethod
    def is_named_by(rivals: frozenset[str], account_name: str) -> bool:
        """Whether an account of this name, which is not this tenant's, is one of its rivals'."""
        return any(account_name[:length] in rivals for length in range(len(account_name) + 1))

    def drain_of(self, name: str) -> tuple[str, Drain] | None:
        """The drained pool, the widest one, that a sandbox of this name, or every one that begins so, is in."""
        within = [(prefix, drain) for prefix, drain in self.drained.items() if name.startswith(prefix)]
        return min(within, key=lambda found: len(found[0]), default=None)

    def created(self, *, now: int) -> Self:
        return self._changed(created_at=now)

    def drain(self, prefix: str, drain: Drain) -> Self:
        """Hand out nothing more of a pool."""
        return self._changed(drained={**self.drained, prefix: drain})

    def open(self, prefix: str) -> Self:
        """Hand out of a pool again. A pool within one that stays drained stays closed."""
        return self._changed(drained={p: drain for p, drain in self.drained.items() if p != prefix})

    def limited(self, **limits: int | str | None) -> Self:
        """Other limits; those that are not named stay."""
        return self._changed(limits=replace(self.limits, **limits))  # type: ignore[arg-type]

    def supplied(self, *, provider: Provider | None, prefixes: tuple[str, ...]) -> Self:
        """Sandboxes from elsewhere: what it has stays, and goes stale where it is listed no more."""
        return self._changed(provider=provider, prefixes=prefixes)

    def _changed(self, **changes: object) -> Self:
        return replace(self, version=self.version + 1, **changes)  # type: ignore[arg-type]


def _overlap(own: str, its: str, other: str) -> str | None:
    """Who has which accounts, where it is not what one tenant's prefix alone says. None: it is.

    A prefix within no prefix, which is all there is, is how tenants share a provider: nothing to wonder at.
    """
    if own == its:
        which = f"prefix {own}" if own else "no prefix"
        return f"{which}: tenant {other} has the same at this provider; an account is whoever's lists it first"
    if own and its and own.startswith(its):
        return f"prefix {own}: within {its} of tenant {other}, which keeps the rest; the longest prefix wins"
    if own and its and its.startswith(own):
        return f"prefix {own}: what begins with {its} stays tenant {other}'s; the longest prefix wins"
    return None
