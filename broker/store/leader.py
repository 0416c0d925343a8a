"""The leader's lease: one item. Its fence rises with every change of leaders and never falls."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

from broker.errors import LeadershipLost, WriteConflict
from broker.store import table
from broker.store.client import StoreClient, TransactionRefused

Fence = Callable[[], dict[str, Any]]
"""Makes the check that a leader's transaction carries; raises LeadershipLost where its term is over."""

LEADER_SCOPE: Final = "broker"
"""One leads for all tenants of the table."""

_TRIES: Final = 6
_PAUSE_S: Final = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Who leads, and for which time: `fence` counts the leaders there have been, `beat` this one's renewals."""

    scope: str
    holder: str | None  # None: handed back, free at once
    fence: int
    beat: int
    since: int  # Unix seconds, for people: no decision rests on it
    lease_s: int = 0  # the holder's own: who has a shorter one set waits as long


class LeaderStore:
    """Reads and writes the lease. Every write is conditional on the fence and beat that were seen."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def read(self, scope: str) -> Term | None:
        """One consistent read."""
        item = await self._client.get(table.leader_key(scope))
        if item is None:
            return None
        values = table.decode(item)
        return Term(
            scope=scope,
            holder=values.get("holder"),
            fence=values["fence"],
            beat=values["beat"],
            since=values["since"],
            lease_s=values.get("lease_s", 0),
        )

    async def take(self, seen: Term | None, *, scope: str, holder: str, now: int, lease_s: float = 0) -> Term:
        """Begin a term, if the lease still is as it was seen.

        Raises:
            WriteConflict: it was renewed, or another was faster.
        """
        fence = 1 if seen is None else seen.fence + 1
        mine = Term(scope=scope, holder=holder, fence=fence, beat=0, since=now, lease_s=ceil(lease_s))
        condition = "attribute_not_exists(pk)" if seen is None else "fence = :seen AND beat = :beat"
        values = {} if seen is None else {":seen": seen.fence, ":beat": seen.beat}
        await self._write(mine, condition, values)
        return mine

    async def renew(self, mine: Term) -> Term:
        """Beat once.

        Raises:
            WriteConflict: the term is over; or, for a moment, a batch of ours checks the fence: repeat.
        """
        renewed = replace(mine, beat=mine.beat + 1)
        await self._write(renewed, "fence = :seen AND holder = :me", {":seen": mine.fence, ":me": mine.holder})
        return renewed

    async def hand_back(self, mine: Term) -> None:
        """End the term: whoever stands by may begin at once.

        Raises:
            WriteConflict: it was over already.
        """
        condition = "fence = :seen AND holder = :me"
        await self._write(replace(mine, holder=None), condition, {":seen": mine.fence, ":me": mine.holder})

    def check(self, mine: Term) -> dict[str, Any]:
        """The transaction item that refuses a write of a leader whose term is over."""
        values = table.encode({":fence": mine.fence, ":me": mine.holder})
        return self._client.check(table.leader_key(mine.scope), "fence = :fence AND holder = :me", values)

    async def _write(self, term: Term, condition: str, values: dict[str, Any]) -> None:
        item = table.encode(
            {
                "v": table.ITEM_VERSION,
                "holder": term.holder,
                "fence": term.fence,
                "beat": term.beat,
                "since": term.since,
                "lease_s": term.lease_s,
            }
        )
        gone: dict[str, Any] = {} if term.holder is not None else {"holder": {}}
        update = self._client.update(
            table.leader_key(term.scope), table.update_of(gone, item), condition, table.encode(values)
        )["Update"]
        await self._client.call("update_item", **update)


def is_over(conflict: WriteConflict, mine: Term) -> bool:
    """Whether a refused renewal says that the term is over: a conflict without the item says nothing."""
    if conflict.item is None:
        return False
    values = table.decode(conflict.item)
    return (values.get("fence"), values.get("holder")) != (mine.fence, mine.holder)


async def transact_fenced(client: StoreClient, items: list[dict[str, Any]], fence: Fence) -> None:
    """Write all of it, if this process still leads. Waits out others at the same items: our own renewals, too.

    One at a time in this process: two tenants' syncs would be in each other's way at the leader's item.

    Raises:
        LeadershipLost: another leads by now; nothing was written.
        TransactionRefused: `items` were; the reasons begin with theirs, in their order.
        StoreThrottled, StoreUnavailable: as for StoreClient.call().
    """
    for number in range(1, _TRIES + 1):
        try:
            async with client.fenced_turn:
                await client.transact(*items, fence())
        except TransactionRefused as refused:
            if refused.reasons and refused.reasons[-1].condition_failed:
                raise LeadershipLost from refused
            if (failure := refused.failure()) is not None:
                raise failure from refused
            if number == _TRIES or any(reason.condition_failed for reason in refused.reasons):
                raise
            await asyncio.sleep(_PAUSE_S * number * (0.5 + random.random()))  # noqa: S311  jitter
        else:
            return
