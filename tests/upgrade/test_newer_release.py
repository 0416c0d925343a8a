"""K7: this release reads what the next one will write, and refuses the table once that is no longer so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.errors import ForeignTable
from broker.sandbox import State
from broker.store import table
from broker.store.schema import claim_table
from broker.wiring import Broker
from local.engine import free_port
from tests.api.process import environment, run_to_the_end
from tests.api.service import Api, an_api, refusal
from tests.audit import items_of
from tests.builders import NOW
from tests.conftest import a_broker
from tests.worker.conftest import TOKEN

FUTURE = {"v": {"N": "2"}, "of_the_next_release": {"SS": ["a", "b"]}}


@pytest.fixture
async def api(ministack: str, table_name: str) -> AsyncIterator[Api]:
    async with an_api(ministack, table_name) as running:
        yield running


async def write(core: Broker, key: dict[str, Any], facts: dict[str, Any]) -> None:
    """As a newer release would: more facts on an item that there is."""
    update = core.client.update(key, table.update_of({}, facts), "attribute_exists(pk)")["Update"]
    await core.client.call("update_item", **update)


async def to_the_next_release(core: Broker) -> None:
    """Every item but the meta item as the next release would leave it: its version, and facts of its own."""
    for item in await items_of(core):
        if item["pk"] != table.meta_key()["pk"]:
            await write(core, {"pk": item["pk"], "sk": item["sk"]}, FUTURE)


async def test_items_of_a_newer_version_are_served_and_keep_what_is_not_known_here(api: Api) -> None:
    await api.fill(3)
    held = (await api.allocate("student-1")).json()
    keyed = (await api.allocate("student-1", Idempotency_Key="k1")).json()
    await api.set_mode("open")
    await to_the_next_release(api.core)

    replayed = await api.allocate("student-1")
    extended = await api.extend(held["sandbox_id"], held["generation"], 15_000)
    released = await api.release(keyed["sandbox_id"])
    third = await api.allocate("student-2")
    moved = await api.operate("force-release", third.json()["sandbox_id"])

    assert [a.status_code for a in (replayed, extended, released, third, moved)] == [200, 200, 200, 201, 200]
    kept = [item for item in await items_of(api.core) if "of_the_next_release" in item]
    kinds = {item["pk"]["S"].partition("#")[0] for item in kept}
    assert kinds >= {"SBX", "CLM", "OWN", "EVT", "TEN", "MODE"}
    changed = [item for item in kept if item["pk"]["S"].startswith("SBX#")]
    assert len(changed) == 3
    assert {item["v"]["N"] for item in changed} == {"2"}


async def test_a_state_that_only_a_newer_release_knows_is_touched_by_nothing(api: Api) -> None:
    await api.fill(1)
    key = table.sandbox_key("acme", "2009001")
    future = {"state": {"S": "recycling"}, "gsi1pk": {"S": "acme#recycling#0"}, "version": {"N": "9"}}
    await write(api.core, key, future)

    shown = await api.admin("/sandboxes/2009001")
    refused = await api.allocate("student-1")
    listed = await api.admin("/sandboxes")
    item = await api.core.client.get(key)

    assert (shown.status_code, shown.json()["status"]) == (200, "quarantined")
    assert refusal(refused) == (409, "NO_SANDBOXES_AVAILABLE")
    assert listed.status_code == 200
    assert item is not None
    assert item["state"] == {"S": "recycling"}


async def test_an_end_that_only_a_newer_release_knows_is_told_as_not_the_student_s_own(api: Api) -> None:
    await api.fill(1)
    held = (await api.allocate("student-1", Idempotency_Key="k1")).json()
    await api.release(held["sandbox_id"])
    reclaimed = {"ended_by": {"S": "reclaimed"}}
    await write(api.core, table.sandbox_key("acme", held["sandbox_id"]), reclaimed)
    await write(api.core, table.claim_key("acme", "student-1", "k1"), reclaimed)

    assert refusal(await api.release(held["sandbox_id"])) == (410, "ALLOCATION_EXPIRED")
    assert refusal(await api.allocate("student-1", Idempotency_Key="k1")) == (410, "ALLOCATION_ENDED")
    stored = await api.core.client.get(table.sandbox_key("acme", held["sandbox_id"]))
    assert stored is not None
    assert stored["ended_by"] == {"S": "reclaimed"}
    assert await api.core.sandboxes.count("acme", State.PENDING_DELETION) == 1


SCHEMAS = {
    "newer": ("sandbox-broker/2", "Deploy that one again"),
    "older": ("sandbox-broker/0", "docs/upgrade.md"),
    "foreign": ("inventory/7", "Check DDB_TABLE_NAME"),
    "nameless": ("", "Check DDB_TABLE_NAME"),
}


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_a_table_of_another_schema_is_refused_with_what_to_do(broker: Broker, kind: str) -> None:
    schema, todo = SCHEMAS[kind]
    await write(broker, table.meta_key(), table.encode({"schema": schema}))

    with pytest.raises(ForeignTable, match=todo) as refused:
        await claim_table(broker.client, now=NOW)

    assert repr(schema) in str(refused.value)


@pytest.mark.parametrize("module", ["app", "worker"])
def test_a_process_of_this_release_ends_with_78_on_a_table_of_a_newer_one(
    module: str, ministack: str, table_name: str
) -> None:
    async def taken_over() -> None:
        async with a_broker(ministack, table_name) as core:
            await write(core, table.meta_key(), table.encode({"schema": "sandbox-broker/2"}))

    asyncio.run(taken_over())
    port = str(free_port())
    provider = {"CSP_BASE_URL": "http://127.0.0.1:1", "CSP_API_TOKEN": TOKEN}
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}

    done = run_to_the_end(module, environment(**store, **provider, API_PORT=port, WORKER_PORT=port))

    assert done.returncode == 78, done.stdout + done.stderr
    assert "a newer release has taken it over" in done.stdout
