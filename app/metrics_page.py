"""The page of /metrics: written once for all who ask at one moment."""

import asyncio
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

GATHER_S: Final = 0.02
"""Who asks within this time of the first one gets the same page, written after all of them asked.

A page costs milliseconds of the loop that students wait for: a hundred scrapes at once would stand in their way.
"""


class MetricsPage:
    """One registry's page."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._coming: asyncio.Task[bytes] | None = None

    async def text(self) -> bytes:
        """The page as it is after this was asked for, at most 20 ms and a page's writing later."""
        if self._coming is None:
            self._coming = asyncio.create_task(self._gathered())
        return await asyncio.shield(self._coming)

    async def _gathered(self) -> bytes:
        await asyncio.sleep(GATHER_S)
        self._coming = None  # who asks from here on wants to see what happens from here on
        return generate_latest(self._registry)
