"""One simulated provider: its accounts, its switches, its journal, and the way back to the start."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress

from simulator.accounts import Account
from simulator.faults import Fault, Faults
from simulator.inventory import Inventory
from simulator.journal import Journal
from simulator.options import Settings


class Simulation:
    """The state that the provider's routes and the control routes share."""

    inventory: Inventory
    faults: Faults
    journal: Journal
    _random: random.Random

    def __init__(self, settings: Settings | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings or Settings()
        self.clock = clock
        self._closing = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        """Back to the start. What is under way ends on the old accounts and leaves no trace in the new."""
        settings = self.settings
        self.inventory = Inventory.start(seed=settings.seed, sandboxes=settings.sandboxes, noise=settings.noise)
        self.faults = Faults(delete_latency_s=settings.delete_latency_s, listing_lag_s=settings.listing_lag_s)
        self.journal = Journal()
        self._random = random.Random(settings.seed)

    def plan_delete(self, account: Account | None) -> tuple[float, Fault | None]:
        """Seconds to wait and the fault to answer, fixed as the request arrives."""
        faults = self.faults
        latency_s = faults.delete_latency_s + self._random.uniform(0, faults.delete_latency_jitter_s)
        fault, self.faults = faults.on_delete(account, roll=self._random.random())
        return latency_s, fault

    def plan_list(self) -> tuple[float, Fault | None]:
        """As `plan_delete`, for a page of the listing."""
        fault, self.faults = self.faults.on_list(roll=self._random.random())
        return self.faults.list_latency_s, fault

    async def pause(self, seconds: float) -> None:
        """Wait as the provider would; cut short when the simulator stops, so that all in hand is answered."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)

    def close(self) -> None:
        """End every pause, for good."""
        self._closing.set()
