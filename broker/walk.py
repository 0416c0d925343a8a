"""A walk over the index: all shards of a (tenant, pool), this process's own first, page by page."""

import asyncio
import random
from typing import Final

from broker.errors import StoreThrottled, StoreUnavailable
from broker.evidence import Evidence
from broker.peers import Share
from broker.pool import Pool, Span
from broker.sandbox import Sandbox, State
from broker.store.sandboxes import Sandboxes
from broker.store.table import Item

EMPTY_S: Final = 1.0
"""How long "empty" is remembered, at least."""
MAX_EMPTY_S: Final = 1.8
"""And at most. Below the 2 s after which nobody may be refused (A7)."""
EMPTY_QUERIES_PER_S: Final = 16
"""What all processes together may ask the index while a pool is empty, before they remember it for longer."""

_RANDOM: Final = random.Random()  # noqa: S311  spreads load, guards nothing
_Part = tuple[int, Span | None]
"""A shard, and the names in it."""


class Walk:
    """One pass: what has not been read yet, and whether anything was found."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        evidence: Evidence,
        *,
        tenant: str,
        pool: Pool,
        share: Share,
        shards: int,
        began_at: float,
    ) -> None:
        self._sandboxes = sandboxes
        self._evidence = evidence
        self._tenant = tenant
        self._pool = pool
        self._share = share
        self._shards = shards
        self.began_at = began_at
        self.found = 0
        self.blocked: set[str] = set()  # seen, but in the hands of a sibling request
        mine, others = share.order(shards)
        begin = _RANDOM.randrange(len(mine))  # peers that know nothing of each other yet begin apart
        mine, spans = mine[begin:] + mine[:begin], pool.spans()
        self._mine = frozenset((shard, span) for shard in mine for span in spans)
        self._left: dict[_Part, Item | None] = {  # start of the next page; what has ended is gone
            (shard, span): None for shard in mine + others for span in spans
        }

    @property
    def ended(self) -> bool:
        """Every page of every shard was read."""
        return not self._left

    @property
    def has_own(self) -> bool:
        """Whether there is more of what this process takes from before it takes from its peers'."""
        return not self._left.keys().isdisjoint(self._mine)

    @property
    def empty_s(self) -> float:
        """How long its proof that there is nothing is good for: each process asks each shard as often."""
        return min(MAX_EMPTY_S, max(EMPTY_S, self._share.count * self._shards / EMPTY_QUERIES_PER_S))

    async def step(self, wanted: int, *, checking: bool) -> tuple[list[Sandbox], bool]:
        """Read pages until there is something to try: of this process's own shards, then of all others at once.

        What is a peer's is asked for as late as that, and from its end: the peer begins at the other one, so that
        they meet when there is nothing left between them.

        Returns:
            What to try, in order, checked against the base table where asked; and whether it is a peer's.

        Raises:
            StoreThrottled, StoreUnavailable: a part could not be read, and no other had anything. The walk does
                not end without it.
        """
        found: list[Sandbox] = []
        trouble = None
        if mine := [part for part in self._left if part in self._mine]:
            trouble = await self._read(mine[:1], found, wanted, checking=checking)
            if len(found) < wanted and mine[1:]:
                trouble = await self._read(mine[1:], found, wanted, checking=checking) or trouble
        others = [part for part in self._left if part not in self._mine]
        of_peers = bool(others) and not found
        if of_peers:
            trouble = await self._read(others, found, wanted, checking=checking, backwards=True) or trouble
        if trouble is not None and not found:
            raise trouble
        return found, of_peers

    async def _read(
        self, parts: list[_Part], found: list[Sandbox], wanted: int, *, checking: bool, backwards: bool = False
    ) -> BaseException | None:
        """Add to what was found. A part that cannot be read stays left, and takes nothing from the others'.

        Returns:
            What is the matter with it, where others are still worth asking: one that throttles is not all.
        """
        pages = await asyncio.gather(
            *(self._page(part, wanted, checking=checking, backwards=backwards) for part in parts),
            return_exceptions=True,
        )
        rows: list[Sandbox] = []
        failures: list[BaseException] = []
        for part, page in zip(parts, pages, strict=True):
            if isinstance(page, BaseException):
                failures.append(page)
                continue
            to_try, after = page
            rows += to_try
            if after is None:
                del self._left[part]
            else:
                self._left[part] = after
        self.found += len(rows)
        found += rows if backwards else self._in_order(rows)
        for failure in failures:
            if not isinstance(failure, StoreThrottled) and not (found and isinstance(failure, StoreUnavailable)):
                raise failure
        return failures[0] if failures else None

    async def _page(
        self, part: _Part, wanted: int, *, checking: bool, backwards: bool
    ) -> tuple[list[Sandbox], Item | None]:
        """What is to be tried of a part's next page, and where the one after it begins."""
        shard, names = part
        rows, after = await self._sandboxes.page(
            self._tenant,
            State.AVAILABLE,
            shard,
            limit=wanted,
            names=names,
            after=self._left[part],
            backwards=backwards,
        )
        return await self._to_try(rows, checking=checking), after

    async def _to_try(self, rows: list[Sandbox], *, checking: bool) -> list[Sandbox]:
        """Of a page, what nobody tries and nothing speaks against."""
        fresh = [row for row in rows if not self._evidence.is_past(row) and self._pool.holds(row.name)]
        self.blocked |= {row.id for row in fresh if self._evidence.is_lent(row)}
        fresh = [row for row in fresh if self._evidence.is_untried(row)]
        return await self._evidence.checked(fresh, self._pool) if checking and fresh else fresh

    def _in_order(self, rows: list[Sandbox]) -> list[Sandbox]:
        """Rows of this process's shards as they are to be tried: its own first, in the index's order."""
        if self._share.count == 1:
            _RANDOM.shuffle(rows)  # a peer that is not known yet may be at the same page
            return rows
        own = [self._share.has(row.id, self._shards) for row in rows]
        return [row for row, is_own in zip(rows, own, strict=True) if is_own] + [
            row for row, is_own in zip(rows[::-1], own[::-1], strict=True) if not is_own
        ]
