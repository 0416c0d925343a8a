"""Instants as people write them: how long ago, Unix seconds, or ISO 8601 in UTC."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from cli.show import moment, say

_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_OF_A_DAY: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")
_UNIX: Final = re.compile(r"[0-9]{1,10}")
_EXPECTED: Final = "how long ago (45m, 2h, 7d), or a time in UTC (10:04, 2026-11-21T10:04), please"


def instant_of(given: str) -> int:
    """Unix seconds. A time without an offset is in UTC, a date is its beginning; of 10:04 the last one,
    which is said.

    >>> [instant_of(text) for text in ("1795255440", "2026-11-21T10:04", "2026-11-21 11:04+01:00", "2026-11-21")]
    [1795255440, 1795255440, 1795255440, 1795219200]
    """
    if ago := _AGO.fullmatch(given):
        return max(0, int(time.time()) - int(ago[1]) * _SECONDS[ago[2]])
    if _UNIX.fullmatch(given):
        return int(given)
    if clock := _OF_A_DAY.fullmatch(given):
        return _last(clock)
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(_EXPECTED) from None
    seconds = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    if not _UNIX.fullmatch(str(seconds)):
        raise typer.BadParameter(_EXPECTED)
    return seconds


def _last(clock: re.Match[str]) -> int:
    """When it was last that time of the day, in UTC: today, or yesterday where that is yet to come."""
    now = datetime.now(UTC)
    hour, minute, second = (int(part or 0) for part in clock.groups())
    at = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    if at > now:
        at -= timedelta(days=1)
    say(f"{clock[0]} is taken for {moment(int(at.timestamp()))}, when it was that last.")
    return int(at.timestamp())


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
