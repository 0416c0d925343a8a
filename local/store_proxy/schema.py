"""Tables as the engine describes them: their keys, their indexes, the limits of both."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from local.store_proxy.answers import Body
from local.store_proxy.upstream import EngineRefused, Scope, Upstream

PARTITION_KEY_BYTES = 2048
SORT_KEY_BYTES = 1024

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Index:
    name: str
    limits: Mapping[str, int]
    """Key attribute -> its most bytes."""
    is_global: bool


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    scope: Scope
    limits: Mapping[str, int]
    """Key attribute -> its most bytes, the partition key first."""
    indexes: Mapping[str, Index]
    description: Body

    @classmethod
    def of(cls, description: Body, scope: Scope) -> "Table":
        indexes = [
            Index(index["IndexName"], _limits(index["KeySchema"]), is_global)
            for kind, is_global in (("GlobalSecondaryIndexes", True), ("LocalSecondaryIndexes", False))
            for index in description.get(kind) or []
        ]
        return cls(
            name=description["TableName"],
            scope=scope,
            limits=_limits(description["KeySchema"]),
            indexes={index.name: index for index in indexes},
            description=description,
        )

    @property
    def partition_key(self) -> str:
        return next(iter(self.limits))

    def key_of(self, attributes: Mapping[str, Any]) -> Key:
        """The identity of the item with these attributes; equal numbers are one key, however written."""
        return tuple(_identity(attributes.get(name)) for name in self.limits)

    def key_attributes(self, attributes: Mapping[str, Any]) -> Body:
        return {name: attributes[name] for name in self.limits}


class Tables:
    """Descriptions of tables, asked for once and remembered until the table changes through this proxy."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._known: dict[tuple[Scope, str], Table] = {}

    async def of(self, names: Iterable[str], scope: Scope) -> dict[str, Table]:
        """Those of `names` that exist."""
        found = {}
        for name in names:
            table = self._known.get((scope, name)) or await self._describe(name, scope)
            if table is not None:
                found[name] = table
        return found

    def forget(self, name: str, scope: Scope) -> None:
        self._known.pop((scope, name), None)

    async def _describe(self, name: str, scope: Scope) -> Table | None:
        try:
            answer = await self._upstream.call("DescribeTable", {"TableName": name}, scope)
        except EngineRefused:
            return None  # the engine will say the same to the caller, in its own words
        table = Table.of(answer["Table"], scope)
        self._known[scope, name] = table
        return table


def _limits(key_schema: list[Body]) -> dict[str, int]:
    by_kind = sorted(key_schema, key=lambda element: str(element["KeyType"]))  # HASH before RANGE
    return {
        element["AttributeName"]: PARTITION_KEY_BYTES if element["KeyType"] == "HASH" else SORT_KEY_BYTES
        for element in by_kind
    }


def _identity(value: Any) -> str:
    if isinstance(value, dict) and "N" in value:
        try:
            return f"N:{Decimal(value['N']).normalize()}"
        except (InvalidOperation, TypeError, ValueError):
            pass
    return str(value)
