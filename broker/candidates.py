"""Candidates: sandboxes that look available. A hint that keeps requests out of each other's way.

Losing everything in here loses nothing: the allocation's transaction alone decides. What this
module does promise is that "none left" is never guessed: `take` answers None only after every
shard was asked and every row it showed was proved taken by the base table.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from broker.errors import RateLimited
from broker.evidence import Evidence
from broker.metrics import Metrics
from broker.peers import Share
from broker.pool import Pool
from broker.sandbox import Sandbox
from broker.store.sandboxes import Sandboxes
from broker.store.tenants import Tenants
from broker.walk import EMPTY_S, Walk

FRESH_S: Final = 5.0
"""How long a page of the index is worth trying."""
PEERS_FRESH_S: Final = 0.5
"""The same of a page of what is a peer's, who is about to take it."""
MAX_EVIDENCE_S: Final = 2.0
PAGE: Final = 25
MAX_PAGE: Final = 100
HURRY_S: Final = 1.0
"""A page used up within this time is followed by one of twice its rows."""
MAX_SHELVES: Final = 1000
DOUBTS: Final = 2
"""Lost races in a row after which what is on the shelf is checked against the base table, in one read."""
NEW_PREFIXES_PER_S: Final = 100
"""Prefixes not asked for lately that one tenant may bring up in a second: each costs a walk of the index."""


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
    walk: Walk | None = None
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
        self._evidence = Evidence(sandboxes)
        self._tenants = tenants
        self._metrics = metrics
        self._share = share
        self._monotonic = monotonic
        self._shelves: OrderedDict[tuple[str, Pool], _Shelf] = OrderedDict()
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
        self._evidence.prove(candidate, candidate.version)
        self._evidence.settle(candidate)

    def lost(self, candidate: Sandbox, pool: Pool, *, version: int) -> None:
        """The base table says that it is no longer available, at `version` or before."""
        self._doubt(candidate, pool)
        self._evidence.prove(candidate, max(version, candidate.version))
        self._evidence.settle(candidate)

    def contested(self, candidate: Sandbox, pool: Pool) -> None:
        """A transaction of someone else is at it: who wins is open, so nothing is proved."""
        self._doubt(candidate, pool)
        self._evidence.settle(candidate)

    def unused(self, candidate: Sandbox, pool: Pool) -> None:
        """The transaction was refused for another reason: the next request may have it."""
        if shelf := self._shelves.get((candidate.tenant, pool)):
            shelf.ready.appendleft(candidate)
            shelf.ready_until = max(shelf.ready_until, self._monotonic() + EMPTY_S)
        self._evidence.settle(candidate)

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
            if self._evidence.is_untried(candidate):
                self._evidence.lend(candidate)
                return candidate
        return None

    async def _filled(self, shelf: _Shelf) -> None:
        """Wait for the one refill of this shelf, and begin it where none runs."""
        if shelf.filling is None or shelf.filling.done():
            shelf.filling = asyncio.create_task(self._fill(shelf))
        await asyncio.shield(shelf.filling)

    async def _fill(self, shelf: _Shelf) -> None:
        """Put candidates on the shelf, or prove that there are none."""
        if shelf.doubts >= DOUBTS:
            await self._check(shelf)
        if shelf.walk is not None and not shelf.walk.has_own:
            shelf.walk = None  # before more of a peer's is taken, another look at what is one's own
        wanted = self._page(shelf)
        while not shelf.ready and shelf.waiting:
            walk = shelf.walk
            if walk is None or self._monotonic() - walk.began_at > FRESH_S:
                walk = shelf.walk = await self._new_walk(shelf)
            found, shelf.of_peers = await walk.step(wanted, checking=shelf.checking)
            shelf.ready.extend(found)
            if walk.ended:
                shelf.walk = None
            if shelf.ready:
                shelf.ready_until = self._monotonic() + (PEERS_FRESH_S if shelf.of_peers else FRESH_S)
                self._metrics.candidate_refills.labels("found").inc()
            elif walk.ended:
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

    async def _conclude(self, shelf: _Shelf, walk: Walk) -> None:
        """Every shard was asked and nothing is left to try. Is it empty, or only not known to be?"""
        if blocked := self._evidence.trials(shelf.tenant, walk.blocked):
            await asyncio.wait(blocked)  # each ends with its store call's deadline
        elif not walk.found and not walk.blocked:
            now = self._monotonic()  # a slow walk still answers those who wait, up to the age that A7 allows
            shelf.empty_until = max(walk.began_at + walk.empty_s, min(now + 0.05, walk.began_at + MAX_EVIDENCE_S))

    async def _new_walk(self, shelf: _Shelf) -> Walk:
        began_at = self._monotonic()
        shards = await self._tenants.shards(shelf.tenant)
        return Walk(
            self._sandboxes,
            self._evidence,
            tenant=shelf.tenant,
            pool=shelf.pool,
            share=self._share(),
            shards=shards,
            began_at=began_at,
        )

    async def _check(self, shelf: _Shelf) -> None:
        """The index lags, or others are faster: keep of the shelf what is available now."""
        unchecked = [row for row in shelf.ready if self._evidence.is_untried(row)][:MAX_PAGE]
        shelf.ready.clear()
        shelf.doubts, shelf.checking = 0, True
        if unchecked:
            shelf.ready.extend(await self._evidence.checked(unchecked, shelf.pool))
