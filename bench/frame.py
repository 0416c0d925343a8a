"""What a bench is, what it is given, and what it returns: tables, plots and what was wrong."""

import math
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, unit included, and how its numbers are shown."""

    title: str
    spec: str = ",.0f"

    def show(self, cell: Cell | None) -> str:
        if cell is None:
            return ""
        return cell if isinstance(cell, str) else format(cell, self.spec)


@dataclass(slots=True)
class Table:
    """Rows of one kind. A cell is None where a row has nothing to say."""

    title: str
    columns: Sequence[Column]
    rows: list[tuple[Cell | None, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: Cell | None) -> None:
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: {len(cells)} cells for {len(self.columns)} columns")
        self.rows.append(cells)

    def text(self) -> str:
        """The table for a terminal: texts to the left, numbers to the right."""
        shown = [[column.title for column in self.columns]]
        shown += [[c.show(cell) for c, cell in zip(self.columns, row, strict=True)] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        left = [all(isinstance(row[n], str | None) for row in self.rows) for n in range(len(self.columns))]
        lines = [
            "  ".join(
                t.ljust(w) if at_left else t.rjust(w) for t, w, at_left in zip(line, widths, left, strict=True)
            )
            for line in shown
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, "", *(line.rstrip() for line in lines), *(f"* {n}" for n in self.notes)])

    def as_json(self) -> dict[str, Any]:
        titles = [column.title for column in self.columns]
        rows = [dict(zip(titles, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": self.notes}

    def problems(self) -> list[str]:
        """What no sound measurement shows: no rows at all, numbers that are none or below zero."""
        if not self.rows:
            return [f"{self.title}: no rows"]
        numbers = [cell for row in self.rows for cell in row if isinstance(cell, int | float)]
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            return [f"{self.title}: a number is missing or below zero"]
        return []


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one line, or bars where `x` are names."""

    label: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture of a result; drawn where matplotlib is."""

    name: str  # of the file, without its ending
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False


@dataclass(slots=True)
class Result:
    """What a bench found. With something `wrong` its numbers are not to be believed."""

    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        none = [] if self.tables else ["no table"]
        return [*none, *self.wrong, *(problem for table in self.tables for problem in table.problems())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller of `python -m bench` may choose; a bench takes what means something to it."""

    quick: bool = False  # tiny sizes: shows that the bench runs, its numbers mean nothing
    seconds: float | None = None  # of each measured block
    most: int | None = None  # the largest size of those that grow
    profile: bool = False  # tell process ids, so that a profiler can be put on them

    def choose(self, usual: float, quick: float) -> float:
        """The length of a block."""
        return self.seconds or (quick if self.quick else usual)


def tell(text: str) -> None:
    """Progress, to standard error: the tables alone go to standard output."""
    sys.stderr.write(f"  {time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench: asked by its name, it answers one question."""

    name: str
    question: str
    run: Callable[[Options], Coroutine[Any, Any, Result]]
