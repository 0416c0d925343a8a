"""What can be made to go wrong, and the bounds of each setting."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Check = Callable[[Any], Any]


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def _amount(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return value
    raise ValueError("must be a number, 0 or more")


def _rate(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return value
    raise ValueError("must be a number from 0 to 1")


def _count(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("must be a whole number, 0 or more")


def _operations(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        names = frozenset(value)
        if names and all(isinstance(name, str) for name in names):
            return names
    raise ValueError('must be null (all) or a list of operations, such as ["PutItem", "Query:StatusIndex"]')


def _slots(value: Any) -> frozenset[int] | None:
    if value is None:
        return None
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        slots = frozenset(_count(slot) for slot in value)
        if slots:
            return slots
    raise ValueError("must be null (a random slot) or a list of slot numbers, such as [0, 1]")


def _counts_by_slot(value: Any) -> dict[int, int]:
    try:
        return {_count(int(slot)): _count(times) for slot, times in value.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError('must map slot numbers to counts, such as {"1": 3}') from None


def _one_of(*codes: str) -> Check:
    def check(value: Any) -> str:
        if value in codes:
            return str(value)
        raise ValueError(f"must be one of {', '.join(codes)}")

    return check


def _setting(default: Any, check: Check, text: str) -> Any:
    return field(default=default, metadata={"check": check, "help": text})


@dataclass(slots=True, kw_only=True)
class Faults:
    """Everything off: a transparent pass-through (but see `real_conflicts`).

    Fields may be assigned while the proxy runs and hold from the next call on. `*_next` counts down by
    itself as calls are hit; `*_rate` is a probability per call. `*_ops` takes names of operations as
    `Counts` spells them: "Query" or "Query:StatusIndex", and "Query" alone means every Query.

    Raises:
        ValueError: on any assignment out of bounds; names the field.
    """

    latency_ms: float = _setting(0, _amount, "added to each call, half before and half after the commit")
    jitter_ms: float = _setting(0, _amount, "added to latency_ms: a random time from 0 to this")
    index_lag_s: float = _setting(0, _amount, "index queries show the table as it was this long ago")
    freeze_indexes: bool = _setting(False, _flag, "indexes stand still until this is off again")
    real_conflicts: bool = _setting(True, _flag, "refuse transactions and writes that meet on one item")
    conflict_rate: float = _setting(0, _rate, "share of transactions that get an invented conflict")
    conflict_slots: frozenset[int] | None = _setting(None, _slots, "where conflict_rate strikes (null: random)")
    conflict_next: dict[int, int] = field(
        default_factory=dict,
        metadata={"check": _counts_by_slot, "help": "slot -> how many next transactions conflict there"},
    )
    throttle_rate: float = _setting(0, _rate, "share of calls refused as throttled")
    throttle_next: int = _setting(0, _count, "this many next calls are refused as throttled")
    throttle_ops: frozenset[str] | None = _setting(None, _operations, "which calls to throttle (null: all)")
    throttle_code: Literal[
        "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"
    ] = _setting(
        "ProvisionedThroughputExceededException",
        _one_of("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"),
        "the error code of a throttled call",
    )
    throttle_in_reasons_rate: float = _setting(0, _rate, "share of transactions cancelled by throttling")
    throttle_in_reasons_next: int = _setting(0, _count, "this many next transactions cancelled by throttling")
    throttle_in_reasons_slot: int = _setting(0, _count, "the slot whose reason names the throttling")
    throttle_in_reasons_code: Literal["ThrottlingError", "ProvisionedThroughputExceeded"] = _setting(
        "ThrottlingError",
        _one_of("ThrottlingError", "ProvisionedThroughputExceeded"),
        "the reason's code",
    )
    lose_answer_rate: float = _setting(0, _rate, "share of successful calls whose answer is lost")
    lose_answer_next: int = _setting(0, _count, "this many next successful calls lose their answer")
    lose_answer_ops: frozenset[str] | None = _setting(None, _operations, "whose answers to lose (null: all)")
    reset_rate: float = _setting(0, _rate, "share of calls whose connection is reset, nothing forwarded")
    reset_next: int = _setting(0, _count, "this many next calls are reset, nothing forwarded")
    hang_next: int = _setting(0, _count, "this many next calls are held for hang_s, then forwarded")
    hang_s: float = _setting(60, _amount, "how long a hanging call is held")
    internal_error_rate: float = _setting(0, _rate, "share of calls answered 500, nothing forwarded")
    internal_error_next: int = _setting(0, _count, "this many next calls are answered 500")
    down: bool = _setting(False, _flag, "drop the connection of every call")

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, _checked(name, value))

    def change(self, changes: Mapping[str, Any]) -> None:
        """Apply all of `changes`, or none when one of them is wrong."""
        checked = {name: _checked(name, value) for name, value in changes.items()}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def as_json(self) -> dict[str, Any]:
        """The settings with JSON's types: sets become sorted lists, slot numbers strings."""
        values = {name: getattr(self, name) for name in _CHECKS}
        return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in values.items()}


_CHECKS: dict[str, Check] = {setting.name: setting.metadata["check"] for setting in dataclasses.fields(Faults)}


def _checked(name: str, value: Any) -> Any:
    if name not in _CHECKS:
        raise ValueError(f"{name}: there is no such fault")
    try:
        return _CHECKS[name](value)
    except ValueError as problem:
        raise ValueError(f"{name}: {problem}") from None
