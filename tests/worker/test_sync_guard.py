"""E4, E15: a listing that lies by omission marks nobody; every listed account is explained."""

import pytest

from broker.errors import LeadershipLost
from broker.job import Kind, Priority
from broker.sandbox import State
from broker.wiring import Broker
from tests.allocation.students import allocate, release
from tests.audit import audit
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, Fetch, Provider, a_provider, a_worker
from tests.worker.test_lies import Liar, a_worker_of, an_entry
from worker.duties import Worker
from worker.provider.client import ProviderError


async def hide(provider: Provider, count: int) -> list[str]:
    ids = (await provider.sandbox_ids())[:count]
    await provider.faults(hidden_accounts=[int(id_) for id_ in ids])
    return ids


@pytest.mark.parametrize("hidden", [5, 10], ids=["halved", "empty"])
async def test_a_halved_or_empty_listing_marks_nothing_stale_and_alerts(
    worker: Worker, core: Broker, provider: Provider, hidden: int, caplog: pytest.LogCaptureFixture
) -> None:
    await worker.sync(RUN)
    await hide(provider, hidden)

    outcome = await worker.sync(RUN)

    assert (outcome["stale"], outcome["guarded"]) == (0, hidden)
    assert await audit(core) == {"available": 10}
    (alert,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "sandbox-broker sync --confirm" in alert.__dict__["todo"]
    assert core.metrics.registry.get_sample_value("worker_sync_guard_active", {"tenant": "acme"}) == 1


async def test_less_than_half_is_believed_at_once(worker: Worker, core: Broker, provider: Provider) -> None:
    await worker.sync(RUN)
    await hide(provider, 4)

    await worker.sync(RUN)

    assert await audit(core) == {"available": 6, "stale": 4}


async def test_three_equal_listings_in_a_row_are_believed_also_by_another_worker(
    worker: Worker, core: Broker, provider: Provider, clock: Clock
) -> None:
    """The suspicion stands in the table: a worker that takes over goes on counting."""
    await worker.sync(RUN)
    await hide(provider, 7)

    outcomes = []
    for _ in range(2):
        outcomes.append(await worker.sync(RUN))
        clock.now += 600
    async with a_worker(core, provider, clock) as successor:
        outcomes.append(await successor.sync(RUN))

    assert [outcome["stale"] for outcome in outcomes] == [0, 0, 7]
    assert core.metrics.registry.get_sample_value("worker_sync_guard_active", {"tenant": "acme"}) == 0


async def test_three_alarming_listings_that_differ_are_not_believed(
    worker: Worker, core: Broker, provider: Provider, clock: Clock
) -> None:
    await worker.sync(RUN)
    for hidden in (5, 6, 7, 8):
        clock.now += 600
        await hide(provider, hidden)
        await worker.sync(RUN)
        await provider.faults(hidden_accounts=[])

    assert await audit(core) == {"available": 10}


async def test_an_operator_confirms_an_alarming_listing(worker: Worker, core: Broker, provider: Provider) -> None:
    await worker.sync(RUN)
    await hide(provider, 10)
    await worker.sync(RUN)

    outcome = await worker.sync(RUN, confirmed=True)

    assert outcome["stale"] == 10
    assert await audit(core) == {"stale": 10}


async def test_our_own_deletions_do_not_trip_the_guard(worker: Worker, core: Broker) -> None:
    """Eight of ten are released and deleted: the listing shrinks to a fifth, and that is right."""
    await worker.sync(RUN)
    for n in range(8):
        held = await allocate(core, f"student-{n}")
        await release(core, held.sandbox_id, f"student-{n}")
    await worker.cleaner.sweep(RUN)

    outcome = await worker.sync(RUN)

    assert outcome["guarded"] == 0
    state = await core.sync_states.read("acme")
    assert state is not None
    assert (state.expected, state.missing, state.suspicion) == (2, 0, None)


async def test_allocating_what_is_missing_does_not_begin_the_count_anew(
    worker: Worker, core: Broker, provider: Provider, clock: Clock
) -> None:
    """A workshop goes on while the provider lies: held sandboxes are missing like free ones."""
    await worker.sync(RUN)
    await hide(provider, 10)
    for n in range(2):
        await worker.sync(RUN)
        await allocate(core, f"student-{n}")
        clock.now += 600

    outcome = await worker.sync(RUN)

    assert (outcome["stale"], outcome["missing"]) == (8, 2)


@pytest.mark.parametrize(("later_s", "stale"), [(3600, 10), (3601, 0)])
async def test_an_operators_word_on_a_listing_is_good_for_an_hour(
    worker: Worker, core: Broker, provider: Provider, clock: Clock, later_s: int, stale: int
) -> None:
    """The job was queued in an outage, and runs when the provider says something else again."""
    await worker.sync(RUN)
    await hide(provider, 10)
    asked = {"requested_by": "olga", "request_id": "req-1", "reason": "all are gone"}
    await core.jobs.enqueue("acme", Kind.SYNC, params={"confirm": "true"}, priority=Priority.HIGH, **asked)
    clock.now += later_s

    await worker.runner.tick(RUN)
    await worker.runner.idle()

    assert (await audit(core))["stale"] == stale


async def test_a_listing_that_breaks_off_marks_nothing_stale(
    worker: Worker, core: Broker, provider: Provider
) -> None:
    await worker.sync(RUN)
    await hide(provider, 2)
    await provider.faults(list_500_rate=1.0)

    with pytest.raises(ProviderError):
        await worker.sync(RUN)

    assert await audit(core) == {"available": 10}


async def test_a_sync_whose_leader_was_replaced_writes_nothing_more(
    worker: Worker, core: Broker, provider: Provider
) -> None:
    await worker.sync(RUN)
    await hide(provider, 2)
    leadership = worker._leadership
    seen = await core.leader.read(leadership._scope)
    await core.leader.take(seen, scope=leadership._scope, holder="usurper", now=0)

    with pytest.raises(LeadershipLost):
        await worker.sync(RUN)

    assert await audit(core) == {"available": 10}


async def test_every_listed_account_is_in_exactly_one_explained_state(
    core: Broker, provider: Provider, clock: Clock, stored: Fetch
) -> None:
    """E15: available, held, being deleted, failed, foreign, no sandbox, unknown; their sum is the listing."""
    async with (
        a_provider(sandboxes=12, noise=3, listing_lag_s=3000) as crowded,
        a_worker(core, crowded, clock, CLEANUP_MAX_ATTEMPTS="1") as worker,
    ):
        await worker.sync(RUN)
        for n in range(4):
            held = await allocate(core, f"student-{n}")
            if n:
                await release(core, held.sandbox_id, f"student-{n}")
            if n == 3:
                await crowded.faults(failing_accounts=[int(held.sandbox_id)])
        await worker.cleaner.sweep(RUN)
        free = [row.id async for row in core.sandboxes.walk("acme", State.AVAILABLE)]
        await crowded.http.patch(f"/_simulator/accounts/{free[0]}", json={"name": "   "})

        await worker.sync(RUN)

        state = await core.sync_states.read("acme")
        listed = len([a for a in await crowded.accounts() if a["deleted_at"] is None]) + 2
    assert state is not None
    assert {kind.value: count for kind, count in state.accounts.items() if count} == {
        "available": 7,
        "held": 1,
        "being_deleted": 2,
        "failed": 1,
        "no_sandbox": 3,
        "unknown": 1,
    }
    assert sum(state.accounts.values()) == listed


async def test_an_account_that_is_listed_with_broken_facts_is_not_missing(
    worker: Worker, core: Broker, provider: Provider
) -> None:
    """Also where an entry does not even say which sandbox it may be: then nobody is taken for missing."""
    await worker.sync(RUN)
    await provider.faults(list_garbage="missing_fields", garbage_every=1)

    outcomes = [await worker.sync(RUN) for _ in range(4)]

    assert [outcome["stale"] for outcome in outcomes] == [0] * 4
    assert (await audit(core))["stale"] == 0


async def test_an_entry_that_says_which_sandbox_it_is_keeps_that_one_and_nobody_else(
    core: Broker, clock: Clock
) -> None:
    """Its name is broken, its id is not: it is there. What is truly gone beside it is still taken for gone."""
    liar = Liar()
    async with a_worker_of(liar, core, clock) as worker:
        liar.entries = [an_entry(n, f"identity/accounts/{n}") for n in range(1, 6)]
        await worker.sync(RUN)
        liar.entries = [an_entry(1, "identity/accounts/1", name=""), *liar.entries[1:4]]
        outcome = await worker.sync(RUN)

    assert (outcome["invalid"], outcome["stale"]) == (1, 1)
    assert await audit(core) == {"available": 4, "stale": 1}


async def test_what_stays_unexplained_is_named_and_its_age_counts_on(core: Broker, clock: Clock) -> None:
    liar = Liar()
    async with a_worker_of(liar, core, clock) as worker:
        liar.entries = [an_entry(1, "identity/accounts/a"), an_entry(2, "identity/accounts/b", name="")]
        await worker.sync(RUN)
        clock.now += 4000
        liar.entries.append(an_entry(3, "identity/accounts/c", name=None))
        await worker.sync(RUN)
        age_s = core.metrics.registry.get_sample_value("worker_provider_unexplained_seconds", {"tenant": "acme"})
        state = await core.sync_states.read("acme")
        liar.entries = liar.entries[:1]
        await worker.sync(RUN)

    assert age_s == 4000
    assert state is not None
    assert sorted(what.partition(":")[0] for what in state.unexplained) == ["2", "3"]
    assert core.metrics.registry.get_sample_value("worker_provider_unexplained_seconds", {"tenant": "acme"}) == 0


async def test_an_account_of_another_tenant_is_foreign_and_explained(
    worker: Worker, core: Broker, provider: Provider, clock: Clock
) -> None:
    await worker.sync(RUN)
    async with a_worker(core, provider, clock, BROKER_TENANT="rival") as rival:
        await rival.sync(RUN)

    state = await core.sync_states.read("rival")
    assert state is not None
    assert {kind.value: count for kind, count in state.accounts.items() if count} == {
        "foreign": 10,
        "no_sandbox": 3,
    }
