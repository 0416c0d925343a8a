"""The invariants, checked on the stored items themselves: what nobody may ever find violated."""

from collections import Counter
from itertools import pairwise
from typing import Any

from broker.sandbox import State
from broker.store import table
from broker.store.claims import Claim, claim_from
from broker.store.table import sandbox_from
from broker.wiring import Broker


async def items_of(broker: Broker) -> list[dict[str, Any]]:
    """Every item of the table, read consistently."""
    items: list[dict[str, Any]] = []
    start: dict[str, Any] = {}
    while True:
        page = await broker.client.call("scan", TableName=broker.client.table.name, ConsistentRead=True, **start)
        items += page["Items"]
        if not (last := page.get("LastEvaluatedKey")):
            return items
        start = {"ExclusiveStartKey": last}


async def audit(broker: Broker, tenant: str = "acme") -> Counter[str]:
    """Assert the invariants over one tenant's items; returns its sandboxes by state."""
    items = await items_of(broker)

    def of(kind: str) -> list[dict[str, Any]]:
        return [item for item in items if item["pk"]["S"].startswith(table.key(kind, tenant) + "#")]

    sandboxes = {s.id: s for s in map(sandbox_from, of("SBX"))}
    live = [claim for claim in map(claim_from, of("CLM")) if claim.ended_at is None]
    allocated = {s.id: s for s in sandboxes.values() if s.state is State.ALLOCATED}
    assert {claim.sandbox_id for claim in live} == set(allocated), "claims and allocations differ"
    assert len(live) == len(allocated), "two claims on one sandbox"
    for claim in live:
        _agrees(claim, allocated[claim.sandbox_id])
    _history_is_legal([table.decode(item) for item in of("EVT")])
    for item in of("SBX"):
        sandbox = sandbox_from(item)
        assert item["gsi1sk"]["S"] == table.status_sort_key(sandbox), "index out of step with the state"
        assert f"#{sandbox.state.value}#" in item["gsi1pk"]["S"], "index out of step with the state"
    return Counter(s.state.value for s in sandboxes.values())


def _agrees(claim: Claim, held: Any) -> None:
    facts = (claim.holder, claim.key, claim.name, claim.external_id, claim.allocated_at, claim.expires_at)
    stored = (held.holder, held.claim_key, held.name, held.external_id, held.allocated_at, held.expires_at)
    assert facts == stored, "a claim says other than its sandbox"


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
