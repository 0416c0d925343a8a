"""B3: what one connection listed is not gone because the tenant's next one has never heard of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.sandbox import State
from broker.wiring import Broker
from tests.allocation.students import allocate, release
from tests.builders import TEST_CAUSE
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, TOKEN, Fetch, Provider, a_provider, a_worker
from worker.duties import Worker


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Two places of one secret."""
    found = [tmp_path / "one", tmp_path / "two"]
    for place in found:
        place.write_text(TOKEN)
    return [str(place) for place in found]


@asynccontextmanager
async def another_organisation(provider: Provider) -> AsyncIterator[Provider]:
    """With accounts of its own, and none of the provider's ids."""
    async with a_provider(seed=2, sandboxes=8) as other:
        for csp_id in {*await provider.sandbox_ids()} & {*await other.sandbox_ids()}:
            other.simulation.inventory.delete(int(csp_id), now=0)
        yield other


async def a_held_sandbox(worker: Worker, core: Broker) -> str:
    await worker.sync(RUN)
    return (await allocate(core, "student-1")).sandbox_id


async def delete_elsewhere(worker: Worker, stored: Fetch, sandbox_id: str) -> None:
    """The account goes, and whoever asks for that again hears 404."""
    assert await worker.provider.delete_account((await stored(sandbox_id)).external_id)


async def swept(worker: Worker, clock: Clock, stored: Fetch, sandbox_id: str) -> tuple[State, str]:
    """What a try makes of it, and how it puts that."""
    clock.now += 3600
    await worker.cleaner.sweep(RUN)
    row = await stored(sandbox_id)
    return row.state, (row.last_error or "").partition(":")[0]


async def test_what_another_organisation_calls_gone_is_not_deleted(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch
) -> None:
    """Pending at the change: it waits for the first believed listing, then for a person, or for the way back."""
    async with another_organisation(provider) as latter, a_worker(core, provider, clock) as before:
        sandbox_id = await a_held_sandbox(before, core)
        await release(core, sandbox_id, "student-1")
        await provider.faults(fail_next_deletes=1)
        await before.cleaner.sweep(RUN)
        async with a_worker(core, latter, clock) as after:
            unlisted = await swept(after, clock, stored, sandbox_id)
            attempts = (await stored(sandbox_id)).attempt
            guarded = (await after.sync(RUN))["guarded"]
            unbelieved = await swept(after, clock, stored, sandbox_id)
            await after.sync(RUN, confirmed=True)
            refused = await swept(after, clock, stored, sandbox_id)
        await before.sync(RUN, confirmed=True)
        failed = await stored(sandbox_id)
        assert sandbox_id in await provider.sandbox_ids()
        await core.sandboxes.move(
            failed, failed.retry_deletion(reason=None, now=int(clock.now)), TEST_CAUSE, now=clock.now
        )
        at_home = await swept(before, clock, stored, sandbox_id)

    assert (unlisted, attempts, guarded) == ((State.PENDING_DELETION, "NOT_LISTED_YET"), 1, 9)
    assert unbelieved == unlisted
    assert refused == (State.DELETION_FAILED, "PROVIDER_CHANGED")
    assert at_home[0] is State.DELETED


async def test_what_was_held_when_the_connection_changed_is_not_gone_either(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch
) -> None:
    async with another_organisation(provider) as latter, a_worker(core, provider, clock) as before:
        sandbox_id = await a_held_sandbox(before, core)
        async with a_worker(core, latter, clock) as after:
            await after.sync(RUN, confirmed=True)
            await release(core, sandbox_id, "student-1")
            refused = await swept(after, clock, stored, sandbox_id)
            theirs = (await allocate(core, "student-2")).sandbox_id
            await release(core, theirs, "student-2")
            await delete_elsewhere(after, stored, theirs)
            its_own = await swept(after, clock, stored, theirs)

    assert refused == (State.DELETION_FAILED, "PROVIDER_CHANGED")
    assert its_own[0] is State.DELETED, "the others are this connection's, though nothing was written to them"


async def test_an_id_under_which_it_lists_another_account_proves_nothing(
    core: Broker, clock: Clock, stored: Fetch
) -> None:
    async with (
        a_provider(noise=0) as former,
        a_provider(noise=0, seed=2) as latter,
        a_worker(core, former, clock) as before,
    ):
        sandbox_id = min({*await former.sandbox_ids()} & {*await latter.sandbox_ids()})
        await before.sync(RUN)
        await allocate(core, "student-1", prefix=(await stored(sandbox_id)).name)
        await release(core, sandbox_id, "student-1")
        async with a_worker(core, latter, clock) as after:
            await after.sync(RUN)
            refused = await swept(after, clock, stored, sandbox_id)

    assert refused == (State.DELETION_FAILED, "PROVIDER_CHANGED")


async def test_the_same_accounts_through_another_place_of_the_secret_go_on_as_before(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch, places: list[str]
) -> None:
    """A rotation by another name: the first listing shows that they are the same, and rewrites nobody."""
    async with a_worker(core, provider, clock, CSP_API_TOKEN="", CSP_API_TOKEN_FILE=places[0]) as before:
        sandbox_id = await a_held_sandbox(before, core)
        await release(core, sandbox_id, "student-1")
        others = await core.sandboxes.get_many([await stored(id_) for id_ in await provider.sandbox_ids()])
    async with a_worker(core, provider, clock, CSP_API_TOKEN="", CSP_API_TOKEN_FILE=places[1]) as after:
        outcome = await after.sync(RUN)
        same = await core.sandboxes.get_many(list(others.values()))
        await delete_elsewhere(after, stored, sandbox_id)
        deleted = await swept(after, clock, stored, sandbox_id)

    assert (+outcome, same) == ({"unchanged": 10}, others)
    assert deleted[0] is State.DELETED


async def test_what_comes_back_into_the_listing_is_as_it_was(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch
) -> None:
    """Pending and held ones that the first listing lacked, as of an organisation that is moved over late."""
    async with another_organisation(provider) as latter, a_worker(core, provider, clock) as before:
        pending = await a_held_sandbox(before, core)
        await release(core, pending, "student-1")
        held = (await allocate(core, "student-2")).sandbox_id
        async with a_worker(core, latter, clock) as after:
            await after.sync(RUN, confirmed=True)
            marked = [(await stored(id_)).listed_by for id_ in (pending, held)]
        await before.sync(RUN, confirmed=True)
        cleared = [(await stored(id_)).listed_by for id_ in (pending, held)]

    assert marked == [before.provider.connection] * 2
    assert cleared == [None, None]
