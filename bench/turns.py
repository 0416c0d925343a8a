"""In which order what is compared takes its turns: fixed by a seed, and fair to each place."""

import random
from collections.abc import Sequence
from itertools import permutations
from typing import Final, TypeVar

SEED: Final = 1
Name = TypeVar("Name")


def turns(names: Sequence[Name], rounds: int, *, seed: int = SEED) -> list[list[Name]]:
    """An order of the names for each round: all orders there are, shuffled, and again from the first.

    Whoever always went first would always find the machine as nobody else does. For a few names.
    """
    source = random.Random(seed)
    found: list[list[Name]] = []
    while len(found) < rounds:
        orders = [list(order) for order in permutations(names)]
        source.shuffle(orders)
        found += orders
    return found[:rounds]
