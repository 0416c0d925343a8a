"""The page of /metrics: written once for all who ask at one moment, and after the students who wait."""

import asyncio
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

GATHER_S: Final = 0.02
"""Who asks within this time of the first one gets the same page, written after all of them asked.

A page costs milliseconds of the loop that students wait for: a hundred scrapes at once would stand in their way.
"""


GIVE_WAY_S: Final = 1.0
"""How much longer it may take while a crowd waits. Prometheus waits for ten seconds, unless told otherwise."""
CROWD: Final = 8
"""More requests than this at once are one."""


@dataclass(slots=True)
class Waiting:
    """How many requests wait for their answer to begin, probes aside."""

    count: int = 0


class MetricsPage:
    """One registry's page."""

    def __init__(self, registry: CollectorRegistry, waiting: Waiting) -> None:
        self._registry = registry
        self._waiting = waiting
        self._coming: asyncio.Task[bytes] | None = None

    async def text(self) -> bytes:
        """The page as it is after this was asked for: 20 ms later, or when no crowd waits any more."""
        if self._coming is None:
            self._coming = asyncio.create_task(self._gathered())
        return await asyncio.shield(self._coming)

    async def _gathered(self) -> bytes:
        clock = asyncio.get_running_loop().time
        until = clock() + GIVE_WAY_S  # by the clock: a busy loop's turn may take much longer than the sleep
        await asyncio.sleep(GATHER_S)
        while self._waiting.count > CROWD and clock() < until:  # noqa: ASYNC110  a count on the way of each request
            await asyncio.sleep(GATHER_S)
        self._coming = None  # who asks from here on wants to see what happens from here on
        return generate_latest(self._registry)
