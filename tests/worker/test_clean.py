"""E5, E11, E12: what is over is deleted, once, whoever dies in between."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.policy import retry_delay_s
from broker.sandbox import State
from broker.store.modes import ModeName
from broker.store.table import shard_of
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, release
from tests.audit import audit, items_of
from tests.builders import TEST_CAUSE
from tests.conftest import a_broker
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, TOKEN, Fetch, Provider, a_provider, a_worker, until
from worker.duties import Worker

HOUR = 3600


async def a_released_sandbox(worker: Worker, core: Broker, holder: str = "student-1") -> str:
    if not await core.sandboxes.count("acme", State.AVAILABLE):
        await worker.sync(RUN)
    held = await allocate(core, holder)
    await release(core, held.sandbox_id, holder)
    return held.sandbox_id


async def test_a_released_sandbox_is_deleted_at_the_provider(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch
) -> None:
    sandbox_id = await a_released_sandbox(worker, core)

    await worker.cleaner.tick(RUN)
    await worker.cleaner.idle()

    row = await stored(sandbox_id)
    assert (row.state, row.lease_token, row.next_attempt_at) == (State.DELETED, None, None)
    assert sandbox_id not in await provider.sandbox_ids()
    assert len(await provider.deletions()) == 1


async def test_an_account_that_is_gone_already_counts_as_deleted(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch
) -> None:
    sandbox_id = await a_released_sandbox(worker, core)
    uuid = (await stored(sandbox_id)).external_id.rpartition("/")[2]
    headers = {"Authorization": "Token provider-token"}
    (await provider.http.delete(f"/sandbox/accounts/{uuid}", headers=headers)).raise_for_status()

    await worker.cleaner.sweep(RUN)

    assert (await stored(sandbox_id)).state is State.DELETED


async def test_a_failed_deletion_is_tried_again_when_it_is_due_and_not_before(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch, clock: Clock
) -> None:
    sandbox_id = await a_released_sandbox(worker, core)
    await provider.faults(fail_next_deletes=1)

    await worker.cleaner.sweep(RUN)
    failed = await stored(sandbox_id)
    too_early = await worker.cleaner.tick(RUN)
    assert failed.next_attempt_at is not None
    clock.now = failed.next_attempt_at
    await worker.cleaner.sweep(RUN)

    assert (failed.state, failed.attempt, failed.last_error) == (State.PENDING_DELETION, 1, "HTTP_500")
    assert clock.now > 4_000_000_000
    assert not too_early["started"]
    assert (await stored(sandbox_id)).state is State.DELETED


@pytest.mark.parametrize("fault", ["failing_accounts", "html_accounts"])
async def test_a_deletion_that_never_succeeds_ends_visibly_after_its_attempts(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch, fault: str
) -> None:
    async with a_worker(core, provider, clock, CLEANUP_MAX_ATTEMPTS="3") as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        await provider.faults(**{fault: [int(sandbox_id)]})

        for _ in range(5):
            await worker.cleaner.sweep(RUN)
            clock.now += 2 * HOUR

    row = await stored(sandbox_id)
    assert (row.state, row.attempt, row.last_error) == (
        State.DELETION_FAILED,
        3,
        "HTTP_500" if fault == "failing_accounts" else "HTTP_502",
    )
    assert len(await provider.deletions()) == 3


async def test_a_refused_token_costs_no_attempts_and_is_over_when_it_is_rotated(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch, tmp_path: Path
) -> None:
    """A bad rotation at night: every deletion waits, none is given up."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    rotating = {"CSP_API_TOKEN": "", "CSP_API_TOKEN_FILE": str(token), "CLEANUP_MAX_ATTEMPTS": "2"}
    async with a_worker(core, provider, clock, **rotating) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        token.write_text("a-token-that-the-provider-does-not-know")
        for _ in range(4):
            await worker.cleaner.sweep(RUN)
            clock.now += 2 * HOUR
        refused = await stored(sandbox_id)
        token.write_text(TOKEN)
        await worker.cleaner.sweep(RUN)

    assert (refused.state, refused.attempt, refused.last_error) == (State.PENDING_DELETION, 0, "HTTP_401")
    assert refused.next_attempt_at is not None
    assert refused.next_attempt_at >= clock.now - 2 * HOUR + 60, "nobody rotates a token within seconds"
    assert (await stored(sandbox_id)).state is State.DELETED


async def test_a_few_bad_accounts_stop_nobody_else(
    worker: Worker, core: Broker, provider: Provider, stored: Fetch
) -> None:
    bad, *good = [await a_released_sandbox(worker, core, f"student-{n}") for n in range(6)]
    await provider.faults(failing_accounts=[int(bad)])

    await worker.cleaner.sweep(RUN)

    assert [(await stored(id_)).state for id_ in good] == [State.DELETED] * 5
    assert (await stored(bad)).state is State.PENDING_DELETION


async def test_a_worker_that_died_in_the_middle_gives_its_deletion_back_by_doing_nothing(
    core: Broker, provider: Provider, stored: Fetch, clock: Clock
) -> None:
    """Crash point: leased, not finished. It is taken up when it has stood still for a lease before our eyes."""
    monotonic = Clock(50.0)
    async with a_worker(core, provider, clock, monotonic=monotonic) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        row = await stored(sandbox_id)
        await core.sandboxes.touch(row, row.lease(token="of-the-dead", now=int(clock.now), lease_s=30))

        clock.now += 10_000  # whatever the wall says
        early = [await worker.cleaner.tick(RUN)]
        monotonic.now += 29.9
        early.append(await worker.cleaner.tick(RUN))
        monotonic.now += 0.1
        await worker.cleaner.sweep(RUN)

    assert [outcome["started"] for outcome in early] == [0, 0]
    after = await stored(sandbox_id)
    assert (after.state, after.attempt) == (State.DELETED, 2)


async def test_a_deletion_whose_lease_is_renewed_is_nobody_elses_however_long_it_takes(
    core: Broker, provider: Provider, stored: Fetch, clock: Clock
) -> None:
    monotonic = Clock(50.0)
    async with a_worker(core, provider, clock, monotonic=monotonic) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        row = await stored(sandbox_id)
        row_leased = row.lease(token="of-a-living", now=int(clock.now), lease_s=30)
        await core.sandboxes.touch(row, row_leased)
        for _ in range(5):
            outcome = await worker.cleaner.tick(RUN)
            monotonic.now += 20
            renewed = row_leased.renew_lease(now=int(clock.now), lease_s=30)
            await core.sandboxes.touch(row_leased, renewed)
            row_leased = renewed
            assert not outcome["started"]

    assert await provider.deletions() == []


async def test_a_deletion_that_takes_longer_than_its_lease_is_kept_by_its_beats(
    core: Broker, stored: Fetch, clock: Clock
) -> None:
    """Another worker looks at the queue all the while: it sees a lease that moves."""
    async with (
        a_provider(delete_latency_s=4) as provider,
        a_worker(core, provider, clock, CLEANUP_LEASE_SEC="1") as worker,
        a_worker(core, provider, clock, CLEANUP_LEASE_SEC="1") as other,
    ):
        sandbox_id = await a_released_sandbox(worker, core)
        sweeping = asyncio.create_task(worker.cleaner.sweep(RUN))

        async def leased() -> bool:
            return (await stored(sandbox_id)).lease_token is not None

        await until(leased)
        started: Counter[str] = Counter()
        while not sweeping.done():
            started += await other.cleaner.tick(RUN)
            await asyncio.sleep(0.1)
        outcome = await sweeping
        asked = await provider.deletions()

    assert (outcome, started) == ({"deleted": 1}, Counter())
    assert len(asked) == 1
    assert (await stored(sandbox_id)).attempt == 1


async def test_a_worker_that_died_after_the_providers_yes_harms_nothing(
    core: Broker, provider: Provider, stored: Fetch, clock: Clock
) -> None:
    """Crash point: deleted at the provider, not written. The next attempt hears 404, and that is a yes."""
    monotonic = Clock(50.0)
    async with a_worker(core, provider, clock, monotonic=monotonic) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        row = await stored(sandbox_id)
        await core.sandboxes.touch(row, row.lease(token="of-the-dead", now=int(clock.now), lease_s=30))
        await worker.provider.delete_account(row.external_id)
        await worker.cleaner.tick(RUN)
        monotonic.now += 30

        await worker.cleaner.sweep(RUN)

    assert (await stored(sandbox_id)).state is State.DELETED
    assert len(await provider.deletions()) == 2


async def test_a_late_finisher_whose_lease_was_taken_over_writes_nothing(
    core: Broker, clock: Clock, stored: Fetch
) -> None:
    """The provider answers after the lease has lapsed and another worker has finished."""
    async with a_provider(delete_latency_s=0.3) as provider, a_worker(core, provider, clock) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        await worker.cleaner.tick(RUN)
        await until_leased(stored, sandbox_id)
        leased = await stored(sandbox_id)
        taken_over = leased.lease(token="another", now=int(clock.now) + 90, lease_s=90)
        await core.sandboxes.touch(leased, taken_over)

        await worker.cleaner.idle()

    row = await stored(sandbox_id)
    assert (row.state, row.lease_token) == (State.PENDING_DELETION, "another")


async def until_leased(stored: Fetch, sandbox_id: str) -> None:
    for _ in range(500):
        if (await stored(sandbox_id)).lease_token is not None:
            return
        await asyncio.sleep(0.01)
    pytest.fail("no lease was taken")


async def test_two_workers_delete_a_sandbox_once(
    core: Broker, provider: Provider, clock: Clock, ministack: str, table_name: str
) -> None:
    async with (
        a_broker(ministack, table_name, clock=clock) as second_core,
        a_worker(core, provider, clock) as first,
        a_worker(second_core, provider, clock) as second,
    ):
        for n in range(8):
            await a_released_sandbox(first, core, f"student-{n}")

        await asyncio.gather(first.cleaner.sweep(RUN), second.cleaner.sweep(RUN))

    assert len(await provider.deletions()) == 8
    assert await audit(core) == {"available": 2, "deleted": 8}


async def test_no_more_deletions_run_at_once_than_allowed(core: Broker, clock: Clock) -> None:
    async with (
        a_provider(delete_latency_s=0.1) as provider,
        a_worker(core, provider, clock, CLEANUP_CONCURRENCY="3") as worker,
    ):
        for n in range(8):
            await a_released_sandbox(worker, core, f"student-{n}")

        started = await worker.cleaner.tick(RUN)
        busy = await worker.cleaner.tick(RUN)
        await worker.cleaner.sweep(RUN)

    assert (started["started"], busy["started"]) == (3, 0)
    assert await audit(core) == {"available": 2, "deleted": 8}


async def test_sync_in_the_middle_of_a_deletion_takes_no_lease_away(
    core: Broker, clock: Clock, stored: Fetch
) -> None:
    async with a_provider(delete_latency_s=0.3) as provider, a_worker(core, provider, clock) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        await provider.http.patch(f"/_simulator/accounts/{sandbox_id}", json={"name": "renamed"})
        await worker.cleaner.tick(RUN)

        async def begun() -> bool:
            return bool(await provider.deletions())

        await until(begun)
        await worker.sync(RUN)
        await worker.cleaner.idle()

    assert (await stored(sandbox_id)).state is State.DELETED


async def test_draining_finishes_what_is_in_hand(core: Broker, clock: Clock, stored: Fetch) -> None:
    async with a_provider(delete_latency_s=0.2) as provider, a_worker(core, provider, clock) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        await worker.cleaner.tick(RUN)

        await worker.cleaner.drain(5)

    assert (await stored(sandbox_id)).state is State.DELETED


async def test_a_deletion_that_has_not_reached_the_provider_goes_back_when_the_lead_does(
    proxy: StoreProxy, table_name: str, clock: Clock
) -> None:
    """Its lease is not left to lapse: whoever leads next finds it due, and no attempt was counted."""
    async with (
        a_provider() as provider,
        a_broker(proxy.url, table_name, clock=clock) as core,
        a_worker(core, provider, clock) as worker,
    ):
        sandbox_id = await a_released_sandbox(worker, core)

        async def step_down(body: Any) -> None:
            if "lease_token" in str(body):
                await worker._leadership.step_down()

        with proxy.after("TransactWriteItems", step_down):
            await worker.cleaner.tick(RUN)
            await worker.cleaner.idle()
        row = await core.sandboxes.get("acme", sandbox_id)
        asked = await provider.deletions()

    assert row is not None
    assert (row.state, row.lease_token, row.attempt) == (State.PENDING_DELETION, None, 0)
    assert (row.next_attempt_at or 0) <= clock.now
    assert asked == []


async def test_allocations_expire_after_their_time_and_grace(
    worker: Worker, core: Broker, clock: Clock, stored: Fetch
) -> None:
    """E11, both sides of the bound: four hours and thirty minutes of grace."""
    await worker.sync(RUN)
    held = await allocate(core, "student-1")
    clock.now += 4 * HOUR + 30 * 60 - 1
    early = await worker.expire(RUN)
    clock.now += 1

    due = await worker.expire(RUN)

    assert (early["expired"], due["expired"]) == (0, 1)
    row = await stored(held.sandbox_id)
    assert (row.state, row.ended_by, row.ended_at) == (State.PENDING_DELETION, "expired", int(clock.now))
    assert (await allocate(core, "student-1")).created


async def test_expiry_reads_what_is_due_and_not_what_is_allocated(
    core: Broker, provider: Provider, clock: Clock, proxy: StoreProxy, table_name: str
) -> None:
    """E11: one query a shard and one transaction a due sandbox, however many are held."""
    async with (
        a_broker(proxy.url, table_name, clock=clock) as watched,
        a_worker(watched, provider, clock) as worker,
    ):
        await worker.sync(RUN)
        for n in range(2):
            await allocate(watched, f"early-{n}")
        clock.now += HOUR
        for n in range(6):
            await allocate(watched, f"late-{n}")
        clock.now += 3 * HOUR + 31 * 60
        answered: list[int] = []

        async def count(body: dict[str, Any]) -> None:
            answered.append(1)

        proxy.counts.reset()
        with proxy.after("Query", count):
            outcome = await worker.expire(RUN)

    assert outcome["expired"] == 2
    assert proxy.counts.calls["Query:StatusIndex"] == 4
    assert proxy.counts.calls["TransactWriteItems"] == 2


async def test_a_release_that_lands_before_its_expiry_wins(
    worker: Worker, core: Broker, clock: Clock, stored: Fetch
) -> None:
    await worker.sync(RUN)
    held = await allocate(core, "student-1")
    read_before = await stored(held.sandbox_id)
    await release(core, held.sandbox_id, "student-1")

    with pytest.raises(Exception, match="lost the race"):
        await core.lifecycle.expire(read_before, TEST_CAUSE)

    assert (await stored(held.sandbox_id)).ended_by == "released"


async def test_a_day_old_stale_sandbox_is_removed_and_its_history_stays(
    worker: Worker, core: Broker, provider: Provider, clock: Clock
) -> None:
    """E12, both sides of the bound."""
    await worker.sync(RUN)
    gone = (await provider.sandbox_ids())[0]
    await provider.faults(hidden_accounts=[int(gone)])
    await worker.sync(RUN)
    clock.now += 24 * HOUR - 1
    early = await worker.purge(RUN)
    clock.now += 1

    due = await worker.purge(RUN)

    assert (early["purged"], due["purged"]) == (0, 1)
    assert await audit(core) == {"available": 9}
    history = [item["action"]["S"] for item in await items_of(core) if item.get("sandbox_id", {}).get("S") == gone]
    assert sorted(history) == ["added", "purged", "stale"]


async def test_a_purged_account_that_returns_is_available_again(
    worker: Worker, core: Broker, provider: Provider, clock: Clock
) -> None:
    await worker.sync(RUN)
    gone = (await provider.sandbox_ids())[0]
    await provider.faults(hidden_accounts=[int(gone)])
    await worker.sync(RUN)
    clock.now += 24 * HOUR
    await worker.purge(RUN)
    await provider.faults(hidden_accounts=[])

    await worker.sync(RUN)

    assert await audit(core) == {"available": 10}


async def test_a_stale_sandbox_that_returned_just_before_the_purge_stays(
    worker: Worker, core: Broker, provider: Provider, clock: Clock, stored: Fetch
) -> None:
    await worker.sync(RUN)
    gone = (await provider.sandbox_ids())[0]
    await provider.faults(hidden_accounts=[int(gone)])
    await worker.sync(RUN)
    read_before = await stored(gone)
    await provider.faults(hidden_accounts=[])
    await worker.sync(RUN)

    with pytest.raises(Exception, match="lost the race"):
        await core.sandboxes.remove(read_before, TEST_CAUSE, now=clock.now)

    assert await audit(core) == {"available": 10}


@pytest.mark.parametrize("attempt", [1, 2, 5, 8, 100])
def test_the_wait_between_attempts_doubles_up_to_its_cap_and_never_vanishes(attempt: int) -> None:
    ceiling = min(900, 10 * 2 ** (attempt - 1))

    waits = [retry_delay_s(attempt, base_s=10, cap_s=900, draw=draw) for draw in (0.0, 0.5, 0.999)]

    assert waits[0] == ceiling / 2
    assert ceiling * 0.99 < waits[2] < ceiling
    assert waits == sorted(waits)


async def test_a_purged_id_that_returns_never_repeats_a_version(
    worker: Worker, core: Broker, provider: Provider, clock: Clock, stored: Fetch
) -> None:
    """Processes remember "this id, up to this version, is taken": a version seen twice would hide the sandbox."""
    await worker.sync(RUN)
    gone = (await provider.sandbox_ids())[0]
    await provider.faults(hidden_accounts=[int(gone)])
    await worker.sync(RUN)
    last = (await stored(gone)).version
    clock.now += 24 * HOUR
    await worker.purge(RUN)
    await provider.faults(hidden_accounts=[])

    await worker.sync(RUN)

    assert (await stored(gone)).version > last


async def test_a_conflict_on_the_outcome_is_no_lost_lease(
    provider: Provider, clock: Clock, proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name, clock=clock) as core, a_worker(core, provider, clock) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        proxy.faults.conflict_next = {0: 1}

        await worker.cleaner.sweep(RUN)

        row = await core.sandboxes.get("acme", sandbox_id)
    assert row is not None
    assert (row.state, row.attempt) == (State.DELETED, 1)


async def test_a_beat_of_its_own_that_lands_before_the_outcome_costs_no_deletion(
    provider: Provider, clock: Clock, proxy: StoreProxy, table_name: str
) -> None:
    """The outcome was decided from the version before the beat: it is written from the one after it."""
    async with a_broker(proxy.url, table_name, clock=clock) as core, a_worker(core, provider, clock) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        beaten: list[int] = []

        async def beat(_: dict[str, Any]) -> None:
            held = await core.sandboxes.get("acme", sandbox_id)
            if held is not None and held.lease_token is not None and not beaten:
                beaten.append(held.version)
                await core.sandboxes.touch(held, held.renew_lease(now=int(clock.now), lease_s=30))

        with proxy.before("TransactWriteItems", beat):
            outcome = await worker.cleaner.sweep(RUN)

        row = await core.sandboxes.get("acme", sandbox_id)
    assert beaten
    assert outcome == {"deleted": 1}
    assert row is not None
    assert (row.state, row.attempt) == (State.DELETED, 1)


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_lost_answer_neither_strands_nor_repeats_a_deletion(
    provider: Provider, clock: Clock, proxy: StoreProxy, table_name: str, lost: int
) -> None:
    """The lease, or the outcome, was written but the answer lost: it is looked up, not waited out."""
    async with a_broker(proxy.url, table_name, clock=clock) as core, a_worker(core, provider, clock) as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        proxy.faults.change({"lose_answer_next": lost, "lose_answer_ops": ["TransactWriteItems"]})

        outcome = await worker.cleaner.sweep(RUN)

        row = await core.sandboxes.get("acme", sandbox_id)
    assert outcome == {"deleted": 1}
    assert row is not None
    assert (row.state, row.attempt) == (State.DELETED, 1)
    assert len(await provider.deletions()) == 1


async def test_no_shard_of_the_queue_starves_while_deletions_are_few(core: Broker, clock: Clock) -> None:
    """One deletion at a time, and always more due than that: each shard has its turn."""
    async with (
        a_provider(sandboxes=24, noise=0) as provider,
        a_worker(core, provider, clock, CLEANUP_CONCURRENCY="1") as worker,
    ):
        ids = [await a_released_sandbox(worker, core, f"student-{n}") for n in range(24)]
        for _ in range(4):
            await worker.cleaner.tick(RUN)
            await worker.cleaner.idle()
        gone = {id_ for id_ in ids if id_ not in await provider.sandbox_ids()}

    assert len(gone) == 4
    assert {shard_of(id_, 4) for id_ in gone} == {0, 1, 2, 3}


async def turned_away(core: Broker, clock: Clock, **pacing: str) -> tuple[int, list[float]]:
    """Delete 40 at a provider that takes 5 a second; how many DELETEs it refused, and the rates meanwhile."""
    rates: list[float] = []
    async with (
        a_provider(sandboxes=40, noise=0) as provider,
        a_worker(core, provider, clock, CLEANUP_RETRY_BASE_SEC="0.1", **pacing) as worker,
    ):
        await provider.faults(max_deletes_per_s=5)
        for n in range(40):
            await a_released_sandbox(worker, core, f"student-{n}")
        async with asyncio.timeout(100):
            while await core.sandboxes.count("acme", State.PENDING_DELETION):
                await worker.cleaner.tick(RUN)
                await asyncio.sleep(0.05)
                clock.now += 1
                rates.append(
                    core.metrics.registry.get_sample_value("worker_pacing_rate", {"tenant": "acme"}) or 0.0
                )
        journal = (await provider.http.get("/_simulator/journal")).json()["results"]
    assert await audit(core) == {"deleted": 40}
    return sum(call["status"] == 429 for call in journal), rates


async def test_deletions_slow_down_for_a_provider_that_says_so_and_recover(
    core: Broker, clock: Clock, ministack: str, table_name: str
) -> None:
    """E6 against a real limit: the pace finds it, recovers, and spares the provider most refusals."""
    refused, rates = await turned_away(core, clock, CSP_DELETES_PER_SEC="20")
    async with a_broker(ministack, f"{table_name}-2", clock=clock) as another:
        fixed = {"CSP_DELETES_PER_SEC": "1000", "CSP_DELETES_PER_SEC_MIN": "1000", "CLEANUP_CONCURRENCY_MIN": "20"}
        unpaced, _ = await turned_away(another, clock, **fixed)

    assert min(rates) <= 10, "it slows down"
    assert rates[-1] > min(rates), "it recovers"
    assert refused * 2 < unpaced


async def test_failed_deletions_come_back_by_themselves_after_a_long_wait(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch
) -> None:
    """E8: given up visibly, tried again by itself after six hours, with all its attempts."""
    async with a_worker(core, provider, clock, CLEANUP_MAX_ATTEMPTS="1") as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        await provider.faults(failing_accounts=[int(sandbox_id)])
        await worker.cleaner.sweep(RUN)
        failed = await stored(sandbox_id)
        clock.now += 6 * HOUR - 1
        early = await worker.revive(RUN)
        clock.now += 1
        late = await worker.revive(RUN)
        await provider.faults(failing_accounts=[])
        await worker.cleaner.sweep(RUN)

    assert (failed.state, failed.last_error) == (State.DELETION_FAILED, "HTTP_500")
    assert (early["revived"], late["revived"]) == (0, 1)
    assert (await stored(sandbox_id)).state is State.DELETED
    assert await audit(core) == {"available": 9, "deleted": 1}


async def test_a_deletion_that_kills_its_worker_every_time_is_given_up_without_another_call(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch
) -> None:
    """Each lease counted as an attempt, none of them ended: it is `deletion_failed`, without another DELETE."""
    async with a_worker(core, provider, clock, CLEANUP_MAX_ATTEMPTS="3") as worker:
        sandbox_id = await a_released_sandbox(worker, core)
        row = await stored(sandbox_id)
        for _ in range(3):
            leased = row.lease(token="of-the-dead", now=0, lease_s=0)
            await core.sandboxes.touch(row, leased)
            row = dataclasses.replace(leased, lease_token=None)
        await core.sandboxes.touch(leased, leased.fail_deletion(error="x", now=0, retry_at=0))

        await worker.cleaner.sweep(RUN)

    after = await stored(sandbox_id)
    assert (after.state, after.attempt) == (State.DELETION_FAILED, 3)
    assert await provider.deletions() == []


@asynccontextmanager
async def a_long_sweep(core: Broker, clock: Clock) -> AsyncIterator[tuple[Worker, Provider, asyncio.Task[Any]]]:
    """Twelve deletions one after the other, of which the first has begun."""
    async with (
        a_provider(sandboxes=12, noise=0, delete_latency_s=0.2) as provider,
        a_worker(core, provider, clock, CLEANUP_CONCURRENCY="1") as worker,
    ):
        for n in range(12):
            await a_released_sandbox(worker, core, f"student-{n}")
        sweeping = asyncio.create_task(worker.cleaner.sweep(RUN))

        async def begun() -> bool:
            return bool(await provider.deletions())

        await until(begun)
        yield worker, provider, sweeping


async def test_a_sweep_begins_nothing_more_once_maintenance_begins(core: Broker, clock: Clock) -> None:
    async with a_long_sweep(core, clock) as (_, provider, sweeping):
        await core.operations.set_mode("acme", ModeName.MAINTENANCE, cause=TEST_CAUSE)
        outcome = await sweeping
        asked = len(await provider.deletions())

    assert asked <= 3
    assert outcome["deleted"] == asked
    assert await audit(core) == {"deleted": asked, "pending_deletion": 12 - asked}


async def test_draining_stops_a_sweep_that_has_much_left_to_do(core: Broker, clock: Clock) -> None:
    async with a_long_sweep(core, clock) as (worker, provider, sweeping):
        await worker.cleaner.drain(20)
        await sweeping
        asked = len(await provider.deletions())

    assert asked <= 3
    assert await audit(core) == {"deleted": asked, "pending_deletion": 12 - asked}


async def test_a_sweep_waits_for_what_it_began_and_not_for_what_ticks_begin(core: Broker, clock: Clock) -> None:
    """Under steady traffic something always runs: a sweep that waited for that would never end."""
    async with (
        a_provider(sandboxes=8, noise=0, delete_latency_s=0.1) as provider,
        a_worker(core, provider, clock) as worker,
    ):
        slow = await a_released_sandbox(worker, core, "student-1")
        await provider.faults(hanging_accounts=[int(slow)])
        await worker.cleaner.tick(RUN)
        quick = await a_released_sandbox(worker, core, "student-2")

        outcome = await asyncio.wait_for(worker.cleaner.sweep(RUN), 30)

        row = await core.sandboxes.get("acme", quick)
        await worker.cleaner.drain(0.1)
    assert outcome["deleted"] == 1
    assert row is not None
    assert row.state is State.DELETED
