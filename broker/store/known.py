"""Items that whoever asks may know up to a second old: read together, in one call a second."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.store.client import StoreClient
from broker.store.table import Item

REMEMBER_S: Final = 1.0
_BATCH: Final = 100
"""Keys that one batch read of the store takes."""


@dataclass(slots=True)
class _Seen:
    """An item as a read found it that began at `at`; None where there is none."""

    key: Item
    item: Item | None
    at: float
    asked: bool = False  # since that read: it goes along with the next


class Known:
    """Reads single-flight: whoever comes while a read is under way gets its answer, or its failure."""

    def __init__(self, client: StoreClient, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}
        self._reads: dict[str, asyncio.Task[dict[str, _Seen]]] = {}

    async def get(self, key: Item) -> Item | None:
        """The item as it was a second ago at the most, or as the read that is under way finds it.

        Raises:
            StoreThrottled, StoreUnavailable: to everyone who waited for the read that failed.
        """
        pk = key["pk"]["S"]
        seen = self._seen.get(pk)
        if seen is None or self._monotonic() - seen.at >= REMEMBER_S:
            seen = (await asyncio.shield(self._reads.get(pk) or self._begin(key)))[pk]
        seen.asked = True
        return seen.item

    def forget(self, key: Item) -> None:
        """It was written: what was read of it before, or is being read, is history."""
        pk = key["pk"]["S"]
        self._seen.pop(pk, None)
        self._reads.pop(pk, None)

    def _begin(self, key: Item) -> asyncio.Task[dict[str, _Seen]]:
        """Read this item, and with it what else is asked for."""
        others = [seen.key for pk, seen in self._seen.items() if seen.asked and pk not in self._reads]
        keys = {k["pk"]["S"]: k for k in [key, *others][:_BATCH]}
        read = asyncio.create_task(self._read(keys))
        self._reads |= dict.fromkeys(keys, read)
        read.add_done_callback(self._landed)
        return read

    async def _read(self, keys: dict[str, Item]) -> dict[str, _Seen]:
        at = self._monotonic()
        found = {item["pk"]["S"]: item for item in await self._client.batch_get(list(keys.values()))}
        return {pk: _Seen(key, found.get(pk), at) for pk, key in keys.items()}

    def _landed(self, read: asyncio.Task[dict[str, _Seen]]) -> None:
        mine = [pk for pk, current in self._reads.items() if current is read]
        for pk in mine:
            del self._reads[pk]
        if not read.cancelled() and read.exception() is None:
            self._seen |= {pk: seen for pk, seen in read.result().items() if pk in mine}
