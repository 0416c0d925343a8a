"""What nobody may ever find violated, over the stored items and the provider's accounts together."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from broker.sandbox import MOVES, Sandbox, State
from broker.store import table
from broker.store.table import sandbox_from
from tests.audit import audit_items

NEVER_AGAIN = frozenset({State.PENDING_DELETION, State.DELETED, State.DELETION_FAILED})
"""Whose account we may delete, and what nobody is ever given again."""

FAILED_TRY = (State.PENDING_DELETION, State.PENDING_DELETION)
"""An event that is no move: a try to delete that failed, and will be repeated."""

EXTENDED = (State.ALLOCATED, State.ALLOCATED)
"""The other: an allocation lasts longer."""

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Account:
    """What the simulator counts about an account."""

    id: str
    external_id: str
    delete_requests: int
    deletes_done: int
    gone: bool


@dataclass(frozen=True)
class Stored:
    """One look at the whole table."""

    items: list[Item]
    sandboxes: dict[str, Sandbox]
    owners: dict[str, str]  # key of the owner item -> sandbox
    history: dict[str, list[Item]]  # sandbox -> its events, in order

    @classmethod
    def of(cls, items: list[Item], tenant: str = "acme") -> "Stored":
        def kind(name: str, *parts: str) -> Iterable[Item]:
            return (item for item in items if item["pk"]["S"].startswith(table.key(name, *parts) + "#"))

        history: dict[str, list[Item]] = defaultdict(list)
        for event in map(table.decode, kind("EVT", tenant)):
            if "sandbox_id" in event:
                history[event["sandbox_id"]].append(event)
        for events in history.values():
            events.sort(key=lambda event: event["version"])
        return cls(
            items,
            {s.id: s for s in map(sandbox_from, kind("SBX", tenant))},
            {item["pk"]["S"]: item["sandbox_id"]["S"] for item in kind("OWN", "csp")},
            dict(history),
        )

    def in_state(self, *states: State) -> list[Sandbox]:
        return [sandbox for sandbox in self.sandboxes.values() if sandbox.state in states]

    def counts(self) -> Counter[State]:
        return Counter(sandbox.state for sandbox in self.sandboxes.values())


def check_stored(stored: Stored) -> None:
    """One holder a sandbox, one sandbox a claim, one owner an account, only legal moves, nothing lost."""
    audit_items(stored.items)
    accounts = Counter(sandbox.external_id for sandbox in stored.sandboxes.values())
    assert set(accounts.values()) <= {1}, f"two sandboxes are one account: {accounts}"
    for sandbox in stored.sandboxes.values():
        owner = stored.owners.get(table.owner_key(sandbox.external_id)["pk"]["S"])
        assert owner == sandbox.id, f"{sandbox.id}: its account is owned by {owner}"
        assert sandbox.id in stored.history, f"{sandbox.id}: came from nowhere"
    for sandbox_id, events in stored.history.items():
        _check_history(events, stored.sandboxes.get(sandbox_id))


def _check_history(events: list[Item], sandbox: Sandbox | None) -> None:
    """Every move is one of the table, an allocation is the first and the last, and the item agrees."""
    name = events[0]["sandbox_id"]
    for event in events:
        before, after = event.get("before"), event["after"]
        if before is None:
            assert after == State.AVAILABLE, f"{name}: began as {after}"
        elif after == "removed":
            assert before == State.STALE, f"{name}: removed while {before}"
        elif (before, after) not in (FAILED_TRY, EXTENDED):
            assert State(after) in MOVES[State(before)], f"{name}: {before} -> {after}"
    told = [event for event in events if event["after"] == State.ALLOCATED != event.get("before")]
    assert len(told) <= 1, f"{name}: handed out {len(told)} times"
    if sandbox is None:
        assert events[-1]["after"] == "removed", f"{name}: lost while {events[-1]['after']}"
    else:
        assert events[-1]["after"] == sandbox.state, f"{name}: {sandbox.state} without an event"


def check_provider(stored: Stored, accounts: Iterable[Account]) -> None:
    """A deletion is asked for only where somebody ended an allocation or discarded; and takes effect once."""
    known = {account.id: account for account in accounts}
    for account in known.values():
        assert account.deletes_done <= 1, f"{account.id}: deleted {account.deletes_done} times"
        if account.delete_requests:
            sandbox = stored.sandboxes.get(account.id)
            assert sandbox is not None, f"{account.id}: its deletion was asked for, and nobody knows it"
            assert sandbox.state in NEVER_AGAIN, f"{account.id}: {sandbox.state}, and its deletion was asked for"
    for sandbox in stored.sandboxes.values():
        assert sandbox.id in known, f"{sandbox.id}: the provider never had it"
        assert sandbox.external_id == known[sandbox.id].external_id, f"{sandbox.id}: is another's account"
        if sandbox.state is State.DELETED and stored.history[sandbox.id][-1]["action"] == "deleted":
            assert known[sandbox.id].gone, f"{sandbox.id}: deleted, and the provider still has it"


def check_quiet(stored: Stored, accounts: Iterable[Account]) -> None:
    """Nothing is on its way any more, and whatever was ended is deleted at the provider."""
    assert not stored.in_state(State.PENDING_DELETION, State.DELETION_FAILED), "something is still to be deleted"
    gone = {account.id for account in accounts if account.gone}
    for deleted in stored.in_state(State.DELETED):
        assert deleted.id in gone, f"{deleted.id}: deleted, and the provider still has it"
    for available in stored.in_state(State.AVAILABLE):
        assert available.id not in gone, f"{available.id}: available, and the provider has it no more"
