"""When requests arrive: fixed before the first one is sent, so that no slow answer can put a later one off."""

import random


def evenly(count: int, seconds: float, *, seed: int = 1) -> list[float]:
    """`count` arrivals in [0, seconds), at random and independent of each other, as students' are; in order.

    The same seed gives the same arrivals: two routes that are compared are asked at the same moments.
    """
    source = random.Random(seed)
    return sorted(source.random() * seconds for _ in range(count))


def at_once(count: int) -> list[float]:
    """All in one moment."""
    return [0.0] * count
