"""The watch over the scheduler: it ends a process in which nothing ticks, and not one that was only asleep."""

import asyncio
import time

import pytest

from broker.wiring import Broker
from tests.worker.conftest import a_leader
from worker.health import Health
from worker.main import SchedulerStalled, _keep


async def test_a_process_that_slept_for_a_minute_and_ticks_again_goes_on(core: Broker) -> None:
    """SIGSTOP and SIGCONT: the first look after it finds an old beat, and a scheduler that is about to beat."""
    health = Health()
    health.beat_at = time.monotonic() - 60
    async with a_leader(core) as leadership:
        watching = asyncio.create_task(_keep(leadership, health))
        await asyncio.sleep(1.5)
        health.beat()
        await asyncio.sleep(1)

        assert not watching.done()
        watching.cancel()


async def test_a_scheduler_that_never_beats_ends_the_watch(core: Broker) -> None:
    async with a_leader(core) as leadership:
        with pytest.raises(SchedulerStalled):
            await asyncio.wait_for(_keep(leadership, Health(), looks=2), 20)
