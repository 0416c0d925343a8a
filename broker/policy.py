"""Decisions of the worker, pure: what a listing means, when to expire, when to try again."""

from collections.abc import Mapping
from dataclasses import dataclass

from broker.sandbox import Sandbox, State

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


@dataclass(frozen=True, slots=True)
class Decision:
    """What sync does with one sandbox: `after` is written under `action`; None is nothing at all."""

    action: str
    after: Sandbox | None


UNCHANGED = Decision("unchanged", None)


def on_listed(sandbox: Sandbox, account: Account, *, now: int) -> Decision:
    """What a listed account means for the sandbox that we know under its id."""
    if account.external_id != sandbox.external_id and sandbox.state is not State.AVAILABLE:
        return Decision("identity_changed", None)  # whoever holds it was told the other account: leave it be
    if sandbox.state is State.DELETED:
        if now - sandbox.since > DELETE_AGAIN_AFTER_S:
            return Decision("delete_again", sandbox.delete_again(now=now))
        return UNCHANGED
    if sandbox.state is State.STALE:
        return Decision("came_back", sandbox.come_back(now=now))
    if sandbox.state is State.PENDING_DELETION:  # someone may hold its lease: leave it alone
        return UNCHANGED
    described = (account.name, account.external_id, dict(account.attributes), None)
    if described == (sandbox.name, sandbox.external_id, dict(sandbox.attributes), sandbox.missing_since):
        return UNCHANGED
    return Decision(
        "updated",
        sandbox.described(name=account.name, external_id=account.external_id, attributes=account.attributes),
    )


def on_missing(sandbox: Sandbox, *, now: int) -> Decision:
    """What it means that a complete listing does not name this sandbox."""
    if sandbox.state is State.AVAILABLE:
        return Decision("stale", sandbox.go_stale(now=now))
    if sandbox.state in MISSING_MATTERS and sandbox.missing_since is None:
        return Decision("missing", sandbox.go_missing(now=now))
    return UNCHANGED


def retry_delay_s(attempt: int, *, base_s: float, cap_s: float, draw: float) -> float:
    """Seconds to wait after failed attempt `attempt` (1-based): exponential with full jitter.

    `draw` is uniform in [0, 1). At least half of the ceiling is always waited, so that a storm
    spreads without anyone returning at once ("equal jitter", AWS Architecture Blog,
    "Exponential Backoff And Jitter", 2015).
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 30))
    return ceiling / 2 + draw * ceiling / 2
