"""One leader among the workers: a lease with a fence, renewed while it holds, given up in time.

The leader believes in its term for less time than a standby waits, each by its own monotonic clock, so that
there are never two who believe. Whoever slept through the end of its term (SIGSTOP, a stalled machine) finds
its clock past it; and what it had under way is refused by the store, which checks the fence.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from broker.errors import BrokerError, LeadershipLost, WriteConflict
from broker.lapse import Lapses
from broker.metrics import Metrics
from broker.store.leader import LEADER_SCOPE, LeaderStore, Term, is_over

log = logging.getLogger("worker")

RENEWALS_A_LEASE: Final = 5
BELIEF: Final = 0.9
"""The share of the lease after which an unrenewed leader stops: the rest is for clocks that run apart."""
CONFLICT_PAUSE_S: Final = 0.05


class Leadership:
    """This process's part in the election of `scope`. Reusable: after a term it may stand by again."""

    def __init__(
        self,
        store: LeaderStore,
        metrics: Metrics,
        *,
        scope: str,
        holder: str,
        lease_s: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._scope = scope
        self._holder = holder
        self._lease_s = lease_s
        self._clock = clock
        self._monotonic = monotonic
        self._lapses = Lapses(lapse_s=lease_s, monotonic=monotonic)
        self._term: Term | None = None
        self._good_until = 0.0
        self.seen: Term | None = None  # whose term it was when this process last looked

    @property
    def leading(self) -> bool:
        """Whether this process may begin something now. True says nothing of the next second: see fence()."""
        return self._term is not None and self._monotonic() < self._good_until

    @property
    def term(self) -> Term | None:
        """This process's own term, while it leads."""
        return self._term if self.leading else None

    def fence(self) -> dict[str, Any]:
        """The check that a transaction carries, so that it is refused once another leads.

        Raises:
            LeadershipLost: the term is over by our own clock.
        """
        if self._term is None or not self.leading:
            raise LeadershipLost
        return self._store.check(self._term)

    async def stand_by(self) -> None:
        """Wait until this process leads. Waits out a store that does not answer."""
        while not await self._try():
            pause_s = self._lease_s / RENEWALS_A_LEASE
            await asyncio.sleep(pause_s * (0.8 + 0.4 * random.random()))  # noqa: S311  jitter

    async def _try(self) -> bool:
        began = self._monotonic()
        try:
            self.seen = seen = await self._store.read(self._scope)
            if not self._is_free(seen):
                return False
            now = int(self._clock())
            self._term = await self._store.take(
                seen, scope=self._scope, holder=self._holder, now=now, lease_s=self._lease_s
            )
        except WriteConflict:
            return False
        except BrokerError as error:
            log.warning("standing by, the store does not answer", extra={"why": str(error)})
            return False
        self._good_until = began + self._lease_s * BELIEF
        self._lapses.forget(self._scope)
        self._metrics.leader.set(1)
        before = seen.holder if seen is not None else None
        log.info("leading", extra={"fence": self._term.fence, "after": before, "holder": self._holder})
        return self.leading

    def _is_free(self, seen: Term | None) -> bool:
        if seen is None or seen.holder in (None, self._holder):
            return True
        return self._lapses.lapsed(self._scope, (seen.fence, seen.beat), at_least_s=seen.lease_s)

    async def keep(self) -> None:
        """Renew the lease for as long as that works; returns when the term is over."""
        pause_s = self._lease_s / RENEWALS_A_LEASE
        while self.leading:
            await asyncio.sleep(max(0.0, min(pause_s, self._good_until - self._monotonic())))
            if self.leading:
                pause_s = await self._beat()
        log.error("no longer leading: standing by", extra={"fence": self._term.fence if self._term else None})
        self._over()

    async def _beat(self) -> float:
        """Renew once. Returns after how many seconds to do so again; ends the term where it is over."""
        if (term := self._term) is None:
            return 0.0
        began = self._monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._good_until - began)):
                self._term = await self._store.renew(term)
        except WriteConflict as conflict:
            if is_over(conflict, term):
                self._good_until = 0.0
            return CONFLICT_PAUSE_S * (1 + random.random())  # noqa: S311  jitter
        except (BrokerError, TimeoutError) as error:
            log.warning(
                "the leader's lease was not renewed, trying again",
                extra={"why": str(error) or type(error).__name__},
            )
            self._term = replace(term, beat=term.beat + 1)  # the beat may have been written: show a new one
            return self._lease_s / RENEWALS_A_LEASE / 2
        self._good_until = began + self._lease_s * BELIEF
        return self._lease_s / RENEWALS_A_LEASE

    async def step_down(self) -> None:
        """Hand the lease back, so that a standby need not wait for it to lapse."""
        term, self._term = self._term, None
        self._over()
        if term is not None:
            try:
                await self._store.hand_back(term)
            except (WriteConflict, BrokerError) as error:
                log.warning("the leader's lease was not handed back: it lapses", extra={"why": str(error)})

    def _over(self) -> None:
        self._term = None
        self._good_until = 0.0
        self._metrics.leader.set(0)


class FormerElection:
    """That of the releases before ADR 10, a tenant's own: nobody leads here while one of theirs leads there."""

    def __init__(
        self,
        store: LeaderStore,
        *,
        scope: str,
        lease_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._scope = scope
        self._lease_s = lease_s
        self._lapses = Lapses(lapse_s=lease_s, monotonic=monotonic)

    async def over(self) -> None:
        """Wait until nobody leads there: at once where nobody has for a lease. Waits out a silent store."""
        if self._scope == LEADER_SCOPE:
            return  # a tenant of that name: its lease was the one that is now everybody's
        told = False
        while (holder := await self._leading()) is not None:
            if holder and not told:
                log.error(
                    "an older release's worker leads: stop it", extra={"holder": holder, "scope": self._scope}
                )
                told = True
            await asyncio.sleep(self._lease_s / RENEWALS_A_LEASE)

    async def _leading(self) -> str | None:
        """Who leads there, or may; empty where the store does not tell, None where nobody does."""
        try:
            seen = await self._store.read(self._scope)
        except BrokerError as error:
            log.warning("standing by, the store does not answer", extra={"why": str(error)})
            return ""
        if seen is None or seen.holder is None:
            return None
        stamp = (seen.fence, seen.beat)
        return None if self._lapses.lapsed(self._scope, stamp, at_least_s=seen.lease_s) else seen.holder
