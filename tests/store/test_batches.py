"""Batches: all of it under one fence; who lost a race is left out, who did not is written."""

import pytest

from broker.errors import StoreUnavailable
from broker.leadership import Leadership
from broker.sandbox import EndedBy, Sandbox, State
from broker.store import table
from broker.store.batches import Change, Written
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.audit import audit, items_of
from tests.builders import NOW, TEST_CAUSE, a_sandbox, an_allocated_sandbox
from tests.conftest import a_broker


async def a_leader(broker: Broker) -> Leadership:
    leader = Leadership(broker.leader, broker.metrics, scope="acme", holder="me", lease_s=60)
    await leader._try()
    return leader


def new(number: int, **changes: object) -> Change:
    return Change(None, a_sandbox(number=number, **changes), TEST_CAUSE)


async def write(broker: Broker, *changes: Change) -> list[Written]:
    leader = await a_leader(broker)
    return await broker.batches.write(list(changes), fence=leader.fence, now=NOW)


async def test_sixty_new_sandboxes_take_three_transactions(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name) as broker:
        leader = await a_leader(broker)
        proxy.counts.reset()

        became = await broker.batches.write([new(n) for n in range(1, 61)], fence=leader.fence, now=NOW)

        assert became == [Written.YES] * 60
        assert proxy.counts.calls["TransactWriteItems"] == 3
        assert await audit(broker) == {"available": 60}


async def test_who_lost_a_race_is_left_out_and_the_rest_is_written(broker: Broker) -> None:
    await write(broker, new(1), new(2), new(3))
    read = [a_sandbox(number=n) for n in (1, 2, 3)]
    moved = read[1].go_stale(now=NOW)
    await broker.sandboxes.move(read[1], moved, TEST_CAUSE, now=NOW)

    became = await write(broker, *(Change(s, s.go_stale(now=NOW + 5), TEST_CAUSE) for s in read))

    assert became == [Written.YES, Written.LOST_RACE, Written.YES]
    assert (await stored(broker, read[1])).since == NOW
    assert await audit(broker) == {"stale": 3}


async def stored(broker: Broker, sandbox: Sandbox) -> Sandbox:
    row = await broker.sandboxes.get("acme", sandbox.id)
    assert row is not None
    return row


async def test_an_account_that_is_another_sandboxs_is_told_and_left_alone(broker: Broker) -> None:
    became = await write(broker, new(1), new(2, external_id=a_sandbox(number=1).external_id), new(3))

    assert became == [Written.YES, Written.OWNED_ELSEWHERE, Written.YES]
    assert await audit(broker) == {"available": 2}


async def test_a_change_of_facts_writes_no_event_and_a_move_one(broker: Broker) -> None:
    await write(broker, new(1))
    before = a_sandbox()
    described = before.described(name="renamed", external_id=before.external_id, attributes={})
    await write(broker, Change(before, described, None))
    await write(broker, Change(described, described.go_stale(now=NOW), TEST_CAUSE))

    events = [i for i in await items_of(broker) if i["pk"]["S"].startswith("EVT#")]

    assert (await stored(broker, before)).name == "renamed"
    assert sorted(event["after"]["S"] for event in events) == ["available", "stale"]


async def test_an_account_that_changes_its_external_id_changes_what_is_owned(broker: Broker) -> None:
    await write(broker, new(1))
    before = a_sandbox()
    after = before.described(name=before.name, external_id="identity/accounts/new", attributes={})

    assert await write(broker, Change(before, after, None)) == [Written.YES]

    owners = {item["pk"]["S"] for item in await items_of(broker) if item["pk"]["S"].startswith("OWN#")}
    assert owners == {table.owner_key("identity/accounts/new")["pk"]["S"]}
    assert await write(broker, new(9, tenant="rival", external_id=before.external_id)) == [Written.YES]


async def test_an_external_id_that_another_tenant_owns_cannot_be_taken_on(broker: Broker) -> None:
    mine, theirs = a_sandbox(), a_sandbox(number=2, tenant="rival")
    await write(broker, Change(None, mine, TEST_CAUSE), Change(None, theirs, TEST_CAUSE))

    taken = mine.described(name="x", external_id=theirs.external_id, attributes={})

    assert await write(broker, Change(mine, taken, None)) == [Written.OWNED_ELSEWHERE]
    assert await stored(broker, mine) == mine


async def test_a_tombstone_that_becomes_due_again_keeps_its_account(broker: Broker) -> None:
    held = an_allocated_sandbox()
    await write(broker, Change(None, held, TEST_CAUSE))
    pending = held.end(by=EndedBy.EXPIRY, now=NOW)
    leased = pending.lease(token="t", now=NOW, lease_s=30)
    buried = leased.finish_deletion(now=NOW)
    for before, after in ((held, pending), (pending, leased), (leased, buried)):
        await write(broker, Change(before, after, TEST_CAUSE))

    await write(broker, Change(buried, buried.delete_again(now=NOW + 9), TEST_CAUSE))

    (owner,) = [item for item in await items_of(broker) if item["pk"]["S"].startswith("OWN#")]
    assert "ttl" not in owner
    assert (await stored(broker, held)).state is State.PENDING_DELETION


@pytest.mark.parametrize("slot", [0, 2, 3])
async def test_a_conflict_with_another_transaction_is_waited_out(
    proxy: StoreProxy, table_name: str, slot: int
) -> None:
    """Slot 3 is the fence: the leader's own renewal may be at it."""
    async with a_broker(proxy.url, table_name) as broker:
        leader = await a_leader(broker)
        proxy.faults.conflict_next = {slot: 2}

        assert await broker.batches.write([new(1)], fence=leader.fence, now=NOW) == [Written.YES]


async def test_one_sandbox_that_is_contested_for_ever_stops_nobody_else(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name) as broker:
        leader = await a_leader(broker)
        proxy.faults.conflict_next = {3: 6}

        became = await broker.batches.write([new(1), new(2), new(3)], fence=leader.fence, now=NOW)

        assert became == [Written.YES, Written.LOST_RACE, Written.YES]


async def test_an_answer_that_was_lost_is_told_and_the_repeat_loses_the_race_to_itself(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name) as broker:
        leader = await a_leader(broker)
        proxy.faults.lose_answer_ops = frozenset({"TransactWriteItems"})
        proxy.faults.lose_answer_next = 1
        with pytest.raises(StoreUnavailable):
            await broker.batches.write([new(1)], fence=leader.fence, now=NOW)

        assert await broker.batches.write([new(1)], fence=leader.fence, now=NOW) == [Written.LOST_RACE]
        assert await audit(broker) == {"available": 1}
