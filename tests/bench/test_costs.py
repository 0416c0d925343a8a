"""The bare route writes what the broker writes, and units are billed as DynamoDB publishes."""

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from bench import pool, units
from bench.bare import allocation_of, transaction
from bench.capacity import index_writes, item_bytes, read_units, write_units
from bench.core import open_core
from bench.meter import READ, TABLE, WRITE, Meter, Spent
from broker.action import Action
from broker.allocation import Wish
from broker.store.events import Cause
from local.store_proxy import StoreProxy
from tests.api.service import a_table, an_api
from tests.builders import a_sandbox

CAUSE = Cause(actor="bootstrap-track", action=Action.ALLOCATE, request_id="0123456789abcdef")
STATUS, TRACK = pool.indexes("any")


async def test_the_bare_route_writes_what_an_allocation_of_the_broker_writes(
    proxy: StoreProxy, table_name: str
) -> None:
    seen: list[dict[str, Any]] = []

    async def keep(body: dict[str, Any]) -> None:
        seen.extend(body["TransactItems"])

    async with an_api(proxy.url, table_name, BROKER_TENANT=pool.TENANT) as api:
        await api.fill(1, version=1, name="lab-000001")
        with proxy.before("TransactWriteItems", keep):
            assert (await api.allocate("student-1")).status_code == 201
    now = time.time()
    bare = transaction(table_name, allocation_of(2_009_001, now=int(now)), "student-1", shards=4, now=now)
    assert [_shape(item) for item in bare] == [_shape(item) for item in seen]
    assert [_size(item) for item in bare] == pytest.approx([_size(item) for item in seen], abs=8)


def _shape(item: dict[str, Any]) -> Any:
    """Everything but the values: the attributes and their types, the expressions, what is asked for."""
    ((kind, parts),) = item.items()
    typed = ("Item", "Key", "ExpressionAttributeValues")
    shown = {n: {a: next(iter(v)) for a, v in part.items()} if n in typed else part for n, part in parts.items()}
    return kind, shown


def _size(item: dict[str, Any]) -> int:
    ((_, parts),) = item.items()
    return sum(item_bytes(parts.get(name, {})) for name in ("Item", "Key", "ExpressionAttributeValues"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"S": "abc"}, 3),
        ({"S": "é"}, 2),
        ({"N": "1795296742"}, 6),
        ({"N": "100"}, 2),
        ({"N": "-12.5"}, 4),
        ({"BOOL": True}, 1),
        ({"M": {}}, 3),
        ({"L": [{"S": "ab"}]}, 6),
    ],
    ids=["text", "utf-8", "number", "zeros at its end", "negative", "flag", "empty map", "list"],
)
def test_an_item_is_as_large_as_its_names_and_values(value: dict[str, Any], expected: int) -> None:
    assert item_bytes({"name": value}) == 4 + expected


@pytest.mark.parametrize(
    ("size", "consistent", "expected"),
    [(0, True, 1), (4096, True, 1), (4097, True, 2), (1, False, 0.5), (8193, False, 1.5)],
)
def test_reads_are_billed_by_started_4_kb_and_half_where_they_may_be_old(
    size: int, consistent: bool, expected: float
) -> None:
    assert read_units(size, consistent=consistent) == expected


def an_item(size: int) -> dict[str, Any]:
    return {"pk": {"S": "x" * (size - 2)}}


@pytest.mark.parametrize(
    ("before", "after", "transaction", "expected"),
    [
        (None, an_item(1024), False, 1),
        (None, an_item(1025), False, 2),
        (an_item(3000), an_item(10), False, 3),
        (an_item(10), None, False, 1),
        (None, None, False, 1),
        (None, an_item(1025), True, 4),
    ],
    ids=["put", "put of over 1 KB", "shrunk", "deleted", "nothing there", "in a transaction"],
)
def test_writes_are_billed_by_the_larger_item_in_started_kb_and_twice_in_a_transaction(
    before: dict[str, Any] | None, after: dict[str, Any] | None, transaction: bool, expected: int
) -> None:
    assert write_units(before, after, transaction=transaction) == expected


def rows() -> Iterator[tuple[str, Any, Any, dict[str, Any], list[tuple[str, int]]]]:
    def row(partition: str, sort: str, **more: Any) -> dict[str, Any]:
        return {
            n: {"S": v} for n, v in {"pk": "a", "sk": "-", "gsi1pk": partition, "gsi1sk": sort, **more}.items()
        }

    yield "comes", None, row("one", "a"), STATUS, [("one", 1)]
    yield "goes", row("one", "a"), None, STATUS, [("one", 1)]
    yield "stays", row("one", "a"), row("one", "a"), STATUS, []
    yield "changes in place", row("one", "a"), row("one", "a", more="x"), STATUS, [("one", 1)]
    yield "moves", row("one", "a"), row("two", "a"), STATUS, [("one", 1), ("two", 1)]
    yield "moves within", row("one", "a"), row("one", "b"), STATUS, [("one", 1), ("one", 1)]
    yield "not in it", None, row("one", "a"), TRACK, []
    shown = {"gsi2pk": "trk", "gsi2sk": "1"}
    yield "not projected", row("one", "a", **shown), row("one", "a", more="x", **shown), TRACK, []


@pytest.mark.parametrize(
    ("before", "after", "index", "expected"), [row[1:] for row in rows()], ids=[row[0] for row in rows()]
)
def test_an_index_is_written_where_what_it_shows_changes(
    before: Any, after: Any, index: dict[str, Any], expected: list[tuple[str, int]]
) -> None:
    assert list(index_writes(index, before, after)) == expected


async def test_the_meter_bills_an_allocation_as_the_engine_does_and_says_by_which_partition(
    ministack: str, table_name: str
) -> None:
    meter = Meter(ministack, pool.indexes(table_name))
    meter.ignore("TEN#", "MODE")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(a_table(ministack, table_name))
        await stack.enter_async_context(meter.running())
        broker = await stack.enter_async_context(open_core(meter.url, table_name, shards=1))
        await broker.sandboxes.add(a_sandbox(tenant=pool.TENANT), CAUSE, now=time.time())
        meter.look()
        await broker.allocator.allocate(pool.TENANT, Wish(holder="s-1", track="aws"), CAUSE)
        spent = meter.look()
        await broker.tenants.present(pool.TENANT)  # which is to be ignored
        assert not meter.look().calls
        await broker.allocator.allocate(pool.TENANT, Wish(holder="s-1"), CAUSE)
        replay = meter.look()
    assert spent.calls == {"Query:StatusIndex": 1, "TransactWriteItems": 1}
    assert spent.examined == 1
    assert spent.total(None, WRITE) == spent.engine_writes == 6 + 2 + 2
    assert spent.units["StatusIndex", "default#available#0", WRITE] == 1
    assert spent.units["StatusIndex", "default#allocated#0", WRITE] == 1
    assert spent.units["TrackIndex", "default#trk#aws#0", WRITE] == 1
    assert spent.units[TABLE, "CLM#default#s-1", WRITE] == 2
    assert spent.total(pool.STATUS_INDEX, READ) == 0.5
    assert replay.total(TABLE, READ) + replay.total(TABLE, WRITE) > 0
    assert replay.engine_writes == 0
    sizes = {place: meter.sizes["SBX allocated", place] for place in (TABLE, "StatusIndex", "TrackIndex")}
    assert [of.number for of in sizes.values()] == [1, 1, 1]
    assert sizes[TABLE].total == sizes["StatusIndex"].total  # which shows all of it
    assert 0 < sizes["TrackIndex"].mean < sizes[TABLE].mean <= sizes[TABLE].largest


def test_the_limits_are_of_every_shared_partition_that_anybody_could_reach() -> None:
    """Whatever is one sandbox's, or takes more than anybody asks, would hide the rest."""
    spent = Spent()
    for shard in range(4):
        spent.add(TABLE, f"EVT#default#498693#{shard}", WRITE, 50)
        spent.add("TrackIndex", f"default#trk#aws#{shard}", WRITE, 25)
        spent.add("StatusIndex", f"default#available#{shard}", READ, 0.5)
    spent.add(TABLE, "QTA#default", WRITE, 200)
    spent.add(TABLE, "CLM#default#student-1", WRITE, 200)
    limits = units._limits_table()

    units._add_limits(limits, "allocate", 100, spent)
    units._add_limits(limits, "expire tick, nothing due", 1, spent)

    assert [(row[2], row[-2], row[-1]) for row in limits.rows] == [
        ("QTA#default", 500, 500),
        ("EVT#default#<hour>#*", 2_000, 32_000),
        ("default#trk#aws#*", 4_000, 64_000),
    ]
