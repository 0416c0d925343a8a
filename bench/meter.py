"""A proxy in front of the engine that counts what each call costs: round trips, rows examined, units by partition.

It reads every item that a write names before and after the write, so that it knows what was written, whatever the
call looked like. For calls one after the other: it is no proxy to measure time through.
"""

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from bench.capacity import index_entry, index_writes, item_bytes, read_units, write_units
from local.engine import free_port
from local.store_proxy.answers import Answer
from local.store_proxy.call import Action, Call
from local.store_proxy.upstream import Upstream

TABLE: Final = "table"
READ: Final = "read"
WRITE: Final = "write"
_NARROWING: Final = frozenset({"Select", "FilterExpression", "ProjectionExpression"})


@dataclass(slots=True)
class Spent:
    """What calls cost since the last look. `units` by place (table or index), partition key, and READ or WRITE."""

    calls: Counter[str] = field(default_factory=Counter)
    examined: int = 0  # rows that queries read
    units: dict[tuple[str, str, str], float] = field(default_factory=dict)
    engine_writes: float = 0.0  # the engine's own count of write units, to hold ours against

    def add(self, place: str, partition: str, kind: str, units: float) -> None:
        key = (place, partition, kind)
        self.units[key] = self.units.get(key, 0.0) + units

    def total(self, place: str | None, kind: str) -> float:
        """Units of the table or one index; of all of them together without `place`."""
        return sum(
            units for (where, _, what), units in self.units.items() if what == kind and place in (None, where)
        )


@dataclass(slots=True)
class Sizes:
    """Bytes of items of one kind, as they were written."""

    number: int = 0
    total: int = 0
    largest: int = 0

    def add(self, size: int) -> None:
        self.number += 1
        self.total += size
        self.largest = max(self.largest, size)

    @property
    def mean(self) -> float:
        return self.total / self.number


class Meter:
    """Counts what passes through it. `sizes` are of all that was written since it runs, by kind and place."""

    def __init__(self, upstream_url: str, indexes: list[dict[str, Any]]) -> None:
        self._upstream = Upstream(upstream_url)
        self._indexes = indexes
        self._spent = Spent()
        self._ignored: tuple[str, ...] = ()
        self.sizes: defaultdict[tuple[str, str], Sizes] = defaultdict(Sizes)
        self.url = ""

    def look(self) -> Spent:
        """What was spent since the last look; from here on it counts anew."""
        spent, self._spent = self._spent, Spent()
        return spent

    def ignore(self, *prefixes: str) -> None:
        """Calls on keys that begin with one of these are not counted: they come by the clock, not by the work."""
        self._ignored = prefixes

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Meter"]:
        port = free_port()
        await self._upstream.open()
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()
            await self._upstream.close()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        raw = await request.content.read()
        call = Call.parse(request.headers, raw)
        if call is None:
            answer = await self._upstream.send(request.headers, raw, method=request.method, path=request.path_qs)
        else:
            answer = await self._metered(call)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _metered(self, call: Call) -> Answer:
        asked = json.dumps(call.body | {"ReturnConsumedCapacity": "INDEXES"}).encode()
        writes = [action for action in call.actions if action.kind != "Get"] if call.writes else []
        before = [await self._item(call, action) for action in writes]
        answer = await self._upstream.send(call.headers, asked)
        said = json.loads(answer.body)
        consumed = said.pop("ConsumedCapacity", None)
        if self._counts(call):
            self._spent.calls[call.label] += 1
            if writes:
                after = [await self._item(call, action) for action in writes]
                self._note_writes(call, writes, before, after)
                self._spent.engine_writes += _units(consumed)
            elif answer.succeeded:
                self._note_read(call, await self._whole(call, said))
        return answer.with_body(json.dumps(said).encode())

    async def _whole(self, call: Call, said: dict[str, Any]) -> dict[str, Any]:
        """The answer with all that was read for it: a query that counts or filters is billed for that."""
        if not _NARROWING & call.body.keys():
            return said
        asked = {name: value for name, value in call.body.items() if name not in _NARROWING}
        for used in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
            kept = {n: v for n, v in asked.pop(used, {}).items() if n in asked.get("KeyConditionExpression", "")}
            asked |= {used: kept} if kept else {}
        return await self._upstream.call(call.op, asked, call.scope)

    def _counts(self, call: Call) -> bool:
        keys = [*call.partition_keys({}), *(_text(action.attributes.get("pk")) for action in call.actions)]
        return not (keys and all(key.startswith(self._ignored or ("\0",)) for key in keys))

    async def _item(self, call: Call, action: Action) -> dict[str, Any] | None:
        key = {name: action.attributes[name] for name in ("pk", "sk")}
        asked = {"TableName": action.table, "Key": key, "ConsistentRead": True}
        found: dict[str, Any] | None = (await self._upstream.call("GetItem", asked, call.scope)).get("Item")
        return found

    def _note_writes(
        self,
        call: Call,
        writes: list[Action],
        before: list[dict[str, Any] | None],
        after: list[dict[str, Any] | None],
    ) -> None:
        transaction = call.op == "TransactWriteItems"
        for action, old, new in zip(writes, before, after, strict=True):
            units = write_units(old, new, transaction=transaction)
            self._spent.add(TABLE, _text(action.attributes["pk"]), WRITE, units)
            for index in self._indexes:
                for partition, more in index_writes(index, old, new):
                    self._spent.add(index["IndexName"], partition, WRITE, more)
            if new != old:
                self._note_sizes(new)

    def _note_sizes(self, item: dict[str, Any] | None) -> None:
        """Of an item as it is now, and of what each index keeps of it."""
        if item is None:
            return
        kind = kind_of(item)
        self.sizes[kind, TABLE].add(item_bytes(item))
        for index in self._indexes:
            if (entry := index_entry(index, item)) is not None:
                self.sizes[kind, index["IndexName"]].add(item_bytes(entry))

    def _note_read(self, call: Call, said: dict[str, Any]) -> None:
        for place, partition, size, consistent in _reads(call, said):
            self._spent.add(place, partition, READ, read_units(size, consistent=consistent))
        self._spent.examined += int(said.get("ScannedCount", 0))


def kind_of(item: dict[str, Any]) -> str:
    """What an item is, by its key; a sandbox with its state.

    >>> kind_of({"pk": {"S": "SBX#acme#1"}, "state": {"S": "available"}}), kind_of({"pk": {"S": "OWN#csp#1"}})
    ('SBX available', 'OWN')
    """
    return " ".join([_text(item["pk"]).partition("#")[0], *([_text(item["state"])] if "state" in item else [])])


def _reads(call: Call, said: dict[str, Any]) -> Iterator[tuple[str, str, int, bool]]:
    """Place, partition, bytes and consistency of each read that is billed by itself."""
    body = call.body
    match call.op:
        case "GetItem":
            yield (
                TABLE,
                _text(body["Key"]["pk"]),
                item_bytes(said.get("Item", {})),
                bool(body.get("ConsistentRead")),
            )
        case "BatchGetItem":
            for table_name, asked in body["RequestItems"].items():
                found = {_text(item["pk"]): item for item in said["Responses"].get(table_name, [])}
                for key in asked["Keys"]:
                    pk = _text(key["pk"])
                    yield TABLE, pk, item_bytes(found.get(pk, {})), bool(asked.get("ConsistentRead"))
        case "Query" | "Scan":
            size = sum(item_bytes(item) for item in said.get("Items", []))
            partition = next((_text(value) for value in body.get("ExpressionAttributeValues", {}).values()), "")
            yield call.index or TABLE, partition, size, bool(body.get("ConsistentRead"))


def _units(consumed: Any) -> float:
    """The engine's total, of one table or several."""
    entries = consumed if isinstance(consumed, list) else [consumed] if consumed else []
    return sum(float(entry["CapacityUnits"]) for entry in entries)


def _text(value: Any) -> str:
    return str(next(iter(value.values()), "")) if isinstance(value, dict) else ""
