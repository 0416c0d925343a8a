"""CloudWatch's filter patterns for JSON lines, as far as logs.tf uses them.

{ $.event = "request" && ($.status >= 500 || $.why = "*Denied*") && $.ms = * }
"""

import json
import operator
import re
from collections.abc import Callable
from typing import Any, Final

_TOKEN: Final = re.compile(r'\s*(\$\.[A-Za-z_]+|"[^"]*"|>=|<=|!=|&&|\|\||[=<>(){}*]|-?\d+(?:\.\d+)?)')
_COMPARED: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class _Reader:
    def __init__(self, pattern: str, line: dict[str, Any]) -> None:
        self._left = _TOKEN.findall(pattern)
        assert re.sub(r"\s", "", "".join(self._left)) == re.sub(r"\s", "", pattern), f"not understood: {pattern}"
        self._line = line

    def whole(self) -> bool:
        self._take("{")
        held = self._any()
        self._take("}")
        assert not self._left
        return held

    def _take(self, *expected: str) -> str:
        token = self._left.pop(0)
        assert not expected or token in expected, f"{token} where {expected} was expected"
        return str(token)

    def _any(self) -> bool:
        held = self._all()
        while self._left[0] == "||":
            self._take()
            held = self._all() or held
        return held

    def _all(self) -> bool:
        held = self._one()
        while self._left[0] == "&&":
            self._take()
            held = self._one() and held
        return held

    def _one(self) -> bool:
        if self._left[0] == "(":
            self._take()
            held = self._any()
            self._take(")")
            return held
        field = self._take().removeprefix("$.")
        comparison, wanted = self._take(*_COMPARED), self._take()
        if field not in self._line:
            return False
        return _holds(self._line[field], comparison, wanted)


def _holds(value: Any, comparison: str, wanted: str) -> bool:
    if wanted == "*":
        return comparison == "="
    if wanted.startswith('"'):
        form = ".*".join(re.escape(part) for part in wanted[1:-1].split("*"))
        matches = isinstance(value, str) and re.fullmatch(form, value, re.DOTALL) is not None
        return matches == (comparison == "=")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and _COMPARED[comparison](value, float(wanted))


def matches(pattern: str, line: str) -> bool:
    """Whether CloudWatch counts this line."""
    return _Reader(pattern, json.loads(line)).whole()
