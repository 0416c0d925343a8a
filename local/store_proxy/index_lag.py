"""Lets index queries answer from shadows, and keeps the shadows behind their tables."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from local.store_proxy.answers import Answer, Body
from local.store_proxy.call import Call
from local.store_proxy.faults import Faults
from local.store_proxy.schema import Table
from local.store_proxy.shadow import Shadow
from local.store_proxy.upstream import EngineRefused, Scope, Unreachable, Upstream


class IndexLag:
    def __init__(self, upstream: Upstream, faults: Faults) -> None:
        self._upstream = upstream
        self._faults = faults
        self._shadows: dict[tuple[Scope, str], Shadow] = {}

    @property
    def is_on(self) -> bool:
        return self._faults.index_lag_s > 0 or self._faults.freeze_indexes

    async def forward(self, call: Call, tables: Mapping[str, Table]) -> Answer:
        """Send `call` to the engine: index queries to the shadow, and after writes let the shadow know.

        Returns after the images of what was written have been read, so that a caller's next write is
        not mistaken for this one.
        """
        if not self.is_on and not self._shadows:
            return await self._upstream.send(call.headers, call.raw)
        indexed = [table for table in tables.values() if table.indexes]
        if call.writes:
            return await self._forward_write(call, indexed)
        if call.index and indexed and self.is_on and not call.body.get("ConsistentRead"):
            return await self._forward_index_read(call, indexed[0])
        return await self._upstream.send(call.headers, call.raw)

    async def forget(self, name: str, scope: Scope) -> None:
        """The table changed its shape or is gone: so is its shadow."""
        shadow = self._shadows.pop((scope, name), None)
        if shadow is not None:
            await shadow.close(drop=True)

    async def settle(self) -> None:
        """Wait until every shadow shows what its table shows.

        Raises:
            RuntimeError: the indexes are frozen, so that this would never end.
        """
        while not all(shadow.caught_up for shadow in self._shadows.values()):
            if self._faults.freeze_indexes:
                raise RuntimeError("freeze_indexes is on: the indexes cannot catch up")
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        for shadow in self._shadows.values():
            try:
                await shadow.close(drop=True)
            except (EngineRefused, Unreachable):
                continue  # the engine went first and took the shadow along
        self._shadows.clear()

    async def _forward_write(self, call: Call, indexed: Iterable[Table]) -> Answer:
        if self.is_on:
            for table in indexed:
                await self._shadow_of(table)
        try:
            answer = await self._upstream.send(call.headers, call.raw)
        except Unreachable:
            self._lose_track(indexed)
            raise
        if answer.succeeded:
            await self._note(call, indexed)
        return answer

    async def _forward_index_read(self, call: Call, table: Table) -> Answer:
        shadow = await self._shadow_of(table)
        body = json.dumps(call.body | {"TableName": shadow.name}).encode()
        answer = await self._upstream.send(call.headers, body)
        return _renamed(answer, shadow.name, table.name)

    async def _note(self, call: Call, indexed: Iterable[Table]) -> None:
        if not self.is_on:
            self._lose_track(indexed)
            return
        for table in indexed:
            written = [
                action.attributes
                for action in call.actions
                if action.table == table.name and action.kind != "ConditionCheck"
            ]
            if written:
                await self._note_in(table, written)

    async def _note_in(self, table: Table, written: list[Body]) -> None:
        try:
            shadow = await self._shadow_of(table)
            await shadow.note(written)
        except (EngineRefused, Unreachable):
            self._lose_track([table])  # the write itself stands, and so does its answer

    async def _shadow_of(self, table: Table) -> Shadow:
        shadow = self._shadows.get((table.scope, table.name))
        if shadow is None:
            shadow = self._shadows[table.scope, table.name] = Shadow(table, self._upstream, self._faults)
        await shadow.ready()
        return shadow

    def _lose_track(self, indexed: Iterable[Table]) -> None:
        for table in indexed:
            shadow = self._shadows.get((table.scope, table.name))
            if shadow is not None:
                shadow.forget_progress()


def _renamed(answer: Answer, shadow: str, table: str) -> Answer:
    """`answer` with the table's own name where the engine spoke of the shadow; items are left alone."""
    if shadow.encode() not in answer.body:
        return answer
    body: Any = json.loads(answer.body)
    if isinstance(capacity := body.get("ConsumedCapacity"), dict):
        capacity["TableName"] = table
    for member in ("message", "Message"):
        if member in body:
            body[member] = body[member].replace(shadow, table)
    return answer.with_body(json.dumps(body).encode())
