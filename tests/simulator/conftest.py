import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from simulated import TOKEN, Clock, Simulated

from simulator.options import Settings
from simulator.server import serving
from simulator.simulation import Simulation


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[str, Simulation, Clock]]:
    """One real server for all tests, in a thread: one for each would cost 0.3 s a test."""
    clock = Clock()
    settings = Settings(sandboxes=12, noise=3, token=TOKEN, delete_latency_s=0, seed=7)
    simulation = Simulation(settings, clock=clock)
    started: queue.Queue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        stop = asyncio.Event()
        async with serving(simulation) as url:
            started.put((url, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    url, loop, stop = started.get(timeout=10)
    yield url, simulation, clock
    loop.call_soon_threadsafe(stop.set)
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.fixture
async def simulator(served: tuple[str, Simulation, Clock]) -> AsyncIterator[Simulated]:
    """12 sandboxes and 3 others, back at the start, with no latency until a test switches some on."""
    url, simulation, clock = served
    clock.now = Clock().now
    simulation.reset()
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Token {TOKEN}"}) as http:
        yield Simulated(url=url, simulation=simulation, clock=clock, http=http)
