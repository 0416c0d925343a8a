"""Candidates: sandboxes that look available. A hint that keeps requests out of each other's way.

Losing everything in here loses nothing: the allocation's transaction alone decides. What this
module does promise is that "none left" is never guessed: `take` answers None only after every
shard was asked and every row it showed was proved taken by the base table.
"""

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from broker.errors import RateLimited
from broker.metrics import Metrics
from broker.peers import Share
from broker.pool import Pool, Span
from broker.sandbox import Sandbox, State
from broker.store.sandboxes import Sandboxes
from broker.store.table import Item
from broker.store.tenants import Tenants

FRESH_S: Final = 5.0
"""How long a page of the index is worth trying."""
PEERS_FRESH_S: Final = 0.5
"""The same of a page of what is a peer's, who is about to take it."""
EMPTY_S: Final = 1.0
"""How long "empty" is remembered, at least."""
MAX_EMPTY_S: Final = 1.8
"""And at most. Below the 2 s after which nobody may be refused (A7)."""
EMPTY_QUERIES_PER_S: Final = 16
"""What all processes together may ask the index while a pool is empty, before they remember it for longer."""
MAX_EVIDENCE_S: Final = 2.0
PAGE: Final = 25
MAX_PAGE: Final = 100
HURRY_S: Final = 1.0
"""A page used up within this time is followed by one of twice its rows."""
MAX_SHELVES: Final = 1000
MAX_PROVED: Final = 50_000
DOUBTS: Final = 2
"""Lost races in a row after which what is on the shelf is checked against the base table, in one read."""
NEW_PREFIXES_PER_S: Final = 100
"""Prefixes not asked for lately that one tenant may bring up in a second: each costs a walk of the index."""


_Part = tuple[int, Span | None]
"""A shard, and the names in it."""


@dataclass(slots=True)
class _Walk:
    """One pass over a (tenant, pool): where the next page of each shard and span of names begins."""

    began_at: float
    left: dict[_Part, Item | None]  # start of the next page; what has ended is gone
    mine: frozenset[_Part]  # those that this process takes from before it takes from its peers'
    share: Share
    shards: int
    found: int = 0
    blocked: set[str] = field(default_factory=set)  # seen, but in the hands of a sibling request


@dataclass(slots=True)
class _Shelf:
    """What is known of one (tenant, pool)."""

    tenant: str
    pool: Pool
    ready: deque[Sandbox] = field(default_factory=deque)
    ready_until: float = 0.0
    empty_until: float = 0.0
    doubts: int = 0
    checking: bool = False  # rows were found wrong: check every page until one is won
    of_peers: bool = False  # what is ready is theirs by right
    page: int = PAGE
    filled_at: float = float("-inf")
    waiting: int = 0
    walk: _Walk | None = None
    filling: asyncio.Task[None] | None = None


class Candidates:
    """Lends each request another sandbox to try. Give every one back: took, lost, contested or unused."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        tenants: Tenants,
        metrics: Metrics,
        *,
        share: Callable[[], Share] = Share,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sandboxes = sandboxes
        self._tenants = tenants
        self._metrics = metrics
        self._share = share
        self._monotonic = monotonic
        self._random = random.Random()  # noqa: S311  spreads load, guards nothing
        self._shelves: OrderedDict[tuple[str, Pool], _Shelf] = OrderedDict()
        self._lent: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._proved: OrderedDict[tuple[str, str], int] = OrderedDict()  # id -> version known to be past
        self._new_prefixes: dict[str, tuple[int, int]] = {}  # tenant -> (second, how many in it)

    async def take(self, tenant: str, pool: Pool) -> Sandbox | None:
        """The next sandbox to try, or None when it is proved that there is none.

        Raises:
            RateLimited: the tenant asks for too many different prefixes.
            StoreThrottled, StoreUnavailable: the index could not be asked.
        """
        shelf = self._shelf(tenant, pool)
        shelf.waiting += 1
        try:
            while True:
                if shelf.doubts < DOUBTS and (candidate := self._pop(shelf)) is not None:
                    return candidate
                if shelf.empty_until > self._monotonic():
                    return None
                await self._filled(shelf)
        finally:
            shelf.waiting -= 1

    def took(self, candidate: Sandbox, pool: Pool) -> None:
        """The transaction won: this row is history."""
        if shelf := self._shelves.get((candidate.tenant, pool)):
            shelf.doubts, shelf.checking = 0, False
        self._prove(candidate, candidate.version)
        self._settle(candidate)

    def lost(self, candidate: Sandbox, pool: Pool, *, version: int) -> None:
        """The base table says that it is no longer available, at `version` or before."""
        self._doubt(candidate, pool)
        self._prove(candidate, max(version, candidate.version))
        self._settle(candidate)

    def contested(self, candidate: Sandbox, pool: Pool) -> None:
        """A transaction of someone else is at it: who wins is open, so nothing is proved."""
        self._doubt(candidate, pool)
        self._settle(candidate)

    def unused(self, candidate: Sandbox, pool: Pool) -> None:
        """The transaction was refused for another reason: the next request may have it."""
        if shelf := self._shelves.get((candidate.tenant, pool)):
            shelf.ready.appendleft(candidate)
            shelf.ready_until = max(shelf.ready_until, self._monotonic() + EMPTY_S)
        self._settle(candidate)

    def _doubt(self, candidate: Sandbox, pool: Pool) -> None:
        if shelf := self._shelves.get((candidate.tenant, pool)):
            shelf.doubts += 1

    def _shelf(self, tenant: str, pool: Pool) -> _Shelf:
        key = (tenant, pool)
        shelf = self._shelves.get(key)
        if shelf is None:
            self._budget(tenant)
            shelf = self._shelves[key] = _Shelf(tenant, pool)
            if len(self._shelves) > MAX_SHELVES:
                self._shelves.popitem(last=False)
        else:
            self._shelves.move_to_end(key)
        return shelf

    def _budget(self, tenant: str) -> None:
        second = int(self._monotonic())
        began, count = self._new_prefixes.get(tenant, (second, 0))
        count = count + 1 if began == second else 1
        if count > NEW_PREFIXES_PER_S:
            raise RateLimited("credential", limit=f"{NEW_PREFIXES_PER_S} new prefixes/s", retry_after_s=1)
        self._new_prefixes[tenant] = (second, count)

    def _pop(self, shelf: _Shelf) -> Sandbox | None:
        if self._monotonic() > shelf.ready_until:
            shelf.ready.clear()
        while shelf.ready:
            candidate = shelf.ready.popleft()
            if self._untried(candidate):
                self._lent[candidate.tenant, candidate.id] = asyncio.get_running_loop().create_future()
                return candidate
        return None

    def _untried(self, row: Sandbox) -> bool:
        return (row.tenant, row.id) not in self._lent and not self._is_past(row)

    def _is_past(self, row: Sandbox) -> bool:
        return row.version <= self._proved.get((row.tenant, row.id), 0)

    def _prove(self, candidate: Sandbox, version: int) -> None:
        key = (candidate.tenant, candidate.id)
        self._proved[key] = max(version, self._proved.get(key, 0))
        self._proved.move_to_end(key)
        if len(self._proved) > MAX_PROVED:
            self._proved.popitem(last=False)

    def _settle(self, candidate: Sandbox) -> None:
        lent = self._lent.pop((candidate.tenant, candidate.id), None)
        if lent is not None and not lent.done():
            lent.set_result(None)

    async def _filled(self, shelf: _Shelf) -> None:
        """Wait for the one refill of this shelf, and begin it where none runs."""
        if shelf.filling is None or shelf.filling.done():
            shelf.filling = asyncio.create_task(self._fill(shelf))
        await asyncio.shield(shelf.filling)

    async def _fill(self, shelf: _Shelf) -> None:
        """Put candidates on the shelf, or prove that there are none."""
        if shelf.doubts >= DOUBTS:
            await self._check(shelf)
        if shelf.walk is not None and not shelf.walk.left.keys() & shelf.walk.mine:
            shelf.walk = None  # before more of a peer's is taken, another look at what is one's own
        wanted = self._page(shelf)
        while not shelf.ready and shelf.waiting:
            walk = shelf.walk
            if walk is None or self._monotonic() - walk.began_at > FRESH_S:
                walk = shelf.walk = await self._new_walk(shelf)
            await self._step(shelf, walk, wanted)
            if not walk.left:
                shelf.walk = None
            if shelf.ready:
                shelf.ready_until = self._monotonic() + (PEERS_FRESH_S if shelf.of_peers else FRESH_S)
                self._metrics.candidate_refills.labels("found").inc()
            elif not walk.left:
                await self._conclude(shelf, walk)
                if shelf.empty_until > self._monotonic():
                    self._metrics.candidate_refills.labels("empty").inc()
                    return

    def _page(self, shelf: _Shelf) -> int:
        """How many rows to ask for: as many as wait for one, and more where the last page was gone at once."""
        now = self._monotonic()
        shelf.page = min(MAX_PAGE, 2 * shelf.page) if now - shelf.filled_at < HURRY_S else PAGE
        shelf.filled_at = now
        return min(MAX_PAGE, max(shelf.page, shelf.waiting))

    async def _conclude(self, shelf: _Shelf, walk: _Walk) -> None:
        """Every shard was asked and nothing is left to try. Is it empty, or only not known to be?"""
        blocked = [lent for id_ in walk.blocked if (lent := self._lent.get((shelf.tenant, id_)))]
        if blocked:
            await asyncio.wait(blocked)  # each ends with its store call's deadline
        elif not walk.found and not walk.blocked:
            now = self._monotonic()  # a slow walk still answers those who wait, up to the age that A7 allows
            kept_until = walk.began_at + _empty_s(walk)
            shelf.empty_until = max(kept_until, min(now + 0.05, walk.began_at + MAX_EVIDENCE_S))

    async def _new_walk(self, shelf: _Shelf) -> _Walk:
        began_at = self._monotonic()
        shards, share = await self._tenants.shards(shelf.tenant), self._share()
        spans = shelf.pool.spans()
        mine, others = share.order(shards)
        begin = self._random.randrange(len(mine))  # peers that know nothing of each other yet begin apart
        mine = mine[begin:] + mine[:begin]
        return _Walk(
            began_at,
            left={(shard, span): None for shard in mine + others for span in spans},
            mine=frozenset((shard, span) for shard in mine for span in spans),
            share=share,
            shards=shards,
        )

    async def _step(self, shelf: _Shelf, walk: _Walk, wanted: int) -> None:
        """Read pages until there is something to try: of this process's own shards, then of all others at once.

        What is a peer's is asked for as late as that, and from its end: the peer begins at the other one, so that
        they meet when there is nothing left between them.
        """
        if mine := [part for part in walk.left if part in walk.mine]:
            await self._read(shelf, walk, mine[:1], wanted)
            if len(shelf.ready) < wanted and mine[1:]:
                await self._read(shelf, walk, mine[1:], wanted)
        if not shelf.ready and (others := [part for part in walk.left if part not in walk.mine]):
            await self._read(shelf, walk, others, wanted, backwards=True)

    async def _read(
        self, shelf: _Shelf, walk: _Walk, parts: list[_Part], wanted: int, *, backwards: bool = False
    ) -> None:
        pages = await asyncio.gather(
            *(
                self._sandboxes.page(
                    shelf.tenant,
                    State.AVAILABLE,
                    shard,
                    limit=wanted,
                    names=span,
                    after=walk.left[shard, span],
                    backwards=backwards,
                )
                for shard, span in parts
            )
        )
        found: list[Sandbox] = []
        for part, (rows, after) in zip(parts, pages, strict=True):
            fresh = [row for row in rows if not self._is_past(row) and shelf.pool.holds(row.name)]
            walk.blocked |= {row.id for row in fresh if (row.tenant, row.id) in self._lent}
            fresh = [row for row in fresh if self._untried(row)]
            if shelf.checking and fresh:
                fresh = await self._checked(fresh, shelf.pool)
            found += fresh
            if after is None:
                del walk.left[part]
            else:
                walk.left[part] = after
        walk.found += len(found)
        shelf.ready.extend(found if backwards else self._in_order(walk, found))
        shelf.of_peers = backwards

    def _in_order(self, walk: _Walk, rows: list[Sandbox]) -> list[Sandbox]:
        """Rows of this process's shards as they are to be tried: its own first, in the index's order."""
        if walk.share.count == 1:
            self._random.shuffle(rows)  # a peer that is not known yet may be at the same page
            return rows
        own = [walk.share.has(row.id, walk.shards) for row in rows]
        return [row for row, is_own in zip(rows, own, strict=True) if is_own] + [
            row for row, is_own in zip(rows[::-1], own[::-1], strict=True) if not is_own
        ]

    async def _check(self, shelf: _Shelf) -> None:
        """The index lags, or others are faster: keep of the shelf what is available now."""
        unchecked = [row for row in shelf.ready if self._untried(row)][:MAX_PAGE]
        shelf.ready.clear()
        shelf.doubts, shelf.checking = 0, True
        if unchecked:
            shelf.ready.extend(await self._checked(unchecked, shelf.pool))

    async def _checked(self, rows: list[Sandbox], pool: Pool) -> list[Sandbox]:
        """Those of the rows that the base table still shows as available, as it shows them."""
        present = await self._sandboxes.get_many(rows)
        good = []
        for row in rows:
            now = present.get(row.id)
            if now is not None and now.state is State.AVAILABLE:
                if pool.holds(now.name):  # renamed since the index saw it, it is for others
                    good.append(now)
            else:
                self._prove(row, row.version if now is None else now.version)
        return good


def _empty_s(walk: _Walk) -> float:
    """How long the proof of a walk is good for: each process asks each shard as often."""
    return min(MAX_EMPTY_S, max(EMPTY_S, walk.share.count * walk.shards / EMPTY_QUERIES_PER_S))
