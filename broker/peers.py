"""The API processes beside this one, and which part of each pool is this one's to take from first.

Two hundred students who press "start" at once reach several processes, and each has its own candidates. Were these
the same ones, every second transaction would be a lost race. So the processes share the shards out among
themselves, by their order in one list that all of them read. Nothing hangs on it but speed: whoever is
wrong about the others tries sandboxes that are taken, and is refused by the transaction.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from broker.errors import BrokerError
from broker.metrics import Metrics
from broker.store.presence import Presence
from broker.store.table import shard_of

log = logging.getLogger("broker")

BEAT_S: Final = 5.0
GONE_S: Final = 16.0
"""Not heard for so long, by this process's clock: three beats and some."""
GOODBYE_S: Final = 1.0
"""A store that does not answer holds up no end: the others miss this process soon enough."""


@dataclass(frozen=True, slots=True)
class Share:
    """This process's part of the work: it is number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    def order(self, shards: int) -> tuple[list[int], list[int]]:
        """The shards that are this process's, and all others, each in the order to be asked in.

        With more processes than shards several of them have one together: see has().

        >>> Share(1, 2).order(4), Share(3, 4).order(4), Share(4, 6).order(4)
        (([1, 3], [2, 0]), ([3], [0, 1, 2]), ([0], [1, 2, 3]))
        """
        first = self.rank % shards
        turn = [(first + n) % shards for n in range(shards)]
        mine = [shard for shard in turn if shard % self.count == first] if self.count < shards else turn[:1]
        return mine, [shard for shard in turn if shard not in mine]

    def has(self, sandbox_id: str, shards: int) -> bool:
        """Whether a sandbox of this process's shard is its own among those that have the shard together."""
        together = len(range(self.rank % shards, self.count, shards))
        return together <= 1 or shard_of(f"peer/{sandbox_id}", together) == self.rank // shards


class Peers:
    """Says that this process is there, and hears who else is."""

    def __init__(
        self,
        presence: Presence,
        process: str,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._presence = presence
        self._process = process
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._heard: dict[str, tuple[int, float]] = {}  # process -> (what it said, when that was news here)
        self.share = Share()

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Keep `share` true for as long as this lasts, and say goodbye after it."""
        beats = asyncio.create_task(self._beats())
        try:
            yield
        finally:
            beats.cancel()
            with suppress(asyncio.CancelledError):
                await beats
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._presence.leave(self._process)

    async def _beats(self) -> None:
        while True:
            try:
                await self.beat()
            except BrokerError as error:
                log.debug("peers not heard", extra={"why": str(error)})
            except Exception:  # a hint must not end for good, nor come up again at this process's end
                log.exception("peers not heard: pools are shared out as they were")
            await asyncio.sleep(BEAT_S)

    async def beat(self) -> None:
        """Say that this process is there, and look who else is. One write, one query.

        Raises:
            StoreThrottled, StoreUnavailable: not known; the share stays as it was.
        """
        now = int(self._clock())
        await self._presence.say(self._process, now=now)
        self._learn(await self._presence.heard(), now=now)

    def _learn(self, said: dict[str, int], *, now: int) -> None:
        """A process is there while it goes on saying so: its clock need not agree with ours.

        At first sight there is nothing to compare with: then it must have spoken lately.
        """
        here = self._monotonic()
        for process, at in said.items():
            known = self._heard.get(process)
            if known is None:
                self._heard[process] = (at, here if abs(now - at) < GONE_S else here - GONE_S)
            elif known[0] != at:
                self._heard[process] = (at, here)
        self._heard = {process: self._heard[process] for process in said}
        there = sorted({p for p, (_, when) in self._heard.items() if here - when < GONE_S} | {self._process})
        self.share = Share(there.index(self._process), len(there))
        self._metrics.peers.set(self.share.count)
