"""Indexes that show what was, and catch up in order."""

import asyncio
import time

import pytest
from proxied import (
    an_item,
    code,
    connect,
    exists,
    in_state,
    indexed,
    key,
    put,
    refusal,
    table_definition,
    to_state,
)

from local.store_proxy import StoreProxy


@pytest.fixture
def frozen(proxy):
    """Indexes stand still until the test lets them go; then they follow at once."""
    proxy.faults.freeze_indexes = True
    return proxy


async def write_put(client, table):
    await client.put_item(TableName=table, Item=an_item("new"))


async def write_update(client, table):
    await client.update_item(**to_state(table, "new", "free"))


async def write_transaction(client, table):
    await client.transact_write_items(
        TransactItems=[put(table, "new"), {"Delete": {"TableName": table, "Key": key("old")}}]
    )


async def write_batch(client, table):
    requests = [{"PutRequest": {"Item": an_item("new")}}, {"DeleteRequest": {"Key": key("old")}}]
    await client.batch_write_item(RequestItems={table: requests})


async def write_delete(client, table):
    await client.delete_item(TableName=table, Key=key("old"))


@pytest.mark.parametrize(
    ("write", "after"),
    [
        (write_put, ["new", "old"]),
        (write_update, ["new", "old"]),
        (write_transaction, ["new"]),
        (write_batch, ["new"]),
        (write_delete, []),
    ],
)
async def test_an_index_shows_a_write_only_after_the_lag_and_the_table_at_once(client, proxy, table, write, after):
    await client.put_item(TableName=table, Item=an_item("old"))
    proxy.faults.index_lag_s = 0.8
    began = time.monotonic()
    await write(client, table)
    assert await exists(client, table, "new") == ("new" in after)
    assert await exists(client, table, "old") == ("old" in after)
    assert await indexed(client, table) == ["old"]
    while await indexed(client, table) != after:
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.02)
    assert time.monotonic() - began >= 0.8


async def test_a_scan_of_an_index_lags_as_a_query_does(client, frozen, table):
    await client.put_item(TableName=table, Item=an_item("new"))
    assert (await client.scan(TableName=table, IndexName="StatusIndex"))["Items"] == []
    assert len((await client.scan(TableName=table))["Items"]) == 1


async def test_a_table_query_and_a_consistent_read_are_current(client, frozen, table):
    await client.put_item(TableName=table, Item=an_item("new"))
    answer = await client.query(
        TableName=table, KeyConditionExpression="pk = :p", ExpressionAttributeValues={":p": {"S": "new"}}
    )
    assert answer["Count"] == 1
    assert await exists(client, table, "new")


async def test_switching_the_lag_on_starts_from_a_copy_of_the_table(client, engine, proxy, table):
    names = [f"i{n:03d}" for n in range(120)]
    for n in range(0, 120, 24):
        batch = [{"PutRequest": {"Item": an_item(pk)}} for pk in names[n : n + 24]]
        await engine.batch_write_item(RequestItems={table: batch})
    proxy.faults.index_lag_s = 60
    await client.put_item(TableName=table, Item=an_item("later"))
    assert await indexed(client, table) == names


async def test_a_copy_of_more_than_one_page_is_whole(client, engine, proxy, table):
    for n in range(5):
        await engine.put_item(TableName=table, Item=an_item(f"i{n}", pad={"S": "x" * 300_000}))
    proxy.faults.index_lag_s = 60
    answer = await client.query(**in_state(table, "free", ProjectionExpression="pk"))
    more = await client.query(
        **in_state(table, "free", ProjectionExpression="pk", ExclusiveStartKey=answer["LastEvaluatedKey"])
    )
    assert answer["Count"] + more["Count"] == 5


async def test_switching_the_lag_off_goes_back_to_the_table_and_on_again_copies_anew(client, proxy, table):
    proxy.faults.index_lag_s = 60
    await client.put_item(TableName=table, Item=an_item("a"))
    assert await indexed(client, table) == []
    proxy.faults.index_lag_s = 0
    assert await indexed(client, table) == ["a"]
    await client.put_item(TableName=table, Item=an_item("b"))
    proxy.faults.index_lag_s = 60
    assert await indexed(client, table) == ["a", "b"]


async def test_frozen_indexes_stand_still_and_catch_up_when_they_thaw(client, frozen, table):
    await client.put_item(TableName=table, Item=an_item("a"))
    await asyncio.sleep(0.1)
    assert await indexed(client, table) == []
    with pytest.raises(RuntimeError, match="freeze_indexes"):
        await frozen.settle()
    frozen.faults.index_lag_s = 0.05
    frozen.faults.freeze_indexes = False
    await frozen.settle()
    assert await indexed(client, table) == ["a"]


async def test_of_writes_that_catch_up_together_the_last_one_shows(client, frozen, table):
    for n in range(5):
        await client.update_item(**to_state(table, "a", f"s{n}"))
    await client.put_item(TableName=table, Item=an_item("gone", state="s4"))
    await client.delete_item(TableName=table, Key=key("gone"))
    frozen.faults.change({"freeze_indexes": False, "index_lag_s": 0.01})
    await frozen.settle()
    assert [await indexed(client, table, f"s{n}") for n in range(5)] == [[], [], [], [], ["a"]]


async def test_settle_waits_until_the_indexes_show_everything(client, proxy, table):
    proxy.faults.index_lag_s = 0.4
    await client.put_item(TableName=table, Item=an_item("a"))
    began = time.monotonic()
    await proxy.settle()
    assert 0.3 < time.monotonic() - began < 3
    assert await indexed(client, table) == ["a"]


async def test_an_index_passes_through_every_state_in_order(client, proxy, table):
    proxy.faults.index_lag_s = 1
    for attempt in range(20):  # a busy machine lets the observer look away for longer than a state lasts
        seen, looked_away_s = await states_passed_through(client, table, f"a{attempt}")
        assert seen == sorted(set(seen))
        assert seen[-1] == "s3"
        if looked_away_s < STATE_LASTS_S:
            break
    assert seen == ["s0", "s1", "s2", "s3"]


STATE_LASTS_S = 0.3


async def states_passed_through(client, table, pk):
    """What the index showed of a new item on its way from s0 to s3, and the longest time between two looks."""
    looked_at = time.monotonic() + 0.9  # until then it shows nothing
    await client.put_item(TableName=table, Item=an_item(pk, state="s0"))
    for n in range(1, 4):
        await asyncio.sleep(STATE_LASTS_S)
        await client.update_item(**to_state(table, pk, f"s{n}"))
    seen = []
    looked_away_s = 0
    while seen[-1:] != ["s3"]:
        states = [f"s{n}" for n in range(4) if pk in await indexed(client, table, f"s{n}")]
        seen += [state for state in states if state not in seen[-1:]]
        looked_away_s = max(looked_away_s, time.monotonic() - looked_at)
        looked_at = time.monotonic()
    return seen, looked_away_s


async def test_many_writers_at_once_leave_the_index_as_the_table(client, engine, proxy, table):
    proxy.faults.index_lag_s = 0.05

    async def churn(n):
        for round_ in range(10):
            await client.update_item(**to_state(table, f"i{round_ % 3}", f"s{n}-{round_}"))
            if n % 4 == 0:
                await client.delete_item(TableName=table, Key=key(f"i{round_ % 3}"))

    await asyncio.gather(*(churn(n) for n in range(12)))
    await proxy.settle()
    both = [await engine.scan(TableName=name) for name in (table, f"{table}__shadow")]
    held, shown = ({item["pk"]["S"]: item for item in answer["Items"]} for answer in both)
    assert shown == held


async def test_an_item_that_leaves_the_index_leaves_it_late(client, proxy, table):
    await client.put_item(TableName=table, Item=an_item("a"))
    proxy.faults.freeze_indexes = True
    await client.update_item(
        TableName=table, Key=key("a"), UpdateExpression="REMOVE #s", ExpressionAttributeNames={"#s": "state"}
    )
    assert await indexed(client, table) == ["a"]
    proxy.faults.change({"freeze_indexes": False, "index_lag_s": 0.01})
    await proxy.settle()
    assert await indexed(client, table) == []


async def test_the_shadow_is_called_by_the_tables_name_in_answers(client, frozen, table):
    await client.put_item(TableName=table, Item=an_item("a", note={"S": f"{table}__shadow"}))
    frozen.faults.change({"freeze_indexes": False, "index_lag_s": 0.01})
    await frozen.settle()
    answer = await client.query(**in_state(table, "free", ReturnConsumedCapacity="TOTAL"))
    assert answer["ConsumedCapacity"]["TableName"] == table
    assert answer["Items"][0]["note"] == {"S": f"{table}__shadow"}


async def test_pages_of_a_lagging_index_follow_one_another(client, proxy, table):
    for n in range(5):
        await client.put_item(TableName=table, Item=an_item(f"i{n}"))
    proxy.faults.index_lag_s = 60
    seen, start = [], {}
    while True:
        page = await client.query(**in_state(table, "free", Limit=2, **start))
        seen += [item["pk"]["S"] for item in page["Items"]]
        if "LastEvaluatedKey" not in page:
            break
        start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
    assert seen == ["i0", "i1", "i2", "i3", "i4"]


async def test_a_write_whose_answer_was_lost_reaches_the_index_all_the_same(client, proxy, table):
    proxy.faults.change({"index_lag_s": 0.05, "lose_answer_next": 1})
    with pytest.raises(Exception, match="Connection was closed"):
        await client.put_item(TableName=table, Item=an_item("a"))
    await proxy.settle()
    assert await indexed(client, table) == ["a"]


async def test_the_shadow_goes_with_its_table_and_with_the_proxy(engine_url, engine, table):
    async with StoreProxy(upstream_url=engine_url) as proxy, connect(proxy.url) as client:
        proxy.faults.index_lag_s = 60
        other = f"{table}-other"
        await client.create_table(**table_definition(other))
        for name in (table, other):
            await client.put_item(TableName=name, Item=an_item("a"))
            await engine.describe_table(TableName=f"{name}__shadow")
        await client.delete_table(TableName=other)
        gone = await refusal(engine.describe_table(TableName=f"{other}__shadow"))
        assert code(gone) == "ResourceNotFoundException"
        await engine.describe_table(TableName=f"{table}__shadow")
    gone = await refusal(engine.describe_table(TableName=f"{table}__shadow"))
    assert code(gone) == "ResourceNotFoundException"
