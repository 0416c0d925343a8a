"""Pictures of results, by matplotlib, which is in the extra `bench` alone: without it there are only tables."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.frame import Plot

HOW = "no plots: matplotlib is not installed (make .venv/bench)"
SIZE = (9.0, 5.0)  # inches
DPI = 110


def can_draw() -> bool:
    return find_spec("matplotlib") is not None


def draw(plot: Plot, directory: Path) -> Path:
    """Write the plot as a PNG; returns its path."""
    figure: Any = import_module("matplotlib.figure").Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    if any(isinstance(x, str) for series in plot.series for x in series.x):
        width = 0.8 / len(plot.series)
        for n, series in enumerate(plot.series):
            places = [place + (n - (len(plot.series) - 1) / 2) * width for place in range(len(series.x))]
            bars = axes.bar(places, series.y, width=width, label=series.label)
            axes.bar_label(bars, fmt="%.3g", fontsize=8)
        many = len(plot.series[0].x) > 6
        names = [str(x) for x in plot.series[0].x]
        axes.set_xticks(range(len(names)), names, rotation=25 if many else 0, ha="right" if many else "center")
    else:
        for series in plot.series:
            axes.plot([float(x) for x in series.x], series.y, label=series.label, marker=_marker(series.x))
        axes.grid(visible=True, which="both", alpha=0.3)
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(plot.title)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    if len(plot.series) > 1:
        axes.legend()
    path = directory / f"{plot.name}.png"
    figure.savefig(path)
    return path


def _marker(points: object) -> str | None:
    """Few points are marked, a curve is not."""
    return "o" if isinstance(points, list) and len(points) <= 20 else None
