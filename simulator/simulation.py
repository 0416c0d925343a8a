"""One simulated provider: its accounts, its switches, its journal, and the way back to the start."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from simulator.accounts import Account
from simulator.faults import Faults
from simulator.inventory import Inventory
from simulator.journal import Journal
from simulator.kinds import Call, Fault
from simulator.limits import Load
from simulator.options import Settings
from simulator.services import Service, Services
from simulator.sessions import Sessions
from simulator.storm import Storm


class Simulation:
    """The state that the provider's routes and the control routes share."""

    inventory: Inventory
    services: Services
    sessions: Sessions
    faults: Faults
    storm: Storm | None
    load: Load
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
        self.services = Services(seed=settings.seed)
        self.sessions = Sessions()
        self.faults = Faults(
            delete_latency_s=settings.delete_latency_s,
            listing_lag_s=settings.listing_lag_s,
            services_per_account=settings.services_per_account,
        )
        self.storm = None
        self.load = Load()
        self.journal = Journal()
        self._random = random.Random(settings.seed)

    def plan_delete(self, account: Account | None) -> tuple[float, Fault | None]:
        """Seconds to wait and the fault to answer, fixed as the request arrives; it is in hand until `load.leave`.

        The first that applies wins: a storm, the provider's limits, then what the switches say.
        """
        roll, slow_roll, faults = self._random.random(), self._random.random(), self.faults
        latency_s = faults.delete_wait_s(roll=self._random.random(), slow_roll=slow_roll)
        refused = self.load.enter(faults, now=self.clock())
        fault = self._storm_on(Call.DELETE) or refused
        if fault is None:
            fault, self.faults = faults.on_delete(account, roll=roll)
        return _at_the_door(fault, latency_s), fault

    def plan_list(self, *, page: int) -> tuple[float, Fault | None]:
        """As `plan_delete`, for a page of the listing; pages count from 1."""
        roll, slow_roll, faults = self._random.random(), self._random.random(), self.faults
        latency_s = faults.list_wait_s(roll=self._random.random(), slow_roll=slow_roll)
        fault = self._storm_on(Call.LIST)
        if fault is None:
            fault, self.faults = faults.on_list(page=page, roll=roll)
        return _at_the_door(fault, latency_s), fault

    def plan_services(self) -> Fault | None:
        """The fault of an in-sandbox service call that arrives now."""
        roll = self._random.random()
        return self._storm_on(Call.SERVICES) or self.faults.on_services(roll=roll)

    def services_of(self, account: Account) -> list[Service]:
        """All services of an account, deleted ones included."""
        return self.services.of(account, from_start=self.faults.services_per_account)

    def shown_faults(self) -> dict[str, Any]:
        storm = self.storm.shown(now=self.clock()) if self.storm else None
        return self.faults.shown() | {"storm": storm}

    async def pause(self, seconds: float) -> bool:
        """Wait as the provider would. False when the simulator stops: then no pause lasts, so that all ends."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)
        return not self._closing.is_set()

    def close(self) -> None:
        """End every pause, for good."""
        self._closing.set()

    def _storm_on(self, call: Call) -> Fault | None:
        return self.storm.fault(call, now=self.clock()) if self.storm else None


def _at_the_door(fault: Fault | None, latency_s: float) -> float:
    """A limit refuses at once, before any work is done."""
    return 0.0 if fault is Fault.TOO_MANY else latency_s
