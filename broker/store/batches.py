"""Many sandboxes in one transaction, checked against the leader's fence: how sync writes.

Sync acts on what it read long before. Its writes go out one batch at a time (two batches at once would
conflict over the fence), each all or nothing; a sandbox that someone else moved meanwhile is taken out
of the batch, and that someone's move stands.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from broker.errors import StoreThrottled
from broker.sandbox import Sandbox
from broker.store.client import StoreClient, TransactionRefused
from broker.store.events import Cause
from broker.store.leader import Fence, transact_fenced
from broker.store.sandboxes import Sandboxes

MAX_CHANGES: Final = 25
"""At most four items each and the fence: a transaction holds 100 items, and no more than 25 is wise."""


class Written(StrEnum):
    """What became of one change."""

    YES = "written"
    LOST_RACE = "lost_race"
    OWNED_ELSEWHERE = "owned_elsewhere"  # the provider's account is another sandbox's


@dataclass(frozen=True, slots=True)
class Change:
    """One sandbox's part. `before` is None for a new one; without a cause, nothing but its facts change."""

    before: Sandbox | None
    after: Sandbox
    cause: Cause | None


@dataclass(slots=True)
class _Part:
    position: int  # of the change, as it was given
    items: list[dict[str, Any]]
    owner_slots: frozenset[int]

    def keys(self) -> set[str]:
        return {str(_key(item)) for item in self.items}


class Batches:
    """Writes changes under a fence."""

    def __init__(self, client: StoreClient, sandboxes: Sandboxes) -> None:
        self._client = client
        self._sandboxes = sandboxes

    async def write(self, changes: list[Change], *, fence: Fence, now: float) -> list[Written]:
        """Write the changes, 25 to a transaction; what became of each, in their order.

        `fence` makes the check of the leader's term; it is asked anew for every transaction.

        Raises:
            LeadershipLost: the term is over; of the batch at hand nothing was written.
            StoreThrottled: nothing of the batch at hand was written.
            StoreUnavailable: whether it was is unknown; every change is safe to decide anew.
        """
        became = [Written.YES] * len(changes)
        parts = [await self._part(n, change, now) for n, change in enumerate(changes)]
        for batch in _batches(parts):
            for position, written in (await self._transact(batch, fence)).items():
                became[position] = written
        return became

    async def _part(self, position: int, change: Change, now: float) -> _Part:
        items, owner_slots = await self._sandboxes.parts(change.before, change.after, change.cause, now=now)
        return _Part(position, items, owner_slots)

    async def _transact(self, batch: list[_Part], fence: Fence) -> dict[int, Written]:
        """One batch. Returns what was left out of it, and why."""
        left_out: dict[int, Written] = {}
        while batch:
            try:
                await transact_fenced(self._client, [item for part in batch for item in part.items], fence)
            except TransactionRefused as refused:
                out = _refused(batch, refused) or _conflicting(batch, refused)
                if not out:
                    raise StoreThrottled from refused  # at the fence, again and again: later, then
                left_out |= out
                batch = [part for part in batch if part.position not in out]
            else:
                break
        return left_out


def _batches(parts: list[_Part]) -> Iterator[list[_Part]]:
    """Up to 25 parts each, no item twice in one: a transaction may not touch an item twice."""
    batch: list[_Part] = []
    keys: set[str] = set()
    for part in parts:
        if len(batch) == MAX_CHANGES or keys & part.keys():
            yield batch
            batch, keys = [], set()
        batch.append(part)
        keys |= part.keys()
    if batch:
        yield batch


def _refused(batch: list[_Part], refused: TransactionRefused) -> dict[int, Written]:
    """The parts whose own conditions failed."""
    out: dict[int, Written] = {}
    for part, slots in _slots(batch):
        failed = {n for n, slot in enumerate(slots) if refused.reasons[slot].condition_failed}
        if failed:
            owned = failed <= part.owner_slots
            out[part.position] = Written.OWNED_ELSEWHERE if owned else Written.LOST_RACE
    return out


def _conflicting(batch: list[_Part], refused: TransactionRefused) -> dict[int, Written]:
    """The parts at which other transactions were, again and again: they win."""
    return {
        part.position: Written.LOST_RACE
        for part, slots in _slots(batch)
        if any(refused.reasons[slot].conflict for slot in slots)
    }


def _slots(batch: list[_Part]) -> Iterator[tuple[_Part, range]]:
    first = 0
    for part in batch:
        yield part, range(first, first + len(part.items))
        first += len(part.items)


def _key(item: dict[str, Any]) -> tuple[str, str]:
    (action,) = item.values()
    key = action.get("Key") or action["Item"]
    return key["pk"]["S"], key["sk"]["S"]
