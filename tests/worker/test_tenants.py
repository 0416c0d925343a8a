"""B3: one worker serves every tenant; what happens to one of them, and at its provider, is no other's trouble."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.errors import LeadershipLost
from broker.policy import Explained
from broker.sandbox import State
from broker.store import table
from broker.store.leader import LEADER_SCOPE
from broker.tenant import Provider, Tenant
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, release
from tests.audit import audit
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker
from tests.worker.conftest import RUN, TOKEN, a_leader, a_provider, a_worker, until, worker_settings
from tests.worker.conftest import Provider as Simulator
from tests.worker.test_process import a_worker_process
from worker.duties import Worker
from worker.provider.client import ProviderError
from worker.roster import Roster
from worker.schedule import Job, Schedule, _Entry

TOKENS = {"CSP_API_TOKEN_TEAM": TOKEN, "AWS_SECRET_ACCESS_KEY": "not-for-providers"}


@pytest.fixture
async def core(ministack: str, table_name: str) -> AsyncIterator[Broker]:
    async with a_broker(ministack, table_name) as broker:
        await broker.tenants.ensure("acme", shards=4, now=NOW)
        yield broker


@asynccontextmanager
async def a_roster(
    core: Broker,
    provider: Simulator,
    *,
    environment: Mapping[str, str] = TOKENS,
    **more: str,
) -> AsyncIterator[Roster]:
    """A worker that leads and serves, its environment's tenant being acme."""
    values = {"CSP_BASE_URL": provider.url, "SYNC_INTERVAL_SEC": "0.3", "CLEANUP_POLL_SEC": "0.1"}
    settings = worker_settings(**(values | more))
    async with (
        a_leader(core, scope=LEADER_SCOPE) as leadership,
        Roster(settings, core, leadership, environment=environment) as roster,
        a_term(roster, core),
    ):
        yield roster


@asynccontextmanager
async def a_still_roster(core: Broker, provider: Simulator) -> AsyncIterator[Roster]:
    """The same, but nothing ticks, and tenants are read once: what is to happen, a test has happen."""
    async with (
        a_leader(core, scope=LEADER_SCOPE) as leadership,
        Roster(worker_settings(CSP_BASE_URL=provider.url), core, leadership, environment=TOKENS) as roster,
    ):
        await roster.refresh()
        yield roster


@asynccontextmanager
async def a_term(roster: Roster, core: Broker) -> AsyncIterator[None]:
    """What worker/main.py makes of a term that another one's lead ends."""
    schedule = Schedule(core.metrics)
    schedule.start()
    task = asyncio.create_task(roster.serve(schedule))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        schedule.stop()
        await roster.stand_down()
        for worker in roster.workers():
            await worker.cleaner.idle()


async def a_tenant(core: Broker, provider: Simulator | None, name: str = "team", **facts: Any) -> None:
    own = None if provider is None else Provider(base_url=provider.url, secret="env:CSP_API_TOKEN_TEAM")
    await core.tenants.create(Tenant(name=name, **({"provider": own} | facts)), TEST_CAUSE, now=NOW)


async def supply(core: Broker, name: str, provider: Simulator | None, *prefixes: str) -> None:
    own = None if provider is None else Provider(base_url=provider.url, secret="env:CSP_API_TOKEN_TEAM")
    await core.tenants.change(
        name, lambda tenant: tenant.supplied(provider=own, prefixes=prefixes), TEST_CAUSE, now=NOW
    )


async def until_available(core: Broker, count: int, tenant: str = "acme") -> None:
    async def filled() -> bool:
        return await core.sandboxes.count(tenant, State.AVAILABLE) == count

    await until(filled)


async def until_deleted(core: Broker, sandbox_id: str, tenant: str = "acme") -> None:
    async def gone() -> bool:
        row = await core.sandboxes.get(tenant, sandbox_id)
        return row is not None and row.state is State.DELETED

    await until(gone)


def runs(core: Broker, tenant: str, outcome: str) -> float:
    labels = {"tenant": tenant, "duty": "sync", "outcome": outcome}
    return core.metrics.registry.get_sample_value("worker_job_runs_total", labels) or 0.0


async def until_more_syncs(core: Broker, tenant: str, outcome: str, more: int = 2) -> None:
    before = runs(core, tenant, outcome)

    async def ran() -> bool:
        return runs(core, tenant, outcome) >= before + more

    await until(ran)


def duties(roster: Roster, tenant: str) -> Worker:
    worker = roster.worker_of(tenant)
    assert worker is not None, f"{tenant} is not served"
    return worker


async def test_a_provider_that_answers_nothing_holds_up_no_other_tenant(core: Broker) -> None:
    async with a_provider() as good, a_provider(seed=2) as hanging:
        await hanging.faults(list_hang_rate=1, delete_hang_rate=1)
        await a_tenant(core, hanging)
        account = a_sandbox(tenant="team", provider=f"127.0.0.1:{hanging.url.rpartition(':')[2]}")
        await core.sandboxes.add(account, TEST_CAUSE, now=NOW)
        async with a_roster(core, good, CSP_READ_TIMEOUT_SEC="300", CSP_DELETE_TIMEOUT_SEC="300") as roster:
            await until_available(core, 10)
            theirs = await allocate(core, "student-1", tenant="team")
            await release(core, theirs.sandbox_id, "student-1", tenant="team")

            async def both_hang() -> bool:
                team = roster.worker_of("team")
                return team is not None and team._syncing.locked() and bool(team.cleaner._running)

            await until(both_hang)

            held = await allocate(core, "student-1")
            await release(core, held.sandbox_id, "student-1")
            await until_deleted(core, held.sandbox_id)
            await until_more_syncs(core, "acme", "ok")

            assert await both_hang(), "all that happened while the other still hung"
            assert (runs(core, "team", "ok"), runs(core, "team", "failed")) == (0, 0)
            await duties(roster, "team").cleaner.drain(0.1)  # or the end of the test would wait for it


async def test_a_tenant_whose_sync_crashes_stops_nobody_else_and_is_named(
    core: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_provider() as good, a_provider(seed=2) as other:
        await a_tenant(core, other)
        odd = table.sync_key("team") | table.encode({"at": 1, "v": 1, "unexplained": "no JSON"})
        await core.client.call("put_item", TableName=core.client.table.name, Item=odd)
        async with a_roster(core, good):
            with caplog.at_level(logging.ERROR, logger="worker"):
                await until_more_syncs(core, "team", "crashed")
                await until_more_syncs(core, "acme", "ok")

    crashes = [record.__dict__ for record in caplog.records if record.message == "job crashed"]
    assert {(facts["job"], facts["tenant"]) for facts in crashes} == {("sync", "team")}
    assert await core.sandboxes.count("acme", State.AVAILABLE) == 10


async def test_equal_ids_at_two_providers_are_two_accounts(core: Broker) -> None:
    """Ids and uuids are the same, as both simulators begin with one seed."""
    async with a_provider() as ours, a_provider() as theirs:
        await a_tenant(core, theirs)
        async with a_roster(core, ours):
            await until_available(core, 10)
            await until_available(core, 10, "team")
            held = await allocate(core, "student-1", tenant="team")
            same = await core.sandboxes.get("acme", held.sandbox_id)
            await release(core, held.sandbox_id, "student-1", tenant="team")
            await until_deleted(core, held.sandbox_id, "team")
            await until_more_syncs(core, "acme", "ok")

            assert same is not None
            assert same.external_id == held.external_id
            assert await core.sandboxes.get("acme", held.sandbox_id) == same
            assert (await ours.deletions(), len(await theirs.deletions())) == ([], 1)
    await audit(core, "acme")
    await audit(core, "team")


async def test_one_provider_under_two_names_hands_no_account_to_two_tenants(core: Broker) -> None:
    """The tenant's own connection leads to where the environment's leads, in another spelling."""
    async with a_provider() as shared:
        own = Provider(base_url=f"{shared.url}/", secret="env:CSP_API_TOKEN_TEAM")
        await core.tenants.create(Tenant(name="team", provider=own), TEST_CAUSE, now=NOW)
        async with a_roster(core, shared):
            await until_more_syncs(core, "acme", "ok")
            await until_more_syncs(core, "team", "ok")

    counts = [await core.sandboxes.count(tenant, State.AVAILABLE) for tenant in ("acme", "team")]
    assert sum(counts) == 10


async def test_of_a_shared_listing_each_account_is_one_tenants_by_its_prefix(core: Broker) -> None:
    async with a_provider(sandboxes=0) as shared:
        for n in range(3):
            await shared.http.post("/_simulator/accounts", json={"name": f"red-{n}"})
        for n in range(2):
            await shared.http.post("/_simulator/accounts", json={"name": f"blue-{n}"})
        await shared.http.post("/_simulator/accounts", json={"name": "nobodys"})
        await supply(core, "acme", None, "red-")
        await a_tenant(core, None, prefixes=("blue-", "green-"))
        async with a_roster(core, shared):
            await until_available(core, 3)
            await until_available(core, 2, "team")
            await until_more_syncs(core, "acme", "ok")
            await until_more_syncs(core, "team", "ok")

    for tenant, others in (("acme", 2), ("team", 3)):
        state = await core.sync_states.read(tenant)
        assert state is not None
        assert state.accounts[Explained.OTHER_TENANTS] == others
        assert state.accounts[Explained.NO_SANDBOX] == 1 + 3, "nobody's, and three of the provider's noise"
        assert state.accounts[Explained.FOREIGN] == 0


@pytest.mark.parametrize("first", ["acme", "team"])
async def test_a_tenant_without_prefixes_has_what_no_other_names(core: Broker, first: str) -> None:
    """The installation's own has none at first: a team's accounts are the team's, whoever reads first."""
    async with a_provider(sandboxes=0) as shared:
        for name in ("lab-1", "team-1", "team-2"):
            await shared.http.post("/_simulator/accounts", json={"name": name})
        await core.tenants.ensure("acme", shards=4, now=NOW)
        await a_tenant(core, None, prefixes=("team-",))
        for tenant in sorted(("acme", "team"), key=lambda name: name != first):
            async with a_worker(core, shared, lambda: NOW, BROKER_TENANT=tenant) as worker:
                await worker.sync(RUN)

    assert await core.sandboxes.count("acme", State.AVAILABLE) == 1
    assert await core.sandboxes.count("team", State.AVAILABLE) == 2
    for tenant, others in (("acme", 2), ("team", 1)):
        state = await core.sync_states.read(tenant)
        assert state is not None
        assert state.accounts[Explained.OTHER_TENANTS] == others, "also those of who has no prefix"


async def test_a_tenant_that_brings_the_environments_own_address_shares_its_provider(core: Broker) -> None:
    """Under another path and another secret: what its prefix names is not the installation's own tenant's."""
    async with a_provider(sandboxes=0) as shared:
        for name in ("lab-1", "team-1"):
            await shared.http.post("/_simulator/accounts", json={"name": name})
        provider = Provider(base_url=f"{shared.url}/other", secret="env:CSP_API_TOKEN_TEAM")
        team = Tenant(name="team", provider=provider, prefixes=("team-",))
        await core.tenants.create(team, TEST_CAUSE, now=NOW)
        async with a_worker(core, shared, lambda: NOW) as acme:
            await acme.sync(RUN)

    assert [row.name async for row in core.sandboxes.walk("acme", State.AVAILABLE)] == ["lab-1"]


async def test_a_prefix_that_is_taken_away_is_missing_under_the_guard_and_then_the_other_tenants(
    core: Broker,
) -> None:
    async with a_provider() as shared:
        await a_tenant(core, None, prefixes=("lab-",))
        await supply(core, "acme", None, "none-")
        async with a_worker(core, shared, lambda: NOW, BROKER_TENANT="team") as team:
            await team.sync(RUN)
            held = await allocate(core, "student-1", tenant="team")
            await supply(core, "team", None, "other-")
            guarded = await team.sync(RUN)
            listed = await core.sandboxes.count("team", State.AVAILABLE)
            confirmed = await team.sync(RUN, confirmed=True)
            in_use = await core.sandboxes.get("team", held.sandbox_id)
            async with a_worker(core, shared, lambda: NOW) as acme:
                await supply(core, "acme", None, "lab-")
                await acme.sync(RUN)
                before_purge = await core.sandboxes.count("acme", State.AVAILABLE)
                async for stale in core.sandboxes.walk("team", State.STALE):
                    await core.sandboxes.remove(stale, TEST_CAUSE, now=NOW)
                await acme.sync(RUN)
                after_purge = await core.sandboxes.count("acme", State.AVAILABLE)

    assert (guarded["guarded"], listed) == (10, 9)
    assert (confirmed["stale"], confirmed["missing"]) == (9, 1)
    assert in_use is not None
    assert (in_use.state, in_use.missing_since) == (State.ALLOCATED, NOW)
    assert (before_purge, after_purge) == (0, 9), "what a student holds stays its tenant's"


async def test_a_variable_that_is_no_providers_token_is_never_sent_and_the_report_says_why(core: Broker) -> None:
    async with a_provider() as good, a_provider(seed=2) as curious:
        provider = Provider(base_url=curious.url, secret="env:AWS_SECRET_ACCESS_KEY")
        await core.tenants.create(Tenant(name="team", provider=provider), TEST_CAUSE, now=NOW)
        async with a_roster(core, good) as roster:
            await until_more_syncs(core, "team", "failed")
            await until_more_syncs(core, "acme", "ok")
            await duties(roster, "team").report(RUN)
            with pytest.raises(ProviderError, match="SECRET_REFUSED"):
                await duties(roster, "team").sync(RUN)
        journal = (await curious.http.get("/_simulator/journal")).json()["results"]

    report = await core.reports.read("team")
    assert report is not None
    assert report.provider["secret"].startswith("SECRET_REFUSED: env: may name a variable that begins with CSP_")
    assert journal == []


async def test_another_provider_at_run_time_gets_a_door_of_its_own_and_none_of_the_formers_deletions(
    core: Broker,
) -> None:
    """Both list the same ids. The release comes after the change: its account is at the former provider."""
    async with a_provider() as good, a_provider() as former, a_provider() as latter:
        await a_tenant(core, former)
        async with a_roster(core, good) as roster:
            await until_available(core, 10, "team")
            held = await allocate(core, "student-1", tenant="team")
            old = duties(roster, "team")
            await former.faults(list_500_rate=1)

            async def open_() -> bool:
                return old.provider.states()["list"].startswith("open")

            await until(open_)
            await supply(core, "team", latter)

            async def changed() -> bool:
                await roster.refresh()
                return roster.worker_of("team") is not old

            await until(changed)
            assert duties(roster, "team").provider.states()["list"] == "closed"
            await until_more_syncs(core, "team", "ok")
            await release(core, held.sandbox_id, "student-1", tenant="team")

            async def refused() -> bool:
                row = await core.sandboxes.get("team", held.sandbox_id)
                return row is not None and row.state is State.DELETION_FAILED

            await until(refused)
            row = await core.sandboxes.get("team", held.sandbox_id)

            async def closed() -> bool:
                return old not in roster.workers()

            await until(closed)
            deletions = [*await former.deletions(), *await latter.deletions()]

    assert row is not None
    assert (row.last_error or "").startswith("PROVIDER_CHANGED: the account is at 127.0.0.1:")
    assert deletions == []


async def test_what_a_former_provider_lists_is_written_no_more(core: Broker) -> None:
    async with a_provider() as former, a_worker(core, former, lambda: NOW) as worker:
        await worker.retire(1)
        with pytest.raises(LeadershipLost):
            await worker.sync(RUN)

    assert await core.sandboxes.count("acme", State.AVAILABLE) == 0


@pytest.mark.parametrize("moved", ["provider", "prefixes"])
async def test_a_listing_is_never_judged_by_another_connection_than_it_was_asked_for_with(
    core: Broker, moved: str
) -> None:
    """The change is in the table, and the roster has not seen it: no account of that door becomes the team's."""
    async with a_provider() as shared, a_provider(seed=2) as latter:
        await a_tenant(core, None, prefixes=("north-",))
        async with a_still_roster(core, shared) as roster:
            before = duties(roster, "team")
            await duties(roster, "acme").sync(RUN)
            assert (await before.sync(RUN))["added"] == 0
            await supply(core, "team", latter if moved == "provider" else None)
            with pytest.raises(LeadershipLost):
                await before.sync(RUN)
            assert await core.sandboxes.count("team", State.AVAILABLE) == 0

            await roster.refresh()
            assert duties(roster, "team") is not before
            await duties(roster, "team").sync(RUN)
            taken = await core.sandboxes.count("team", State.AVAILABLE)

    assert taken == (10 if moved == "provider" else 0), (
        "the other team's provider has ten, the shared ones are acme's"
    )


async def test_a_worker_boots_whatever_its_own_tenants_connection_is(core: Broker) -> None:
    """Written by a release that asked less of an address; every other tenant is served as ever."""
    own = Provider(base_url="https://10.01.02.03", secret="env:CSP_API_TOKEN_TEAM")
    async with a_provider() as shared, a_provider(seed=2) as theirs:
        await core.tenants.change("acme", lambda t: t.supplied(provider=own, prefixes=()), TEST_CAUSE, now=NOW)
        await a_tenant(core, theirs)
        async with a_still_roster(core, shared) as roster:
            with pytest.raises(ProviderError, match="BASE_URL_UNUSABLE"):
                await duties(roster, "acme").sync(RUN)
            assert (await duties(roster, "team").sync(RUN))["added"] == 10


async def test_syncs_at_the_same_time_do_not_refuse_each_other_at_the_leaders_item(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name) as core, a_provider(sandboxes=120) as one, a_provider() as other:
        await core.tenants.ensure("acme", shards=4, now=NOW)
        await a_tenant(core, other)
        async with (
            a_leader(core, scope=LEADER_SCOPE) as leadership,
            Roster(worker_settings(CSP_BASE_URL=one.url), core, leadership, environment=TOKENS) as roster,
        ):
            await roster.refresh()
            proxy.faults.latency_ms = 20
            proxy.counts.reset()
            synced = await asyncio.gather(*(duties(roster, tenant).sync(RUN) for tenant in ("acme", "team")))

    assert [outcome["added"] for outcome in synced] == [120, 10]
    assert proxy.counts.faults.get("real_conflict", 0) == 0


async def test_a_quota_counts_what_was_allocated_before_it_was_set(core: Broker) -> None:
    async with a_provider() as good, a_worker(core, good, lambda: NOW) as worker:
        await worker.sync(RUN)
        held = await allocate(core, "student-1")
        without = await worker.seat(RUN)
        await core.tenants.change("acme", lambda t: t.limited(max_live=1), TEST_CAUSE, now=NOW)
        seated = await worker.seat(RUN)
        row = await core.sandboxes.get("acme", held.sandbox_id)

    assert (without, seated) == ({}, {"seated": 1})
    assert row is not None
    assert row.slot == 0
    assert "quota" in {job.name for job in worker.jobs()}


async def test_a_look_that_finds_nothing_is_repeated_less_often_until_it_finds_something() -> None:
    found = False

    async def look(_: str) -> Any:
        raise AssertionError

    async def may(_: Job) -> bool:
        return True

    entry = _Entry(Job("clean", look, 0.1, at_work=lambda: found), "team", may, rest_s=10)
    pauses = []
    for _ in range(6):
        entry.looked(100.0)
        pauses.append(entry.resting_until - 100)
    found = True
    entry.looked(100.0)

    assert pauses == [1, 2, 4, 8, 10, 10]
    assert entry.resting_until == 100


async def test_a_new_term_serves_every_tenant_again(core: Broker) -> None:
    values = {"SYNC_INTERVAL_SEC": "0.3", "CLEANUP_POLL_SEC": "0.1"}
    async with a_provider() as good, a_provider(seed=2) as other:
        await a_tenant(core, other)
        settings = worker_settings(CSP_BASE_URL=good.url, **values)
        async with (
            a_leader(core, scope=LEADER_SCOPE) as leadership,
            Roster(settings, core, leadership, environment=TOKENS) as roster,
        ):
            async with a_term(roster, core):
                await until_available(core, 10, "team")
            held = await allocate(core, "student-1", tenant="team")
            await release(core, held.sandbox_id, "student-1", tenant="team")
            async with a_term(roster, core):
                await until_deleted(core, held.sandbox_id, "team")
                await until_more_syncs(core, "acme", "ok")


async def test_a_tenant_that_is_made_while_the_worker_runs_gets_its_pool_and_the_next_leader_keeps_it(
    ministack: str, table_name: str
) -> None:
    """Real processes: the one that leads is killed, the other goes on for both tenants."""
    environment = {"CSP_API_TOKEN_TEAM": TOKEN, "LEADER_LEASE_SEC": "2", "SYNC_INTERVAL_SEC": "1"}
    async with (
        a_provider() as good,
        a_provider(seed=2) as other,
        a_broker(ministack, table_name) as core,
        a_worker_process(ministack, table_name, good, **environment) as first,
    ):
        await first.event("job done", job="sync", tenant="acme")
        await a_tenant(core, other)
        await first.event("tenant taken up", tenant="team", anew=False)
        await until_available(core, 10, "team")
        async with a_worker_process(ministack, table_name, good, **environment) as second:
            await second.event("ready")
            first.process.kill()
            await second.event("leading", fence=2)
            for tenant in ("acme", "team"):
                held = await allocate(core, "student-1", tenant=tenant)
                await release(core, held.sandbox_id, "student-1", tenant=tenant)
                await second.event("deleted at the provider", sandbox_id=held.sandbox_id, tenant=tenant)
            code = await second.stop()

    assert code == 0


async def test_sigterm_waits_for_all_tenants_at_once_within_one_deadline(ministack: str, table_name: str) -> None:
    """Both providers hang: one after the other would take twice what there is, and the process its own end."""
    environment = {"CSP_API_TOKEN_TEAM": TOKEN, "GRACEFUL_SHUTDOWN_TIMEOUT_SEC": "10"}
    async with (
        a_provider() as good,
        a_provider(seed=2) as other,
        a_broker(ministack, table_name) as core,
    ):
        await a_tenant(core, other)
        async with a_worker_process(ministack, table_name, good, **environment) as worker:
            await until_available(core, 10)
            await until_available(core, 10, "team")
            for provider, tenant in ((good, "acme"), (other, "team")):
                await provider.faults(delete_hang_rate=1)
                held = await allocate(core, "student-1", tenant=tenant)
                await release(core, held.sandbox_id, "student-1", tenant=tenant)

                async def in_hand(sandbox_id: str = held.sandbox_id, tenant: str = tenant) -> bool:
                    row = await core.sandboxes.get(tenant, sandbox_id)
                    return row is not None and row.lease_token is not None

                await until(in_hand)
            code = await worker.stop()

    assert code == 0
    assert "the drain did not end in time: gone without it" not in {event["event"] for event in worker.events}
