"""What passed through the proxy: numbers, and the last calls themselves."""

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from local.store_proxy.call import Call
from local.store_proxy.schema import Table

REMEMBERED_CALLS = 10_000


@dataclass(frozen=True, slots=True)
class CallRecord:
    op: str
    table: str | None
    """The first table it names."""
    index: str | None
    keys: tuple[str, ...]
    """Partition keys in the call's order; of a query, the one it asks."""
    at: float
    """Arrival, Unix seconds."""


@dataclass(slots=True)
class Counts:
    """Calls are counted on arrival, whatever becomes of them.

    Index queries are "Query:<IndexName>" and table queries "Query"; consistent reads are
    "GetItem:consistent" and others "GetItem": no call counts twice.
    """

    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    transaction_items: int = 0
    recent: deque[CallRecord] = field(default_factory=lambda: deque(maxlen=REMEMBERED_CALLS))
    aside: tuple[str, ...] = ()
    """Calls on keys that all begin with one of these are not counted: they come by the clock, not by the work."""

    def note(self, call: Call, tables: Mapping[str, Table]) -> None:
        keys = call.partition_keys(tables)
        if keys and self.aside and all(key.startswith(self.aside) for key in keys):
            return
        self.calls[call.label] += 1
        if call.op == "TransactWriteItems":
            self.transaction_items += len(call.actions)
        table = call.tables[0] if call.tables else None
        self.recent.append(CallRecord(call.op, table, call.index, keys, time.time()))

    def reset(self) -> None:
        self.calls.clear()
        self.faults.clear()
        self.transaction_items = 0
        self.recent.clear()

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": dict(self.calls),
            "faults": dict(self.faults),
            "transaction_items": self.transaction_items,
        }
