"""What a value from outside must look like, and how to say that it does not."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

Check = Callable[[object], Any]
"""Returns the value to keep, or raises ValueError with the rest of a sentence: `must be …`."""


class InvalidInput(Exception):
    """Something from outside is not acceptable; every problem is a sentence that names its field."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def number(low: float, high: float) -> Check:
    """A finite number within [low, high], kept as a float."""

    def check(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise ValueError(f"must be a number from {low:.12g} to {high:.12g}")

    return check


def whole(low: int, high: int) -> Check:
    """A whole number within [low, high]."""

    def check(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ValueError(f"must be a whole number from {low} to {high}")

    return check


def text(longest: int) -> Check:
    """Printable text, at most `longest` characters: no lone surrogates, which no answer could hold."""

    def check(value: object) -> str:
        if isinstance(value, str) and 1 <= len(value) <= longest and value.isprintable():
            return value
        raise ValueError(f"must be printable text of 1 to {longest} characters")

    return check


def flag(value: object) -> bool:
    """A Check for true and false."""
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def one_of(*allowed: int) -> Check:
    """One of a few whole numbers."""

    def check(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value in allowed:
            return value
        raise ValueError(f"must be one of {', '.join(map(str, allowed))}")

    return check


def member_of(words: type[StrEnum]) -> Check:
    """One of the words of an enumeration, kept as its member."""

    def check(value: object) -> StrEnum:
        if isinstance(value, str) and value in list(words):
            return words(value)
        raise ValueError(f"must be one of {', '.join(words)}")

    return check


def list_of(longest: int, what: str, *allowed: Check) -> Check:
    """A list in which each entry passes one of `allowed`, kept as a tuple."""

    def passes(entry: object) -> bool:
        for check in allowed:
            try:
                check(entry)
            except ValueError:
                continue
            return True
        return False

    def check(value: object) -> tuple[object, ...]:
        if isinstance(value, list) and len(value) <= longest and all(passes(entry) for entry in value):
            return tuple(value)
        raise ValueError(f"must be a list of at most {longest} entries, each {what}")

    return check


def read(document: object, checks: Mapping[str, Check]) -> dict[str, Any]:
    """Check the fields that `document` has; which of them are required is the caller's affair.

    Raises:
        InvalidInput: not an object, an unknown field, or a value that its check refuses; all of them at once.
    """
    if not isinstance(document, dict):
        raise InvalidInput(["the body must be a JSON object"])
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in document.items():
        if name not in checks:
            problems.append(f"{name!a} is not known; known are {', '.join(checks)}")
            continue
        try:
            values[name] = checks[name](value)
        except ValueError as problem:
            problems.append(f"{name} {problem}")
    if problems:
        raise InvalidInput(problems)
    return values
