"""Which sandboxes a bulk move is about. What a dry run counts is what the job then walks."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from broker.job import Kind
from broker.pool import Pool
from broker.sandbox import Sandbox, State
from broker.store.sandboxes import Sandboxes
from broker.store.table import Item
from broker.store.tenants import Tenants

SOURCES: Final[Mapping[Kind, tuple[State, ...]]] = {
    Kind.BULK_DELETE: (State.STALE, State.DELETION_FAILED),
    Kind.BULK_RETRY: (State.DELETION_FAILED,),
    Kind.BULK_QUARANTINE: (State.AVAILABLE,),
    Kind.BULK_FORCE_RELEASE: (State.ALLOCATED,),
}
"""The states from which each bulk move starts. Sandboxes in any other are counted and left alone."""

SAMPLE: Final = 20
_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """By id, or by state and, within it, by lab and by the beginning of the name."""

    states: tuple[State, ...]
    ids: tuple[str, ...] = ()
    track: str | None = None
    prefix: str = ""

    @classmethod
    def of(cls, kind: Kind, params: Mapping[str, str]) -> Self:
        """As the parameters of a job say it."""
        states = (State(params["status"]),) if "status" in params else SOURCES[kind]
        ids = tuple(params.get("ids", "").split())
        return cls(states=states, ids=ids, track=params.get("track"), prefix=params.get("prefix", ""))


@dataclass(frozen=True, slots=True)
class Preview:
    """What a bulk move would do now: how many it would move, some of them, and why others are left alone."""

    total: int
    sample: list[str]
    left_alone: Mapping[str, int]


class Selector:
    """Finds the sandboxes of a selection. For people: it reads all that the selection is about."""

    def __init__(self, sandboxes: Sandboxes, tenants: Tenants) -> None:
        self._sandboxes = sandboxes
        self._tenants = tenants

    async def ids(self, tenant: str, selection: Selection) -> AsyncIterator[str]:
        """The ids: given ones as they are, others as the index shows them. A hint; the move itself decides."""
        for sandbox_id in selection.ids:
            yield sandbox_id
        if selection.ids:
            return
        for state in selection.states:
            for shard in range(await self._tenants.shards(tenant)):
                async for row in self._rows(tenant, state, shard, selection):
                    yield row.id

    async def preview(self, tenant: str, selection: Selection) -> Preview:
        """What the move would find now. Given ids are looked up in the table, others in the index."""
        found: list[str] = []
        left_alone: Counter[str] = Counter()
        if selection.ids:
            present = await self._sandboxes.find(tenant, selection.ids)
            for sandbox_id in dict.fromkeys(selection.ids):
                sandbox = present.get(sandbox_id)
                if sandbox is not None and sandbox.state in selection.states:
                    found.append(sandbox_id)
                else:
                    left_alone["not_found" if sandbox is None else sandbox.state.value] += 1
        else:
            found = [sandbox_id async for sandbox_id in self.ids(tenant, selection)]
        return Preview(len(found), sorted(found)[:SAMPLE], left_alone)

    async def _rows(self, tenant: str, state: State, shard: int, selection: Selection) -> AsyncIterator[Sandbox]:
        after: Item | None = None
        while True:
            if selection.track is not None:
                rows, after = await self._sandboxes.page_of_track(
                    tenant, selection.track, shard, state=state, limit=_PAGE, after=after
                )
            else:
                (names,) = Pool(selection.prefix if state is State.AVAILABLE else "").spans()
                rows, after = await self._sandboxes.page(
                    tenant, state, shard, limit=_PAGE, names=names, after=after
                )
            for row in rows:
                if row.name.startswith(selection.prefix):
                    yield row
            if after is None:
                return
