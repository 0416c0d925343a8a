"""The store's own promises, on every engine: conditions, transactions, lists, unknown attributes."""

import dataclasses

import pytest

from broker.errors import ForeignTable, ProviderAccountOwned, WriteConflict
from broker.sandbox import EndedBy, Sandbox, State
from broker.store import table
from broker.store.client import StoreClient
from broker.store.gauges import PoolGauges
from broker.store.schema import claim_table
from broker.wiring import Broker
from tests.audit import audit, items_of
from tests.builders import NOW, TEST_CAUSE, a_sandbox, an_allocated_sandbox


async def add(broker: Broker, sandbox: Sandbox) -> None:
    await broker.sandboxes.add(sandbox, TEST_CAUSE, now=NOW)


async def test_a_sandbox_comes_back_as_it_was_written(broker: Broker) -> None:
    sandbox = a_sandbox(attributes={"state": "active", "x": ""})

    await add(broker, sandbox)

    assert await broker.sandboxes.get("acme", sandbox.id) == sandbox


async def test_an_existing_sandbox_is_never_put_over(broker: Broker) -> None:
    await add(broker, a_sandbox())

    with pytest.raises(WriteConflict):
        await add(broker, a_sandbox(name="other"))

    stored = await broker.sandboxes.get("acme", a_sandbox().id)
    assert stored is not None
    assert stored.name == "lab-adventure-0001"


async def test_an_owned_account_is_refused_to_another_tenant_and_leaves_nothing_behind(broker: Broker) -> None:
    await add(broker, a_sandbox())

    with pytest.raises(ProviderAccountOwned):
        await add(broker, a_sandbox(tenant="rival", id="77"))

    assert await audit(broker, "rival") == {}


@pytest.mark.parametrize("write", ["move", "touch", "end", "remove"])
async def test_whoever_read_an_older_version_writes_nothing(broker: Broker, write: str) -> None:
    """There is no blind put: each write is refused once someone else has written."""
    if write == "end":
        read: Sandbox = an_allocated_sandbox()
    elif write == "remove":
        read = a_sandbox(state=State.STALE)
    else:
        read = a_sandbox()
    await add(broker, read)
    await broker.sandboxes.touch(read, read.described(name="newer", external_id=read.external_id, attributes={}))

    writes = {
        "move": lambda: broker.sandboxes.move(read, read.go_stale(now=NOW), TEST_CAUSE, now=NOW),
        "touch": lambda: broker.sandboxes.touch(read, read.go_missing(now=NOW)),
        "end": lambda: broker.sandboxes.end(read, read.end(by=EndedBy.EXPIRY, now=NOW), TEST_CAUSE, now=NOW),
        "remove": lambda: broker.sandboxes.remove(read, TEST_CAUSE, now=NOW),
    }
    with pytest.raises(WriteConflict):
        await writes[write]()

    stored = await broker.sandboxes.get("acme", read.id)
    assert stored is not None
    assert (stored.name, stored.version, stored.state) == ("newer", read.version + 1, read.state)


async def test_attributes_of_a_newer_release_survive_a_write_of_this_one(broker: Broker) -> None:
    before = a_sandbox()
    await add(broker, before)
    await broker.client.call(
        "update_item",
        TableName=broker.client.table.name,
        Key=table.sandbox_key("acme", before.id),
        UpdateExpression="SET waiting_line = :x, future = :m",
        ExpressionAttributeValues={":x": {"S": "kept"}, ":m": {"L": [{"N": "1"}]}},
    )

    await broker.sandboxes.move(before, before.go_stale(now=NOW), TEST_CAUSE, now=NOW)

    item = next(i for i in await items_of(broker) if i["pk"] == table.sandbox_key("acme", before.id)["pk"])
    assert (item["waiting_line"], item["future"]) == ({"S": "kept"}, {"L": [{"N": "1"}]})
    assert item["state"] == {"S": "stale"}


async def test_a_batch_of_rows_is_read_once_each_even_where_one_stands_twice(broker: Broker) -> None:
    """DynamoDB refuses a batch with the same key twice."""
    rows = [a_sandbox(number=n) for n in (1, 2)]
    for row in rows:
        await add(broker, row)

    found = await broker.sandboxes.get_many([*rows, rows[0], a_sandbox(number=9)])

    assert found == {row.id: row for row in rows}


async def test_a_state_is_walked_page_by_page_in_the_order_it_is_taken(broker: Broker) -> None:
    for number in range(1, 12):
        await add(broker, an_allocated_sandbox(number=number, expires_at=NOW + number))

    due = [row async for row in broker.sandboxes.walk("acme", State.ALLOCATED, up_to=NOW + 9, page_size=2)]

    assert sorted(row.expires_at or 0 for row in due) == [NOW + n for n in range(1, 10)]
    for shard in range(4):
        of_shard = [row.expires_at for row in due if table.shard_of(row.id, 4) == shard]
        assert of_shard == sorted(of_shard, key=lambda at: at or 0)


async def test_states_are_counted_over_all_shards(broker: Broker) -> None:
    for number in range(1, 8):
        await add(broker, a_sandbox(number=number))
    await add(broker, an_allocated_sandbox(number=50, missing_since=NOW))

    assert await broker.sandboxes.count("acme", State.AVAILABLE) == 7
    assert await broker.sandboxes.count("acme", State.ALLOCATED) == 1
    await add(broker, an_allocated_sandbox(number=51))

    assert await broker.sandboxes.count_missing("acme", State.ALLOCATED) == (2, 1)
    assert await broker.sandboxes.count_missing("acme", State.AVAILABLE) == (7, 0)
    assert await broker.sandboxes.count("rival", State.AVAILABLE) == 0


async def test_the_gauges_keep_the_newer_snapshot(broker: Broker) -> None:
    newer = PoolGauges(at=NOW + 60, states=dict.fromkeys(State, 2), missing=1)
    await broker.gauges.write("acme", newer)

    with pytest.raises(WriteConflict):
        await broker.gauges.write("acme", PoolGauges(at=NOW, states=dict.fromkeys(State, 9)))

    assert await broker.gauges.read("acme") == newer
    assert await broker.gauges.read("rival") is None


async def test_the_shard_count_rises_and_never_falls(broker: Broker) -> None:
    for shards, expected in ((4, 4), (8, 8), (2, 8)):
        await broker.tenants.ensure("acme", shards=shards, now=NOW)
        assert await broker.tenants.shards("acme") == expected


async def test_sandboxes_in_old_shards_are_found_after_the_count_rose(broker: Broker) -> None:
    await broker.tenants.ensure("acme", shards=1, now=NOW)
    for number in range(1, 7):
        await add(broker, a_sandbox(number=number))
    await broker.tenants.ensure("acme", shards=8, now=NOW)

    assert await broker.sandboxes.count("acme", State.AVAILABLE) == 6


async def test_a_table_of_someone_else_is_refused(broker: Broker) -> None:
    await add(broker, a_sandbox())
    await claim_table(broker.client, now=NOW)  # our own: fine
    name = broker.client.table.name
    await broker.client.call("delete_item", TableName=name, Key=table.meta_key())
    with pytest.raises(ForeignTable, match="someone else's"):
        await claim_table(broker.client, now=NOW)

    other = table.encode({"schema": "sandbox-broker/2"}) | table.meta_key()
    await broker.client.call("put_item", TableName=name, Item=other)
    with pytest.raises(ForeignTable, match="sandbox-broker/2"):
        await claim_table(broker.client, now=NOW)


async def test_every_transition_has_left_its_event(broker: Broker) -> None:
    sandbox = an_allocated_sandbox()
    await add(broker, sandbox)
    ended = sandbox.end(by=EndedBy.RELEASE, now=NOW)
    await broker.sandboxes.end(sandbox, ended, TEST_CAUSE, now=NOW)

    page = await broker.client.read(
        "query",
        TableName=broker.client.table.name,
        IndexName=broker.client.table.track_index,
        KeyConditionExpression="gsi2pk = :p",
        ExpressionAttributeValues={":p": {"S": table.history_partition("acme", sandbox.id)}},
    )

    history = [table.decode(item) for item in page["Items"]]
    assert [(event.get("before"), event["after"]) for event in history] == [
        (None, "allocated"),
        ("allocated", "pending_deletion"),
    ]
    assert {(event["actor"], event["request_id"]) for event in history} == {("test", "req-test")}


@pytest.mark.parametrize("index", ["status_index", "track_index"])
async def test_a_table_without_the_configured_index_is_refused(broker: Broker, index: str) -> None:
    """It ends the boot with a reason; unnoticed, every request would be a 500."""
    names = dataclasses.replace(broker.client.table, **{index: "Wrong"})
    astray = StoreClient(broker.client._door, names, timeout_s=20, connections=4, metrics=broker.metrics)

    with pytest.raises(ForeignTable, match=names.name):
        await claim_table(astray, now=NOW)
