"""E2, E3, B8: the pool follows the provider, and nothing that happens meanwhile is overwritten."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from broker.allocation import Wish
from broker.errors import LeadershipLost
from broker.sandbox import Sandbox, State
from broker.store.batches import Batches, Change, Written
from broker.store.claims import Claim
from broker.store.leader import Fence
from broker.store.sync_state import SyncState
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, release
from tests.audit import audit, items_of
from tests.builders import NOW, TEST_CAUSE
from tests.conftest import a_broker
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, Fetch, Provider, a_leader, a_provider, a_worker
from worker.duties import Worker
from worker.provider.client import ProviderError

HOUR = 3600


def positive(outcome: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in outcome.items() if count}


async def test_what_the_provider_lists_becomes_available(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch
) -> None:
    outcome = await worker.sync(RUN)

    ids = await provider.sandbox_ids()
    assert positive(outcome) == {"added": 10}
    assert await audit(core) == {"available": 10}
    first = await stored(ids[0])
    assert (first.name, first.external_id.startswith("identity/accounts/")) == ("lab-adventure-0001", True)
    assert first.attributes["account_type"] == "sandbox"


async def test_an_unchanged_pool_is_not_written_to(
    worker: Worker, table_name: str, proxy: StoreProxy, provider: Provider, clock: Clock
) -> None:
    await worker.sync(RUN)
    async with (
        a_broker(proxy.url, table_name, clock=clock) as watched,
        a_worker(watched, provider, clock) as again,
    ):
        proxy.counts.reset()

        outcome = await again.sync(RUN)

    assert positive(outcome) == {"unchanged": 10}
    assert proxy.counts.calls["TransactWriteItems"] == 1  # what this sync saw, for the next one
    assert proxy.counts.calls["UpdateItem"] == 1  # the gauges' snapshot


async def test_a_changed_account_is_updated_in_whatever_state_it_is(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch
) -> None:
    await worker.sync(RUN)
    held = await allocate(core, "student-1")
    free = next(id_ for id_ in await provider.sandbox_ids() if id_ != held.sandbox_id)
    for id_ in (held.sandbox_id, free):
        await provider.http.patch(f"/_simulator/accounts/{id_}", json={"name": f"renamed-{id_}"})

    outcome = await worker.sync(RUN)

    assert outcome["updated"] == 2
    assert (await stored(free)).name == f"renamed-{free}"
    assert (await stored(held.sandbox_id)).state is State.ALLOCATED
    assert (await allocate(core, "student-2", prefix="renamed-")).sandbox_id == free


async def test_a_vanished_account_goes_stale_and_comes_back(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch
) -> None:
    await worker.sync(RUN)
    gone = (await provider.sandbox_ids())[3]
    await provider.faults(hidden_accounts=[int(gone)])

    vanished = await worker.sync(RUN)
    assert (await stored(gone)).state is State.STALE
    await provider.faults(hidden_accounts=[])
    returned = await worker.sync(RUN)

    assert vanished["stale"] == 1
    assert returned["came_back"] == 1
    assert await audit(core) == {"available": 10}


async def test_an_allocated_sandbox_that_vanishes_is_told_and_stays_allocated(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch, clock: Clock
) -> None:
    await worker.sync(RUN)
    held = await allocate(core, "student-1")
    await provider.faults(hidden_accounts=[int(held.sandbox_id)])

    began_at, first = int(clock.now), await worker.sync(RUN)
    missed = await stored(held.sandbox_id)
    clock.now += HOUR
    second = await worker.sync(RUN)
    row = await stored(held.sandbox_id)
    snapshot = await core.gauges.read("acme")
    await provider.faults(hidden_accounts=[])
    await worker.sync(RUN)

    assert (first["missing"], positive(second)) == (1, {"unchanged": 9})
    assert (row.state, row.missing_since) == (State.ALLOCATED, began_at)
    assert row == missed, "what is missing still is not written again"
    assert snapshot is not None
    assert snapshot.missing == 1
    assert (await stored(held.sandbox_id)).missing_since is None


async def test_entries_that_are_no_active_sandbox_are_nobodys(worker: Worker, core: Broker) -> None:
    await worker.sync(RUN)

    names = {item["name"]["S"] for item in await items_of(core) if item["pk"]["S"].startswith("SBX#")}

    assert len(names) == 10
    assert all(name.startswith("lab-adventure-") for name in names)


async def test_an_account_without_a_usable_name_is_counted_and_skipped(
    worker: Worker, core: Broker, provider: Provider
) -> None:
    first = (await provider.sandbox_ids())[0]
    await provider.http.patch(f"/_simulator/accounts/{first}", json={"name": "   "})

    outcome = await worker.sync(RUN)

    assert (outcome["invalid"], outcome["added"]) == (1, 9)
    assert await audit(core) == {"available": 9}


async def test_a_failed_page_voids_the_listing(worker: Worker, core: Broker, provider: Provider) -> None:
    await worker.sync(RUN)
    await provider.faults(hidden_accounts=[int((await provider.sandbox_ids())[0])], fail_next_lists=100)

    with pytest.raises(ProviderError):
        await worker.sync(RUN)

    assert await audit(core) == {"available": 10}


async def test_a_listing_that_shifts_under_the_reader_takes_nobody_for_missing(core: Broker, clock: Clock) -> None:
    """Offset paging: a deletion between two pages moves an account through the gap. It is seen, and read anew."""
    async with a_provider(sandboxes=12, noise=0) as provider, a_worker(core, provider, clock) as worker:
        await worker.sync(RUN)
        ids = await provider.sandbox_ids()
        pages: list[int] = []
        original = worker.provider._entries

        async def delete_one_in_between(offset: int) -> list[Any]:
            pages.append(offset)
            if len(pages) == 2:
                await provider.faults(hidden_accounts=[int(ids[0])])
            return await original(offset)

        worker.provider._entries = delete_one_in_between  # type: ignore[method-assign]
        outcome = await worker.sync(RUN)

    assert pages.count(0) == 2
    assert outcome["stale"] == 1
    assert await audit(core) == {"available": 11, "stale": 1}


async def test_a_released_sandbox_does_not_come_back_while_the_provider_still_lists_it(
    core: Broker, clock: Clock, stored: Fetch
) -> None:
    async with a_provider(listing_lag_s=3600) as provider, a_worker(core, provider, clock) as worker:
        await worker.sync(RUN)
        held = await allocate(core, "student-1")
        await release(core, held.sandbox_id, "student-1")
        await worker.cleaner.sweep(RUN)
        began = clock.now
        for minutes in (0, 10, 59):
            clock.now = began + minutes * 60
            await worker.sync(RUN)
            assert (await stored(held.sandbox_id)).state is State.DELETED

        clock.now = began + HOUR + 1
        outcome = await worker.sync(RUN)
        again = await stored(held.sandbox_id)
        await worker.cleaner.sweep(RUN)
        buried = await stored(held.sandbox_id)

    assert outcome["delete_again"] == 1
    assert (again.state, again.ttl) == (State.PENDING_DELETION, None)
    assert (buried.state, buried.ttl) == (State.DELETED, int(clock.now) + 30 * 24 * HOUR)
    assert await recorded_deletions(core) == [held.sandbox_id] * 2


async def recorded_deletions(core: Broker) -> list[str]:
    return [
        item["sandbox_id"]["S"]
        for item in await items_of(core)
        if item["pk"]["S"].startswith("EVT#") and item["action"]["S"] == "deleted"
    ]


class LosesEveryRaceOnce(Batches):
    """A store that lets someone else win just before sync's first write to a sandbox."""

    def __init__(self, core: Broker, meanwhile: Callable[[Sandbox], Awaitable[None]]) -> None:
        super().__init__(core.client, core.sandboxes)
        self._meanwhile = meanwhile
        self._done: set[str] = set()

    async def write(self, changes: list[Change], *, fence: Fence, now: float) -> list[Written]:
        for change in changes:
            if change.before is not None and change.before.id not in self._done:
                self._done.add(change.before.id)
                await self._meanwhile(change.before)
        return await super().write(changes, fence=fence, now=now)


async def test_allocations_that_land_in_the_middle_of_a_sync_survive_it(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch
) -> None:
    """Sync has read "available" and "gone", and is about to write "stale": a student comes first."""
    await worker.sync(RUN)
    ids = await provider.sandbox_ids()
    await provider.faults(hidden_accounts=[int(id_) for id_ in ids[:3]])

    async def student(sandbox: Sandbox) -> None:
        row = await core.sandboxes.get("acme", sandbox.id)
        assert row is not None
        await take(core, row, f"student-{row.id}")

    worker._broker = dataclasses.replace(core, batches=LosesEveryRaceOnce(core, student))
    outcome = await worker.sync(RUN)

    assert outcome["lost_race"] == 3
    assert [(await stored(id_)).state for id_ in ids[:3]] == [State.ALLOCATED] * 3
    assert await audit(core) == {"allocated": 3, "available": 7}


async def take(core: Broker, row: Sandbox, holder: str) -> None:
    """Allocate this very sandbox, as an API process would."""
    after = row.allocate(holder=holder, claim_key=None, track=None, now=NOW, lease_s=3600)
    claim = Claim.on(after, wish=Wish(holder=holder).digest(), attempt_id="x")
    await core.sandboxes.allocate(row, after, claim, TEST_CAUSE, now=NOW)


async def test_releases_and_expiries_in_the_middle_of_a_sync_survive_it(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch
) -> None:
    await worker.sync(RUN)
    first = await allocate(core, "student-1")
    second = await allocate(core, "student-2")
    for id_ in (first.sandbox_id, second.sandbox_id):
        await provider.http.patch(f"/_simulator/accounts/{id_}", json={"name": f"renamed-{id_}"})

    async def end_it(sandbox: Sandbox) -> None:
        if sandbox.id == first.sandbox_id:
            await release(core, sandbox.id, "student-1")
        else:
            await core.lifecycle.expire(await stored(sandbox.id), TEST_CAUSE)

    worker._broker = dataclasses.replace(core, batches=LosesEveryRaceOnce(core, end_it))
    outcome = await worker.sync(RUN)

    assert outcome["lost_race"] == 2
    assert await audit(core) == {"pending_deletion": 2, "available": 8}


async def test_two_syncs_at_once_add_every_account_once(
    core: Broker, provider: Provider, clock: Clock, ministack: str, table_name: str
) -> None:
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(2):
            broker = await stack.enter_async_context(a_broker(ministack, table_name, clock=clock))
            workers.append(await stack.enter_async_context(a_worker(broker, provider, clock)))

        ends = await asyncio.gather(*(worker.sync(RUN) for worker in workers), return_exceptions=True)

    outcomes = [end for end in ends if isinstance(end, Counter)]
    assert outcomes, ends
    assert all(isinstance(end, Counter | LeadershipLost) for end in ends), ends
    assert len(outcomes) < 2 or sum(outcome["added"] for outcome in outcomes) == 10
    assert await audit(core) == {"available": 10}


async def test_a_sync_that_was_overtaken_keeps_nothing_of_what_it_made_of_the_listing(core: Broker) -> None:
    """It judged by what it had read of the last sync: the word of one that has ended since then stands."""
    async with a_leader(core) as leadership:
        await core.sync_states.write("acme", SyncState(at=NOW), after=None, fence=leadership.fence)
        read = await core.sync_states.read("acme")
        await core.sync_states.write("acme", SyncState(at=NOW + 1, missing=7), after=read, fence=leadership.fence)
        for after in (None, read):
            with pytest.raises(LeadershipLost):
                await core.sync_states.write("acme", SyncState(at=NOW + 2), after=after, fence=leadership.fence)

    kept = await core.sync_states.read("acme")
    assert kept is not None
    assert (kept.at, kept.missing) == (NOW + 1, 7)


async def test_a_sync_on_demand_waits_for_the_one_under_way(worker: Worker, core: Broker) -> None:
    """One leader has two reasons to sync at once: its schedule and an operator. They must not race each other."""
    outcomes = await asyncio.gather(*(worker.sync(RUN) for _ in range(3)))

    assert [positive(outcome) for outcome in outcomes] == [{"added": 10}, {"unchanged": 10}, {"unchanged": 10}]
    assert await audit(core) == {"available": 10}


@pytest.fixture
async def rival(core: Broker, provider: Provider, clock: Clock) -> AsyncIterator[Worker]:
    """Another tenant's worker, with the same provider credential."""
    async with a_worker(core, provider, clock, BROKER_TENANT="rival") as running:
        yield running


async def test_two_tenants_with_one_credential_never_both_own_an_account(
    worker: Worker, rival: Worker, core: Broker
) -> None:
    """B8: both sync at once; every account has one owner, and the other is told."""
    ours, theirs = await asyncio.gather(worker.sync(RUN), rival.sync(RUN))

    mine, his = await audit(core, "acme"), await audit(core, "rival")
    assert ours["added"] + theirs["added"] == 10
    assert ours["owned_elsewhere"] + theirs["owned_elsewhere"] == 10
    assert mine["available"] + his["available"] == 10


async def test_the_other_tenant_is_told_provider_account_owned(
    worker: Worker, rival: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    await worker.sync(RUN)

    outcome = await rival.sync(RUN)

    assert outcome["owned_elsewhere"] == 10
    assert {record.__dict__["code"] for record in caplog.records if record.name == "worker"} == {
        "PROVIDER_ACCOUNT_OWNED"
    }


async def test_an_account_stays_its_owners_while_it_is_allocated_deleted_and_listed_again(
    worker: Worker, rival: Worker, core: Broker
) -> None:
    await worker.sync(RUN)
    held = await allocate(core, "student-1")
    await release(core, held.sandbox_id, "student-1")
    await worker.cleaner.sweep(RUN)

    await rival.sync(RUN)

    assert await audit(core, "rival") == {}


async def test_an_account_that_was_purged_may_have_another_owner(
    worker: Worker, rival: Worker, core: Broker, provider: Provider, clock: Clock
) -> None:
    await worker.sync(RUN)
    gone = (await provider.sandbox_ids())[0]
    await provider.faults(hidden_accounts=[int(gone)])
    await worker.sync(RUN)
    clock.now += 25 * HOUR
    await worker.purge(RUN)
    await provider.faults(hidden_accounts=[])

    outcome = await rival.sync(RUN)

    assert outcome["added"] == 1
    assert await audit(core, "rival") == {"available": 1}
