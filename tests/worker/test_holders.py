"""A16, L8 beside the worker: who lives or extends is not expired too early nor kept for good; ids that return."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.errors import StaleGeneration
from broker.lifecycle import HEARTBEAT_S
from broker.sandbox import State
from broker.store import table
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, release
from tests.audit import audit
from tests.builders import TEST_CAUSE
from tests.conftest import a_broker
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, Fetch, Provider, a_provider, a_worker
from worker.duties import Worker

HOUR = 3600


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """One account: whoever allocates gets it, or nothing."""
    async with a_provider(sandboxes=1, noise=0) as running:
        yield running


async def extend(broker: Broker, sandbox_id: str, generation: int | None, for_s: int) -> None:
    await broker.lifecycle.extend(
        "acme", sandbox_id, holder="student-1", generation=generation, for_s=for_s, cause=TEST_CAUSE
    )


async def test_an_extended_allocation_expires_after_its_new_end_and_grace(
    worker: Worker, core: Broker, clock: Clock, stored: Fetch
) -> None:
    await worker.sync(RUN)
    held = await allocate(core, "student-1")
    clock.now += 4 * HOUR + 30 * 60
    await extend(core, held.sandbox_id, held.generation, HOUR)

    at_once = await worker.expire(RUN)
    clock.now += HOUR + 30 * 60 - 1
    early = await worker.expire(RUN)
    clock.now += 1
    due = await worker.expire(RUN)

    assert [outcome["expired"] for outcome in (at_once, early, due)] == [0, 0, 1]
    assert (await stored(held.sandbox_id)).ended_by == "expired"
    assert await audit(core) == {"pending_deletion": 1}


@pytest.mark.parametrize("saved", [False, True], ids=["heartbeat", "extend"])
async def test_what_a_holder_does_while_the_worker_expires_it_stands_and_a_sign_of_life_keeps_it_for_no_other_tick(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch, proxy: StoreProxy, table_name: str, saved: bool
) -> None:
    async with (
        a_broker(proxy.url, table_name, clock=clock) as watched,
        a_worker(watched, provider, clock) as worker,
    ):
        await worker.sync(RUN)
        held = await allocate(core, "student-1")
        clock.now += 5 * HOUR

        async def act(_: Any) -> None:
            handle.remove()
            if saved:
                await extend(core, held.sandbox_id, held.generation, HOUR)
            else:
                await core.lifecycle.heartbeat(
                    "acme", held.sandbox_id, holder="student-1", generation=held.generation
                )

        handle = proxy.before("TransactWriteItems", act)
        first = await worker.expire(RUN)
        between = await stored(held.sandbox_id)
        clock.now += HEARTBEAT_S
        second = await worker.expire(RUN)

    assert (first["lost_race"], first["expired"]) == (1, 0)
    assert between.state is State.ALLOCATED
    assert second["expired"] == (0 if saved else 1)
    assert await audit(core) == {"allocated" if saved else "pending_deletion": 1}


async def test_an_id_that_returns_after_its_tombstone_has_a_higher_generation_and_the_old_one_is_stale(
    worker: Worker, core: Broker, clock: Clock, stored: Fetch, provider: Provider
) -> None:
    await worker.sync(RUN)
    past = await allocate(core, "student-1")
    for _ in range(4):  # each write raises the version
        clock.now += HEARTBEAT_S
        await core.lifecycle.heartbeat("acme", past.sandbox_id, holder="student-1", generation=past.generation)
    await release(core, past.sandbox_id, "student-1")
    row = await stored(past.sandbox_id)
    for key in (table.sandbox_key("acme", row.id), table.owner_key(row.external_id)):  # as the TTL does
        await core.client.call("delete_item", TableName=core.client.table.name, Key=key)
    clock.now += 60
    await worker.sync(RUN)

    present = await allocate(core, "student-1")

    assert present.sandbox_id == past.sandbox_id
    assert past.generation is not None
    assert present.generation is not None
    assert present.generation > row.version > past.generation
    with pytest.raises(StaleGeneration):
        await extend(core, past.sandbox_id, past.generation, HOUR)


async def test_an_id_that_returns_after_it_went_stale_and_was_purged_has_a_higher_generation(
    worker: Worker, core: Broker, clock: Clock, provider: Provider, stored: Fetch
) -> None:
    await worker.sync(RUN)
    (sandbox_id,) = await provider.sandbox_ids()
    before = await stored(sandbox_id)
    await provider.faults(hidden_accounts=[int(sandbox_id)])
    await worker.sync(RUN, confirmed=True)
    clock.now += 24 * HOUR
    purged = await worker.purge(RUN)
    await provider.faults(hidden_accounts=[])
    await worker.sync(RUN)

    held = await allocate(core, "student-1")

    assert purged["purged"] == 1
    assert held.sandbox_id == sandbox_id
    assert held.generation is not None
    assert held.generation > before.version + 24 * HOUR
