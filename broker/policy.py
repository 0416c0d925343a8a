"""Decisions of the worker, pure: what a listing means, when to expire, when to try again."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from broker.sandbox import Sandbox, State, account_name

DELETE_AGAIN_AFTER_S = 3600
"""A provider may list a deleted account for a while; after an hour we delete it again (DESIGN, States)."""

MISSING_MATTERS = frozenset({State.ALLOCATED, State.DELETION_FAILED, State.QUARANTINED})
"""States in which vanishing at the provider is worth an alert. Pending deletion is vanishing on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A usable sandbox account as the provider lists it."""

    id: str
    name: str
    external_id: str
    attributes: Mapping[str, str]
    provider: str | None = None  # as in Sandbox


@dataclass(frozen=True, slots=True)
class Decision:
    """What sync does with one sandbox: `after` is written under `action`; None is nothing at all."""

    action: str
    after: Sandbox | None


UNCHANGED = Decision("unchanged", None)


def on_listed(sandbox: Sandbox, account: Account, *, now: int) -> Decision:
    """What a listed account means for the sandbox that we know under its id."""
    if _another(sandbox, account) and sandbox.state is not State.AVAILABLE:
        return Decision("identity_changed", None)  # whoever holds it was told the other account: leave it be
    if sandbox.state is State.DELETED:
        if now - sandbox.since > DELETE_AGAIN_AFTER_S:
            return Decision("delete_again", sandbox.delete_again(now=now))
        return UNCHANGED
    if sandbox.state is State.STALE:
        return Decision("came_back", sandbox.come_back(now=now))
    if sandbox.state is State.PENDING_DELETION:  # someone may hold its lease: leave it alone
        return UNCHANGED if sandbox.listed_by is None else Decision("updated", sandbox.found_again())
    listed = (account.name, account.external_id, account.provider, dict(account.attributes))
    known = (sandbox.name, sandbox.external_id, sandbox.provider, dict(sandbox.attributes))
    if listed == known and sandbox.missing_since is None and sandbox.listed_by is None:
        return UNCHANGED
    return Decision(
        "updated",
        sandbox.described(
            name=account.name,
            external_id=account.external_id,
            attributes=account.attributes,
            provider=account.provider,
        ),
    )


def _another(sandbox: Sandbox, account: Account) -> bool:
    listed, known = account_name(account.external_id), account_name(sandbox.external_id)
    return (account.provider, listed) != (sandbox.provider, known)


def on_missing(sandbox: Sandbox, *, now: int, former: str | None = None) -> Decision:
    """What it means that a complete listing does not name this sandbox.

    Args:
        former: the connection that listed it until now, where this listing is another one's first.
    """
    if sandbox.state is State.AVAILABLE:
        return Decision("stale", sandbox.go_stale(now=now))
    left = sandbox if former is None or sandbox.listed_by is not None else sandbox.left_behind(former)
    if sandbox.state in MISSING_MATTERS and sandbox.missing_since is None:
        return Decision("missing", left.go_missing(now=now))
    return UNCHANGED if left is sandbox else Decision("updated", left)


class Explained(StrEnum):
    """What an account of the provider's listing is to us: exactly one of these."""

    AVAILABLE = "available"
    HELD = "held"
    BEING_DELETED = "being_deleted"  # or deleted, and listed for a while longer
    FAILED = "failed"
    QUARANTINED = "quarantined"
    FOREIGN = "foreign"  # in conflict: by its name this tenant's, and owned by another sandbox
    OTHER_TENANTS = "other_tenants"  # by its name another tenant's at the same provider
    NO_SANDBOX = "no_sandbox"  # of another type, not active, or by its name nobody's: no business of anybody
    UNKNOWN = "unknown"  # nonsense, or an id that names another account than before: someone must look


EXPLAINED: Mapping[State, Explained] = {
    State.AVAILABLE: Explained.AVAILABLE,
    State.ALLOCATED: Explained.HELD,
    State.PENDING_DELETION: Explained.BEING_DELETED,
    State.DELETED: Explained.BEING_DELETED,
    State.DELETION_FAILED: Explained.FAILED,
    State.QUARANTINED: Explained.QUARANTINED,
    State.STALE: Explained.UNKNOWN,  # listed and stale at once: until the next sync brings it back
}

GUARDED = frozenset({State.AVAILABLE, State.ALLOCATED, State.QUARANTINED})
"""States in which the provider should list a sandbox. Our own deletions are in none of them."""

CONFIRMATIONS = 3
"""Equal listings in a row after which even an alarming one is believed."""

SKETCH = 64
ALIKE = 0.9
"""Two listings are equal where what they lack is nearly the same set: of a workshop's missing sandboxes some are
released between two of them, and half a pool at random shares a third with another such half."""

NEVER_GOES_AFTER = 2
"""So many deletions that the provider confirmed, and went on listing the account: nothing explains that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What a complete listing lacks of what it should name."""

    expected: int  # sandboxes in GUARDED states that the provider listed until now
    missing: int  # of these, not listed
    sketch: frozenset[int]  # of the missing ids: the SKETCH smallest fingerprints
    unreadable: int = 0  # entries of which nobody can tell whether they are among the missing

    @property
    def alarming(self) -> bool:
        """Half of what should be there is gone at once, or unreadable: rather a fault than the truth."""
        return self.missing > 0 and (2 * self.missing >= self.expected or self.unreadable > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A listing that is not believed: how often in a row it came, and since when (Unix seconds)."""

    sketch: frozenset[int]
    times: int
    since: int
    counted_at: int


def _alike(one: frozenset[int], other: frozenset[int]) -> bool:
    """Whether two sets are nearly the same, by their smallest fingerprints (bottom-k sketch: Broder, 1997)."""
    smallest = set(sorted(one | other)[:SKETCH])
    return not smallest or len(smallest & one & other) >= ALIKE * len(smallest)


def suspect(
    listing: Missing, before: Suspicion | None, *, confirmed: bool, now: int, apart_s: float = 0
) -> Suspicion | None:
    """The suspicion that this listing leaves behind, None where it is believed and may make sandboxes stale.

    An alarming listing is believed once an operator has confirmed it, or when it has come three times in a
    row with nearly the same sandboxes missing, each `apart_s` seconds or more after the one before: a lie that is
    asked for three times in a second is told once.
    """
    if confirmed or not listing.alarming:
        return None
    if before is None or not _alike(before.sketch, listing.sketch):
        since = before.since if before else now
        return Suspicion(sketch=listing.sketch, times=1, since=since, counted_at=now)
    if now - before.counted_at < apart_s:
        return before
    if before.times + 1 >= CONFIRMATIONS:
        return None
    return Suspicion(sketch=listing.sketch, times=before.times + 1, since=before.since, counted_at=now)


def retry_delay_s(attempt: int, *, base_s: float, cap_s: float, draw: float) -> float:
    """Seconds to wait after failed attempt `attempt` (1-based): exponential with full jitter.

    `draw` is uniform in [0, 1). At least half of the ceiling is always waited, so that a storm
    spreads without anyone returning at once ("equal jitter", AWS Architecture Blog,
    "Exponential Backoff And Jitter", 2015).
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 30))
    return ceiling / 2 + draw * ceiling / 2
