"""What DynamoDB bills, by its published rules: sizes of items, units of reads and of writes.

Developer Guide, "DynamoDB item sizes and formats", "DynamoDB read and write operations" and "Global secondary
indexes: read and write capacity". A partition takes 1,000 write and 3,000 read units a second.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

Item = Mapping[str, Any]

WRITES_PER_S: Final = 1_000
READS_PER_S: Final = 3_000
_WRITE_BYTES: Final = 1024
_READ_BYTES: Final = 4096


def item_bytes(item: Item) -> int:
    """Names and values, in UTF-8.

    >>> item_bytes({"pk": {"S": "ab"}, "n": {"N": "1795296742"}, "m": {"M": {"a": {"BOOL": True}}}})
    19
    """
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(typed: Mapping[str, Any]) -> int:
    ((kind, value),) = typed.items()
    match kind:
        case "S":
            return len(str(value).encode())
        case "N":  # two digits a byte, and one more
            digits = str(value).lstrip("-").replace(".", "").strip("0")
            return math.ceil(len(digits) / 2) + 1 + str(value).startswith("-")
        case "BOOL" | "NULL":
            return 1
        case "M":
            return 3 + sum(1 + len(name.encode()) + _value_bytes(inner) for name, inner in value.items())
        case "L":
            return 3 + sum(1 + _value_bytes(inner) for inner in value)
    raise ValueError(f"the broker writes no {kind}")


def write_units(before: Item | None, after: Item | None, *, transaction: bool) -> int:
    """Of the table itself: the larger of the two, in started KB; a transaction writes twice.

    One that changes nothing, refused or a check, is billed by what it met, and 1 where that was nothing.
    """
    size = max(item_bytes(item) if item else 0 for item in (before, after))
    return _started(size, _WRITE_BYTES) * (2 if transaction else 1)


def read_units(size: int, *, consistent: bool) -> float:
    """Of one item, or of all that one query read, in started 4 KB; half where it need not be the latest."""
    return _started(size, _READ_BYTES) * (1.0 if consistent else 0.5)


def _started(size: int, unit: int) -> int:
    return max(1, math.ceil(size / unit))


def index_writes(index: Mapping[str, Any], before: Item | None, after: Item | None) -> Iterator[tuple[str, int]]:
    """The partition of the index and the units of each write that a write to the table brings with it.

    None where the index shows the same as before; two where the entry moves to another key.
    """
    old, new = index_entry(index, before), index_entry(index, after)
    if old == new:
        return
    keys = [part["AttributeName"] for part in index["KeySchema"]]
    if old and new and all(old[key] == new[key] for key in keys):
        yield _text(new[keys[0]]), _started(max(item_bytes(old), item_bytes(new)), _WRITE_BYTES)
        return
    for entry in (old, new):
        if entry:
            yield _text(entry[keys[0]]), _started(item_bytes(entry), _WRITE_BYTES)


def index_entry(index: Mapping[str, Any], item: Item | None) -> Item | None:
    """What the index keeps of an item; None where it keeps nothing."""
    keys = [part["AttributeName"] for part in index["KeySchema"]]
    if item is None or any(key not in item for key in keys):
        return None
    projection = index["Projection"]
    if projection["ProjectionType"] == "ALL":
        return item
    shown = {*keys, "pk", "sk", *projection.get("NonKeyAttributes", ())}
    return {name: value for name, value in item.items() if name in shown}


def _text(value: Mapping[str, Any]) -> str:
    return str(next(iter(value.values())))
