"""Instants as callers may write them: Unix seconds, or ISO 8601."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

_UNIX_DIGITS: Final = 10
"""More are milliseconds, or a mistake."""
_EXPECTED: Final = "Unix seconds or ISO 8601 in UTC are expected, such as 1795255440 or 2026-11-21T10:04:00Z"


def instant_of(text: Any) -> int:
    """Unix seconds. A time without an offset is in UTC, a date is its beginning; parts of a second are cut off.

    >>> [instant_of(text) for text in ("1795255440", "2026-11-21T10:04", "2026-11-21T10:04:00.5Z", "2026-11-21")]
    [1795255440, 1795255440, 1795255440, 1795219200]
    """
    given = str(text)
    if given.isascii() and given.isdigit():
        if len(given) > _UNIX_DIGITS:
            raise ValueError(_EXPECTED)
        return int(given)
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise ValueError(_EXPECTED) from None
    seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if seconds < 0 or len(str(int(seconds))) > _UNIX_DIGITS:
        raise ValueError(_EXPECTED)
    return int(seconds)


Instant = Annotated[
    int,
    BeforeValidator(instant_of),
    WithJsonSchema({"type": "string", "examples": ["1795255440", "2026-11-21T10:04:00Z"]}),
]
