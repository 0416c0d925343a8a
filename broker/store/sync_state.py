"""What the last sync saw and believed: one item a tenant, written under the leader's fence."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.errors import LeadershipLost, StoreThrottled
from broker.policy import Explained, Suspicion
from broker.store import table
from broker.store.client import StoreClient, TransactionRefused
from broker.store.leader import Fence, transact_fenced


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncState:
    """The reconciliation of the last complete listing, and the suspicion against it if there is one."""

    at: int  # Unix seconds
    accounts: Mapping[Explained, int] = field(default_factory=dict)  # every listed account, in one of them
    unexplained: Mapping[str, int] = field(default_factory=dict)  # what is wrong with it -> first seen at
    expected: int = 0
    missing: int = 0
    suspicion: Suspicion | None = None
    connection: str | None = None  # whose listing was last believed; None: an older release's


class SyncStates:
    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def read(self, tenant: str) -> SyncState | None:
        """One consistent read."""
        item = await self._client.get(table.sync_key(tenant))
        if item is None:
            return None
        values = table.decode(item)
        suspicion = None
        if "sketch" in values:
            suspicion = Suspicion(
                sketch=frozenset(int(part, 16) for part in values["sketch"].split()),
                times=values["times"],
                since=values["since"],
                counted_at=values["counted_at"],
            )
        return SyncState(
            at=values["at"],
            accounts={kind: values.get(f"n_{kind.value}", 0) for kind in Explained},
            unexplained=json.loads(values.get("unexplained", "{}")),
            expected=values.get("expected", 0),
            missing=values.get("missing", 0),
            suspicion=suspicion,
            connection=values.get("connection"),
        )

    async def connection(self, tenant: str) -> str | None:
        """Whose listing was last believed; None where that was never said. One consistent read."""
        item = await self._client.get(table.sync_key(tenant))
        return None if item is None else table.decode(item).get("connection")

    async def write(self, tenant: str, state: SyncState, *, after: SyncState | None, fence: Fence) -> None:
        """Keep the state of this sync, if nobody kept another since `after` was read.

        Raises:
            LeadershipLost: another leads by now, or syncs: its word stands.
            StoreThrottled: others were at the item again and again.
        """
        facts: dict[str, Any] = {"v": table.ITEM_VERSION, "at": state.at, "expected": state.expected}
        facts |= {f"n_{kind.value}": state.accounts.get(kind, 0) for kind in Explained}
        facts |= {"missing": state.missing, "unexplained": json.dumps(dict(state.unexplained))}
        facts |= {"connection": state.connection}
        before: dict[str, Any] = {"sketch": {}, "times": {}, "since": {}, "counted_at": {}}
        if (suspicion := state.suspicion) is not None:
            facts |= {"sketch": " ".join(f"{part:x}" for part in sorted(suspicion.sketch))}
            facts |= {"times": suspicion.times, "since": suspicion.since, "counted_at": suspicion.counted_at}
        change = table.update_of(before, table.encode(facts))
        condition, seen = "attribute_not_exists(pk)", None
        if after is not None:
            condition, seen = "#seen = :seen", {":seen": table.encode_value(after.at)}
            change["ExpressionAttributeNames"]["#seen"] = "at"
        update = self._client.update(table.sync_key(tenant), change, condition, seen)
        try:
            await transact_fenced(self._client, [update], fence)
        except TransactionRefused as refused:
            lost = refused.reasons[0].condition_failed
            raise (LeadershipLost() if lost else StoreThrottled()) from refused
