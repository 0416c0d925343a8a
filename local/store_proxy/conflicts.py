"""Transactions in flight, and what is refused for meeting one.

The rules are those of the developer guide ("Transaction conflict handling"): an item of a transaction
in flight refuses another transaction, a transactional read and a single write; it does not refuse
plain reads. BatchWriteItem passes here, although the real one is also refused per item.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from local.store_proxy.answers import CONFLICT, Refused, cancelled, error
from local.store_proxy.call import SINGLE_WRITES, Call
from local.store_proxy.counts import Counts
from local.store_proxy.schema import Key, Table
from local.store_proxy.upstream import Scope

Item = tuple[Scope, str, Key]


class InFlight:
    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._items: set[Item] = set()
        self._tokens: set[tuple[Scope, str]] = set()

    @contextmanager
    def hold(self, call: Call, tables: Mapping[str, Table]) -> Iterator[None]:
        """Hold a transaction's items for the time of the block; other calls are only checked.

        Raises:
            Refused: the call touches an item of a transaction that is in flight.
        """
        items = _items(call, tables)
        self._refuse_conflicts(call, items)
        if call.op != "TransactWriteItems":
            yield
            return
        token = (call.scope, call.body.get("ClientRequestToken") or "")
        mine = {item for item in items if item is not None}
        self._items |= mine
        self._tokens.add(token)
        try:
            yield
        finally:
            self._items -= mine
            self._tokens.discard(token)

    def _refuse_conflicts(self, call: Call, items: list[Item | None]) -> None:
        token = call.body.get("ClientRequestToken")
        if call.op == "TransactWriteItems" and token and (call.scope, token) in self._tokens:
            self._counts.faults["transaction_in_progress"] += 1
            message = "The transaction with the given request token is already in progress."
            raise Refused(error("TransactionInProgressException", message))
        slots = [slot for slot, item in enumerate(items) if item in self._items]
        if not slots:
            return
        self._counts.faults["real_conflict"] += 1
        if call.op in SINGLE_WRITES:
            raise Refused(error("TransactionConflictException", CONFLICT["Message"]))
        raise Refused(cancelled(len(items), dict.fromkeys(slots, CONFLICT)))


def _items(call: Call, tables: Mapping[str, Table]) -> list[Item | None]:
    if call.op not in SINGLE_WRITES and call.op not in ("TransactWriteItems", "TransactGetItems"):
        return []
    return [
        (call.scope, action.table, tables[action.table].key_of(action.attributes))
        if action.table in tables
        else None
        for action in call.actions
    ]
