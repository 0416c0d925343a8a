"""What nobody may ever find violated, over the items of all tenants and the provider's accounts together."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from broker.job import Job
from broker.key import Key
from broker.sandbox import MOVES, Sandbox, State
from broker.store import table
from broker.store.job_items import job_from
from broker.store.keys import key_from
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
    """One tenant's part of one look at the whole table."""

    tenant: str
    sandboxes: dict[str, Sandbox]
    history: dict[str, list[Item]]  # sandbox -> its events, in order
    notes: dict[str, list[Item]]  # what else changed -> its events, in order
    slots: dict[int, str]  # of the quota -> who fills it
    jobs: list[Job]

    @classmethod
    def of(cls, items: list[Item], tenant: str) -> "Stored":
        def kind(name: str) -> Iterable[Item]:
            return _kind(items, name, tenant)

        history: dict[str, list[Item]] = defaultdict(list)
        notes: dict[str, list[Item]] = defaultdict(list)
        for event in map(table.decode, kind("EVT")):
            (history if "sandbox_id" in event else notes)[event.get("sandbox_id") or event["subject"]].append(
                event
            )
        for events in (*history.values(), *notes.values()):
            events.sort(key=lambda event: event["version"])
        slots = [item for item in items if item["pk"]["S"] == table.slots_pk(tenant)]
        return cls(
            tenant,
            {s.id: s for s in map(sandbox_from, kind("SBX"))},
            dict(history),
            dict(notes),
            {int(item["sk"]["S"]): item["sandbox_id"]["S"] for item in slots},
            [job for job in map(job_from, kind("JOB")) if job is not None],
        )

    def in_state(self, *states: State) -> list[Sandbox]:
        return [sandbox for sandbox in self.sandboxes.values() if sandbox.state in states]

    def counts(self) -> Counter[State]:
        return Counter(sandbox.state for sandbox in self.sandboxes.values())


@dataclass(frozen=True)
class Look:
    """The whole table at one moment."""

    items: list[Item]
    items_of: dict[str, list[Item]]  # tenant -> its part
    tenants: dict[str, Stored]
    owners: dict[str, tuple[str, str]]  # key of the owner item -> tenant and sandbox
    keys: list[Key]
    versions: dict[str, int]  # tenant -> how often it was changed

    @classmethod
    def of(cls, items: list[Item]) -> "Look":
        tenants = {item["tenant"]["S"]: item for item in _kind(items, "TEN")}
        items_of: dict[str, list[Item]] = {tenant: [] for tenant in tenants}
        for item in items:
            if "tenant" in item:
                items_of.setdefault(item["tenant"]["S"], []).append(item)
        owners = {item["pk"]["S"]: (item["tenant"]["S"], item["sandbox_id"]["S"]) for item in _kind(items, "OWN")}
        return cls(
            items,
            items_of,
            {tenant: Stored.of(items_of[tenant], tenant) for tenant in tenants},
            owners,
            [key for key in map(key_from, _kind(items, "KEY")) if key is not None],
            {tenant: int(item.get("version", {"N": 0})["N"]) for tenant, item in tenants.items()},
        )

    def sandboxes(self) -> list[Sandbox]:
        return [sandbox for stored in self.tenants.values() for sandbox in stored.sandboxes.values()]

    def at(self, provider: str | None) -> list[Sandbox]:
        return [sandbox for sandbox in self.sandboxes() if sandbox.provider == provider]


def _kind(items: list[Item], *parts: str) -> Iterable[Item]:
    begin = table.key(*parts) + "#"
    return (item for item in items if item["pk"]["S"].startswith(begin))


def check_stored(look: Look) -> None:
    """One holder a sandbox, one sandbox a claim, one owner an account, one slot a sandbox; only legal moves,
    nothing lost, no change without its event."""
    assert set(look.items_of) == set(look.tenants), "items of a tenant that there is not"
    for tenant, stored in look.tenants.items():
        audit_items(look.items_of[tenant], tenant)
        for sandbox in stored.sandboxes.values():
            assert sandbox.id in stored.history, f"{sandbox.id}: came from nowhere"
        for sandbox_id, events in stored.history.items():
            _check_history(events, stored.sandboxes.get(sandbox_id))
        _check_notes(stored, "tenant", look.versions[tenant])
    for key in look.keys:
        _check_notes(look.tenants[key.tenant], f"key:{key.id}", key.version)
    slots = sum(len(stored.slots) for stored in look.tenants.values())
    assert slots == len(list(_kind(look.items, "QTA"))), "slots of nobody"
    _check_owners(look)


def _check_owners(look: Look) -> None:
    accounts = Counter((sandbox.provider, sandbox.external_id) for sandbox in look.sandboxes())
    assert set(accounts.values()) <= {1}, f"two sandboxes are one account: {accounts}"
    for sandbox in look.sandboxes():
        owner = look.owners.get(table.owner_key(sandbox.external_id, sandbox.provider)["pk"]["S"])
        assert owner == (sandbox.tenant, sandbox.id), f"{sandbox.id} of {sandbox.tenant}: its owner is {owner}"


def _check_notes(stored: Stored, subject: str, version: int) -> None:
    """Its events are one chain up to what it is: nothing changed without one."""
    known: dict[str, Any] = {}
    events = stored.notes.get(subject, [])
    for event in events:
        before, after = json.loads(event.get("before") or "{}"), json.loads(event["after"])
        differ = {
            name: (known[name], before[name]) for name in before if name in known and known[name] != before[name]
        }
        assert not differ, f"{subject} of {stored.tenant}: a change without its event: {differ}"
        known |= after
    versions = [event["version"] for event in events]
    assert len(set(versions)) == len(versions), f"{subject} of {stored.tenant}: two events at one version"
    assert max(versions, default=0) == version, f"{subject} of {stored.tenant}: {version} without an event"


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


def check_provider(look: Look, accounts: Iterable[Account], provider: str | None = None) -> None:
    """A deletion is asked for only where somebody ended an allocation or discarded; and takes effect once.

    `provider`: whose accounts these are, as in Sandbox.provider.
    """
    known = {account.external_id: account for account in accounts}
    sandboxes = {sandbox.external_id: sandbox for sandbox in look.at(provider)}
    for account in known.values():
        assert account.deletes_done <= 1, f"{account.id}: deleted {account.deletes_done} times"
        if account.delete_requests:
            sandbox = sandboxes.get(account.external_id)
            assert sandbox is not None, f"{account.id}: its deletion was asked for, and nobody knows it"
            assert sandbox.state in NEVER_AGAIN, f"{account.id}: {sandbox.state}, and its deletion was asked for"
    for sandbox in sandboxes.values():
        assert sandbox.external_id in known, f"{sandbox.id}: the provider never had it"
        assert sandbox.id == known[sandbox.external_id].id, f"{sandbox.id}: is another's account"
        last = look.tenants[sandbox.tenant].history[sandbox.id][-1]
        if sandbox.state is State.DELETED and last["action"] == "deleted":
            assert known[sandbox.external_id].gone, f"{sandbox.id}: deleted, and the provider still has it"


def check_quiet(look: Look, accounts: Iterable[Account], provider: str | None = None) -> None:
    """Nothing is on its way any more, and whatever was ended is deleted at the provider."""
    gone = {account.external_id for account in accounts if account.gone}
    for sandbox in look.at(provider):
        match sandbox.state:
            case State.PENDING_DELETION | State.DELETION_FAILED:
                raise AssertionError(f"{sandbox.id}: still to be deleted")
            case State.DELETED:
                assert sandbox.external_id in gone, f"{sandbox.id}: deleted, and the provider still has it"
            case State.AVAILABLE:
                assert sandbox.external_id not in gone, f"{sandbox.id}: available, and the provider has it no more"
