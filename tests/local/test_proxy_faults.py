"""Each invented fault, at its place and as often as asked."""

import asyncio
import time

import pytest
from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError
from proxied import an_item, code, connect, exists, in_state, indexed, key, put, reasons, refusal, until

from local.store_proxy import Faults, StoreProxy


def a_write(client, table, pk="a"):
    return client.put_item(TableName=table, Item=an_item(pk))


def a_read(client, table):
    return client.get_item(TableName=table, Key=key())


async def test_latency_delays_each_call_half_before_the_commit_and_half_after(client, engine, proxy, table):
    at = {}

    async def arrived(_):
        at["arrival"] = time.monotonic()

    async def committed(_):
        at["commit"] = time.monotonic()
        assert await exists(engine, table)

    proxy.faults.latency_ms = 300
    with proxy.before("PutItem", arrived), proxy.after("PutItem", committed):
        await a_write(client, table)
    assert at["commit"] - at["arrival"] >= 0.149
    assert time.monotonic() - at["commit"] >= 0.149


async def test_a_refused_call_takes_the_latency_too(client, proxy, table):
    proxy.faults.change({"latency_ms": 200, "throttle_next": 1})
    began = time.monotonic()
    await refusal(a_read(client, table))
    assert time.monotonic() - began >= 0.2


async def test_jitter_is_different_for_each_call_and_the_same_for_the_same_seed(engine_url, table):
    def delays(seed):
        proxy = StoreProxy(upstream_url=engine_url, faults=Faults(latency_ms=10, jitter_ms=20), seed=seed)
        return [proxy._mishaps.delay_s() for _ in range(50)]

    assert delays(7) == delays(7) != delays(8)
    assert len(set(delays(7))) == 50
    assert all(0.010 <= delay <= 0.030 for delay in delays(7))


async def test_the_next_calls_are_throttled_as_dynamodb_does_and_then_no_more(client, engine, proxy, table):
    proxy.faults.throttle_next = 2
    for _ in range(2):
        error = await refusal(a_write(client, table))
        assert code(error) == "ProvisionedThroughputExceededException"
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert not await exists(engine, table)
    await a_write(client, table)
    assert proxy.faults.throttle_next == 0
    assert proxy.counts.faults == {"throttle": 2}


async def test_only_the_named_operations_are_throttled_and_an_index_may_be_named(client, proxy, table):
    proxy.faults.change({"throttle_rate": 1, "throttle_ops": ["Query:StatusIndex", "PutItem"]})
    await a_read(client, table)
    await client.query(
        TableName=table, KeyConditionExpression="pk = :p", ExpressionAttributeValues={":p": {"S": "a"}}
    )
    assert code(await refusal(client.query(**in_state(table, "free")))).startswith("Provisioned")
    assert code(await refusal(a_write(client, table))).startswith("Provisioned")


async def test_throttling_may_speak_as_on_demand_tables_do(client, proxy, table):
    proxy.faults.change({"throttle_next": 1, "throttle_code": "ThrottlingException"})
    assert code(await refusal(a_read(client, table))) == "ThrottlingException"


async def test_a_rate_strikes_about_that_share_of_the_calls(client, proxy, table):
    proxy.faults.throttle_rate = 0.3
    answers = await asyncio.gather(*(a_read(client, table) for _ in range(200)), return_exceptions=True)
    struck = sum(isinstance(answer, Exception) for answer in answers)
    assert 40 <= struck <= 80
    assert proxy.counts.faults["throttle"] == struck


@pytest.mark.parametrize("reason", ["ThrottlingError", "ProvisionedThroughputExceeded"])
async def test_throttling_may_be_named_in_one_slot_of_a_cancelled_transaction(
    client, engine, proxy, table, reason
):
    proxy.faults.change(
        {"throttle_in_reasons_next": 1, "throttle_in_reasons_slot": 1, "throttle_in_reasons_code": reason}
    )
    await client.transact_write_items(TransactItems=[put(table, "one")])  # has no such slot, and is spared
    error = await refusal(client.transact_write_items(TransactItems=[put(table, "a"), put(table, "b")]))
    assert reasons(error) == ["None", reason]
    assert not await exists(engine, table, "a")
    await client.transact_write_items(TransactItems=[put(table, "a"), put(table, "b")])


async def test_throttling_in_reasons_strikes_by_rate_too(client, proxy, table):
    proxy.faults.throttle_in_reasons_rate = 1
    error = await refusal(client.transact_write_items(TransactItems=[put(table, "a")]))
    assert reasons(error) == ["ThrottlingError"]


async def test_a_lost_answer_is_committed_and_the_connection_closed(client, engine, proxy, table):
    proxy.faults.lose_answer_next = 1
    with pytest.raises(ConnectionClosedError):
        await a_write(client, table)
    assert await exists(engine, table)
    assert proxy.counts.faults == {"lose_answer": 1}
    await a_write(client, table)


async def test_answers_are_lost_only_of_named_operations_and_only_of_successes(client, engine, proxy, table):
    proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["PutItem"]})
    await a_read(client, table)
    refused = client.put_item(TableName=table, Item=an_item("b"), ConditionExpression="attribute_exists(pk)")
    assert code(await refusal(refused)) == "ConditionalCheckFailedException"
    with pytest.raises(ConnectionClosedError):
        await a_write(client, table)


async def test_answers_are_lost_by_rate_too(client, engine, proxy, table):
    proxy.faults.lose_answer_rate = 1
    with pytest.raises(ConnectionClosedError):
        await a_write(client, table)
    assert await exists(engine, table)


async def test_a_reset_drops_the_connection_and_forwards_nothing(client, engine, proxy, table):
    proxy.faults.reset_next = 1
    with pytest.raises(HTTPClientError):
        await a_write(client, table)
    assert not await exists(engine, table)
    assert proxy.counts.faults == {"reset": 1}
    await a_write(client, table)


async def test_resets_strike_by_rate_too(client, engine, proxy, table):
    proxy.faults.reset_rate = 1
    with pytest.raises(HTTPClientError):
        await a_write(client, table)
    assert not await exists(engine, table)


async def test_a_hanging_call_outlasts_its_callers_patience_and_lands_late(engine, proxy, table):
    proxy.faults.change({"hang_next": 1, "hang_s": 2})
    async with connect(proxy.url, read_timeout_s=0.5) as impatient, connect(proxy.url) as patient:
        with pytest.raises(ReadTimeoutError):
            await a_write(impatient, table)
        assert not await exists(engine, table)
        await a_write(patient, table, "b")
        assert not await exists(engine, table)
    await until(lambda: exists(engine, table))


async def test_the_end_of_the_proxy_does_not_wait_for_hanging_calls(engine_url, table):
    async with StoreProxy(upstream_url=engine_url) as proxy:
        proxy.faults.hang_next = 1
        async with connect(proxy.url) as client:
            hanging = asyncio.create_task(a_write(client, table))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await proxy.__aexit__()
            with pytest.raises(HTTPClientError):
                await hanging
    assert time.monotonic() - began < 3


async def test_an_internal_error_is_a_500_and_forwards_nothing(client, engine, proxy, table):
    proxy.faults.internal_error_next = 1
    error = await refusal(a_write(client, table))
    assert code(error) == "InternalServerError"
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert not await exists(engine, table)
    await a_write(client, table)
    proxy.faults.internal_error_rate = 1
    assert code(await refusal(a_write(client, table))) == "InternalServerError"


async def test_down_drops_every_call_until_it_is_up_again(client, engine, proxy, table):
    proxy.faults.down = True
    for _ in range(3):
        with pytest.raises(ConnectionClosedError):
            await a_write(client, table)
    assert not await exists(engine, table)
    proxy.faults.down = False
    await a_write(client, table)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_ms", -1),
        ("latency_ms", "5"),
        ("latency_ms", float("inf")),
        ("index_lag_s", True),
        ("down", 1),
        ("throttle_rate", 1.1),
        ("throttle_rate", -0.1),
        ("throttle_rate", float("nan")),
        ("throttle_next", 1.5),
        ("throttle_next", -1),
        ("throttle_next", True),
        ("throttle_ops", "PutItem"),
        ("throttle_ops", [1]),
        ("throttle_ops", []),
        ("throttle_code", "Sorry"),
        ("conflict_slots", [-1]),
        ("conflict_slots", 1),
        ("conflict_next", {"one": 1}),
        ("conflict_next", {"1": -1}),
        ("conflict_next", [1]),
        ("throttle_in_reasons_code", "Other"),
        ("latncy_ms", 1),
    ],
)
def test_a_bad_setting_is_refused_by_name_and_changes_nothing(field, value):
    faults = Faults()
    with pytest.raises(ValueError, match=f"^{field}: "):
        faults.change({"latency_ms": 5} | {field: value})
    with pytest.raises(ValueError, match=f"^{field}: "):
        setattr(faults, field, value)
    assert faults == Faults()


async def test_indexes_and_items_are_untouched_when_nothing_is_switched_on(client, proxy, table):
    await a_write(client, table)
    assert await indexed(client, table) == ["a"]
    assert proxy.counts.faults == {}
    assert {name: value for name, value in Faults().as_json().items() if value} == {
        "real_conflicts": True,
        "hang_s": 60,
        "throttle_code": "ProvisionedThroughputExceededException",
        "throttle_in_reasons_code": "ThrottlingError",
    }
