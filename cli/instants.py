"""Instants as people write them: how long ago, Unix seconds, or ISO 8601 in UTC."""

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_UNIX: Final = re.compile(r"[0-9]{1,10}")
_EXPECTED: Final = "how long ago (45m, 2h, 7d), or a time in UTC (2026-11-21T10:04), please"


def instant_of(given: str) -> int:
    """Unix seconds. A time without an offset is in UTC, a date is its beginning.

    >>> [instant_of(text) for text in ("1795255440", "2026-11-21T10:04", "2026-11-21 11:04+01:00", "2026-11-21")]
    [1795255440, 1795255440, 1795255440, 1795219200]
    """
    if ago := _AGO.fullmatch(given):
        return max(0, int(time.time()) - int(ago[1]) * _SECONDS[ago[2]])
    if _UNIX.fullmatch(given):
        return int(given)
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(_EXPECTED) from None
    seconds = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    if not _UNIX.fullmatch(str(seconds)):
        raise typer.BadParameter(_EXPECTED)
    return seconds


Since = Annotated[
    int | None,
    typer.Option(
        "--since", parser=instant_of, metavar="WHEN", help="From then on: 45m, 2h, 7d ago, or a time in UTC."
    ),
]
Until = Annotated[
    int | None,
    typer.Option("--until", parser=instant_of, metavar="WHEN", help="Up to then, likewise."),
]
At = Annotated[
    int | None,
    typer.Option(
        "--at", parser=instant_of, metavar="WHEN", help="Who held it then, in one sentence: a time in UTC."
    ),
]
