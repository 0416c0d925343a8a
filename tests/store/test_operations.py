"""C5: what operators do to one sandbox, on every engine: from its state alone, once, with who and why."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker.errors import AllocationEnded, AllocationExpired, SandboxNotFound, WrongState
from broker.sandbox import TOMBSTONE_S, EndedBy, Sandbox, State
from broker.store import table
from broker.store.events import Cause
from broker.wiring import Broker
from tests.allocation.students import allocate, fill, release
from tests.audit import audit, items_of
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.store.conftest import Clock

WHY = Cause(actor="olga", action="by_hand", request_id="req-7", reason="INC-4711: it answers nobody")

MOVES: dict[str, tuple[State, State]] = {
    "retry": (State.DELETION_FAILED, State.PENDING_DELETION),
    "abandon": (State.DELETION_FAILED, State.DELETED),
    "quarantine": (State.AVAILABLE, State.QUARANTINED),
    "reinstate": (State.QUARANTINED, State.AVAILABLE),
    "discard": (State.QUARANTINED, State.PENDING_DELETION),
    "force_release": (State.ALLOCATED, State.PENDING_DELETION),
}


async def put(broker: Broker, state: State, **changes: Any) -> Sandbox:
    """A sandbox in that state; one that is allocated has its claim."""
    if state is State.ALLOCATED:
        await fill(broker, 1)
        held = await allocate(broker, "student-1")
        return await stored(broker, held.sandbox_id)
    sandbox = a_sandbox(state=state, **changes)
    await broker.sandboxes.add(sandbox, TEST_CAUSE, now=NOW)
    return sandbox


async def stored(broker: Broker, sandbox_id: str = a_sandbox().id) -> Sandbox:
    sandbox = await broker.sandboxes.get("acme", sandbox_id)
    assert sandbox is not None
    return sandbox


def operation(broker: Broker, name: str) -> Callable[..., Awaitable[Sandbox]]:
    found: Callable[..., Awaitable[Sandbox]] = getattr(broker.operations, name)
    return found


async def by_hand(broker: Broker) -> list[dict[str, Any]]:
    """The events that this operator left."""
    events = [table.decode(item) for item in await items_of(broker) if item["pk"]["S"].startswith("EVT#")]
    return [event for event in events if event["actor"] == "olga"]


@pytest.mark.parametrize("name", MOVES)
async def test_an_operation_moves_the_sandbox_and_leaves_who_and_why(
    broker: Broker, clock: Clock, name: str
) -> None:
    start, end = MOVES[name]
    before = await put(broker, start)
    clock.now += 60

    answered = await operation(broker, name)("acme", before.id, cause=WHY)

    after = await stored(broker)
    assert answered == after
    assert (after.state, after.since, after.version) == (end, NOW + 60, before.version + 1)
    assert after.reason == WHY.reason
    (event,) = await by_hand(broker)
    assert (event["before"], event["after"], event["version"]) == (start, end, after.version)
    assert (event["action"], event["request_id"], event["reason"]) == ("by_hand", "req-7", WHY.reason)
    assert await audit(broker) == {end.value: 1}


@pytest.mark.parametrize("name", MOVES)
async def test_a_repeat_answers_the_sandbox_as_it_is_and_writes_nothing(broker: Broker, name: str) -> None:
    before = await put(broker, MOVES[name][0])
    first = await operation(broker, name)("acme", before.id, cause=WHY)

    again = await operation(broker, name)("acme", before.id, cause=WHY)

    assert again == first == await stored(broker)
    assert len(await by_hand(broker)) == 1


@pytest.mark.parametrize("name", MOVES)
async def test_from_any_other_state_an_operation_is_refused_and_says_which_it_needs(
    broker: Broker, name: str
) -> None:
    start, _ = MOVES[name]
    others = [state for state in State if state not in (start, State.ALLOCATED)]
    for number, state in enumerate(others, start=2):
        await broker.sandboxes.add(a_sandbox(number=number, state=state), TEST_CAUSE, now=NOW)

    for number, state in enumerate(others, start=2):
        with pytest.raises(WrongState) as refused:
            await operation(broker, name)("acme", a_sandbox(number=number).id, cause=WHY)
        assert refused.value.details == {"state": state.value, "needs": [start.value]}

    assert await by_hand(broker) == []


@pytest.mark.parametrize("name", [*MOVES, "remove_stale", "look"])
async def test_what_there_is_not_or_is_another_tenants_is_not_found(broker: Broker, name: str) -> None:
    sandbox = await put(broker, MOVES.get(name, (State.STALE, None))[0])
    cause = {} if name == "look" else {"cause": WHY}

    for tenant, sandbox_id in (("acme", "unknown"), ("rival", sandbox.id)):
        with pytest.raises(SandboxNotFound):
            await operation(broker, name)(tenant, sandbox_id, **cause)

    assert await stored(broker) == sandbox


async def test_a_retried_deletion_is_due_at_once_with_all_its_attempts(broker: Broker, clock: Clock) -> None:
    await put(broker, State.DELETION_FAILED, attempt=8, last_error="HTTP_500")
    clock.now += 60

    await broker.operations.retry("acme", a_sandbox().id, cause=WHY)

    (due,) = [row async for row in broker.sandboxes.walk("acme", State.PENDING_DELETION, up_to=NOW + 60)]
    assert (due.attempt, due.next_attempt_at) == (0, NOW + 60)


async def test_what_failed_again_after_a_retry_can_be_retried_again(broker: Broker) -> None:
    await put(broker, State.DELETION_FAILED)
    retried = await broker.operations.retry("acme", a_sandbox().id, cause=WHY)
    failed = retried.fail_deletion(error="HTTP_500", now=NOW, retry_at=None)
    await broker.sandboxes.move(retried, failed, TEST_CAUSE, now=NOW)

    again = await broker.operations.retry("acme", a_sandbox().id, cause=WHY)

    assert again.state is State.PENDING_DELETION
    assert again.version == failed.version + 1


async def test_an_abandoned_sandbox_is_a_tombstone_whose_account_stays_owned_as_long(broker: Broker) -> None:
    await put(broker, State.DELETION_FAILED)

    abandoned = await broker.operations.abandon("acme", a_sandbox().id, cause=WHY)

    (owner,) = [item for item in await items_of(broker) if item["pk"]["S"].startswith("OWN#")]
    assert abandoned.ttl == NOW + TOMBSTONE_S == table.decode(owner)["ttl"]


async def test_a_quarantined_sandbox_goes_to_nobody_until_it_is_reinstated(broker: Broker) -> None:
    await put(broker, State.AVAILABLE)
    await broker.operations.quarantine("acme", a_sandbox().id, cause=WHY)
    assert await broker.sandboxes.count("acme", State.AVAILABLE) == 0

    await broker.operations.reinstate("acme", a_sandbox().id, cause=WHY)

    assert (await allocate(broker, "student-1")).sandbox_id == a_sandbox().id


async def test_what_the_provider_no_longer_lists_is_not_reinstated(broker: Broker) -> None:
    """A student would be given an account that is not there; the next sync may list it again."""
    await put(broker, State.QUARANTINED, missing_since=NOW - 60)

    with pytest.raises(WrongState, match="no longer lists it"):
        await broker.operations.reinstate("acme", a_sandbox().id, cause=WHY)

    assert (await broker.operations.discard("acme", a_sandbox().id, cause=WHY)).state is State.PENDING_DELETION


async def test_a_reinstated_sandbox_that_a_student_got_is_no_repeat(broker: Broker) -> None:
    await put(broker, State.QUARANTINED)
    await broker.operations.reinstate("acme", a_sandbox().id, cause=WHY)
    held = await allocate(broker, "student-1")
    await release(broker, held.sandbox_id, "student-1")

    for name in ("reinstate", "discard", "retry"):
        with pytest.raises(WrongState):
            await operation(broker, name)("acme", held.sandbox_id, cause=WHY)


async def test_a_forced_release_ends_the_claim_and_the_student_may_have_another(broker: Broker) -> None:
    """A12."""
    await fill(broker, 2)
    held = await allocate(broker, "student-1")

    await broker.operations.force_release("acme", held.sandbox_id, cause=WHY)
    with pytest.raises(AllocationExpired) as late:
        await release(broker, held.sandbox_id, "student-1")
    new = await allocate(broker, "student-1")

    assert late.value.details == {"ended_by": EndedBy.FORCE_RELEASE.value, "ended_at": NOW}
    assert new.created
    assert new.sandbox_id != held.sandbox_id
    assert await audit(broker) == {"allocated": 1, "pending_deletion": 1}


async def test_a_forced_release_of_a_keyed_allocation_is_told_to_its_late_duplicate(broker: Broker) -> None:
    await fill(broker, 2)
    held = await allocate(broker, "student-1", key="second")

    await broker.operations.force_release("acme", held.sandbox_id, cause=WHY)

    with pytest.raises(AllocationEnded) as late:
        await allocate(broker, "student-1", key="second")
    assert late.value.details == {"ended_by": EndedBy.FORCE_RELEASE.value, "ended_at": NOW}


async def test_what_its_student_released_is_not_force_released(broker: Broker) -> None:
    held = await put(broker, State.ALLOCATED)
    await release(broker, held.id, "student-1")

    with pytest.raises(WrongState):
        await broker.operations.force_release("acme", held.id, cause=WHY)

    assert (await stored(broker)).ended_by is EndedBy.RELEASE


async def test_a_removed_stale_sandbox_is_gone_with_its_ownership_and_its_event_stays(broker: Broker) -> None:
    stale = await put(broker, State.STALE)

    assert await broker.operations.remove_stale("acme", stale.id, cause=WHY) == stale

    assert [item["pk"]["S"] for item in await items_of(broker) if item["pk"]["S"][:4] in ("SBX#", "OWN#")] == []
    (event,) = await by_hand(broker)
    assert (event["before"], event["after"], event["reason"]) == ("stale", "removed", WHY.reason)
    with pytest.raises(SandboxNotFound):
        await broker.operations.remove_stale("acme", stale.id, cause=WHY)


async def test_only_what_is_stale_is_removed(broker: Broker) -> None:
    await put(broker, State.AVAILABLE)

    with pytest.raises(WrongState) as refused:
        await broker.operations.remove_stale("acme", a_sandbox().id, cause=WHY)

    assert refused.value.details == {"state": "available", "needs": ["stale"]}
    assert (await stored(broker)).state is State.AVAILABLE
