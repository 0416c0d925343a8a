"""The invariants, checked on the stored items themselves: what nobody may ever find violated."""

from collections import Counter
from itertools import pairwise
from typing import Any

from broker.sandbox import Sandbox, State
from broker.store import table
from broker.store.claims import Claim, claim_from
from broker.store.table import sandbox_from
from broker.wiring import Broker


async def items_of(broker: Broker) -> list[dict[str, Any]]:
    """Every item of the table, read consistently; but for those that say by the clock who is there."""
    items: list[dict[str, Any]] = []
    start: dict[str, Any] = {}
    while True:
        page = await broker.client.call("scan", TableName=broker.client.table.name, ConsistentRead=True, **start)
        items += [item for item in page["Items"] if not item["pk"]["S"].startswith("PRC#")]
        if not (last := page.get("LastEvaluatedKey")):
            return items
        start = {"ExclusiveStartKey": last}


async def audit(broker: Broker, tenant: str = "acme") -> Counter[str]:
    """Assert the invariants over one tenant's items; returns its sandboxes by state."""
    return audit_items(await items_of(broker), tenant)


def audit_items(items: list[dict[str, Any]], tenant: str = "acme") -> Counter[str]:
    """The same over items that were read before."""

    def of(kind: str) -> list[dict[str, Any]]:
        return [item for item in items if item["pk"]["S"].startswith(table.key(kind, tenant) + "#")]

    sandboxes = {s.id: s for s in map(sandbox_from, of("SBX"))}
    live = [claim for claim in map(claim_from, of("CLM")) if claim.ended_at is None]
    allocated = {s.id: s for s in sandboxes.values() if s.state is State.ALLOCATED}
    assert {claim.sandbox_id for claim in live} == set(allocated), "claims and allocations differ"
    assert len(live) == len(allocated), "two claims on one sandbox"
    events = [event for event in map(table.decode, of("EVT")) if "sandbox_id" in event]
    events.sort(key=lambda event: event["version"])
    for claim in live:
        _agrees(claim, allocated[claim.sandbox_id], events)
    slots = [item for item in items if item["pk"]["S"] == table.slots_pk(tenant)]
    filled = {item["sandbox_id"]["S"]: int(item["sk"]["S"]) for item in slots}
    assert len(filled) == len(slots), "a sandbox has two slots"
    assert filled == {s.id: s.slot for s in sandboxes.values() if s.slot is not None}, "slots and sandboxes differ"
    assert set(filled) <= set(allocated), "a slot outlives its allocation"
    _history_is_legal(events)
    for item in of("SBX"):
        sandbox = sandbox_from(item)
        assert item["gsi1sk"]["S"] == table.status_sort_key(sandbox), "index out of step with the state"
        assert f"#{sandbox.state.value}#" in item["gsi1pk"]["S"], "index out of step with the state"
    return Counter(s.state.value for s in sandboxes.values())


def _agrees(claim: Claim, held: Sandbox, events: list[dict[str, Any]]) -> None:
    """A claim tells what was handed out. The provider may rename an account after that: then the names part."""
    facts = (claim.holder, claim.key, claim.external_id, claim.allocated_at)
    stored = (held.holder, held.claim_key, held.external_id, held.allocated_at)
    assert facts == stored, "a claim says other than its sandbox"
    assert claim.expires_at == held.expires_at, "a claim lasts longer than its sandbox, or shorter"
    assert claim.generation == held.generation, "a claim is of another generation than its sandbox"
    if held.generation is not None:
        began = [e["version"] for e in events if e["sandbox_id"] == held.id and _begins(e)]
        assert began[-1:] == [held.generation], "a generation is not the version of its allocation"
    if held.version == held.generation:
        assert claim.name == held.name, "a claim has another name, and nobody wrote since it was made"


def _begins(event: dict[str, Any]) -> bool:
    """Whether it is an allocation, and not the extension of one."""
    return bool(event["after"] == State.ALLOCATED and event.get("before") != State.ALLOCATED)


def _history_is_legal(events: list[dict[str, Any]]) -> None:
    """Each sandbox's events, by version, form one chain: nothing happened twice, nothing unrecorded."""
    by_sandbox: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_sandbox.setdefault(event["sandbox_id"], []).append(event)
    for sandbox_id, history in by_sandbox.items():
        history.sort(key=lambda event: event["version"])
        versions = [event["version"] for event in history]
        assert len(set(versions)) == len(versions), f"{sandbox_id}: two events at one version"
        for earlier, later in pairwise(history):
            assert later.get("before") in (earlier["after"], None), f"{sandbox_id}: a move without its event"
