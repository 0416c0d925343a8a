"""Builders: the facts a test does not care about have a value here."""

from dataclasses import replace
from typing import Any

from broker.job import Job, JobState, Kind
from broker.policy import Account
from broker.sandbox import Sandbox, State
from broker.store.events import Cause

NOW = 1_760_000_000

TEST_CAUSE = Cause(actor="test", action="test", request_id="req-test")


def said_by(actor: str) -> Cause:
    """The cause of something that this person asked for."""
    return replace(TEST_CAUSE, actor=actor)


def a_sandbox(**changes: Any) -> Sandbox:
    """An available sandbox of tenant `acme`."""
    number = changes.pop("number", 1)
    values: dict[str, Any] = {
        "tenant": "acme",
        "id": str(2_009_000 + number),
        "state": State.AVAILABLE,
        "version": 1,
        "name": f"lab-adventure-{number:04d}",
        "external_id": f"identity/accounts/{number:032x}",
        "since": NOW,
    }
    return Sandbox(**values | changes)


def an_allocated_sandbox(**changes: Any) -> Sandbox:
    """Held by `student-1` for four hours from NOW."""
    values: dict[str, Any] = {
        "state": State.ALLOCATED,
        "version": 2,
        "holder": "student-1",
        "allocated_at": NOW,
        "expires_at": NOW + 4 * 3600,
    }
    return a_sandbox(**values | changes)


def an_account(**changes: Any) -> Account:
    """What the provider lists for a_sandbox()."""
    number = changes.pop("number", 1)
    values: dict[str, Any] = {
        "id": str(2_009_000 + number),
        "name": f"lab-adventure-{number:04d}",
        "external_id": f"identity/accounts/{number:032x}",
        "attributes": {},
    }
    return Account(**values | changes)


def a_job(**changes: Any) -> Job:
    """A queued sync of tenant `acme`, of normal priority."""
    number = changes.pop("number", 1)
    values: dict[str, Any] = {
        "tenant": "acme",
        "id": f"{NOW}000-{number:012x}",
        "kind": Kind.SYNC,
        "requested_by": "operator",
        "request_id": "req-test",
        "created_at": NOW,
        "queued_at": NOW,
        "due_at": NOW,
    }
    return Job(**values | changes)


def a_running_job(**changes: Any) -> Job:
    """In its first attempt since NOW."""
    values: dict[str, Any] = {
        "state": JobState.RUNNING,
        "version": 2,
        "attempt": 1,
        "lease_token": "token-1",
        "started_at": NOW,
    }
    return a_job(**values | changes)
