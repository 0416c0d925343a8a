"""What commands print: tables and JSON on standard output, everything that is said on standard error.

A terminal gets colours and its own width. A pipe gets neither: one row is one line there, and nothing is cut.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cli.errors import PROGRAM, CliError, ReaderGone

UNCUT: Final = 100_000
"""The width of a pipe."""
_MINUTE, _HOUR, _DAY = 60, 3600, 24 * 3600


def console(*, stderr: bool = False) -> Console:
    """A console as the stream behind it is now. COLUMNS wins, as under `watch`."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else UNCUT
    return Console(stderr=stderr, width=width)


def say(text: str) -> None:
    """A line for people, on standard error."""
    sys.stderr.write(f"{PROGRAM}: {clean(text)}\n")
    sys.stderr.flush()


def warn(body: dict[str, Any]) -> None:
    """What the API wonders about after a change that it made."""
    for warning in body["warnings"]:
        say(f"Warning: {warning}")


def agreed() -> bool:
    """Ask, on standard error. Ctrl-C is Ctrl-C, the end of the input is a no."""
    sys.stderr.write(clean("Do it? [y/N] "))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def emit(text: str) -> None:
    """Write to standard output, all of it.

    Raises:
        ReaderGone: nobody reads it any more.
        CliError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        raise ReaderGone from None
    except OSError as error:
        _forget_output()
        raise CliError(f"The output cannot be written: {error.strerror}.") from None


def _forget_output() -> None:
    """What is still buffered goes nowhere: else the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_json(body: Any) -> None:
    """ASCII, so that nothing in it can be taken for a command by any terminal, in any locale."""
    emit(json.dumps(body, indent=2) + "\n")


def emit_table(columns: Sequence[str | Column], rows: Iterable[Sequence[str | Text]]) -> None:
    """Rows under a header; the header stands also over none."""
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    _emit_rendered(table)


def emit_facts(facts: Iterable[tuple[str, str | Text]]) -> None:
    """Names and values, one below the other."""
    grid = Table.grid(Column(style="bold", no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
    for name, value in facts:
        grid.add_row(name, _cell(value))
    _emit_rendered(grid)


def emit_line(text: str = "") -> None:
    _emit_rendered(Text(clean(text)))


def _emit_rendered(what: Table | Text) -> None:
    to = console()
    with to.capture() as captured:
        to.print(what)
    lines = captured.get().splitlines()
    emit("".join((line if to.is_terminal else line.rstrip()) + "\n" for line in lines))


def wide(name: str) -> Column:
    """A column that takes what the others leave, and breaks where it must."""
    return Column(name, overflow="fold")


def kept(name: str) -> Column:
    """A column that is never cut or broken: ids, which people copy."""
    return Column(name, no_wrap=True, overflow="ignore")


def right(name: str) -> Column:
    return Column(name, justify="right", no_wrap=True)


def _cell(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(clean(cell))


def clean(text: str) -> str:
    """Without what a terminal would obey: errors come from the provider, names from anybody."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def trouble(text: str) -> Text:
    """What someone must look at. The words say it; the colour helps to find it."""
    return Text(clean(text), style="bold red")


def span(seconds: float) -> str:
    """
    >>> [span(s) for s in (0, 59, 61, 3700, 90000)]
    ['0s', '59s', '1m01s', '1h01m', '1d01h']
    """
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def since(at: float | None) -> str:
    """How long ago an instant of the broker was, by the clock of this machine."""
    return "" if at is None else span(time.time() - at)


def moment(at: float) -> str:
    """The instant itself, in UTC.

    >>> moment(1795255440)
    '2026-11-21 10:04:00Z'
    """
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))


def instant(at: float | None) -> str:
    """The instant itself, and how far it is from now."""
    if at is None:
        return ""
    away_s = time.time() - at
    return f"{moment(at)} ({span(away_s)} ago)" if away_s >= 0 else f"{moment(at)} (in {span(-away_s)})"


def counted(counts: dict[str, int]) -> str:
    """
    >>> counted({"added": 3, "stale": 0, "lost_race": 1})
    '3 added, 1 lost race'
    """
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count) or "nothing"
