"""What the provider's JSON says, however wrong: a named error for a body, an odd value for an odd part of it.

Pure. A part that is no JSON scalar of usable size becomes ODD, and costs the one entry that holds it.
"""

import json
from typing import Any, Final

from worker.provider.errors import ProviderError

MAX_DIGITS: Final = 40
"""Longer whole numbers are no id, and past 4,300 digits Python refuses to read them."""


MAX_PARTS: Final = 100_000
"""Objects and lists in a body. The parser holds all of Python still while it makes them, also in a thread: seven
megabytes of empty lists stop every tenant's work for two seconds, and take 200 MB."""


class _Odd:
    """In place of giant numbers and of anything nested: it equals itself, and no value that we look for."""

    def __repr__(self) -> str:
        return "ODD"


ODD: Final = _Odd()


class _Ambiguous(tuple[tuple[str, Any], ...]):
    """An object that says one thing twice: nobody knows which of them is meant."""

    __slots__ = ()


def parsed(body: bytes) -> Any:
    """What the JSON says.

    Raises:
        ProviderError: NOT_JSON; BODY_TOO_LARGE where it has more parts than any listing of ours.
    """
    if body.count(b"{") + body.count(b"[") > MAX_PARTS:
        raise ProviderError("BODY_TOO_LARGE", f"over {MAX_PARTS} objects and lists")
    try:
        return json.loads(body, parse_int=_whole, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ProviderError("NOT_JSON", type(error).__name__) from error


def object_of(body: bytes) -> dict[str, Any]:
    """The object in the body.

    Raises:
        ProviderError: NOT_JSON, or WRONG_SHAPE where it is JSON and no object, or says a thing twice.
    """
    said = parsed(body)
    if not isinstance(said, dict):
        raise ProviderError("WRONG_SHAPE", "no object")
    return said


def results_of(body: bytes) -> list[Any]:
    """The `results` of the body, each flat: a scalar, or a dictionary of scalars, with ODD for everything else.

    Raises:
        ProviderError: NOT_JSON, or WRONG_SHAPE where there is no list of results.
    """
    results = object_of(body).get("results")
    if not isinstance(results, list):
        raise ProviderError("WRONG_SHAPE", "no list of results")
    return [_entry(result) for result in results]


def _entry(result: Any) -> Any:
    if isinstance(result, dict):
        return {name: _scalar(value) for name, value in result.items()}
    return _scalar(result)


def _scalar(value: Any) -> Any:
    return ODD if isinstance(value, dict | list | tuple) else value


def _whole(digits: str) -> int | _Odd:
    return int(digits) if len(digits) <= MAX_DIGITS else ODD


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Ambiguous:
    said = dict(pairs)
    return said if len(said) == len(pairs) else _Ambiguous(pairs)
