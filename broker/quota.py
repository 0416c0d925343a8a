"""Quota: how many sandboxes a tenant's students may hold at once, exact however many processes hand them out.

A tenant with a limit of 100 has the slots 0 to 99, and an allocation puts one of them in its transaction, if it
is not there yet. Two allocations cannot put one slot, and there is no hundred-and-first: that is all of the proof.
What this module adds is only which slot to try next.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from broker.errors import WriteConflict
from broker.sandbox import State
from broker.store.sandboxes import Sandboxes
from broker.store.slots import Slots

DOUBTS: Final = 2
"""Slots in a row that others had filled, after which the slots are read anew."""


@dataclass(slots=True)
class _Shelf:
    """What one process knows of a tenant's slots."""

    limit: int
    empty: list[int] = field(default_factory=list)  # shuffled: processes keep out of each other's way
    lent: set[int] = field(default_factory=set)
    doubts: int = 0
    shown_at: float = -1.0  # when the last read began that was answered
    full: bool = False  # what it showed
    below: int = 0  # slots up to here may be filled: see _below()
    reading: asyncio.Task[None] | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Quota:
    """Lends each allocation another slot to try. Give every one back: took, lost or unused."""

    def __init__(
        self, slots: Slots, sandboxes: Sandboxes, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._slots = slots
        self._sandboxes = sandboxes
        self._monotonic = monotonic
        self._shelves: dict[str, _Shelf] = {}

    async def take(self, tenant: str, limit: int) -> int | None:
        """A slot that looks empty; None where a read that began after the call has shown that there is none.

        Raises:
            StoreThrottled, StoreUnavailable: the slots could not be read.
        """
        shelf = self._shelf(tenant, limit)
        asked_at = self._monotonic()
        while True:
            if shelf.doubts < DOUBTS and (slot := self._pop(shelf)) is not None:
                return slot
            if shelf.shown_at >= asked_at:
                if shelf.full:
                    return None
                if shelf.lent:  # a sibling's may come back: its store call has a deadline
                    shelf.settled.clear()
                    await shelf.settled.wait()
            await self._read(tenant, shelf)

    def took(self, tenant: str, slot: int) -> None:
        """It is this allocation's."""
        if shelf := self._shelves.get(tenant):
            shelf.doubts = 0
            self._settle(shelf, slot)

    def lost(self, tenant: str, slot: int) -> None:
        """Somebody else's, or nobody knows."""
        if shelf := self._shelves.get(tenant):
            shelf.doubts += 1
            self._settle(shelf, slot)

    def unused(self, tenant: str, slot: int) -> None:
        """The transaction was refused for another reason: the next one may have it."""
        if shelf := self._shelves.get(tenant):
            if slot < shelf.below:
                shelf.empty.append(slot)
            self._settle(shelf, slot)

    async def held(self, tenant: str) -> int:
        """How many slots are filled now, read consistently."""
        return len(await self._slots.used(tenant))

    async def seat(self, tenant: str, limit: int) -> Counter[str]:
        """Give a slot to what was allocated before there was a limit, and one below it to what lies beyond.

        Where there are more sandboxes than slots the rest lies beyond the limit: it counts, and ends by itself.
        """
        outcome: Counter[str] = Counter()
        held = [row async for row in self._sandboxes.walk(tenant, State.ALLOCATED)]
        misplaced = [row for row in held if row.slot is None or row.slot >= limit]
        used = await self._slots.used(tenant) if misplaced else frozenset()
        empty = (slot for slot in itertools.count() if slot not in used)
        for row in sorted(
            misplaced, key=lambda row: row.slot is not None
        ):  # first those that count for nothing yet
            slot = next(empty)
            if row.slot is not None and slot >= limit:
                break  # it is full below: those beyond stay where they are
            try:
                await self._sandboxes.seat(row, row.seated(slot))
                outcome["seated"] += 1
            except WriteConflict:  # it ended meanwhile, or the slot is another's: the next run sees to it
                outcome["lost_race"] += 1
        return outcome

    def _shelf(self, tenant: str, limit: int) -> _Shelf:
        shelf = self._shelves.setdefault(tenant, _Shelf(limit))
        if shelf.limit != limit:
            shelf.limit, shelf.empty, shelf.shown_at = limit, [], -1.0
        return shelf

    def _pop(self, shelf: _Shelf) -> int | None:
        while shelf.empty:
            slot = shelf.empty.pop()
            if slot < shelf.below and slot not in shelf.lent:
                shelf.lent.add(slot)
                return slot
        return None

    def _settle(self, shelf: _Shelf, slot: int) -> None:
        shelf.lent.discard(slot)
        shelf.settled.set()

    async def _read(self, tenant: str, shelf: _Shelf) -> None:
        """Read the slots, once for everyone who waits. Who came while a read was under way reads once more."""
        if shelf.reading is None or shelf.reading.done():
            shelf.reading = asyncio.create_task(self._refresh(tenant, shelf))
        await asyncio.shield(shelf.reading)

    async def _refresh(self, tenant: str, shelf: _Shelf) -> None:
        began, limit = self._monotonic(), shelf.limit
        used = await self._slots.used(tenant)
        shelf.shown_at, shelf.full, shelf.doubts = began, len(used) >= limit, 0
        shelf.below = _below(used, limit)
        shelf.empty = [slot for slot in range(shelf.below) if slot not in used and slot not in shelf.lent]
        random.shuffle(shelf.empty)


def _below(used: frozenset[int], limit: int) -> int:
    """Slots below this bound may be filled: with all of them full, no more than `limit` would be held.

    It is the limit itself, unless slots lie beyond one that was lowered. Two processes that saw others at
    different moments have different bounds; the later ones are larger, and each of them keeps the promise.
    """
    below, beyond = limit, sum(slot >= limit for slot in used)
    while below > 0 and below + beyond > limit:
        below -= 1
        beyond += below in used
    return below
