"""A window in time in which every call of some kinds fails alike. Pure: takes `now`."""

from dataclasses import dataclass
from typing import Any, Self

from simulator.fields import InvalidInput, list_of, member_of, number, read
from simulator.kinds import Call, Fault

LONGEST_STORM_S = 86_400.0
CHECKS = {
    "seconds": number(0, LONGEST_STORM_S),
    "kind": member_of(Fault),
    "calls": list_of(len(Call), f"one of {', '.join(Call)}", member_of(Call)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    kind: Fault
    calls: tuple[Call, ...]
    until: float  # Unix seconds, UTC

    @classmethod
    def read(cls, wish: object, *, now: float) -> Self:
        """The storm that `{"seconds", "kind", "calls"}` describes, from now on; without calls it hits deletions.

        Raises:
            InvalidInput: a field is unknown, missing or not acceptable.
        """
        given = read(wish, CHECKS)
        missing = [f"{name} is required" for name in ("seconds", "kind") if name not in given]
        if missing:
            raise InvalidInput(missing)
        calls = tuple(Call(word) for word in given.get("calls", [Call.DELETE]))
        return cls(kind=given["kind"], calls=calls, until=now + given["seconds"])

    def fault(self, call: Call, *, now: float) -> Fault | None:
        return self.kind if call in self.calls and now < self.until else None

    def shown(self, *, now: float) -> dict[str, Any] | None:
        """With the seconds that are left; None once it is over."""
        if now >= self.until:
            return None
        return {"kind": self.kind, "calls": self.calls, "seconds_left": round(self.until - now, 3)}
