"""A16, L8: extend, heartbeat and release by the generation of an allocation, on every engine."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from broker.errors import (
    AllocationExpired,
    BrokerError,
    ExtensionLimit,
    NotSandboxOwner,
    SandboxNotFound,
    StaleGeneration,
)
from broker.lifecycle import HEARTBEAT_S, MAX_EXTENSION_S
from broker.sandbox import TOMBSTONE_S, Sandbox, State
from broker.store import table
from broker.tenant import Tenant
from broker.wiring import Broker
from tests.allocation.students import allocate, fill, release
from tests.audit import audit, items_of
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.store.conftest import Clock

ID: Final = a_sandbox().id
HOUR: Final = 3600
LEASE_S: Final = 4 * HOUR
"""As the fixture's broker is built."""


async def extend(
    broker: Broker, generation: int | None, for_s: int, *, holder: str = "student-1", tenant: str = "acme"
) -> Sandbox:
    return await broker.lifecycle.extend(
        tenant, ID, holder=holder, generation=generation, for_s=for_s, cause=replace(TEST_CAUSE, action="extend")
    )


async def heartbeat(
    broker: Broker, generation: int | None, *, holder: str = "student-1", tenant: str = "acme"
) -> Sandbox:
    return await broker.lifecycle.heartbeat(tenant, ID, holder=holder, generation=generation)


async def release_of(
    broker: Broker, generation: int | None, *, holder: str = "student-1", tenant: str = "acme"
) -> Any:
    return await broker.lifecycle.release(tenant, ID, holder=holder, cause=TEST_CAUSE, generation=generation)


async def extend_an_hour(broker: Broker, generation: int | None, **who: str) -> Sandbox:
    return await extend(broker, generation, 5 * HOUR, **who)


ACTS: dict[str, Callable[..., Awaitable[Any]]] = {
    "extend": extend_an_hour,
    "heartbeat": heartbeat,
    "release": release_of,
}
"""What a holder does, by its generation."""


async def stored(broker: Broker) -> Sandbox:
    sandbox = await broker.sandboxes.get("acme", ID)
    assert sandbox is not None
    return sandbox


async def extensions(broker: Broker) -> list[dict[str, Any]]:
    events = [table.decode(item) for item in await items_of(broker) if item["pk"]["S"].startswith("EVT#")]
    return [event for event in events if event["action"] == "extend"]


async def limit(broker: Broker, **limits: int) -> None:
    """The tenant's own limits."""
    await broker.tenants.create(Tenant(name="acme").limited(**limits), TEST_CAUSE, now=NOW)


async def test_an_extended_allocation_lasts_as_long_in_sandbox_claim_and_index(
    broker: Broker, clock: Clock
) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    clock.now += HOUR

    extended = await extend(broker, held.generation, 5 * HOUR)

    assert extended == await stored(broker)
    assert (extended.expires_at, extended.since) == (NOW + 6 * HOUR, NOW)
    assert extended.version == (held.generation or 0) + 1
    replayed = await allocate(broker, "student-1")
    assert replayed == replace(held, expires_at=NOW + 6 * HOUR, created=False)
    due = [s.id async for s in broker.sandboxes.walk("acme", State.ALLOCATED, up_to=NOW + 6 * HOUR - 1)]
    assert due == []
    (event,) = await extensions(broker)
    assert (event["before"], event["after"], event["version"]) == ("allocated", "allocated", extended.version)
    assert (event["expires_at"], event["holder"]) == (NOW + 6 * HOUR, "student-1")
    assert await audit(broker) == {"allocated": 1}


async def test_a_keyed_claim_is_extended_and_the_students_plain_one_is_not(broker: Broker) -> None:
    await fill(broker, 1)
    keyed = await allocate(broker, "student-1", key="second")
    await fill_more(broker)
    plain = await allocate(broker, "student-1")

    await extend(broker, keyed.generation, 5 * HOUR)

    again = await allocate(broker, "student-1", key="second")
    assert (again.sandbox_id, again.expires_at) == (ID, NOW + 5 * HOUR)
    assert (await allocate(broker, "student-1")).expires_at == plain.expires_at == NOW + 4 * HOUR
    assert await audit(broker) == {"allocated": 2}


async def fill_more(broker: Broker) -> None:
    await broker.sandboxes.add(a_sandbox(number=2), TEST_CAUSE, now=NOW)


async def test_a_repeated_extension_adds_nothing_up_and_is_no_further_event(broker: Broker) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")

    answers = [await extend(broker, held.generation, 5 * HOUR) for _ in range(3)]

    assert answers == [await stored(broker)] * 3
    assert len(await extensions(broker)) == 1


async def test_an_extension_never_shortens(broker: Broker) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    before = await stored(broker)

    assert await extend(broker, held.generation, 60) == before

    assert await stored(broker) == before
    assert await extensions(broker) == []


@pytest.mark.parametrize(
    ("own", "latest_s"),
    [
        ({}, LEASE_S + MAX_EXTENSION_S),
        ({"max_extension_s": 600}, LEASE_S + 600),
        ({"lease_s": 900}, 900 + MAX_EXTENSION_S),
        ({"lease_s": 900, "max_extension_s": 600}, 1500),
    ],
    ids=["the installation's", "its own extension", "its own lease", "its own"],
)
async def test_an_allocation_can_be_extended_to_its_tenants_limit_and_not_a_second_more(
    broker: Broker, clock: Clock, own: dict[str, int], latest_s: int
) -> None:
    if own:
        await limit(broker, **own)
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    clock.now += 100

    with pytest.raises(ExtensionLimit) as refused:
        await extend(broker, held.generation, latest_s - 100 + 1)
    before = await stored(broker)
    extended = await extend(broker, held.generation, latest_s - 100)

    assert before.expires_at == held.expires_at == NOW + own.get("lease_s", LEASE_S)
    assert refused.value.details == {"max_expires_at": NOW + latest_s}
    assert f"{latest_s - 100} s more" in refused.value.message
    assert extended.expires_at == NOW + latest_s
    await audit(broker)


async def test_where_no_extension_is_allowed_what_is_held_anyhow_is_answered(broker: Broker) -> None:
    await limit(broker, max_extension_s=0)
    await fill(broker, 1)
    held = await allocate(broker, "student-1")

    assert (await extend(broker, held.generation, LEASE_S)).expires_at == held.expires_at
    with pytest.raises(ExtensionLimit) as refused:
        await extend(broker, held.generation, LEASE_S + 1)

    assert refused.value.details == {"max_expires_at": held.expires_at}


async def test_a_limit_that_was_lowered_shortens_nothing_and_says_when_it_ends(
    broker: Broker, clock: Clock
) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    await limit(broker, lease_s=60, max_extension_s=60)
    clock.now += 5 * HOUR  # over, and not yet expired

    with pytest.raises(ExtensionLimit) as refused:
        await extend(broker, held.generation, 1)

    assert refused.value.details == {"max_expires_at": held.expires_at}
    assert "no longer than it is" in refused.value.message


async def test_what_is_over_but_not_yet_expired_lives_on(broker: Broker, clock: Clock) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    clock.now += 5 * HOUR

    extended = await extend(broker, held.generation, HOUR)

    assert extended.expires_at == NOW + 6 * HOUR
    assert await audit(broker) == {"allocated": 1}


async def test_a_sign_of_life_is_kept_once_in_ten_seconds_and_is_no_event(broker: Broker, clock: Clock) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    events = len(await items_of(broker))
    first = await heartbeat(broker, held.generation)
    clock.now += HEARTBEAT_S - 1
    early = await heartbeat(broker, held.generation)
    clock.now += 1
    later = await heartbeat(broker, held.generation)

    assert (first.heartbeat_at, early.heartbeat_at, later.heartbeat_at) == (NOW, NOW, NOW + HEARTBEAT_S)
    assert early.version == first.version
    assert later == await stored(broker)
    assert (later.generation, later.expires_at) == (held.generation, held.expires_at)
    assert len(await items_of(broker)) == events
    assert await audit(broker) == {"allocated": 1}


@pytest.mark.parametrize("act", ACTS)
async def test_who_is_no_holder_is_refused_before_the_generation_is_looked_at(broker: Broker, act: str) -> None:
    await fill(broker, 1)
    for generation in (1, 2):  # while nobody holds it, and while another does
        with pytest.raises(NotSandboxOwner):
            await ACTS[act](broker, generation)
        await allocate(broker, "student-2")
    with pytest.raises(SandboxNotFound):
        await ACTS[act](broker, 2, holder="student-2", tenant="rival")

    assert (await stored(broker)).version == 2


@pytest.mark.parametrize("ended_by", ["released", "expired", "force_released"])
@pytest.mark.parametrize("act", ["extend", "heartbeat"])
async def test_an_allocation_that_has_ended_is_gone_with_what_happened(
    broker: Broker, clock: Clock, act: str, ended_by: str
) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    clock.now += 60
    match ended_by:
        case "released":
            await release(broker, ID, "student-1")
        case "expired":
            await broker.lifecycle.expire(await stored(broker), TEST_CAUSE)
        case _:
            await broker.operations.force_release("acme", ID, cause=TEST_CAUSE)
    before = await stored(broker)

    with pytest.raises(AllocationExpired) as refused:
        await ACTS[act](broker, held.generation)

    assert refused.value.details == {"ended_by": ended_by, "ended_at": NOW + 60}
    assert ended_by.replace("_", " ") in refused.value.message
    assert await stored(broker) == before


async def forget(broker: Broker, *, as_if: str, clock: Clock) -> None:
    """The item goes: a tombstone by its TTL, whoever had it; and what went stale, by the purge."""
    if as_if == "its tombstone ran out":
        for key in (table.sandbox_key("acme", ID), table.owner_key(a_sandbox().external_id)):
            await broker.client.call("delete_item", TableName=broker.client.table.name, Key=key)
        clock.now += TOMBSTONE_S
        return
    available = await stored(broker)
    stale = available.go_stale(now=int(clock.now))
    await broker.sandboxes.move(available, stale, TEST_CAUSE, now=clock.now)
    await broker.sandboxes.remove(stale, TEST_CAUSE, now=clock.now)
    clock.now += 24 * HOUR


async def list_it(broker: Broker, clock: Clock) -> None:
    """It is added as sync adds one that it does not know."""
    now = int(clock.now)
    await broker.sandboxes.add(a_sandbox(version=now, since=now), TEST_CAUSE, now=now)


async def a_past_generation(broker: Broker, clock: Clock) -> int:
    """Of the first of two allocations of one sandbox id to one student: its tombstone ran out between them."""
    await list_it(broker, clock)
    past = (await allocate(broker, "student-1")).generation
    clock.now += HOUR
    await release(broker, ID, "student-1")
    await forget(broker, as_if="its tombstone ran out", clock=clock)
    await list_it(broker, clock)
    present = (await allocate(broker, "student-1")).generation
    assert past is not None
    assert present is not None
    assert present > past
    return past


@pytest.mark.parametrize("act", ACTS)
async def test_a_past_holder_cannot_act_on_the_present_allocation_even_of_the_same_student(
    broker: Broker, clock: Clock, act: str
) -> None:
    past = await a_past_generation(broker, clock)
    present = await stored(broker)

    for generation in (past, (present.generation or 0) + 1):
        with pytest.raises(StaleGeneration):
            await ACTS[act](broker, generation)

    assert await stored(broker) == present
    await ACTS[act](broker, present.generation)
    assert await stored(broker) != present


@pytest.mark.parametrize("act", ACTS)
async def test_a_past_generation_is_stale_also_where_the_present_allocation_has_ended(
    broker: Broker, clock: Clock, act: str
) -> None:
    past = await a_past_generation(broker, clock)
    await release(broker, ID, "student-1")
    before = await stored(broker)

    with pytest.raises(StaleGeneration):
        await ACTS[act](broker, past)

    assert await stored(broker) == before


async def test_a_sandbox_that_went_stale_was_purged_and_came_back_has_a_higher_version_than_any_before(
    broker: Broker, clock: Clock
) -> None:
    await list_it(broker, clock)
    before = await stored(broker)
    await forget(broker, as_if="it went stale", clock=clock)
    await list_it(broker, clock)

    held = await allocate(broker, "student-1")

    assert held.generation is not None
    assert held.generation > before.version + 2


async def test_a_release_without_a_generation_ends_whatever_this_student_holds(
    broker: Broker, clock: Clock
) -> None:
    await a_past_generation(broker, clock)

    await release_of(broker, None)

    assert (await stored(broker)).state is State.PENDING_DELETION


@pytest.mark.parametrize("act", ["extend", "heartbeat"])
async def test_no_generation_is_not_the_present_one_where_there_is_one(broker: Broker, act: str) -> None:
    await fill(broker, 1)
    await allocate(broker, "student-1")

    with pytest.raises(StaleGeneration):
        await ACTS[act](broker, None)


async def of_an_older_release(broker: Broker) -> None:
    """The items as they were written before there were generations."""
    for key in (table.sandbox_key("acme", ID), table.claim_key("acme", "student-1", None)):
        await broker.client.call(
            "update_item",
            TableName=broker.client.table.name,
            Key=key,
            UpdateExpression="REMOVE generation",
        )


@pytest.mark.parametrize("generation", [None, 1, 99])
@pytest.mark.parametrize("act", ACTS)
async def test_an_allocation_from_before_there_were_generations_has_none_and_takes_any(
    broker: Broker, act: str, generation: int | None
) -> None:
    await fill(broker, 1)
    await allocate(broker, "student-1")
    await of_an_older_release(broker)

    assert (await allocate(broker, "student-1")).generation is None
    before = await stored(broker)
    await ACTS[act](broker, generation)

    after = await stored(broker)
    assert after != before
    assert after.generation is None
    await audit(broker)


@pytest.mark.parametrize("foreign", [False, True], ids=["missing", "of another sandbox"])
async def test_a_claim_that_is_missing_or_anothers_stops_no_extension_and_is_left_as_it_is(
    broker: Broker, foreign: bool
) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    key = table.claim_key("acme", "student-1", None)
    await broker.client.call("delete_item", TableName=broker.client.table.name, Key=key)
    if foreign:
        await fill_more(broker)
        await allocate(broker, "student-1")
    claim = await broker.client.get(key)

    extended = await extend(broker, held.generation, 5 * HOUR)

    assert extended.expires_at == NOW + 5 * HOUR
    assert await stored(broker) == extended
    assert await broker.client.get(key) == claim
    assert len(await extensions(broker)) == 1


@pytest.mark.parametrize(("own", "lease_s"), [({}, LEASE_S), ({"lease_s": 900}, 900)], ids=["default", "own"])
async def test_an_allocation_lasts_as_long_as_its_tenant_says(
    broker: Broker, own: dict[str, int], lease_s: int
) -> None:
    if own:
        await limit(broker, **own)
    await fill(broker, 1)

    held = await allocate(broker, "student-1")

    assert held.expires_at == NOW + lease_s
    assert await audit(broker) == {"allocated": 1}


async def test_refusals_and_extensions_are_counted_by_outcome(broker: Broker) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    await extend(broker, held.generation, 5 * HOUR)
    await heartbeat(broker, held.generation)
    refused: list[BrokerError] = []
    for for_s, generation in ((9 * HOUR, held.generation), (60, 99)):
        with pytest.raises(BrokerError) as caught:
            await extend(broker, generation, for_s)
        refused.append(caught.value)

    def counted(name: str, outcome: str) -> float | None:
        labels = {"tenant": "acme", "outcome": outcome}
        return broker.metrics.registry.get_sample_value(f"broker_{name}_total", labels)

    assert [error.code for error in refused] == ["EXTENSION_LIMIT", "STALE_GENERATION"]
    outcomes = ("extended", "extension_limit", "stale_generation")
    assert [counted("extensions", outcome) for outcome in outcomes] == [1, 1, 1]
    assert counted("heartbeats", "beaten") == 1
