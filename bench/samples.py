"""Percentiles of samples that are all kept: nothing is binned, nothing is interpolated."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Final

RESAMPLES: Final = 2000


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


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def geometric_mean(values: Sequence[float]) -> float:
    """The mean of ratios: of one and its inverse it is 1. Of positive numbers."""
    return math.exp(mean([math.log(value) for value in values]))


def interval(
    rounds: Sequence[float], statistic: Callable[[Sequence[float]], float], *, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Within which the statistic lies nine times of ten, if other rounds had been as these are (bootstrap).

    One number a round: samples of one round are no independent ones. As many are drawn from them, again and again
    with a fixed seed, and the statistic sees what was drawn (Efron, 1979; percentile interval).
    """
    source = random.Random(1)
    drawn = sorted(statistic(source.choices(rounds, k=len(rounds))) for _ in range(resamples))
    return percentile(drawn, 5), percentile(drawn, 95)


def tail(count: int) -> list[float]:
    """The N of "one in N" that so many samples support, from 1 on, dense where it hurts.

    Up to a tenth of the samples: what one in more takes is known from fewer than ten of them.

    >>> [round(n) for n in tail(200)][::10]
    [1, 3, 10]
    """
    most = max(1, count // 10)
    steps = math.floor(round(20 * math.log10(most), 9))
    return [10 ** (step / 20) for step in range(steps + 1)]
