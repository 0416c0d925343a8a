"""E10: what runs inside a sandbox is deleted first; that never stands in the deletion's way, and is remembered."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.sandbox import Sandbox, State
from broker.wiring import Broker
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, Fetch, Provider, a_provider, a_worker
from tests.worker.test_clean import a_released_sandbox

SERVICES = {
    "NIOSXAAS_ENABLED": "true",
    "NIOSXAAS_SHADOW": "false",
    "NIOSXAAS_EMAIL": "services@simulator.invalid",
    "NIOSXAAS_PASSWORD": "simulator-password",
    "NIOSXAAS_NAME_FILTER": "lab-",
    "NIOSXAAS_TIMEOUT_SEC": "1",
}


@pytest.fixture
async def inhabited() -> AsyncIterator[Provider]:
    """Each sandbox holds lab-vpn-<id>-1 and keep-me-<id>-2."""
    async with a_provider(services_per_account=2) as running:
        yield running


async def services_of(provider: Provider, sandbox_id: str) -> list[str]:
    answer = await provider.http.get("/_simulator/services", params={"csp_id": sandbox_id})
    return [service["name"] for service in answer.json()["results"] if service["deleted_at"] is None]


async def deleted(core: Broker, provider: Provider, clock: Clock, stored: Fetch, **more: str) -> Sandbox:
    """A sandbox after its deletion, with the services step on."""
    async with a_worker(core, provider, clock, **(SERVICES | more)) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        await worker.cleaner.sweep(RUN)
        return await stored(sandbox_id)


async def test_matching_services_are_deleted_before_the_account(
    core: Broker, inhabited: Provider, clock: Clock, stored: Fetch
) -> None:
    row = await deleted(core, inhabited, clock, stored)

    assert (row.state, row.services) == (State.DELETED, "deleted 1")
    assert await services_of(inhabited, row.id) == [f"keep-me-{row.id}-2"]
    journal = (await inhabited.http.get("/_simulator/journal")).json()["results"]
    deletions = [call["path"] for call in journal if call["method"] == "DELETE"]
    assert [path.split("/")[1] for path in deletions] == ["api", "sandbox"]


async def test_shadow_mode_tells_what_it_would_delete_and_deletes_none(
    core: Broker, inhabited: Provider, clock: Clock, stored: Fetch
) -> None:
    row = await deleted(core, inhabited, clock, stored, NIOSXAAS_SHADOW="true")

    assert (row.state, row.services) == (State.DELETED, "would delete 1 (shadow)")
    assert len(await services_of(inhabited, row.id)) == 2


@pytest.mark.parametrize(
    "fault",
    [{"services_500_rate": 1.0}, {"services_hang_rate": 1.0}, {"services_html": True}, {"sign_in_rejects": True}],
    ids=lambda fault: next(iter(fault)),
)
async def test_trouble_with_services_never_stops_the_deletion_and_stands_on_the_tombstone(
    core: Broker, inhabited: Provider, clock: Clock, stored: Fetch, fault: dict[str, Any]
) -> None:
    await inhabited.faults(**fault)

    row = await deleted(core, inhabited, clock, stored)

    assert row.state is State.DELETED
    assert row.services is not None
    assert row.services.startswith("failed: ")
    assert row.attempt == 1


async def test_without_the_setting_nothing_of_it_happens(
    core: Broker, inhabited: Provider, clock: Clock, stored: Fetch
) -> None:
    row = await deleted(core, inhabited, clock, stored, NIOSXAAS_ENABLED="false")

    assert (row.state, row.services) == (State.DELETED, None)
    assert len(await services_of(inhabited, row.id)) == 2


async def test_a_lead_that_ends_during_the_services_step_ends_the_deletion_before_the_account_is_touched(
    core: Broker, inhabited: Provider, clock: Clock, stored: Fetch
) -> None:
    """The last look before what cannot be taken back: whoever no longer leads calls nobody."""
    await inhabited.faults(services_hang_rate=1.0)
    async with a_worker(core, inhabited, clock, **SERVICES) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        await worker.cleaner.tick(RUN)
        await asyncio.sleep(0.3)
        await worker._leadership.step_down()
        await worker.cleaner.idle()

    row = await stored(sandbox_id)
    assert row.state is State.PENDING_DELETION
    assert [path for path in await inhabited.deletions() if path.startswith("/sandbox")] == []
