"""What a bench is, what it is given, and what it returns: tables, plots and what was wrong."""

import math
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Cell = str | int | float


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, unit included, how its numbers are shown, and its name in the JSON (else the title)."""

    title: str
    spec: str = ",.0f"
    key: str = ""

    @property
    def name(self) -> str:
        return self.key or self.title

    def show(self, cell: Cell | None) -> str:
        if cell is None:
            return ""
        return cell if isinstance(cell, str) else format(cell, self.spec)


@dataclass(slots=True)
class Table:
    """Rows of one kind. A cell is None where a row has nothing to say.

    `samples`: what a number of it is the median of, by what it is; kept in the JSON and not shown.
    """

    title: str
    columns: Sequence[Column]
    rows: list[tuple[Cell | None, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{self.title}: two columns are called {twice[0]!r}: give one of them a key")

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
        found = {"title": self.title, "rows": list(self._named()), "notes": self.notes}
        return found | ({"samples": self.samples} if self.samples else {})

    def _named(self) -> Iterator[dict[str, Cell | None]]:
        names = [column.name for column in self.columns]
        return (dict(zip(names, row, strict=True)) for row in self.rows)

    def bars(self, label: str, names: str, numbers: str, **more: Any) -> "Series":
        """A bar for each row, named by one column and as high as another says; `more`: as of line()."""
        line = self.line(label, names, numbers, **more)
        return replace(line, x=[str(x) for x in line.x])

    def line(
        self, label: str, x: str, y: str, *, low: str = "", high: str = "", where: Mapping[str, Cell] | None = None
    ) -> "Series":
        """A point for each row that has those cells (`where`); columns go by their names in the JSON."""
        rows = [row for row in self._named() if (where or {}).items() <= row.items()]

        def numbers(name: str) -> list[float]:
            return [float(row[name] or 0) for row in rows]

        spread = (numbers(low), numbers(high)) if low and high else None
        return Series(label, [row[x] for row in rows], numbers(y), spread)  # type: ignore[arg-type]  # names, too

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
    spread: tuple[Sequence[float], Sequence[float]] | None = None  # lowest and highest of which `y` are medians


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture of a result; drawn where matplotlib is. With `log_y` names have points, as bars stand at 0."""

    name: str  # of the file, without its ending
    title: str
    x_label: str
    y_label: str  # of what, and in which unit
    series: list[Series]
    goal: float | Sequence[float] | None = None  # a line across, or one for each name
    goal_label: str = "goal"
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """What was to be reached, in words with the bound and what was found, and whether it was."""

    what: str
    met: bool

    def __str__(self) -> str:
        """As a column `goal` says it."""
        return "met" if self.met else "missed"


@dataclass(slots=True)
class Result:
    """What a bench found. With something `wrong` its numbers mean nothing; a missed goal is a finding."""

    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def judge(self, what: str, met: bool) -> str:
        """Note a goal; returns the cell for a column `goal`."""
        self.goals.append(Goal(what, met))
        return str(self.goals[-1])

    def problems(self) -> list[str]:
        none = [] if self.tables else ["no table"]
        return [*none, *self.wrong, *(problem for table in self.tables for problem in table.problems())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller of `python -m bench` may choose; a bench takes what means something to it."""

    quick: bool = False  # tiny sizes: shows that the bench runs, its numbers mean nothing
    seconds: float | None = None  # of each measured block
    most: int | None = None  # the largest size of those that grow
    pairs: int | None = None  # allocations that are released again
    profile: bool = False  # tell process ids, so that a profiler can be put on them

    def choose(self, usual: float, quick: float) -> float:
        """The length of a block."""
        return self.seconds or (quick if self.quick else usual)


def tell(text: str) -> None:
    """Progress, to standard error: the tables alone go to standard output."""
    sys.stderr.write(f"  {time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class Most:
    """What --most is the largest of, and what it may be."""

    of: str
    usual: int
    among: tuple[int, ...] = ()  # these alone; without them: from 1 to `limit`
    limit: int = 100_000

    def refusal(self, most: int) -> str:
        """Why it may not be so many; nothing where it may."""
        if self.among:
            return "" if most in self.among else f"one of {', '.join(map(str, self.among))}"
        return "" if 1 <= most <= self.limit else f"from 1 to {self.limit}"


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench: asked by its name, it answers one question.

    `takes`: the options, by their names, that mean something to it; `--most` where it says what that is of.
    """

    name: str
    question: str
    run: Callable[[Options], Coroutine[Any, Any, Result]]
    takes: tuple[str, ...] = ()
    most: Most | None = None

    def knows(self, option: str) -> bool:
        return option in self.takes or (option == "most" and self.most is not None)
