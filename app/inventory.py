"""Lists of sandboxes for operators: through every state and shard once, page by page."""

from dataclasses import dataclass
from typing import Any, Final

from app.cursors import Cursors
from broker.sandbox import Sandbox, State
from broker.store.sandboxes import Sandboxes
from broker.store.tenants import Tenants

_MAX_QUERIES: Final = 40
"""Per page: an answer with few rows and a cursor beats one that walks a thousand empty partitions."""


@dataclass(frozen=True, slots=True)
class Page:
    sandboxes: list[Sandbox]
    cursor: str | None


class Inventory:
    """Pages through one tenant's sandboxes, by status, by track, or all of them."""

    def __init__(self, sandboxes: Sandboxes, tenants: Tenants, cursors: Cursors) -> None:
        self._sandboxes = sandboxes
        self._tenants = tenants
        self._cursors = cursors

    async def page(
        self, tenant: str, *, status: State | None, track: str | None, limit: int, cursor: str | None
    ) -> Page:
        """Up to `limit` sandboxes, and the cursor of the next page; None after the last.

        Raises:
            InvalidCursor: not one of this tenant's for this filter.
        """
        scope = (tenant, status.value if status else "*", track or "")
        position = self._cursors.decode(cursor, scope=scope) if cursor else {}
        shards = position.get("n") or await self._tenants.shards(tenant)
        partitions = _partitions(shards, status, track)
        at, after = position.get("p", 0), position.get("k")
        rows: list[Sandbox] = []
        for _ in range(_MAX_QUERIES):
            if at >= len(partitions) or len(rows) >= limit:
                break
            found, after = await self._query(tenant, partitions[at], status, track, limit - len(rows), after)
            rows += found
            if after is None:
                at += 1
        done = at >= len(partitions)
        return Page(rows, None if done else self._cursors.encode({"p": at, "k": after, "n": shards}, scope=scope))

    async def _query(
        self,
        tenant: str,
        partition: tuple[State | None, int],
        status: State | None,
        track: str | None,
        limit: int,
        after: dict[str, Any] | None,
    ) -> tuple[list[Sandbox], dict[str, Any] | None]:
        state, shard = partition
        if track is not None:
            rows, after = await self._sandboxes.page_of_track(
                tenant, track, shard, state=status, limit=limit, after=after
            )
            return await self._whole(tenant, rows, status), after
        if state is None:
            raise ValueError("a partition without a track has a state")
        return await self._sandboxes.page(tenant, state, shard, limit=limit, after=after)

    async def _whole(self, tenant: str, rows: list[Sandbox], status: State | None) -> list[Sandbox]:
        """The rows as the table holds them now: the track's index carries only some of their facts."""
        present = await self._sandboxes.find(tenant, (row.id for row in rows))
        whole = [present[row.id] for row in rows if row.id in present]
        return [sandbox for sandbox in whole if status in (None, sandbox.state)]


def _partitions(shards: int, status: State | None, track: str | None) -> list[tuple[State | None, int]]:
    states: list[State | None] = [None] if track else [status] if status else list(State)
    return [(state, shard) for state in states for shard in range(shards)]
