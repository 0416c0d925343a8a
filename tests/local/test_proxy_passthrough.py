"""Without faults the proxy is transparent, and it counts."""

import asyncio
import io
import json
import time

import aiohttp
from proxied import an_item, code, connect, exists, in_state, key, put, reasons, refusal, table_definition

from local.store_proxy import StoreProxy


async def test_items_written_through_the_proxy_are_in_the_engine_and_read_back_the_same(client, engine, table):
    item = an_item(blob={"B": b"\x00\xff"}, number={"N": "1.5"}, text={"S": "grüß"})
    await client.put_item(TableName=table, Item=item)
    through = await client.get_item(TableName=table, Key=key(), ConsistentRead=True)
    past = await engine.get_item(TableName=table, Key=key(), ConsistentRead=True)
    assert through["Item"] == past["Item"] == item


async def test_a_refused_transaction_keeps_its_reasons_and_the_item_that_was_there(client, table):
    await client.put_item(TableName=table, Item=an_item("taken", owner={"S": "x"}))
    first = put(table, "fresh")
    second = put(table, "taken")
    second["Put"] |= {
        "ConditionExpression": "attribute_not_exists(pk)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    error = await refusal(client.transact_write_items(TransactItems=[first, second]))
    assert reasons(error) == ["None", "ConditionalCheckFailed"]
    assert error.response["CancellationReasons"][1]["Item"]["owner"] == {"S": "x"}


async def test_a_batch_larger_than_a_megabyte_passes(proxy, engine, table):
    requests = [{"PutRequest": {"Item": an_item(f"i{n}", pad={"S": "x" * 300_000})}} for n in range(5)]
    body = io.BytesIO(json.dumps({"RequestItems": {table: requests}}).encode())
    headers = {
        "X-Amz-Target": "DynamoDB_20120810.BatchWriteItem",
        "Content-Type": "application/x-amz-json-1.0",
    }
    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.post("/", data=body, headers=headers) as answer,
    ):
        assert answer.status == 200
    assert await exists(engine, table, "i4")


async def test_a_table_that_does_not_exist_is_the_engines_to_refuse(client):
    assert code(await refusal(client.get_item(TableName="nope", Key=key()))) == "ResourceNotFoundException"


async def test_calls_are_counted_by_operation_index_and_consistency(client, proxy, table):
    await client.transact_write_items(TransactItems=[put(table, "a"), put(table, "b")])
    await client.get_item(TableName=table, Key=key())
    await client.get_item(TableName=table, Key=key(), ConsistentRead=True)
    await client.query(**in_state(table, "free"))
    await client.query(
        TableName=table, KeyConditionExpression="pk = :p", ExpressionAttributeValues={":p": {"S": "a"}}
    )
    assert proxy.counts.calls == {
        "TransactWriteItems": 1,
        "GetItem": 1,
        "GetItem:consistent": 1,
        "Query:StatusIndex": 1,
        "Query": 1,
    }
    assert proxy.counts.transaction_items == 2
    proxy.counts.reset()
    assert (proxy.counts.calls, proxy.counts.transaction_items, proxy.calls) == ({}, 0, [])


async def test_the_last_calls_are_remembered_with_the_partition_keys_they_name(client, proxy, table):
    began_at = time.time()
    await client.transact_write_items(TransactItems=[put(table, "a"), put(table, "b")])
    await client.query(**in_state(table, "free"))
    written, asked = proxy.calls
    assert (written.op, written.table, written.index, written.keys) == (
        "TransactWriteItems",
        table,
        None,
        ("a", "b"),
    )
    assert (asked.op, asked.table, asked.index, asked.keys) == ("Query", table, "StatusIndex", ("free",))
    assert began_at <= written.at <= asked.at <= time.time()


async def test_only_the_last_ten_thousand_calls_are_remembered(proxy):
    assert proxy.counts.recent.maxlen == 10_000


async def test_what_is_no_dynamodb_call_passes_too(proxy, engine_url):
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{engine_url}/_ministack/health") as past,
        session.get(f"{proxy.url}/_ministack/health") as through,
    ):
        assert (through.status, await through.json()) == (past.status, await past.json())


async def test_an_engine_that_is_gone_is_a_503_that_says_so():
    async with StoreProxy(upstream_url="http://127.0.0.1:9") as proxy, connect(proxy.url) as client:
        error = await refusal(client.get_item(TableName="any", Key=key()))
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert "http://127.0.0.1:9 does not answer" in error.response["Error"]["Message"]


async def test_a_table_that_came_back_with_other_keys_is_described_anew(client, proxy, table):
    await client.put_item(TableName=table, Item=an_item())
    await client.delete_table(TableName=table)
    definition = table_definition(table)
    definition["KeySchema"] = definition["KeySchema"][:1]
    definition["AttributeDefinitions"] = [
        d for d in definition["AttributeDefinitions"] if d["AttributeName"] != "sk"
    ]
    await client.create_table(**definition)
    one, two = put(table, "a"), put(table, "a")
    two["Put"]["Item"]["sk"] = {"S": "other"}
    error = await refusal(client.transact_write_items(TransactItems=[one, two]))
    assert "multiple operations on one item" in error.response["Error"]["Message"]
    assert proxy.counts.faults == {"strictness": 1}, "the engine refused it"


async def test_tables_of_two_regions_are_not_mistaken_for_one_another(client, proxy, table):
    async with connect(proxy.url, region="eu-west-1") as elsewhere:
        await elsewhere.create_table(**table_definition(table))
        proxy.faults.latency_ms = 200
        both = client.transact_write_items, elsewhere.transact_write_items
        await asyncio.gather(*(write(TransactItems=[put(table, "a")]) for write in both))
    assert proxy.counts.faults == {}
