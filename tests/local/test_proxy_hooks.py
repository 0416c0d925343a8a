"""Races staged at an exact point of a call."""

from proxied import an_item, exists, key, put, reasons, refusal


async def test_a_hook_before_a_transaction_wins_the_race_at_the_worst_moment(client, engine, proxy, table):
    async def take_it_first(body):
        assert body["TransactItems"][0]["Put"]["Item"]["pk"] == {"S": "wanted"}
        await engine.put_item(TableName=table, Item=an_item("wanted", owner={"S": "rival"}))

    mine = put(table, "wanted")
    mine["Put"]["ConditionExpression"] = "attribute_not_exists(pk)"
    with proxy.before("TransactWriteItems", take_it_first):
        assert reasons(await refusal(client.transact_write_items(TransactItems=[mine]))) == [
            "ConditionalCheckFailed"
        ]


async def test_a_hook_before_a_transaction_may_go_through_the_proxy_itself(client, proxy, table):
    async def take_it_first(_):
        handle.remove()
        await client.transact_write_items(TransactItems=[put(table, "wanted", owner={"S": "rival"})])

    handle = proxy.before("TransactWriteItems", take_it_first)
    mine = put(table, "wanted")
    mine["Put"]["ConditionExpression"] = "attribute_not_exists(pk)"
    assert reasons(await refusal(client.transact_write_items(TransactItems=[mine]))) == ["ConditionalCheckFailed"]


async def test_a_hook_after_a_write_sees_it_committed_and_runs_only_for_its_operation(
    client, engine, proxy, table
):
    seen = []

    async def look(body):
        seen.append((body["Item"]["pk"]["S"], await exists(engine, table, body["Item"]["pk"]["S"])))

    handle = proxy.after("PutItem", look)
    await client.get_item(TableName=table, Key=key())
    await client.put_item(TableName=table, Item=an_item("a"))
    refused = client.put_item(TableName=table, Item=an_item("b"), ConditionExpression="attribute_exists(pk)")
    await refusal(refused)
    handle.remove()
    await client.put_item(TableName=table, Item=an_item("c"))
    assert seen == [("a", True)]


async def test_a_hook_may_name_one_kind_of_read(client, proxy, table):
    seen = []

    async def look(body):
        seen.append(body.get("ConsistentRead", False))

    with proxy.before("GetItem:consistent", look), proxy.before("GetItem", look):
        await client.get_item(TableName=table, Key=key())
        await client.get_item(TableName=table, Key=key(), ConsistentRead=True)
    assert seen == [False, True, True]
