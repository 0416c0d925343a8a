"""API keys in the table: what is written is read, each change leaves its event, nothing is written by halves."""

import json
from dataclasses import replace
from typing import Any

import pytest

from broker.errors import KeyNotFound, TenantNotFound, WriteConflict
from broker.key import KEEP_S, Key, KeyState
from broker.role import Role
from broker.store import table
from broker.store.events import Cause
from broker.wiring import Broker
from tests.audit import items_of
from tests.builders import NOW, TEST_CAUSE

WHY = Cause(actor="ada", action="revoke_key", request_id="req-9", reason="INC-4712")
KEY = Key(
    id="k7m2x9q4w1zb", tenant="acme", role=Role.OPERATOR, name="a test's", digest="d1ge57", pepper="p3pp3r",
    created_by="ada", created_at=NOW, expires_at=NOW + 60, ttl=NOW + 60 + KEEP_S,
)  # fmt: skip


async def created(broker: Broker, key: Key = KEY) -> Key:
    await broker.tenants.ensure(key.tenant, shards=4, now=NOW)
    await broker.keys.create(key, TEST_CAUSE, now=NOW)
    return key


async def events_of(broker: Broker, key_id: str = KEY.id) -> list[dict[str, Any]]:
    events = [table.decode(item) for item in await items_of(broker) if item["pk"]["S"].startswith("EVT#acme#")]
    return sorted((e for e in events if e["subject"] == f"key:{key_id}"), key=lambda e: e["version"])


async def test_a_key_is_read_as_it_was_created_and_listed_for_its_tenant(broker: Broker) -> None:
    await created(broker)
    other = await created(broker, replace(KEY, id="another00000", tenant="acme.b"))

    assert await broker.keys.get(KEY.id, now=NOW) == KEY
    assert (await broker.keys.page("acme", limit=5, now=NOW))[0] == [KEY]
    assert (await broker.keys.page("acme.b", limit=5, now=NOW))[0] == [other]
    with pytest.raises(KeyNotFound):
        await broker.keys.of("acme.b", KEY.id, now=NOW)


async def test_a_key_of_no_tenant_is_not_made_and_leaves_no_event(broker: Broker) -> None:
    with pytest.raises(TenantNotFound):
        await broker.keys.create(KEY, TEST_CAUSE, now=NOW)
    assert await broker.keys.get(KEY.id, now=NOW) is None
    assert await events_of(broker) == []


async def test_an_id_is_given_once(broker: Broker) -> None:
    await created(broker)
    with pytest.raises(WriteConflict):
        await broker.keys.create(replace(KEY, digest="another"), TEST_CAUSE, now=NOW)
    assert await broker.keys.get(KEY.id, now=NOW) == KEY


async def test_a_change_leaves_who_and_why_and_never_the_digest(broker: Broker) -> None:
    await created(broker)
    revoked = await broker.keys.change(
        "acme", KEY.id, lambda key: key.revoke(by="ada", reason="INC-4712", now=NOW), WHY, now=NOW
    )

    assert await broker.keys.get(KEY.id, now=NOW) == revoked
    made, event = await events_of(broker)
    assert (event["actor"], event["action"], event["reason"], event["request_id"]) == (
        "ada", "revoke_key", "INC-4712", "req-9",
    )  # fmt: skip
    assert json.loads(event["after"]) == {"revoked_at": NOW, "revoked_reason": "INC-4712"}
    assert json.loads(made["after"])["role"] == "operator"
    assert "d1ge57" not in json.dumps([made, event])


async def test_a_rotation_of_what_was_changed_meanwhile_writes_neither_key(broker: Broker) -> None:
    await created(broker)
    await broker.keys.change("acme", KEY.id, lambda key: key.revoke(by="a", reason="b", now=NOW), WHY, now=NOW)
    with pytest.raises(WriteConflict):
        await broker.keys.rotate(KEY, replace(KEY, id="successor000"), TEST_CAUSE, ends_at=NOW, now=NOW)
    assert await broker.keys.get("successor000", now=NOW) is None
    assert await events_of(broker, "successor000") == []


async def test_use_is_noted_forward_only_with_no_event_and_no_version(broker: Broker) -> None:
    await created(broker)
    for at in (NOW + 5, NOW + 3):
        await broker.keys.used(KEY.id, at=at)
    await broker.keys.used("unknown00000", at=NOW)

    assert await broker.keys.get(KEY.id, now=NOW) == replace(KEY, last_used_at=NOW + 5)
    assert await broker.keys.get("unknown00000", now=NOW) is None
    assert len(await events_of(broker)) == 1


async def test_what_is_past_its_time_is_not_there_and_counts_only_while_it_lives(broker: Broker) -> None:
    await created(broker)
    end = NOW + 60
    assert [len(await broker.keys.live("acme", now=now)) for now in (end - 1, end)] == [1, 0]
    assert KEY.state(end) is KeyState.EXPIRED
    assert await broker.keys.get(KEY.id, now=end + KEEP_S - 1) == KEY
    assert await broker.keys.get(KEY.id, now=end + KEEP_S) is None
    assert (await broker.keys.page("acme", limit=5, now=end + KEEP_S))[0] == []


async def test_what_a_newer_release_wrote_stays_and_a_role_of_its_own_is_good_for_nothing(broker: Broker) -> None:
    await created(broker)

    async def write(name: str, value: str) -> None:
        await broker.client.call(
            "update_item",
            TableName=broker.client.table.name,
            Key=table.api_key_key(KEY.id),
            UpdateExpression="SET #n = :x",
            ExpressionAttributeNames={"#n": name},
            ExpressionAttributeValues={":x": {"S": value}},
        )

    await write("later", "kept")
    await broker.keys.change("acme", KEY.id, lambda key: key.revoke(by="a", reason="b", now=NOW), WHY, now=NOW)
    item = await broker.client.get(table.api_key_key(KEY.id))
    assert item is not None
    assert item["later"] == {"S": "kept"}
    await write("role", "auditor")
    assert await broker.keys.get(KEY.id, now=NOW) is None
