"""Every move of a sandbox: the legal ones, and a refusal of all others."""

from typing import Any

import pytest

from broker.errors import IllegalMove
from broker.policy import on_listed, on_missing
from broker.sandbox import MOVES, TOMBSTONE_S, EndedBy, Sandbox, State
from tests.builders import NOW, a_sandbox, an_account, an_allocated_sandbox

TRANSITIONS: dict[str, tuple[set[State], State | None, Any]] = {
    "allocate": (
        {State.AVAILABLE},
        State.ALLOCATED,
        lambda s: s.allocate(holder="h", claim_key=None, track=None, now=NOW, lease_s=60),
    ),
    "extend": ({State.ALLOCATED}, None, lambda s: s.extend(until=NOW + 90)),
    "beat": ({State.ALLOCATED}, None, lambda s: s.beat(now=NOW)),
    "end": ({State.ALLOCATED}, State.PENDING_DELETION, lambda s: s.end(by=EndedBy.RELEASE, now=NOW)),
    "lease": ({State.PENDING_DELETION}, None, lambda s: s.lease(token="t", now=NOW, lease_s=90)),
    "finish": ({State.PENDING_DELETION}, State.DELETED, lambda s: s.finish_deletion(now=NOW)),
    "give up": (
        {State.PENDING_DELETION},
        State.DELETION_FAILED,
        lambda s: s.fail_deletion(error="HTTP_500", now=NOW, retry_at=None),
    ),
    "retry later": (
        {State.PENDING_DELETION},
        None,
        lambda s: s.fail_deletion(error="HTTP_500", now=NOW, retry_at=NOW + 5),
    ),
    "delete again": ({State.DELETED}, State.PENDING_DELETION, lambda s: s.delete_again(now=NOW)),
    "go stale": ({State.AVAILABLE}, State.STALE, lambda s: s.go_stale(now=NOW)),
    "come back": ({State.STALE}, State.AVAILABLE, lambda s: s.come_back(now=NOW)),
    "quarantine": ({State.AVAILABLE}, State.QUARANTINED, lambda s: s.quarantine(reason="why", now=NOW)),
    "hold": ({State.STALE}, State.QUARANTINED, lambda s: s.hold(reason="why", now=NOW)),
    "reinstate": ({State.QUARANTINED}, State.AVAILABLE, lambda s: s.reinstate(reason="why", now=NOW)),
    "discard": ({State.QUARANTINED}, State.PENDING_DELETION, lambda s: s.discard(reason="why", now=NOW)),
    "retry": (
        {State.DELETION_FAILED},
        State.PENDING_DELETION,
        lambda s: s.retry_deletion(reason="why", now=NOW),
    ),
    "abandon": ({State.DELETION_FAILED}, State.DELETED, lambda s: s.abandon(reason="why", now=NOW)),
}


@pytest.mark.parametrize(("until", "ends"), [(NOW + 4 * 3600 - 1, NOW + 4 * 3600), (NOW + 9 * 3600,) * 2])
def test_an_extension_is_never_one_to_an_earlier_end(until: int, ends: int) -> None:
    assert an_allocated_sandbox().extend(until=until).expires_at == ends


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_transition_starts_from_its_states_and_no_other(name: str, state: State) -> None:
    starts, to, transition = TRANSITIONS[name]
    before = a_sandbox(state=state, version=7)

    if state not in starts:
        with pytest.raises(IllegalMove):
            transition(before)
        return
    after: Sandbox = transition(before)
    assert after.state is (to or state)
    assert after.version == 8
    assert after.since == (NOW if to else before.since)


def test_every_state_has_its_moves_and_they_lead_to_states() -> None:
    assert set(MOVES) == set(State)
    assert {to for moves in MOVES.values() for to in moves} <= set(State)


def test_a_tombstone_lives_thirty_days_and_a_new_deletion_begins_them_anew() -> None:
    buried = a_sandbox(state=State.PENDING_DELETION).finish_deletion(now=NOW)
    dug_up = buried.delete_again(now=NOW + 5000)

    assert buried.ttl == NOW + TOMBSTONE_S == NOW + 30 * 24 * 3600
    assert (dug_up.ttl, dug_up.attempt, dug_up.next_attempt_at) == (None, 0, NOW + 5000)


def test_a_retry_begins_the_attempts_anew_and_an_abandoned_sandbox_is_a_tombstone() -> None:
    failed = a_sandbox(state=State.DELETION_FAILED, attempt=8, last_error="HTTP_500")
    retried = failed.retry_deletion(reason="the provider is back", now=NOW)
    abandoned = failed.abandon(reason="gone by other means", now=NOW)

    assert (retried.attempt, retried.next_attempt_at, retried.last_error) == (0, NOW, "HTTP_500")
    assert (abandoned.ttl, abandoned.attempt) == (NOW + TOMBSTONE_S, 8)


def test_an_operators_reason_stays_until_a_student_gets_the_sandbox() -> None:
    quarantined = a_sandbox().quarantine(reason="odd network", now=NOW)
    reinstated = quarantined.reinstate(reason="it was the switch", now=NOW)
    allocated = reinstated.allocate(holder="h", claim_key=None, track=None, now=NOW, lease_s=60)

    assert (quarantined.reason, reinstated.reason) == ("odd network", "it was the switch")
    assert (allocated.reason, allocated.end(by=EndedBy.RELEASE, now=NOW).reason) == (None, None)
    assert allocated.end(by=EndedBy.FORCE_RELEASE, reason="room is closed", now=NOW).reason == "room is closed"


@pytest.mark.parametrize(("age_s", "action"), [(0, "unchanged"), (3600, "unchanged"), (3601, "delete_again")])
def test_a_listed_tombstone_is_deleted_again_after_an_hour(age_s: int, action: str) -> None:
    tombstone = a_sandbox(state=State.DELETED, since=NOW)

    assert on_listed(tombstone, an_account(), now=NOW + age_s).action == action


@pytest.mark.parametrize("state", [s for s in State if s not in (State.DELETED, State.STALE)])
def test_a_listed_account_that_did_not_change_writes_nothing(state: State) -> None:
    assert on_listed(a_sandbox(state=state), an_account(), now=NOW).after is None


def test_what_is_being_deleted_is_left_to_its_lease() -> None:
    assert on_listed(a_sandbox(state=State.PENDING_DELETION), an_account(name="new"), now=NOW).after is None


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (State.AVAILABLE, "stale"),
        (State.ALLOCATED, "missing"),
        (State.DELETION_FAILED, "missing"),
        (State.QUARANTINED, "missing"),
        (State.PENDING_DELETION, "unchanged"),
        (State.DELETED, "unchanged"),
        (State.STALE, "unchanged"),
    ],
)
def test_what_a_missing_account_means_depends_on_the_state(state: State, action: str) -> None:
    assert on_missing(a_sandbox(state=state), now=NOW).action == action


def test_a_missing_sandbox_is_told_once() -> None:
    assert on_missing(an_allocated_sandbox(missing_since=NOW - 9), now=NOW).after is None
