"""Pictures of results, by matplotlib, which is in the extra `bench` alone: without it there are only tables."""

import math
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from bench.frame import Plot, Series

HOW: Final = "no plots: matplotlib is not installed (make .venv/bench)"
QUICK: Final = "QUICK: means nothing"
SIZE: Final = (9.0, 5.5)  # inches
DPI: Final = 110
MARKED: Final = 20
"""Points of a line with no more than these are marked, those of a curve are not."""
MARKERS: Final = "osD^vP*X"
DASHES: Final = ("-", "--", ":", "-.")
ROOM: Final = 1.12
"""The frame is so much higher than the highest point: there is a label above it."""


def can_draw() -> bool:
    return find_spec("matplotlib") is not None


def draw(plot: Plot, directory: Path, *, quick: bool = False) -> Path:
    """Write the plot as a PNG, stamped where it shows nothing but that the bench runs; returns its path."""
    figure: Any = import_module("matplotlib.figure").Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    named = any(isinstance(x, str) for series in plot.series for x in series.x)
    (_names if named else _lines)(axes, plot)
    _goal(axes, plot)
    _axes(axes, plot, named=named)
    axes.set_title(plot.title, wrap=True)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    if quick:
        figure.text(0.5, 0.5, QUICK, fontsize=34, color="red", alpha=0.35, ha="center", va="center", rotation=20)
    path = directory / f"{plot.name}.png"
    figure.savefig(path)
    return path


def short(number: float, _: object = None, *, beside: float = 0.0) -> str:
    """Three digits of it, or all before the point, and no exponent; none finer than those of one `beside` it.

    >>> [short(n) for n in (0, 0.01234, 1.0, 13.47, 1080.4, 63894)]
    ['0', '0.0123', '1', '13.5', '1,080', '63,894']
    >>> [short(n, beside=2.7) for n in (1.5, 0.0084, 0.0003)]
    ['1.5', '0.01', '0']
    """
    if not number or not math.isfinite(number):
        return "0" if number == 0 else ""
    digits = max(0, 2 - math.floor(math.log10(max(abs(number), beside))))
    text = f"{number:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def _names(axes: Any, plot: Plot) -> None:
    """Groups of bars by name; of points where the axis has no 0 for a bar to stand at."""
    width = 0.8 / len(plot.series)
    highest = 0.0 if plot.log_y else max([0.0, *(y for series in plot.series for y in series.y)])
    for n, series in enumerate(plot.series):
        places = [place + (n - (len(plot.series) - 1) / 2) * width for place in range(len(series.x))]
        if plot.log_y:
            axes.plot(places, series.y, label=series.label, marker=MARKERS[n % len(MARKERS)], linestyle="none")
        else:
            axes.bar(places, series.y, width=width, label=series.label)
        tops = series.spread[1] if series.spread else series.y
        if series.spread:
            axes.errorbar(places, series.y, yerr=_errors(series), fmt="none", ecolor="black", capsize=4)
        for place, top, value in zip(places, tops, series.y, strict=True):
            axes.annotate(
                short(value, beside=highest), (place, top), xytext=(0, 7), textcoords="offset points", ha="center",
                fontsize=8, zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
            )  # fmt: skip
    names = [str(x) for x in max((series.x for series in plot.series), key=len)]
    many = len(names) > 6
    axes.set_xticks(range(len(names)), names, rotation=25 if many else 0, ha="right" if many else "center")
    axes.grid(visible=True, axis="y", alpha=0.3)


def _lines(axes: Any, plot: Plot) -> None:
    """Lines that lie on each other are still seen: each has its own dashes, and a smaller mark than the last."""
    for n, series in enumerate(plot.series):
        look = {"label": series.label, "linestyle": DASHES[n % len(DASHES)], "linewidth": 2.6 - 0.3 * min(n, 5)}
        if len(series.x) <= MARKED:
            look |= {"marker": MARKERS[n % len(MARKERS)], "markersize": 11 - 1.2 * min(n, 5)}
            look |= {"markerfacecolor": "none"}
        places = [float(x) for x in series.x]
        axes.plot(places, series.y, **look)
        if series.spread:
            axes.fill_between(places, *series.spread, alpha=0.15)
    axes.grid(visible=True, which="both", alpha=0.3)


def _errors(series: Series) -> Sequence[list[float]]:
    """How far lowest and highest are from the median."""
    low, high = series.spread or (series.y, series.y)
    below = [max(0.0, y - lowest) for y, lowest in zip(series.y, low, strict=True)]
    above = [max(0.0, highest - y) for y, highest in zip(series.y, high, strict=True)]
    return below, above


def _goal(axes: Any, plot: Plot) -> None:
    look = {"color": "black", "linestyle": "--", "linewidth": 1.3, "label": plot.goal_label}
    if isinstance(plot.goal, Sequence):
        places = range(len(plot.goal))
        axes.hlines(plot.goal, [n - 0.45 for n in places], [n + 0.45 for n in places], **look)
    elif plot.goal is not None:
        axes.axhline(plot.goal, **look)


def _axes(axes: Any, plot: Plot, *, named: bool) -> None:
    """From 0 where there is one, with room above, and with whole numbers where matplotlib has powers of ten."""
    ticker: Any = import_module("matplotlib.ticker")
    highest = axes.dataLim.y1
    if isinstance(plot.goal, Sequence | float | int):
        highest = max([highest, *(plot.goal if isinstance(plot.goal, Sequence) else [plot.goal])])
    if plot.log_y:
        axes.set_ylim(top=axes.get_ylim()[1] * 1.5)
    elif highest > 0:
        axes.set_ylim(0, highest * ROOM)
    for axis, log in ((axes.xaxis, plot.log_x), (axes.yaxis, plot.log_y)):
        if log:
            low, high = axis.get_view_interval()
            axis.set_major_formatter(ticker.FuncFormatter(short))
            few = low > 0 and high / low < 20  # with hardly a power of ten in it
            axis.set_minor_formatter(ticker.FuncFormatter(_half) if few else ticker.NullFormatter())
        elif axis is axes.yaxis or not named:
            axis.set_major_formatter(ticker.FuncFormatter(short))
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)


def _half(number: float, _: object = None) -> str:
    """Of the numbers between powers of ten 2 and 5: more would lie over each other."""
    return short(number) if f"{number:e}"[0] in "25" else ""
