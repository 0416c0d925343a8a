"""No answer: connections that hang and connections that are reset, over real TCP."""

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest
from simulated import TOKEN, Simulated, uuid_of

from simulator.options import Settings
from simulator.server import serving
from simulator.simulation import Simulation

LISTING = "GET /current_user/accounts"


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


async def ask(url: str, call: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send one request over a connection of its own."""
    reader, writer = await connect(url)
    writer.write(f"{call} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {TOKEN}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionResetError):
        await writer.wait_closed()


async def status_of(simulator: Simulated, seq: int) -> int | None:
    """The status of that call in the journal; waits until it is there."""
    deadline = time.monotonic() + 5
    while not (calls := (await simulator.journal(since=seq - 1))["results"]):
        assert time.monotonic() < deadline, "it is not in the journal"
        await asyncio.sleep(0.01)
    return calls[0]["status"]


def deletion_of(account: dict) -> str:
    return f"DELETE /sandbox/accounts/{uuid_of(account)}"


async def test_a_hanging_call_gets_no_byte_and_the_connection_stays_open(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_hang_rate=1, list_hang_rate=1)
    for call in (deletion_of(account), LISTING):
        reader, writer = await ask(simulator.url, call)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await reader.read(1)
        await ended(writer)


@pytest.mark.parametrize("happened", [False, True])
async def test_behind_a_hanging_deletion_the_account_is_deleted_or_not(simulator: Simulated, happened):
    first, second, *_ = await simulator.sandboxes()
    await simulator.switch(hanging_accounts=[first["name"]], hang_deletes=happened)
    with pytest.raises(httpx.ReadTimeout):
        await simulator.delete(first, timeout=0.3)
    after = (await simulator.inspected())[first["csp_id"]]
    assert (after["delete_requests"], after["deletes_done"]) == (1, int(happened))
    assert (await simulator.delete(second)).status_code == 204
    await simulator.switch(hanging_accounts=[])
    assert (await simulator.delete(first)).status_code == (404 if happened else 204)


@pytest.mark.parametrize("happened", [False, True])
async def test_behind_a_reset_deletion_the_account_is_deleted_or_not(simulator: Simulated, happened):
    first, second, *_ = await simulator.sandboxes()
    await simulator.switch(resetting_accounts=[first["csp_id"]], reset_deletes=happened)
    with pytest.raises(httpx.ReadError):
        await simulator.delete(first)
    assert (await simulator.inspected())[first["csp_id"]]["deletes_done"] == int(happened)
    assert (await simulator.delete(second)).status_code == 204


async def test_a_reset_is_a_tcp_reset_and_no_end_in_good_order(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_reset_rate=1, list_reset_rate=1)
    for call in (deletion_of(account), LISTING):
        reader, writer = await ask(simulator.url, call)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await ended(writer)


async def test_a_deletion_is_reset_after_its_latency_when_it_would_have_answered(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_reset_rate=1, delete_latency_s=0.3)
    began = time.monotonic()
    with pytest.raises(httpx.ReadError):
        await simulator.delete(account)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("kind", ["hang", "reset"])
async def test_the_journal_holds_unanswered_calls_without_a_status(simulator: Simulated, kind):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(**{f"delete_{kind}_rate": 1})
    with pytest.raises((httpx.ReadTimeout, httpx.ReadError)):
        await simulator.delete(account, timeout=0.3)
    assert await status_of(simulator, 2) is None


async def test_a_hang_ends_when_the_caller_goes_away(simulator: Simulated):
    await simulator.switch(list_hang_rate=1)
    _, writer = await ask(simulator.url, LISTING)
    await asyncio.sleep(0.2)
    assert (await simulator.journal())["results"] == []
    await ended(writer)
    assert await status_of(simulator, 1) is None


async def test_after_a_hang_or_a_reset_the_others_are_served_as_before(simulator: Simulated):
    await simulator.switch(list_hang_rate=1)
    hanging = [await ask(simulator.url, LISTING) for _ in range(20)]
    await simulator.switch(list_hang_rate=0)
    assert len(await simulator.listed()) == 15
    for _, writer in hanging:
        await ended(writer)


@pytest.mark.parametrize(
    "switches",
    [
        {"list_hang_rate": 1},
        {"list_garbage": "dripping_body"},
        {"list_garbage": "huge_body", "huge_body_mb": 1},
        {"list_latency_s": 600},
        {"list_latency_s": 600, "list_reset_rate": 1},
    ],
)
async def test_when_the_simulator_stops_no_task_and_no_connection_is_left(switches, caplog):
    before = asyncio.all_tasks()
    simulation = Simulation(Settings(sandboxes=3, token=TOKEN))
    simulation.faults = simulation.faults.changed(switches)
    async with serving(simulation) as url:
        callers = [await ask(url, LISTING) for _ in range(5)]
        await asyncio.sleep(0.3)
    assert asyncio.all_tasks() == before
    for reader, writer in callers:
        async with asyncio.timeout(1):
            with suppress(ConnectionResetError):
                await reader.read()
        await ended(writer)
    assert caplog.records == []


async def test_when_the_simulator_stops_deletions_in_hand_are_done_and_not_left(caplog):
    before = asyncio.all_tasks()
    simulation = Simulation(Settings(sandboxes=3, noise=0, token=TOKEN, delete_latency_s=600))
    accounts = [account.listed() for account in simulation.inventory]
    simulation.faults = simulation.faults.changed({"delete_hang_rate": 1, "hang_deletes": True})
    async with serving(simulation) as url:
        callers = [await ask(url, deletion_of(account)) for account in accounts]
        await asyncio.sleep(0.3)
        assert not any(account.deleted_at for account in simulation.inventory)
    assert asyncio.all_tasks() == before
    assert all(account.deleted_at for account in simulation.inventory)
    for reader, writer in callers:
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await ended(writer)
    assert caplog.records == []
