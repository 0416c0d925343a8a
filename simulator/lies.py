"""What a page of the listing shows, by position, when the listing lies about its length or order. Pure."""

from collections.abc import Iterator
from math import ceil, gcd

from simulator.faults import Faults

GOLDEN = 0.618034  # a step of this share of a round comes late to where it has been


def page_size(faults: Faults, *, limit: int) -> int:
    return min(limit, faults.page_cap) if faults.page_cap else limit


def page_number(faults: Faults, *, offset: int, limit: int) -> int:
    """Which page this is, from 1; also for a reader whose pages overlap by an entry."""
    return ceil(offset / page_size(faults, limit=limit)) + 1


def positions(faults: Faults, *, total: int, offset: int, limit: int) -> Iterator[int]:
    """The positions, of `total` listed accounts, that this page shows; costs the page's length alone."""
    known = 0 if faults.empty_listing else ceil(round(total * faults.listing_fraction, 6))
    every = faults.duplicate_entries
    entries = known + known // every if every else known
    first = 0 if faults.ignore_offset else offset
    step = _step(total) if faults.shuffled_listing else 1
    for entry in range(first, min(first + page_size(faults, limit=limit), entries)):
        yield (_told_twice(entry, every) if every else entry) * step % total


def _told_twice(entry: int, every: int) -> int:
    """The position behind an entry when each `every`-th position has two of them."""
    group, place = divmod(entry, every + 1)
    return group * every + min(place, every - 1)


def _step(total: int) -> int:
    """A step that visits each of `total` positions once before it is back, in no order that one could rely on."""
    return next(step for step in range(max(1, int(total * GOLDEN)), 0, -1) if gcd(step, total) == 1)
