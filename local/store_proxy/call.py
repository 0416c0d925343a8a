"""One call as it arrived: which operation, on which items of which tables."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from local.store_proxy.answers import Body
from local.store_proxy.schema import Table
from local.store_proxy.upstream import TARGET_PREFIX, Scope

_SINGLE = {"PutItem": "Put", "UpdateItem": "Update", "DeleteItem": "Delete", "GetItem": "Get"}
_EQUALITY = re.compile(r"(#?[\w.-]+)\s*=\s*(:\w+)")
WRITES = frozenset({"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"})
SINGLE_WRITES = frozenset({"PutItem", "UpdateItem", "DeleteItem"})
SCHEMA_CHANGES = frozenset({"CreateTable", "UpdateTable", "DeleteTable"})


@dataclass(frozen=True, slots=True)
class Action:
    """What a call wants of one item. A transaction's actions stand in the order of its slots."""

    kind: str
    """Put, Update, Delete, ConditionCheck or Get."""
    table: str
    fields: Body

    @property
    def attributes(self) -> Body:
        """At least the item's key; for a Put, the whole item."""
        found = self.fields.get("Item" if self.kind == "Put" else "Key")
        return found if isinstance(found, dict) else {}


class Call:
    __slots__ = ("actions", "body", "headers", "index", "label", "op", "raw", "scope", "tables")

    def __init__(self, *, op: str, body: Body, raw: bytes, headers: Mapping[str, str]) -> None:
        self.op = op
        self.body = body
        self.raw = raw
        self.headers = headers
        self.scope = Scope.of(headers)
        self.actions = tuple(_actions(op, body))
        self.index: str | None = body.get("IndexName") if op in ("Query", "Scan") else None
        self.label = _label(op, body, self.index)
        named = (*(action.table for action in self.actions), body.get("TableName"))
        self.tables = tuple(dict.fromkeys(table_name(name) for name in named if isinstance(name, str)))

    @classmethod
    def parse(cls, headers: Mapping[str, str], raw: bytes) -> "Call | None":
        """None for what is no DynamoDB call or has no readable body: the engine shall answer that."""
        target = headers.get("X-Amz-Target", "")
        if not target.startswith(TARGET_PREFIX):
            return None
        try:
            body = json.loads(raw)
        except ValueError:
            return None
        return (
            cls(op=target[len(TARGET_PREFIX) :], body=body, raw=raw, headers=headers)
            if isinstance(body, dict)
            else None
        )

    @property
    def writes(self) -> bool:
        return self.op in WRITES

    def is_one_of(self, names: Collection[str] | None) -> bool:
        return names is None or self.op in names or self.label in names

    def partition_keys(self, tables: Mapping[str, Table]) -> tuple[str, ...]:
        """The partition keys this call names, in its order; for a query, the one it asks."""
        if self.op == "Query":
            return self._asked_partition(tables)
        return tuple(
            _text(action.attributes.get(tables[action.table].partition_key))
            for action in self.actions
            if action.table in tables
        )

    def _asked_partition(self, tables: Mapping[str, Table]) -> tuple[str, ...]:
        if not self.tables or self.tables[0] not in tables:
            return ()
        table = tables[self.tables[0]]
        index = table.indexes.get(self.index or "")
        wanted = next(iter(index.limits)) if index else table.partition_key
        names: Body = self.body.get("ExpressionAttributeNames") or {}
        values: Body = self.body.get("ExpressionAttributeValues") or {}
        for name, value in _EQUALITY.findall(self.body.get("KeyConditionExpression") or ""):
            if names.get(name, name) == wanted:
                return (_text(values.get(value)),)
        return ()


def table_name(name: str) -> str:
    """The plain name, also where an ARN was given."""
    return name.rpartition("/")[2]


def _actions(op: str, body: Body) -> list[Action]:
    if op in _SINGLE:
        return [Action(_SINGLE[op], table_name(body.get("TableName", "")), body)]
    if op in ("TransactWriteItems", "TransactGetItems"):
        return [
            Action(kind, table_name(fields.get("TableName", "")), fields)
            for slot in body.get("TransactItems") or []
            for kind, fields in list(slot.items())[:1]
        ]
    if op == "BatchWriteItem":
        return [
            Action(kind.removesuffix("Request"), table_name(name), fields)
            for name, requests in (body.get("RequestItems") or {}).items()
            for request in requests
            for kind, fields in request.items()
        ]
    if op == "BatchGetItem":
        return [
            Action("Get", table_name(name), {"Key": key})
            for name, wanted in (body.get("RequestItems") or {}).items()
            for key in wanted.get("Keys") or []
        ]
    return []


def _label(op: str, body: Body, index: str | None) -> str:
    if index is not None:
        return f"{op}:{index}"
    return f"{op}:consistent" if op == "GetItem" and body.get("ConsistentRead") else op


def _text(value: Any) -> str:
    return str(next(iter(value.values()), "")) if isinstance(value, dict) else ""
