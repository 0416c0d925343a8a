"""Transactions that meet on an item, and conflicts that are invented."""

import asyncio

import pytest
from proxied import an_item, check, code, exists, key, put, reasons, refusal, to_state, until


async def in_flight(proxy, client, *actions, **more):
    """Start a transaction and return when it has committed but has no answer yet."""
    committed, release = asyncio.Event(), asyncio.Event()

    async def hold(_):
        handle.remove()
        committed.set()
        await release.wait()

    handle = proxy.after("TransactWriteItems", hold)
    running = asyncio.create_task(client.transact_write_items(TransactItems=list(actions), **more))
    await asyncio.wait_for(committed.wait(), 5)

    async def finish():
        release.set()
        await running

    return finish


async def test_a_transaction_is_refused_in_the_slot_where_it_meets_one_in_flight(client, engine, proxy, table):
    finish = await in_flight(proxy, client, put(table, "x"), put(table, "shared"))
    error = await refusal(
        client.transact_write_items(TransactItems=[put(table, "y"), put(table, "shared"), put(table, "z")])
    )
    assert reasons(error) == ["None", "TransactionConflict", "None"]
    assert not await exists(engine, table, "y")
    assert proxy.counts.faults == {"real_conflict": 1}
    await finish()
    await client.transact_write_items(TransactItems=[put(table, "y"), put(table, "shared")])


async def test_an_item_that_is_only_checked_conflicts_too(client, proxy, table):
    finish = await in_flight(proxy, client, check(table, "shared"), put(table, "x"))
    error = await refusal(client.transact_write_items(TransactItems=[check(table, "shared"), put(table, "y")]))
    assert reasons(error) == ["TransactionConflict", "None"]
    await finish()


@pytest.mark.parametrize("op", ["put_item", "update_item", "delete_item"])
async def test_a_single_write_is_refused_when_it_meets_a_transaction_in_flight(client, proxy, table, op):
    arguments = {
        "put_item": {"TableName": table, "Item": an_item("shared")},
        "update_item": to_state(table, "shared", "taken"),
        "delete_item": {"TableName": table, "Key": key("shared")},
    }[op]
    finish = await in_flight(proxy, client, put(table, "shared"))
    error = await refusal(getattr(client, op)(**arguments))
    assert code(error) == "TransactionConflictException"
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    await finish()
    await getattr(client, op)(**arguments)


async def test_a_transactional_read_is_refused_and_a_plain_read_is_not(client, proxy, table):
    finish = await in_flight(proxy, client, put(table, "shared"))
    gets = [{"Get": {"TableName": table, "Key": key(pk)}} for pk in ("other", "shared")]
    assert reasons(await refusal(client.transact_get_items(TransactItems=gets))) == [
        "None",
        "TransactionConflict",
    ]
    assert await exists(client, table, "shared")
    await finish()
    await client.transact_get_items(TransactItems=gets)


async def test_the_same_request_token_in_flight_twice_is_in_progress(client, proxy, table):
    finish = await in_flight(proxy, client, put(table, "a"), ClientRequestToken="t-1")
    again = client.transact_write_items(TransactItems=[put(table, "a")], ClientRequestToken="t-1")
    assert code(await refusal(again)) == "TransactionInProgressException"
    await finish()
    await client.transact_write_items(TransactItems=[put(table, "a")], ClientRequestToken="t-1")


async def test_with_latency_one_of_many_meeting_transactions_commits(client, proxy, table):
    proxy.faults.latency_ms = 100
    answers = await asyncio.gather(
        *(
            client.transact_write_items(TransactItems=[put(table, "shared"), put(table, f"own-{n}")])
            for n in range(10)
        ),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert len(refused) == 9
    assert all(reasons(error) == ["TransactionConflict", "None"] for error in refused)


async def test_an_item_is_in_flight_from_the_arrival_until_the_answer(client, proxy, table):
    async def a_write_is_refused(*, after_s=0):
        await asyncio.sleep(after_s)
        error = await refusal(client.put_item(TableName=table, Item=an_item("shared")))
        assert code(error) == "TransactionConflictException"

    async def arrived():
        return "TransactWriteItems" in proxy.counts.calls

    async def committed(_):
        writes.append(asyncio.create_task(a_write_is_refused(after_s=0.6)))

    proxy.faults.latency_ms = 2000
    writes = []
    with proxy.after("TransactWriteItems", committed):
        first = asyncio.create_task(client.transact_write_items(TransactItems=[put(table, "shared")]))
        await until(arrived)
        writes.append(asyncio.create_task(a_write_is_refused()))
        await first
    await asyncio.gather(*writes)
    assert len(writes) == 2
    proxy.faults.latency_ms = 0
    await client.put_item(TableName=table, Item=an_item("shared"))


async def test_a_transaction_that_the_engine_refused_is_no_longer_in_flight(client, table):
    refused = put(table, "a")
    refused["Put"]["ConditionExpression"] = "attribute_exists(pk)"
    assert reasons(await refusal(client.transact_write_items(TransactItems=[refused]))) == [
        "ConditionalCheckFailed"
    ]
    await client.put_item(TableName=table, Item=an_item("a"))


async def test_without_real_conflicts_meeting_transactions_both_commit(client, proxy, table):
    proxy.faults.change({"real_conflicts": False, "latency_ms": 100})
    await asyncio.gather(*(client.transact_write_items(TransactItems=[put(table, "shared")]) for _ in range(5)))
    assert proxy.counts.faults == {}


async def test_the_next_transactions_conflict_at_the_given_slots_as_often_as_asked(client, engine, proxy, table):
    proxy.faults.conflict_next = {1: 2, 0: 1}
    both = [put(table, "a"), put(table, "b")]
    assert reasons(await refusal(client.transact_write_items(TransactItems=both))) == ["TransactionConflict"] * 2
    await client.transact_write_items(TransactItems=[put(table, "c")])  # has no slot 1, and is spared
    assert reasons(await refusal(client.transact_write_items(TransactItems=both))) == [
        "None",
        "TransactionConflict",
    ]
    assert not await exists(engine, table, "a")
    await client.transact_write_items(TransactItems=both)
    assert proxy.counts.faults == {"conflict": 2}


async def test_conflicts_by_rate_strike_the_given_slots_or_random_ones(client, proxy, table):
    three = [put(table, pk) for pk in "abc"]
    proxy.faults.change({"conflict_rate": 1, "conflict_slots": [0, 2, 9]})
    error = await refusal(client.transact_write_items(TransactItems=three))
    assert reasons(error) == ["TransactionConflict", "None", "TransactionConflict"]
    proxy.faults.conflict_slots = None
    struck = [reasons(await refusal(client.transact_write_items(TransactItems=three))) for _ in range(30)]
    assert all(slots.count("TransactionConflict") == 1 for slots in struck)
    assert {slots.index("TransactionConflict") for slots in struck} == {0, 1, 2}
