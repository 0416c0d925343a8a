"""A copy of one table that follows it at a distance: what its lagging indexes show."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from local.store_proxy.answers import Body
from local.store_proxy.faults import Faults
from local.store_proxy.schema import Key, Table
from local.store_proxy.upstream import EngineRefused, Unreachable, Upstream

SUFFIX = "__shadow"
READ_BATCH = 100  # BatchGetItem's limit
WRITE_BATCH = 25  # BatchWriteItem's limit
LOOK_S = 0.01  # how soon a change of the lag or an end of the freeze is noticed


@dataclass(frozen=True, slots=True)
class _Image:
    noted_at: float
    key: Key
    request: Body
    """The put or delete that brings the shadow to this image."""


@dataclass(slots=True)
class _Round:
    """Keys that one round of reading covers; filled until the round begins."""

    keys: dict[Key, Body] = field(default_factory=dict)
    done: bool = False


class Shadow:
    """The copy of one table.

    Images are read one round at a time and replayed in the order in which they were read, so that a
    later image is never overtaken by an earlier one. Writes that do not pass this proxy stay unseen.
    """

    def __init__(self, table: Table, upstream: Upstream, faults: Faults) -> None:
        self.name = table.name + SUFFIX
        self.filled = False
        self._table = table
        self._upstream = upstream
        self._faults = faults
        self._next_round = _Round()
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._waiting: deque[_Image] = deque()
        self._noted = asyncio.Event()
        self._replayer = asyncio.create_task(self._replay())

    @property
    def caught_up(self) -> bool:
        if self._replayer.done():
            self._replayer.result()
        return not self._waiting and not self._reading.locked()

    async def ready(self) -> None:
        """Make the shadow a copy of the table as it is now, unless it already follows it."""
        if not self.filled:
            await self._fill()

    def forget_progress(self) -> None:
        """From here on the shadow no longer follows; the next `ready` copies anew."""
        self.filled = False
        self._waiting = deque()
        self._noted.clear()

    async def note(self, written: Iterable[Body]) -> None:
        """Read the images of items just written and queue them; returns when they have been read.

        Callers that come while a round of reading is under way share the next one.
        """
        noted_at = time.monotonic()
        mine = self._next_round
        mine.keys.update((self._table.key_of(item), self._table.key_attributes(item)) for item in written)
        async with self._reading:
            if mine.done:
                return
            if mine is self._next_round:
                self._next_round = _Round()
            images = await self._read(mine.keys)
            mine.done = True
            for key, attributes in mine.keys.items():
                self._waiting.append(_Image(noted_at, key, self._request(images.get(key), attributes)))
            self._noted.set()

    async def close(self, *, drop: bool) -> None:
        self._replayer.cancel()
        await asyncio.gather(self._replayer, return_exceptions=True)
        if drop:
            await self._drop()

    async def _fill(self) -> None:
        async with self._writing:
            if self.filled:
                return  # another call got here first
            self.forget_progress()
            await self._drop()
            await self._upstream.call("CreateTable", _definition(self._table, self.name), self._table.scope)
            async for items in self._scan():
                await self._write([self._request(item, item) for item in items])
            self.filled = True

    async def _replay(self) -> None:
        while True:
            await self._noted.wait()
            async with self._writing:
                waiting = self._waiting
                due = list(self._due())
                try:
                    await self._write(list({image.key: image.request for image in due}.values()))
                except (EngineRefused, Unreachable):
                    self.forget_progress()
                for _ in due:
                    waiting.popleft()
                if not self._waiting:
                    self._noted.clear()
            if not due:
                await asyncio.sleep(LOOK_S)

    def _due(self) -> Iterator[_Image]:
        if self._faults.freeze_indexes:
            return
        until = time.monotonic() - self._faults.index_lag_s
        for image in self._waiting:
            if image.noted_at > until:
                return
            yield image

    def _request(self, image: Body | None, attributes: Body) -> Body:
        if image is not None:
            return {"PutRequest": {"Item": image}}
        return {"DeleteRequest": {"Key": self._table.key_attributes(attributes)}}

    async def _read(self, keys: dict[Key, Body]) -> dict[Key, Body]:
        images: dict[Key, Body] = {}
        left = iter(keys.values())
        while wanted := list(islice(left, READ_BATCH)):
            while wanted:
                request = {"RequestItems": {self._table.name: {"Keys": wanted, "ConsistentRead": True}}}
                answer = await self._upstream.call("BatchGetItem", request, self._table.scope)
                found = answer.get("Responses", {}).get(self._table.name, [])
                images.update((self._table.key_of(item), item) for item in found)
                wanted = (answer.get("UnprocessedKeys") or {}).get(self._table.name, {}).get("Keys", [])
        return images

    async def _write(self, requests: list[Body]) -> None:
        left = iter(requests)
        while batch := list(islice(left, WRITE_BATCH)):
            while batch:
                request = {"RequestItems": {self.name: batch}}
                answer = await self._upstream.call("BatchWriteItem", request, self._table.scope)
                batch = (answer.get("UnprocessedItems") or {}).get(self.name, [])

    async def _drop(self) -> None:
        try:
            await self._upstream.call("DeleteTable", {"TableName": self.name}, self._table.scope)
        except EngineRefused as refused:
            if not refused.missing:
                raise

    async def _scan(self) -> AsyncIterator[list[Body]]:
        request: Body = {"TableName": self._table.name, "ConsistentRead": True}
        while True:
            page = await self._upstream.call("Scan", request, self._table.scope)
            yield page["Items"]
            if not page.get("LastEvaluatedKey"):
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def _definition(table: Table, name: str) -> Body:
    definition: Body = {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": table.description["KeySchema"],
        "AttributeDefinitions": table.description["AttributeDefinitions"],
    }
    for kind in ("GlobalSecondaryIndexes", "LocalSecondaryIndexes"):
        indexes = [
            {part: index[part] for part in ("IndexName", "KeySchema", "Projection")}
            for index in table.description.get(kind) or []
        ]
        if indexes:
            definition[kind] = indexes
    return definition
