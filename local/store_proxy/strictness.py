"""What AWS refuses and local engines let pass: limits of keys, items and transactions.

Sources: "Service, account, and table quotas" and the API reference of each operation.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from local.store_proxy.call import Action, Call
from local.store_proxy.schema import PARTITION_KEY_BYTES, Table

ITEM_BYTES = 400 * 1024
TRANSACTION_ACTIONS = 100

_EMPTY = "The AttributeValue for a key attribute cannot contain an empty string value."
_INVALID = "One or more parameter values were invalid:"
_HASH_TOO_LONG = f"{_INVALID} Size of hashkey has exceeded the maximum size limit of 2048 bytes"
_RANGE_TOO_LONG = f"{_INVALID} Aggregated size of all range keys has exceeded the size limit of 1024 bytes"
_PLAIN_SET = re.compile(r"(#?[\w.-]+)\s*=\s*(:\w+)\s*(?=,|$|\bREMOVE\b|\bADD\b|\bDELETE\b)", re.IGNORECASE)


def complaint(call: Call, tables: Mapping[str, Table]) -> str | None:
    """The message of the ValidationException that AWS would answer, if it would."""
    return next(_complaints(call, tables), None)


def _complaints(call: Call, tables: Mapping[str, Table]) -> Iterator[str]:
    if call.op in ("Query", "Scan"):
        yield from _of_read(call, tables)
    if call.op == "TransactWriteItems":
        yield from _of_transaction(call, tables)
    for action in call.actions:
        if action.table in tables:
            yield from _of_action(action, tables[action.table])
        if action.kind == "Put" and len(call.raw) > ITEM_BYTES and _item_size(action.attributes) > ITEM_BYTES:
            yield "Item size has exceeded the maximum allowed size"


def _of_read(call: Call, tables: Mapping[str, Table]) -> Iterator[str]:
    limit = call.body.get("Limit")
    if isinstance(limit, int) and limit < 1:
        yield (
            f"1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1"
        )
    index = next((table.indexes.get(call.index or "") for table in tables.values()), None)
    if index is not None and index.is_global and call.body.get("ConsistentRead"):
        yield "Consistent reads are not supported on global secondary indexes"


def _of_transaction(call: Call, tables: Mapping[str, Table]) -> Iterator[str]:
    if len(call.actions) > TRANSACTION_ACTIONS:
        yield (
            "1 validation error detected: Value at 'transactItems' failed to satisfy constraint: "
            f"Member must have length less than or equal to {TRANSACTION_ACTIONS}"
        )
    items = [
        (action.table, tables[action.table].key_of(action.attributes))
        for action in call.actions
        if action.table in tables
    ]
    if len(set(items)) < len(items):
        yield "Transaction request cannot include multiple operations on one item"


def _of_action(action: Action, table: Table) -> Iterator[str]:
    attributes = action.attributes
    for name, limit in table.limits.items():
        size = _key_size(attributes.get(name))
        if size == 0:
            yield f"One or more parameter values are not valid. {_EMPTY} Key: {name}"
        if size is not None and size > limit:
            yield _HASH_TOO_LONG if limit == PARTITION_KEY_BYTES else _RANGE_TOO_LONG
    if action.kind == "Put":
        yield from _of_index_keys(
            attributes, table, "One or more parameter values are not valid. A value specified"
        )
    elif action.kind == "Update":
        yield from _of_index_keys(_plainly_set(action), table, "The update expression attempted to update a value")


def _of_index_keys(attributes: Mapping[str, Any], table: Table, subject: str) -> Iterator[str]:
    for index in table.indexes.values():
        for name, limit in index.limits.items():
            size = _key_size(attributes.get(name))
            if size == 0:
                yield (
                    f"{subject} for a secondary index key is not supported. {_EMPTY} "
                    f"IndexName: {index.name}, IndexKey: {name}"
                )
            if size is not None and size > limit:
                yield _HASH_TOO_LONG if limit == PARTITION_KEY_BYTES else _RANGE_TOO_LONG


def _plainly_set(action: Action) -> dict[str, Any]:
    """What an update sets to a value as given (`SET a = :a`); anything computed is left to the engine."""
    names = action.fields.get("ExpressionAttributeNames") or {}
    values = action.fields.get("ExpressionAttributeValues") or {}
    return {
        names.get(name, name): values.get(value)
        for name, value in _PLAIN_SET.findall(action.fields.get("UpdateExpression") or "")
    }


def _key_size(value: Any) -> int | None:
    """Bytes of a string or binary key; None where there is no such key."""
    if not isinstance(value, dict) or not value.keys() & {"S", "B"}:
        return None
    return _size(value)


def _item_size(item: Mapping[str, Any]) -> int:
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _size(value: Any) -> int:
    """Bytes of an attribute value, by the rules of "DynamoDB item sizes and formats"."""
    kind, content = next(iter(value.items()))
    if kind == "S":
        return len(content.encode())
    if kind == "B":
        return _binary_size(content)
    if kind == "N":
        return (len(content.strip("+-").replace(".", "")) + 1) // 2 + 1
    if kind == "M":
        return 3 + sum(1 + len(name.encode()) + _size(member) for name, member in content.items())
    if kind == "L":
        return 3 + sum(1 + _size(member) for member in content)
    if kind in ("SS", "NS", "BS"):
        return sum(_size({kind[0]: member}) for member in content)
    return 1


def _binary_size(content: str) -> int:
    try:
        return len(base64.b64decode(content))
    except (binascii.Error, ValueError):
        return len(content)
