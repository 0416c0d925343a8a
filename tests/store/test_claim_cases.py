"""A5, A6, A10-A12: DESIGN's table of claim cases, row by row, on every engine."""

import dataclasses

import pytest

from broker.allocation import Wish
from broker.errors import (
    AllocationEnded,
    AllocationExpired,
    HolderLimitReached,
    IdempotencyKeyReused,
    NoSandboxAvailable,
    NotSandboxOwner,
    SandboxNotFound,
)
from broker.policy import Account, on_listed
from broker.sandbox import EndedBy, State
from broker.store import table
from broker.wiring import Broker
from tests.allocation.students import allocate, fill, release
from tests.audit import audit
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.store.conftest import Clock

HOUR = 3600


async def expire(broker: Broker, sandbox_id: str) -> None:
    held = await broker.sandboxes.get("acme", sandbox_id)
    assert held is not None
    await broker.lifecycle.expire(held, TEST_CAUSE)


async def test_a_repeat_without_a_key_is_the_held_sandbox_whatever_it_wishes_now(broker: Broker) -> None:
    await fill(broker, 3)
    first = await allocate(broker, "student-1", prefix="lab-", track="k8s-101")

    again = await allocate(broker, "student-1", prefix="other-", track="git-201")

    assert first.created
    assert not again.created
    assert (again.sandbox_id, again.expires_at) == (first.sandbox_id, first.expires_at)


async def test_a_repeat_after_the_end_but_before_expiry_ran_is_the_same_sandbox(
    broker: Broker, clock: Clock
) -> None:
    await fill(broker, 2)
    first = await allocate(broker, "student-1")
    clock.now += 5 * HOUR

    again = await allocate(broker, "student-1")

    assert (again.sandbox_id, again.created) == (first.sandbox_id, False)


async def test_a_holder_gets_the_held_sandbox_from_an_empty_pool(broker: Broker) -> None:
    await fill(broker, 1)
    first = await allocate(broker, "student-1")

    again = await allocate(broker, "student-1")
    keyless_other = allocate(broker, "student-2")

    assert again.sandbox_id == first.sandbox_id
    with pytest.raises(NoSandboxAvailable):
        await keyless_other


async def test_a_key_is_a_further_claim_of_the_same_student(broker: Broker) -> None:
    await fill(broker, 4)

    plain = await allocate(broker, "student-1")
    keyed = await allocate(broker, "student-1", key="second")
    repeated = await allocate(broker, "student-1", key="second")
    of_another = await allocate(broker, "student-2", key="second")

    assert plain.sandbox_id != keyed.sandbox_id
    assert (repeated.sandbox_id, repeated.created) == (keyed.sandbox_id, False)
    assert of_another.sandbox_id not in {plain.sandbox_id, keyed.sandbox_id}
    assert await audit(broker) == {"allocated": 3, "available": 1}


async def test_a_key_that_is_spelled_like_no_key_is_a_claim_of_its_own(broker: Broker) -> None:
    await fill(broker, 2)

    plain = await allocate(broker, "student-1")
    dashed = await allocate(broker, "student-1", key="-")

    assert plain.sandbox_id != dashed.sandbox_id


@pytest.mark.parametrize("other", [{"prefix": "lab-"}, {"track": "git-201"}], ids=["prefix", "track"])
async def test_the_same_key_with_another_wish_is_refused(broker: Broker, other: dict[str, str]) -> None:
    await fill(broker, 3)
    await allocate(broker, "student-1", key="second")

    with pytest.raises(IdempotencyKeyReused):
        await allocate(broker, "student-1", key="second", **other)

    assert await audit(broker) == {"allocated": 1, "available": 2}


@pytest.mark.parametrize("how", ["released", "expired"])
async def test_a_keyed_repeat_after_the_end_is_gone_for_a_day_and_then_new(
    broker: Broker, clock: Clock, how: str
) -> None:
    await fill(broker, 3)
    first = await allocate(broker, "student-1", key="second")
    if how == "released":
        await release(broker, first.sandbox_id, "student-1")
    else:
        await expire(broker, first.sandbox_id)

    clock.now += 24 * HOUR - 1
    with pytest.raises(AllocationEnded) as late:
        await allocate(broker, "student-1", key="second")
    clock.now += 1
    new = await allocate(broker, "student-1", key="second")

    assert late.value.details == {"ended_by": how, "ended_at": NOW}
    assert new.created
    assert new.sandbox_id != first.sandbox_id
    assert await audit(broker) == {"allocated": 1, "available": 1, "pending_deletion": 1}


@pytest.mark.parametrize("how", ["released", "expired"])
async def test_a_repeat_without_a_key_after_the_end_is_a_new_sandbox(broker: Broker, how: str) -> None:
    await fill(broker, 2)
    first = await allocate(broker, "student-1")
    if how == "released":
        await release(broker, first.sandbox_id, "student-1")
    else:
        await expire(broker, first.sandbox_id)

    new = await allocate(broker, "student-1")

    assert new.created
    assert new.sandbox_id != first.sandbox_id


async def test_a_student_holds_five_sandboxes_and_no_sixth(broker: Broker) -> None:
    await fill(broker, 7)
    await allocate(broker, "student-1")
    for key in ("b", "c", "d", "e"):
        await allocate(broker, "student-1", key=key)

    with pytest.raises(HolderLimitReached):
        await allocate(broker, "student-1", key="f")
    repeated = await allocate(broker, "student-1", key="e")

    assert not repeated.created
    await release(broker, repeated.sandbox_id, "student-1")
    assert (await allocate(broker, "student-1", key="f")).created


async def test_a_release_answers_the_same_whatever_happens_to_the_sandbox_after(
    broker: Broker, clock: Clock
) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    first = await release(broker, held.sandbox_id, "student-1")
    clock.now += 60

    seen = [await release(broker, held.sandbox_id, "student-1")]
    for state in (State.DELETION_FAILED, State.PENDING_DELETION, State.DELETED):
        await drive(broker, held.sandbox_id, state, now=int(clock.now))
        seen.append(await release(broker, held.sandbox_id, "student-1"))

    assert (first.status, first.released_at) == ("pending_deletion", NOW)
    assert seen == [first] * 4


async def drive(broker: Broker, sandbox_id: str, to: State, *, now: int) -> None:
    """Move a sandbox as the worker and an operator would."""
    before = await broker.sandboxes.get("acme", sandbox_id)
    assert before is not None
    match to:
        case State.DELETION_FAILED:
            after = before.fail_deletion(error="HTTP_500", now=now, retry_at=None)
        case State.PENDING_DELETION:
            after = before._move(State.PENDING_DELETION, now, next_attempt_at=now)
        case _:
            after = before.finish_deletion(now=now)
    await broker.sandboxes.move(before, after, TEST_CAUSE, now=now)


async def test_a_release_after_the_end_but_before_expiry_ran_is_a_release(broker: Broker, clock: Clock) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    clock.now += 6 * HOUR

    released = await release(broker, held.sandbox_id, "student-1")

    assert released.status == "pending_deletion"


@pytest.mark.parametrize("by", [EndedBy.EXPIRY, EndedBy.FORCE_RELEASE])
async def test_a_release_after_something_else_ended_it_says_what(broker: Broker, by: EndedBy) -> None:
    await fill(broker, 1)
    allocation = await allocate(broker, "student-1")
    held = await broker.sandboxes.get("acme", allocation.sandbox_id)
    assert held is not None
    await broker.sandboxes.end(held, held.end(by=by, now=NOW), TEST_CAUSE, now=NOW)

    with pytest.raises(AllocationExpired) as refused:
        await release(broker, allocation.sandbox_id, "student-1")

    assert refused.value.details == {"ended_by": by.value, "ended_at": NOW}


async def test_another_student_is_not_the_owner_and_another_tenant_finds_nothing(broker: Broker) -> None:
    await fill(broker, 2)
    held = await allocate(broker, "student-1")
    free = next(str(2_009_000 + n) for n in (1, 2) if str(2_009_000 + n) != held.sandbox_id)

    with pytest.raises(NotSandboxOwner):
        await release(broker, held.sandbox_id, "student-2")
    with pytest.raises(NotSandboxOwner):
        await release(broker, free, "student-1")
    with pytest.raises(SandboxNotFound):
        await release(broker, held.sandbox_id, "student-1", tenant="rival")
    with pytest.raises(SandboxNotFound):
        await release(broker, "no-such-sandbox", "student-1")

    assert await audit(broker) == {"allocated": 1, "available": 1}


async def rename(broker: Broker, sandbox_id: str, name: str) -> None:
    """As a sync does that finds another name for the same account."""
    before = await broker.sandboxes.get("acme", sandbox_id)
    assert before is not None
    account = Account(id=before.id, name=name, external_id=before.external_id, attributes={})
    after = on_listed(before, account, now=NOW).after
    assert after is not None
    await broker.sandboxes.touch(before, after)


@pytest.mark.parametrize("key", [None, "second"], ids=["plain", "keyed"])
async def test_a_rename_at_the_provider_changes_no_answer_to_the_student_who_holds_it(
    broker: Broker, key: str | None
) -> None:
    """The claim tells what was handed out; what the sandbox is called now is told by looking at it."""
    await fill(broker, 1)
    first = await allocate(broker, "student-1", key=key)
    await rename(broker, first.sandbox_id, "renamed")

    again = await allocate(broker, "student-1", key=key)
    viewed = await broker.lifecycle.view("acme", first.sandbox_id, holder="student-1")

    assert again == dataclasses.replace(first, created=False)
    assert viewed.name == "renamed"
    assert await audit(broker) == {"allocated": 1}
    await release(broker, first.sandbox_id, "student-1")
    assert await audit(broker) == {"pending_deletion": 1}


@pytest.mark.parametrize("field", ["name", "external_id", "sandbox_id"])
async def test_the_audit_notices_a_claim_that_tells_what_was_never_handed_out(broker: Broker, field: str) -> None:
    await fill(broker, 1)
    await allocate(broker, "student-1")
    await broker.client.call(
        "update_item",
        TableName=broker.client.table.name,
        Key=table.claim_key("acme", "student-1", None),
        UpdateExpression="SET #field = :other",
        ExpressionAttributeNames={"#field": field},
        ExpressionAttributeValues={":other": {"S": "other"}},
    )

    with pytest.raises(AssertionError, match="claim"):
        await audit(broker)


async def test_a_missing_claim_never_stops_an_ending(broker: Broker) -> None:
    await fill(broker, 1)
    held = await allocate(broker, "student-1")
    await broker.client.call(
        "delete_item",
        TableName=broker.client.table.name,
        Key={"pk": {"S": "CLM#acme#student-1"}, "sk": {"S": "-"}},
    )

    await release(broker, held.sandbox_id, "student-1")

    assert await audit(broker) == {"pending_deletion": 1}


async def test_an_ending_ends_its_own_claim_alone(broker: Broker) -> None:
    """The claim was ended and made anew for another sandbox: the old sandbox's ending must not touch it."""
    await fill(broker, 2)
    old = await allocate(broker, "student-1")
    await broker.client.call(
        "delete_item",
        TableName=broker.client.table.name,
        Key={"pk": {"S": "CLM#acme#student-1"}, "sk": {"S": "-"}},
    )
    new = await allocate(broker, "student-1")

    await release(broker, old.sandbox_id, "student-1")

    assert new.sandbox_id != old.sandbox_id
    assert (await allocate(broker, "student-1")).sandbox_id == new.sandbox_id
    assert await audit(broker) == {"pending_deletion": 1, "allocated": 1}


async def test_two_tenants_with_equal_ids_students_and_keys_never_meet(broker: Broker) -> None:
    """B1 below HTTP. Their accounts are different ones at the provider; everything else is equal."""
    await broker.sandboxes.add(a_sandbox(tenant="acme"), TEST_CAUSE, now=NOW)
    rivals = a_sandbox(tenant="rival", external_id="identity/accounts/rival")
    await broker.sandboxes.add(rivals, TEST_CAUSE, now=NOW)
    wish = Wish(holder="student-1", key="k")

    ours = await broker.allocator.allocate("acme", wish, TEST_CAUSE)
    theirs = await broker.allocator.allocate("rival", wish, TEST_CAUSE)
    await broker.lifecycle.release("acme", ours.sandbox_id, holder="student-1", cause=TEST_CAUSE)

    assert ours.sandbox_id == theirs.sandbox_id
    assert (ours.external_id, theirs.external_id) == (a_sandbox().external_id, rivals.external_id)
    assert await audit(broker, "acme") == {"pending_deletion": 1}
    assert await audit(broker, "rival") == {"allocated": 1}


async def test_a_track_lists_what_its_students_hold(broker: Broker) -> None:
    """A9."""
    await fill(broker, 4)
    first = await allocate(broker, "student-1", track="k8s-101")
    second = await allocate(broker, "student-2", track="k8s-101")
    await allocate(broker, "student-3", track="git-201")
    await release(broker, second.sandbox_id, "student-2")

    held = [
        row.id
        for shard in range(4)
        for row in (
            await broker.sandboxes.page_of_track("acme", "k8s-101", shard, state=State.ALLOCATED, limit=10)
        )[0]
    ]

    assert held == [first.sandbox_id]
