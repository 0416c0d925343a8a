"""Percentiles of samples that are all kept: nothing is binned, nothing is interpolated."""

import math
from collections.abc import Sequence


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all samples do not exceed (nearest rank); nan for none.

    >>> [percentile([1, 2, 3, 4], p) for p in (50, 75, 76, 100)]
    [2, 3, 4, 4]
    """
    if not ordered:
        return math.nan
    rank = math.ceil(round(percent / 100 * len(ordered), 9))  # 0.29 * 100 is a little above 29
    return ordered[min(len(ordered), max(1, rank)) - 1]


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the mean of both, as there are few."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if not ordered:
        return math.nan
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through these points that is nearest to them (least squares); nan where there is none.

    >>> slope([0, 1, 2, 3], [5, 7, 9, 11])
    2.0
    """
    if len(set(x)) < 2:
        return math.nan
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    risen = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return risen / sum((a - mean_x) ** 2 for a in x)
