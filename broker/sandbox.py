"""One sandbox and its legal moves. Pure: no clock, no store."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from broker.errors import IllegalMove

TOMBSTONE_S = 30 * 24 * 3600
"""A deleted sandbox is remembered for 30 days. While the provider lists it, it is deleted again every
hour, and each time begins the 30 days anew: a tombstone never runs out under a listed account."""


def account_name(external_id: str) -> str:
    """What a deletion at the provider names: two ids with the same are one account, however they are spelled."""
    return external_id.rpartition("/")[2].casefold()


class State(StrEnum):
    AVAILABLE = "available"
    ALLOCATED = "allocated"
    PENDING_DELETION = "pending_deletion"
    DELETED = "deleted"
    DELETION_FAILED = "deletion_failed"
    STALE = "stale"
    QUARANTINED = "quarantined"


class EndedBy(StrEnum):
    """What ended an allocation."""

    RELEASE = "released"
    EXPIRY = "expired"
    FORCE_RELEASE = "force_released"


MOVES: dict[State, frozenset[State]] = {
    State.AVAILABLE: frozenset({State.ALLOCATED, State.STALE, State.QUARANTINED}),
    State.ALLOCATED: frozenset({State.PENDING_DELETION}),
    State.PENDING_DELETION: frozenset({State.DELETED, State.DELETION_FAILED}),
    State.DELETION_FAILED: frozenset({State.PENDING_DELETION, State.DELETED}),
    State.DELETED: frozenset({State.PENDING_DELETION}),
    State.STALE: frozenset({State.AVAILABLE, State.QUARANTINED}),  # or removed: then the item goes, see purge
    State.QUARANTINED: frozenset({State.AVAILABLE, State.PENDING_DELETION}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A provider account in the pool of one tenant. Instants are Unix seconds, UTC."""

    tenant: str
    id: str
    state: State
    version: int  # begins at the second it was added, +1 per write; every write is conditional on it
    name: str
    external_id: str
    provider: str | None = None  # whose account it is: a tenant's own, by its origin; None: the installation's
    since: int  # when the present state began
    attributes: Mapping[str, str] = field(default_factory=dict)  # the provider's, as it sent them
    holder: str | None = None
    claim_key: str | None = None  # the Idempotency-Key of the claim, None for the plain one
    slot: int | None = None  # of the tenant's quota, while it is allocated under one
    track: str | None = None
    generation: int | None = None  # the version at which it was allocated: who holds it names it, see Lifecycle
    allocated_at: int | None = None
    expires_at: int | None = None
    heartbeat_at: int | None = None  # when its holder last gave a sign of life
    ended_at: int | None = None
    ended_by: EndedBy | None = None
    attempt: int = 0  # of deleting
    again: int = 0  # how often the provider went on listing it an hour after a deletion that it had confirmed
    next_attempt_at: int | None = None
    lease_token: str | None = None
    last_error: str | None = None
    services: str | None = None  # what became of the services inside it before it was deleted
    missing_since: int | None = None  # the provider stopped listing it while it was not available
    listed_by: str | None = None  # the connection that listed it last, where the tenant's next has not: see Sync
    reason: str | None = None  # why an operator last moved it; none once a student has it
    ttl: int | None = None

    def allocate(
        self,
        *,
        holder: str,
        claim_key: str | None,
        track: str | None,
        now: int,
        lease_s: int,
        slot: int | None = None,
    ) -> Self:
        return self._move(
            State.ALLOCATED,
            now,
            holder=holder,
            claim_key=claim_key,
            slot=slot,
            track=track,
            generation=self.version + 1,
            allocated_at=now,
            expires_at=now + lease_s,
            reason=None,
        )

    def extend(self, *, until: int) -> Self:
        """The allocation lasts until `until` at least: it is never shortened."""
        self._must_be(State.ALLOCATED)
        return self._changed(expires_at=max(until, self.expires_at or 0))

    def beat(self, *, now: int) -> Self:
        """Its holder gave a sign of life."""
        self._must_be(State.ALLOCATED)
        return self._changed(heartbeat_at=now)

    def end(self, *, by: EndedBy, now: int, reason: str | None = None) -> Self:
        """The allocation ends, for whatever reason; the account is due for deletion at once."""
        self._must_be(State.ALLOCATED)
        return self._move(
            State.PENDING_DELETION, now, ended_at=now, ended_by=by, next_attempt_at=now, slot=None, reason=reason
        )

    def seated(self, slot: int) -> Self:
        """It was allocated before its tenant had a quota: from now on it counts."""
        self._must_be(State.ALLOCATED)
        return self._changed(slot=slot)

    def lease(self, *, token: str, now: int, lease_s: int) -> Self:
        """Someone works on deleting it until `now + lease_s`; that counts as an attempt."""
        self._must_be(State.PENDING_DELETION)
        return self._changed(lease_token=token, attempt=self.attempt + 1, next_attempt_at=now + lease_s)

    def renew_lease(self, *, now: int, lease_s: int) -> Self:
        """Whoever works on deleting it still does."""
        self._must_be(State.PENDING_DELETION)
        return self._changed(next_attempt_at=now + lease_s)

    def finish_deletion(self, *, now: int, services: str | None = None) -> Self:
        self._must_be(State.PENDING_DELETION)
        return self._move(
            State.DELETED, now, lease_token=None, next_attempt_at=None, services=services, ttl=now + TOMBSTONE_S
        )

    def fail_deletion(self, *, error: str, now: int, retry_at: int | None) -> Self:
        """One try failed: due again at `retry_at`, or DELETION_FAILED where that is None."""
        self._must_be(State.PENDING_DELETION)
        if retry_at is None:
            return self._move(State.DELETION_FAILED, now, lease_token=None, next_attempt_at=None, last_error=error)
        return self._changed(lease_token=None, next_attempt_at=retry_at, last_error=error)

    def hand_back(self, *, error: str, retry_at: int) -> Self:
        """The lease ends without a try that says anything of the account: due again at `retry_at`, not counted."""
        self._must_be(State.PENDING_DELETION)
        attempt = max(0, self.attempt - 1)
        return self._changed(lease_token=None, next_attempt_at=retry_at, last_error=error, attempt=attempt)

    def delete_again(self, *, now: int) -> Self:
        """The provider still lists what we deleted: a tombstone becomes due once more."""
        self._must_be(State.DELETED)
        return self._move(
            State.PENDING_DELETION,
            now,
            attempt=0,
            next_attempt_at=now,
            ttl=None,
            again=self.again + 1,
            listed_by=None,
        )

    def retry_deletion(self, *, reason: str | None, now: int) -> Self:
        """What was given up is due again at once, with all its attempts before it."""
        self._must_be(State.DELETION_FAILED)
        return self._move(State.PENDING_DELETION, now, attempt=0, next_attempt_at=now, reason=reason)

    def abandon(self, *, reason: str | None, now: int) -> Self:
        """Nobody tries to delete it any more: a tombstone, as after a deletion."""
        self._must_be(State.DELETION_FAILED)
        return self._move(State.DELETED, now, ttl=now + TOMBSTONE_S, reason=reason)

    def quarantine(self, *, reason: str | None, now: int) -> Self:
        self._must_be(State.AVAILABLE)
        return self._move(State.QUARANTINED, now, reason=reason)

    def hold(self, *, reason: str | None, now: int) -> Self:
        """Not listed here any more, and a student's elsewhere: where it is listed again, it is not handed out."""
        self._must_be(State.STALE)
        return self._move(State.QUARANTINED, now, reason=reason, missing_since=self.since)

    def reinstate(self, *, reason: str | None, now: int) -> Self:
        self._must_be(State.QUARANTINED)
        return self._move(State.AVAILABLE, now, reason=reason)

    def discard(self, *, reason: str | None, now: int) -> Self:
        """Out of quarantine, never to be handed out: due for deletion at once."""
        self._must_be(State.QUARANTINED)
        return self._move(State.PENDING_DELETION, now, next_attempt_at=now, reason=reason)

    def go_stale(self, *, now: int) -> Self:
        return self._move(State.STALE, now)

    def come_back(self, *, now: int) -> Self:
        self._must_be(State.STALE)
        return self._move(State.AVAILABLE, now, listed_by=None)

    def described(
        self, *, name: str, external_id: str, attributes: Mapping[str, str], provider: str | None = None
    ) -> Self:
        """What the provider says of it now, in any state."""
        return self._changed(
            name=name,
            external_id=external_id,
            provider=provider,
            attributes=dict(attributes),
            missing_since=None,
            listed_by=None,
        )

    def go_missing(self, *, now: int) -> Self:
        return self._changed(missing_since=now)

    def left_behind(self, connection: str) -> Self:
        """The tenant has another connection, which does not list it: `connection` was the last that did."""
        return self._changed(listed_by=connection)

    def found_again(self) -> Self:
        """The tenant's present connection lists it."""
        return self._changed(listed_by=None)

    def _must_be(self, state: State) -> None:
        if self.state is not state:
            raise IllegalMove(f"{self.id} is {self.state}, not {state}")

    def _move(self, to: State, now: int, **changes: Any) -> Self:
        if to not in MOVES[self.state]:
            raise IllegalMove(f"{self.id}: {self.state} -> {to}")
        return self._changed(state=to, since=now, **changes)

    def _changed(self, **changes: Any) -> Self:
        return replace(self, version=self.version + 1, **changes)
