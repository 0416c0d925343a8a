"""What AWS refuses is refused before the engine sees it."""

import pytest
from proxied import an_item, check, code, in_state, key, put, refusal, to_state

REFUSED_PUTS = {
    "an empty partition key": (an_item(""), "empty string value. Key: pk"),
    "an empty sort key": (an_item() | {"sk": {"S": ""}}, "empty string value. Key: sk"),
    "an empty index key": (an_item(state=""), "IndexName: StatusIndex, IndexKey: state"),
    "a long partition key": (an_item("x" * 2049), "Size of hashkey"),
    "a long sort key": (an_item() | {"sk": {"S": "é" * 513}}, "size limit of 1024 bytes"),
    "a long index partition": (an_item(state="x" * 2049), "Size of hashkey"),
    "a long index sort key": (an_item() | {"name": {"S": "x" * 1025}}, "size limit of 1024 bytes"),
    "a large item": (an_item(pad={"S": "x" * 410_000}), "Item size has exceeded"),
}
ALLOWED_PUTS = {
    "the longest keys": an_item("x" * 2048, state="y" * 2048)
    | {"sk": {"S": "é" * 512}, "name": {"S": "z" * 1024}},
    "an empty attribute": an_item(note={"S": ""}),
    "no index keys": key(),
    "the largest item": an_item(pad={"S": "x" * (400 * 1024 - len("pkaskstatefreenameapad") - len("-"))}),
}


def as_single(client, table, item):
    return client.put_item(TableName=table, Item=item)


def as_transaction(client, table, item):
    return client.transact_write_items(TransactItems=[{"Put": {"TableName": table, "Item": item}}])


def as_batch(client, table, item):
    return client.batch_write_item(RequestItems={table: [{"PutRequest": {"Item": item}}]})


@pytest.fixture
def strictly(proxy):
    """Asserts that the proxy, not the engine, refused a call as invalid; returns the message."""

    async def refused(call):
        before = proxy.counts.faults["strictness"]
        error = await refusal(call)
        assert code(error) == "ValidationException"
        assert proxy.counts.faults["strictness"] == before + 1, "the engine refused it"
        return error.response["Error"]["Message"]

    return refused


@pytest.mark.parametrize("write", [as_single, as_transaction, as_batch])
@pytest.mark.parametrize("case", REFUSED_PUTS)
async def test_a_put_that_aws_refuses_is_refused(client, table, strictly, case, write):
    item, text = REFUSED_PUTS[case]
    assert text in await strictly(write(client, table, item))


@pytest.mark.parametrize("case", ALLOWED_PUTS)
async def test_a_put_at_the_bound_is_allowed(client, table, case):
    await as_single(client, table, ALLOWED_PUTS[case])


@pytest.mark.parametrize("op", ["get_item", "update_item", "delete_item"])
async def test_an_empty_or_long_key_is_refused_by_every_operation(client, table, strictly, op):
    assert "Key: pk" in await strictly(getattr(client, op)(TableName=table, Key=key("")))
    assert "Size of hashkey" in await strictly(getattr(client, op)(TableName=table, Key=key("x" * 2049)))


async def test_an_update_that_sets_an_index_key_to_nothing_is_refused(client, table, strictly):
    message = await strictly(client.update_item(**to_state(table, "a", "")))
    assert "IndexKey: state" in message
    message = await strictly(client.transact_write_items(TransactItems=[{"Update": to_state(table, "a", "")}]))
    assert "IndexKey: state" in message
    await client.update_item(**to_state(table, "a", "free"))


async def test_a_transaction_holds_a_hundred_actions_and_no_more(client, table, strictly):
    await client.transact_write_items(TransactItems=[put(table, f"i{n}") for n in range(100)])
    message = await strictly(client.transact_write_items(TransactItems=[put(table, f"i{n}") for n in range(101)]))
    assert "less than or equal to 100" in message


async def test_a_transaction_names_an_item_once(client, table, strictly):
    twice = [put(table, "a"), put(table, "b"), check(table, "a")]
    message = await strictly(client.transact_write_items(TransactItems=twice))
    assert message == "Transaction request cannot include multiple operations on one item"


@pytest.mark.parametrize("lag_s", [0, 60])
async def test_an_index_cannot_be_read_consistently(client, proxy, table, strictly, lag_s):
    proxy.faults.index_lag_s = lag_s
    message = await strictly(client.query(**in_state(table, "free", ConsistentRead=True)))
    assert message == "Consistent reads are not supported on global secondary indexes"


async def test_a_limit_below_one_is_refused(client, table, strictly):
    assert "'limit'" in await strictly(client.query(**in_state(table, "free", Limit=0)))
    assert "'limit'" in await strictly(client.scan(TableName=table, Limit=0))
    await client.query(**in_state(table, "free", Limit=1))
