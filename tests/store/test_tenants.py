"""Tenants in the table: what is set is what every process reads, and each change leaves who made it."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from broker.errors import StoreUnavailable, TenantExists, TenantNotFound
from broker.store import table
from broker.store.events import Cause
from broker.tenant import Drain, Limits, Provider, Tenant, TenantState
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.audit import items_of
from tests.builders import NOW, TEST_CAUSE
from tests.conftest import a_broker

WHY = Cause(actor="ada", action="change_tenant", request_id="req-9", reason="INC-4711")
FULL = Tenant(
    name="north",
    limits=Limits(max_live=40, lease_s=7200, max_extension_s=3600, requests="500/10 seconds"),
    provider=Provider(base_url="https://csp.example.org", secret="north/csp"),
    prefixes=("north-", "n2-"),
    drained={"north-old-": Drain(reason="retired", by="ada", at=NOW)},
)


async def changes_of(broker: Broker, tenant: str) -> list[dict[str, Any]]:
    events = [table.decode(i) for i in await items_of(broker) if i["pk"]["S"].startswith(f"EVT#{tenant}#")]
    return sorted((e for e in events if e.get("subject") == "tenant"), key=lambda e: e["version"])


async def test_a_tenant_is_read_as_it_was_created(broker: Broker) -> None:
    created = await broker.tenants.create(FULL, TEST_CAUSE, now=NOW)

    assert await broker.tenants.get("north") == created
    assert await broker.tenants.present("north") == created
    assert (created.version, created.created_at, created.limits) == (1, NOW, FULL.limits)
    assert created in [tenant async for tenant in broker.tenants.all()]


async def test_a_name_is_given_once(broker: Broker) -> None:
    answers = await asyncio.gather(
        *(broker.tenants.create(FULL, TEST_CAUSE, now=NOW) for _ in range(5)), return_exceptions=True
    )

    assert sum(isinstance(answer, Tenant) for answer in answers) == 1
    assert all(isinstance(answer, Tenant | TenantExists) for answer in answers)
    assert len(await changes_of(broker, "north")) == 1


@pytest.mark.parametrize("slot", [0, 1])
async def test_a_mere_conflict_is_no_tenant_of_that_name(proxy: StoreProxy, table_name: str, slot: int) -> None:
    async with a_broker(proxy.url, table_name) as core:
        proxy.faults.conflict_next = {slot: 2}
        created = await core.tenants.create(FULL, TEST_CAUSE, now=NOW)
        assert await core.tenants.present("north") == created

        proxy.faults.conflict_next = {slot: 100}
        with pytest.raises(StoreUnavailable, match="contention"):
            await core.tenants.create(replace(FULL, name="south"), TEST_CAUSE, now=NOW)
        proxy.faults.conflict_next = {}
        with pytest.raises(TenantNotFound):
            await core.tenants.present("south")


async def test_a_tenant_that_nobody_created_has_no_limits_and_cannot_be_changed(broker: Broker) -> None:
    assert await broker.tenants.get("nobody") == Tenant(name="nobody")
    with pytest.raises(TenantNotFound):
        await broker.tenants.present("nobody")
    with pytest.raises(TenantNotFound):
        await broker.tenants.change("nobody", lambda tenant: tenant.limited(max_live=1), WHY, now=NOW)


async def test_the_default_tenant_can_be_limited_as_any_other(broker: Broker) -> None:
    """Its item was made at boot, and never changed by anyone."""
    await broker.tenants.ensure("acme", shards=4, now=NOW)
    changed = await broker.tenants.change("acme", lambda tenant: tenant.limited(max_live=7), WHY, now=NOW)

    assert changed.limits == Limits(max_live=7)
    assert await broker.tenants.get("acme") == changed
    assert await broker.tenants.shards("acme") == 4


async def test_a_change_leaves_who_and_why_and_what_before_and_after(broker: Broker) -> None:
    await broker.tenants.create(FULL, TEST_CAUSE, now=NOW)
    await broker.tenants.change("north", lambda tenant: tenant.limited(max_live=50, requests=None), WHY, now=NOW)

    _, event = await changes_of(broker, "north")
    assert (event["actor"], event["action"], event["reason"], event["version"]) == (
        "ada", "change_tenant", "INC-4711", 2,
    )  # fmt: skip
    assert json.loads(event["before"]) == {"max_live": 40, "requests": "500/10 seconds"}
    assert json.loads(event["after"]) == {"max_live": 50, "requests": None}


async def test_what_changes_nothing_writes_nothing(broker: Broker) -> None:
    created = await broker.tenants.create(FULL, TEST_CAUSE, now=NOW)

    assert (
        await broker.tenants.change("north", lambda tenant: tenant.limited(max_live=40), WHY, now=NOW) == created
    )
    assert len(await changes_of(broker, "north")) == 1


async def test_changes_at_once_are_all_made_one_after_the_other(broker: Broker) -> None:
    await broker.tenants.create(FULL, TEST_CAUSE, now=NOW)

    def drained(number: int) -> Any:
        return lambda tenant: tenant.drain(f"p{number}-", Drain(reason="x", by="ada", at=NOW))

    await asyncio.gather(*(broker.tenants.change("north", drained(n), WHY, now=NOW) for n in range(3)))

    present = await broker.tenants.present("north")
    assert set(present.drained) == {"north-old-", "p0-", "p1-", "p2-"}
    assert present.version == 4
    assert [event["version"] for event in await changes_of(broker, "north")] == [1, 2, 3, 4]


async def test_what_a_newer_release_wrote_beside_it_stays(broker: Broker) -> None:
    await broker.tenants.create(FULL, TEST_CAUSE, now=NOW)
    await broker.client.call(
        "update_item",
        TableName=broker.client.table.name,
        Key=table.tenant_key("north"),
        UpdateExpression="SET later = :x",
        ExpressionAttributeValues={":x": {"S": "kept"}},
    )
    await broker.tenants.change("north", lambda tenant: tenant.limited(max_live=1), WHY, now=NOW)

    item = await broker.client.get(table.tenant_key("north"))
    assert item is not None
    assert item["later"] == {"S": "kept"}


def test_a_pool_is_drained_with_what_is_within_it_and_opened_alone() -> None:
    drain = Drain(reason="x", by="ada", at=NOW)
    tenant = Tenant(name="t").drain("lab-", drain)

    assert tenant.state is TenantState.ACTIVE
    assert tenant.drain_of("lab-7") == ("lab-", drain)
    assert tenant.drain_of("la") is None
    assert tenant.drain("", drain).drain_of("lab-7") == ("", drain)
    assert tenant.drain("", drain).state is TenantState.DRAINED
    assert tenant.drain("lab-7", drain).open("lab-").drain_of("lab-77") == ("lab-7", drain)
    assert tenant.open("lab-").drain_of("lab-7") is None


def test_of_several_prefixes_that_fit_the_longest_has_the_account() -> None:
    own = Tenant(name="default")
    north = Tenant(name="north", prefixes=("north-",))
    old = Tenant(name="old", prefixes=("north-old-", "zoo-"))
    far = Tenant(name="far", prefixes=("lab-",), provider=FULL.provider)
    everybody = [own, north, old, far]

    def owners(account: str) -> list[str]:
        return [
            tenant.name
            for tenant in everybody[:3]
            if tenant.owns(account, tenant.rivals(everybody, installation="csp.example.net:443"))
        ]

    assert [owners(name) for name in ("lab-1", "north-1", "north-old-1", "zoo-1")] == [
        ["default"], ["north"], ["old"], ["old"],
    ]  # fmt: skip
    assert Tenant(name="east", prefixes=("north-",)).owns("north-1", frozenset({"north-"})), "whoever is first"


@pytest.mark.parametrize(
    ("base_url", "rivals"),
    [
        ("https://csp.example.org", True),
        ("https://csp.example.org/", True),
        ("https://csp.example.org/v2", True),
        ("https://CSP.Example.org:443", True),
        ("https://csp.example.org.", True),
        ("https://csp.example.org:8443", False),
        ("https://csp.example.com", False),
    ],
)
def test_rivals_are_who_come_to_one_provider_under_whatever_spelling(base_url: str, rivals: bool) -> None:
    """The environment's provider is one like any other: somebody may bring its address as his own."""
    there = Provider(base_url="https://csp.example.org", secret="north/csp")
    here = Provider(base_url=base_url, secret="other/csp")
    north = Tenant(name="north", prefixes=("north-",), provider=there)
    found = frozenset({"north-"}) if rivals else frozenset()
    without = frozenset({""}) if rivals else frozenset()  # who has no prefixes has what nobody names

    others = Tenant(name="other", provider=here)
    assert others.rivals([others, north], installation="csp.example.net:443") == found
    default = Tenant(name="default")
    assert default.rivals([default, north], installation=here.origin) == found
    assert north.rivals([others, north, default], installation=here.origin) == without, "never its own"


def test_a_tenants_pool_is_what_begins_with_one_of_its_prefixes() -> None:
    assert FULL.owns("north-1")
    assert FULL.owns("n2-1")
    assert not FULL.owns("south-1")
    assert Tenant(name="t").owns("anything")
