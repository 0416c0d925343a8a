"""C7: operators drain the broker over HTTP, on every process, and see that they did."""

import asyncio
import time

import pytest

from local.store_proxy import StoreProxy
from tests.api.service import Api, an_api, error_of, refusal

SHUT = ["drained", "maintenance"]


async def test_a_broker_that_nobody_touched_is_open(api: Api) -> None:
    answer = await api.admin("/mode")
    assert (answer.status_code, answer.json()) == (200, {"mode": "open", "reason": None, "by": None, "at": None})


@pytest.mark.parametrize("mode", SHUT)
async def test_a_drained_broker_says_why_and_when_to_come_back_and_all_else_goes_on(api: Api, mode: str) -> None:
    await api.fill(2)
    first = await api.allocate("student-1")
    held = first.json()["sandbox_id"]

    set_ = await api.set_mode(mode, "INC-4711: network")
    refused = await api.allocate("student-2")
    replayed = await api.allocate("student-1")
    viewed = await api.view(held, "student-1")
    released = await api.release(held, "student-1")

    assert set_.status_code == 200
    assert (set_.json()["mode"], set_.json()["reason"], set_.json()["by"]) == (
        mode, "INC-4711: network", "bootstrap-admin",
    )  # fmt: skip
    assert abs(set_.json()["at"] - time.time()) < 60
    assert (await api.admin("/mode")).json() == set_.json()
    assert refusal(refused) == (503, "BROKER_DRAINED")
    assert error_of(refused)["details"] == {"mode": mode, "reason": "INC-4711: network"}
    assert int(refused.headers["Retry-After"]) == error_of(refused)["retry_after"] > 0
    assert (replayed.status_code, replayed.json()) == (200, first.json())
    assert viewed.status_code == released.status_code == 200
    assert (await api.admin("/stats")).json()["available"] == 1


async def test_open_again_it_hands_out_again(api: Api) -> None:
    await api.fill(1)
    await api.set_mode("drained")
    await api.allocate("student-1")
    assert (await api.set_mode("open", "INC-4711 is over")).json()["mode"] == "open"
    assert (await api.allocate("student-1")).status_code == 201


async def test_another_process_goes_by_it_within_two_seconds(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name) as one, an_api(ministack, table_name) as other:
        await one.fill(1)
        assert refusal(await other.allocate("s", X_Sandbox_Name_Prefix="none-")) == (409, "NO_SANDBOXES_AVAILABLE")
        began = time.monotonic()
        await one.set_mode("drained")
        codes = []
        while time.monotonic() - began < 30 and "BROKER_DRAINED" not in codes:
            codes.append(refusal(await other.allocate("s", X_Sandbox_Name_Prefix="none-"))[1])
        assert codes[-1] == "BROKER_DRAINED"
        assert (await other.admin("/mode")).json()["mode"] == "drained"


async def test_a_process_that_boots_into_a_drained_broker_is_drained_from_its_first_request_on(
    ministack: str, table_name: str
) -> None:
    async with an_api(ministack, table_name) as one:
        await one.fill(1)
        await one.set_mode("drained")
        async with an_api(ministack, table_name) as fresh:
            assert refusal(await fresh.allocate("student-1")) == (503, "BROKER_DRAINED")


async def test_a_process_that_lost_its_store_after_boot_keeps_the_mode_it_booted_with(
    proxy: StoreProxy, table_name: str
) -> None:
    """A claim that cannot be read is an outage, whatever the mode."""
    async with an_api(proxy.url, table_name) as api:
        await api.set_mode("drained")
        async with an_api(proxy.url, table_name) as fresh:
            proxy.faults.down = True
            assert (await fresh.admin("/mode")).json()["mode"] == "drained"
            assert refusal(await fresh.allocate("student-1")) == (503, "STORE_UNAVAILABLE")


@pytest.mark.parametrize("mode", SHUT)
async def test_ready_shows_a_mode_that_is_not_open_and_stays_200(api: Api, mode: str) -> None:
    await api.set_mode(mode)
    answer = await api.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200, {"status": "ready", "details": {"store": "ok", "mode": mode}},
    )  # fmt: skip
    await api.set_mode("open")
    assert (await api.http.get("/readyz")).json()["details"] == {"store": "ok"}


async def test_an_idle_process_learns_the_mode_from_its_probes(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name) as one, an_api(ministack, table_name) as idle:
        await one.set_mode("maintenance")
        async with asyncio.timeout(30):
            while "mode" not in (await idle.http.get("/readyz")).json()["details"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await idle.metrics())['broker_mode{mode="maintenance"}'] == 1


async def test_the_mode_is_a_gauge(api: Api) -> None:
    await api.set_mode("drained")
    counted = await api.metrics()
    shown = {mode: counted[f'broker_mode{{mode="{mode}"}}'] for mode in ("open", "drained", "maintenance")}
    assert shown == {"open": 0, "drained": 1, "maintenance": 0}
    assert counted['broker_operations_total{operation="set_mode",outcome="done",tenant="acme"}'] == 1


@pytest.mark.parametrize("mode", ["", "OPEN", "closed", "open "])
async def test_there_are_three_modes(api: Api, mode: str) -> None:
    assert refusal(await api.set_mode(mode)) == (400, "INVALID_REQUEST")


async def test_the_mode_is_the_brokers_and_holds_for_every_tenant(ministack: str, table_name: str) -> None:
    async with (
        an_api(ministack, table_name) as acme,
        an_api(ministack, table_name, BROKER_TENANT="umbrella") as umbrella,
    ):
        await acme.set_mode("drained")
        async with an_api(ministack, table_name, BROKER_TENANT="umbrella") as fresh:
            assert refusal(await fresh.allocate("student-1")) == (503, "BROKER_DRAINED")
        assert (await umbrella.admin("/stats")).status_code == 200
