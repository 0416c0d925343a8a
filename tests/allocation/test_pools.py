"""C7: a drained pool hands out nothing new, the others go on, and nobody pays for what is drained."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.errors import NoSandboxAvailable, PoolDrained
from broker.tenant import Drain
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, attempt, codes, fill, release, winners
from tests.audit import audit
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker
from tests.worker.conftest import until

WHY = Drain(reason="INC-4711", by="olga", at=NOW)


@pytest.fixture
async def core(proxy: StoreProxy, table_name: str) -> AsyncIterator[Broker]:
    async with a_broker(proxy.url, table_name) as broker:
        await broker.tenants.ensure("acme", shards=4, now=NOW)
        yield broker


@pytest.fixture
async def other(ministack: str, table_name: str, core: Broker) -> AsyncIterator[Broker]:
    async with a_broker(ministack, table_name) as broker:
        yield broker


async def named(broker: Broker, prefix: str, count: int, *, first: int) -> None:
    numbers = range(first, first + count)
    await asyncio.gather(
        *(broker.sandboxes.add(a_sandbox(number=n, name=f"{prefix}{n}"), TEST_CAUSE, now=NOW) for n in numbers)
    )


async def drain(broker: Broker, *prefixes: str) -> None:
    for prefix in prefixes:
        await broker.tenants.change("acme", lambda tenant, p=prefix: tenant.drain(p, WHY), TEST_CAUSE, now=NOW)


async def open_again(broker: Broker, prefix: str) -> None:
    await broker.tenants.change("acme", lambda tenant: tenant.open(prefix), TEST_CAUSE, now=NOW)


@pytest.mark.parametrize("wish", ["lab-a-", "lab-a-7"])
async def test_a_wish_for_a_drained_pool_is_refused_with_its_reason(core: Broker, wish: str) -> None:
    await named(core, "lab-a-", 3, first=70)
    await drain(core, "lab-a-")

    with pytest.raises(PoolDrained) as refused:
        await allocate(core, "student-1", prefix=wish)

    assert refused.value.details == {"pool": "lab-a-", "reason": "INC-4711"}
    assert refused.value.retry_after_s
    assert await audit(core) == {"available": 3}


async def test_who_holds_a_sandbox_of_a_drained_pool_gets_it_and_may_release_it(core: Broker) -> None:
    await named(core, "lab-a-", 2, first=1)
    held = await allocate(core, "student-1", prefix="lab-a-")
    await drain(core, "lab-a-")

    assert (await allocate(core, "student-1", prefix="lab-a-")).sandbox_id == held.sandbox_id
    await release(core, held.sandbox_id, "student-1")
    assert await audit(core) == {"available": 1, "pending_deletion": 1}


@pytest.mark.parametrize("wish", ["", "lab-"])
async def test_a_wider_wish_gets_what_is_not_drained_and_only_that(core: Broker, wish: str) -> None:
    for first, prefix in ((10, "lab-a-"), (20, "lab-b-"), (30, "lab-c-"), (40, "zoo-")):
        await named(core, prefix, 3, first=first)
    await drain(core, "lab-b-", "lab-a-")

    answers = [await attempt(core, f"student-{n}", prefix=wish) for n in range(8)]

    names = sorted(answer.name.rstrip("0123456789") for answer in winners(answers))
    assert names == ["lab-c-"] * 3 + ([] if wish else ["zoo-"] * 3)
    assert codes(answers) == {"NO_SANDBOXES_AVAILABLE"}
    refused = next(answer for answer in answers if isinstance(answer, NoSandboxAvailable))
    assert refused.details == {"drained_pools": ["lab-a-", "lab-b-"]}


async def test_a_pool_within_a_drained_one_is_drained_once(core: Broker) -> None:
    await named(core, "lab-a-", 2, first=10)
    await named(core, "lab-b-", 1, first=20)
    await drain(core, "lab-a-", "lab-a-1")

    answers = [await attempt(core, f"student-{n}") for n in range(3)]

    assert [answer.name for answer in winners(answers)] == ["lab-b-20"]


async def test_with_the_empty_prefix_all_of_the_tenant_is_drained(core: Broker) -> None:
    await fill(core, 2)
    await drain(core, "")

    with pytest.raises(PoolDrained) as refused:
        await allocate(core, "student-1")

    assert refused.value.details == {"pool": "", "reason": "INC-4711"}


async def test_other_processes_follow_within_two_seconds_and_hand_out_again_when_it_is_open(
    core: Broker, other: Broker
) -> None:
    await named(core, "lab-a-", 120, first=1)  # more than are asked for until the drain is heard of
    assert (await allocate(other, "first")).created, "it has the others at hand"
    await drain(core, "lab-a-")
    late = asyncio.get_running_loop().time() + 2.5
    students = iter(range(100))

    async def refused() -> bool:
        return codes([await attempt(other, f"student-{next(students)}")]) == {"NO_SANDBOXES_AVAILABLE"}

    await until(refused)
    assert asyncio.get_running_loop().time() < late
    await open_again(core, "lab-a-")

    async def served() -> bool:
        return bool(winners([await attempt(other, "last")]))

    await until(served)


async def test_a_large_drained_pool_is_stepped_over_and_not_read(core: Broker, proxy: StoreProxy) -> None:
    """It sorts before the one that is left: by filtering a page each query would read it all."""
    await named(core, "lab-a-", 300, first=1000)
    await named(core, "lab-b-", 5, first=2000)
    await drain(core, "lab-a-")
    seen: list[dict[str, Any]] = []

    async def look(body: dict[str, Any]) -> None:
        seen.append(body)

    with proxy.before("Query", look):
        held = await allocate(core, "student-1")

    assert held.name.startswith("lab-b-")
    assert len(seen) <= 8, "one query a shard and span of names"
    answers = [await attempt(core, f"late-{n}") for n in range(5)]
    assert len(winners(answers)) == 4


async def test_a_sandbox_that_is_renamed_out_of_its_pool_is_for_those_who_ask_for_its_new_name(
    core: Broker, other: Broker, proxy: StoreProxy
) -> None:
    """The index shows the old name: what the base table says is no reason to hide it from the others."""
    await named(core, "lab-a-", 1, first=1)
    row = await other.sandboxes.get("acme", a_sandbox(number=1).id)
    assert row is not None

    renamed: list[bool] = []

    async def rename(_: dict[str, Any]) -> None:
        if not renamed:
            renamed.append(True)
            after = row.described(name="lab-b-1", external_id=row.external_id, attributes={})
            await other.sandboxes.touch(row, after)

    with proxy.before("TransactWriteItems", rename):
        answer = await attempt(core, "student-1", prefix="lab-a-")

    assert codes([answer]) == {"NO_SANDBOXES_AVAILABLE"}
    assert (await allocate(core, "student-2", prefix="lab-b-")).name == "lab-b-1"
