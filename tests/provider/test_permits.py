"""E7, G1: leave to delete is asked for before anything is written; a refusal is no attempt."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import respx

from tests.provider.conftest import ACCOUNT, LIST, Clock, Door, listed
from worker.provider.breaker import Breaker
from worker.provider.door import open_provider
from worker.provider.errors import ProviderError
from worker.provider.gates import gates_of
from worker.provider.pacing import Pacing
from worker.provider.permits import Admission, Refusal
from worker.provider.secrets import ManagedSource

GONE = {"method": "DELETE"}


async def delete(door: Door, account: str = ACCOUNT) -> str:
    """Delete with a permit; how it ended."""
    try:
        await door.client.delete(door.permit(account))
    except ProviderError as error:
        return error.kind
    return "deleted"


async def break_it(door: Door) -> None:
    respx.route(**GONE).respond(500)
    for n in range(3):
        door.clock.now += 1
        assert await delete(door, f"bad-{n}") == "HTTP_500"


@respx.mock
async def test_three_accounts_in_a_row_stop_all_deletions_and_no_call_is_made(door: Door) -> None:
    await break_it(door)
    made = len(respx.calls)
    door.clock.now += 5

    refused = door.refusal("good")

    assert refused == Refusal("BREAKER_OPEN", 10.0)
    assert len(respx.calls) == made == 3
    assert door.sample("worker_provider_refusals_total", tenant="acme", call="delete", why="BREAKER_OPEN") == 1
    assert door.client.states()["delete"] == "open, probe in 10 s"


@respx.mock
async def test_a_few_bad_accounts_stop_nobody_else(door: Door) -> None:
    respx.route(method="DELETE", path__regex="bad").respond(500)
    respx.route(**GONE).respond(204)

    for round_ in range(10):
        ended = []
        for account in ("bad-1", "bad-2", f"good-{round_}"):
            door.clock.now += 5
            ended.append(await delete(door, account))
        assert ended == ["HTTP_500", "HTTP_500", "deleted"]

    assert door.client.states()["delete"] == "closed"


@respx.mock
async def test_two_bad_accounts_alone_stop_nobody_however_often_they_fail(door: Door) -> None:
    respx.route(**GONE).respond(500)
    for _ in range(5):
        for account in ("bad-1", "bad-2"):
            door.clock.now += 5
            await delete(door, account)

    assert door.client.states()["delete"] == "closed"


@respx.mock
async def test_the_probe_is_one_permit_and_its_success_opens_the_door(door: Door) -> None:
    await break_it(door)
    respx.route(**GONE).respond(204)
    door.clock.now += 15
    probe = door.permit("probe")

    assert door.refusal("another").why == "BREAKER_OPEN"
    await door.client.delete(probe)

    assert await delete(door, "another") == "deleted"
    assert door.client.states()["delete"] == "closed"


@respx.mock
async def test_a_probe_that_is_given_back_makes_room_for_the_next(door: Door) -> None:
    await break_it(door)
    door.clock.now += 15
    with door.permit("lost its lease"):
        assert door.refusal().why == "BREAKER_OPEN"

    assert door.permit("next").held


@respx.mock
async def test_a_cancelled_probe_makes_room_for_the_next(door: Door) -> None:
    await break_it(door)
    began = asyncio.Event()

    async def hanging(_: httpx.Request) -> httpx.Response:
        began.set()
        await asyncio.sleep(60)
        raise AssertionError("unreachable")

    respx.route(**GONE).mock(side_effect=hanging)
    door.clock.now += 15
    deletion = asyncio.create_task(door.client.delete(door.permit("probe")))
    await began.wait()
    deletion.cancel()
    await asyncio.gather(deletion, return_exceptions=True)

    assert door.client.states()["delete"] == "half-open, probe due"
    assert door.permit("next").held


@respx.mock
async def test_pacing_refuses_before_the_probe_is_taken(door: Door) -> None:
    """Seventeen hold a place, ten may now that the pace was halved: nobody is to be the probe and not go."""
    respx.route(**GONE).respond(500)
    holders = [door.permit(f"holder-{n}") for n in range(17)]
    for permit in [door.permit(f"bad-{n}") for n in range(3)]:
        with pytest.raises(ProviderError):
            await door.client.delete(permit)
    door.clock.now += 15

    refused = door.refusal("another")

    assert refused == Refusal("PACED", 1.0)
    assert door.client.states()["delete"] == "open, probe due"
    for permit in holders:
        permit.give_back()
    assert door.permit("another").held


def test_a_refusal_by_pacing_says_when_to_ask_again(door: Door) -> None:
    for n in range(20):
        door.permit(f"a{n}")

    assert door.refusal() == Refusal("PACED", 1.0)
    assert door.sample("worker_provider_refusals_total", tenant="acme", call="delete", why="PACED") == 1


@respx.mock
async def test_a_retry_after_holds_every_deletion_back(door: Door) -> None:
    respx.route(**GONE).respond(429, headers={"retry-after": "120"})
    assert await delete(door) == "HTTP_429"

    assert door.refusal("any other") == Refusal("PACED", 120.0)
    assert "resting for 120 s" in door.client.states()["pacing"]
    door.clock.now += 120
    assert door.permit("any other").held


@respx.mock
async def test_a_permit_is_good_for_one_deletion(door: Door) -> None:
    route = respx.route(**GONE).respond(204)
    used, returned = door.permit(), door.permit()
    await door.client.delete(used)
    returned.give_back()
    returned.give_back()

    for spent in (used, returned):
        with pytest.raises(RuntimeError, match="one deletion"):
            await door.client.delete(spent)

    assert route.call_count == 1
    used.give_back()
    assert door.client.states()["pacing"].startswith("0 of 20 at once")


@respx.mock
async def test_a_forgotten_permit_is_taken_back_and_good_for_nothing(door: Door) -> None:
    """A worker that was paused for minutes wakes up with permits of another time in its hands."""
    await break_it(door)
    door.clock.now += 15
    forgotten = door.permit("forgotten")
    door.clock.now += 60 + 20 + 0.2
    assert door.refusal().why == "BREAKER_OPEN"
    door.clock.now += 0.2

    assert door.permit("next").held
    with pytest.raises(ProviderError, match="PERMIT_LAPSED"):
        await door.client.delete(forgotten)
    assert len(respx.calls) == 3


@respx.mock
async def test_a_deletion_under_way_does_not_lapse(door: Door) -> None:
    release = asyncio.Event()

    async def slow(_: httpx.Request) -> httpx.Response:
        await release.wait()
        return httpx.Response(204)

    respx.route(**GONE).mock(side_effect=slow)
    deletion = asyncio.create_task(door.client.delete(door.permit()))
    await asyncio.sleep(0)
    door.clock.now += 3600
    door.permit("another").give_back()

    assert door.client.states()["pacing"].startswith("1 of 20 at once")
    release.set()
    await deletion


@respx.mock
async def test_the_listing_has_a_breaker_of_its_own(door: Door) -> None:
    route = respx.get(LIST).respond(500)
    with pytest.raises(ProviderError, match="HTTP_500"):
        await listed(door.client)
    with pytest.raises(ProviderError, match="BREAKER_OPEN"):
        await listed(door.client)

    assert route.call_count == 3
    assert door.client.states()["delete"] == "closed"
    assert door.permit().held
    assert door.sample("worker_provider_refusals_total", tenant="acme", call="list", why="BREAKER_OPEN") == 1

    respx.get(LIST).respond(200, json={"results": []})
    door.clock.now += 15
    assert await listed(door.client) == ([], 0)
    assert door.client.states()["list"] == "closed"


@respx.mock
async def test_a_failing_probe_of_the_listing_is_one_call(door: Door) -> None:
    route = respx.get(LIST).respond(500)
    with pytest.raises(ProviderError):
        await listed(door.client)
    door.clock.now += 15
    with pytest.raises(ProviderError, match="HTTP_500"):
        await listed(door.client)

    assert route.call_count == 4
    assert door.client.states()["list"] == "open, probe in 15 s"


@pytest.mark.parametrize("timed", [Breaker, Pacing, Admission, gates_of, open_provider, ManagedSource])
def test_no_clock_of_the_door_can_be_set(timed: Callable[..., Any]) -> None:
    """A wall clock that steps back an hour would keep a breaker open for an hour."""
    assert inspect.signature(timed).parameters["clock"].default is time.monotonic


def test_the_states_are_told_by_endpoint(door: Door, clock: Clock) -> None:
    door.permit()
    assert door.client.states() == {
        "list": "closed",
        "services": "closed",
        "delete": "closed",
        "pacing": "1 of 20 at once, 10.0 a second",
    }
