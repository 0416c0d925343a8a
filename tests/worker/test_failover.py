"""E1: one worker leads. Real processes, real signals: killed, paused and woken, skewed, cut off from the store."""

import asyncio
import signal
from typing import Any

import httpx
import pytest

from broker.sandbox import State
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, release
from tests.audit import audit
from tests.builders import TEST_CAUSE
from tests.conftest import a_broker
from tests.worker.conftest import Provider, a_provider, until
from tests.worker.test_process import FAKED, FAKETIME, Process, a_worker_process

LEASE = {"LEADER_LEASE_SEC": "2"}


async def phase(worker: Process) -> str:
    async with httpx.AsyncClient() as http:
        return str((await http.get(f"{worker.url}/readyz")).json()["status"])


async def until_phase(worker: Process, wanted: str) -> None:
    async def reached() -> bool:
        return await phase(worker) == wanted

    await until(reached)


def times(worker: Process, event: str, **facts: Any) -> int:
    return sum(e["event"] == event and facts.items() <= e.items() for e in worker.events)


async def test_a_second_worker_stands_by_and_runs_nothing(
    ministack: str, table_name: str, provider: Provider
) -> None:
    async with (
        a_broker(ministack, table_name),
        a_worker_process(ministack, table_name, provider, SYNC_INTERVAL_SEC="0.2", **LEASE) as leader,
    ):
        await leader.event("job done", job="sync")
        async with a_worker_process(ministack, table_name, provider, SYNC_INTERVAL_SEC="0.2", **LEASE) as standby:
            await standby.event("ready")
            before = times(leader, "job done", job="sync")

            async def longer_than_a_lease() -> bool:
                return times(leader, "job done", job="sync") >= before + 15

            await until(longer_than_a_lease)

            assert await phase(standby) == "standby"
            assert await phase(leader) == "leading"
            assert times(standby, "job done") == 0


async def test_a_standby_takes_over_within_thirty_seconds_of_a_kill_with_the_default_lease(
    ministack: str, table_name: str, provider: Provider
) -> None:
    async with (
        a_broker(ministack, table_name) as core,
        a_worker_process(ministack, table_name, provider) as leader,
    ):
        await leader.event("job done", job="sync")
        async with a_worker_process(ministack, table_name, provider) as standby:
            await standby.event("ready")
            held = await allocate(core, "student-1")
            leader.process.kill()
            async with asyncio.timeout(30):
                await standby.event("leading", fence=2)
            await release(core, held.sandbox_id, "student-1")
            await standby.event("deleted at the provider", sandbox_id=held.sandbox_id)


async def test_sigterm_hands_the_lead_over_at_once(ministack: str, table_name: str, provider: Provider) -> None:
    """The lease is a minute long: nobody waits for it."""
    async with (
        a_broker(ministack, table_name),
        a_worker_process(ministack, table_name, provider, LEADER_LEASE_SEC="60") as leader,
    ):
        await leader.event("job done", job="sync")
        async with a_worker_process(ministack, table_name, provider, LEADER_LEASE_SEC="60") as standby:
            await standby.event("ready")
            await leader.stop()
            await standby.event("leading", fence=2)


async def test_the_lead_goes_over_while_a_deletion_is_still_in_hand(ministack: str, table_name: str) -> None:
    """H3: nobody waits for the provider, which takes its time; and the deletion is asked for once."""
    lease = {"LEADER_LEASE_SEC": "30"}  # it does not lapse within this test; a standby looks every 6 s
    async with (
        a_provider(delete_latency_s=10) as provider,
        a_broker(ministack, table_name) as core,
        a_worker_process(ministack, table_name, provider, **lease) as leader,
    ):
        await leader.event("job done", job="sync")
        async with a_worker_process(ministack, table_name, provider, **lease) as standby:
            await standby.event("ready")
            held = await allocate(core, "student-1")
            await release(core, held.sandbox_id, "student-1")
            await until_leased(core, held.sandbox_id)
            code = await leader.stop()
            leads = await standby.event("leading", fence=2)
        deleted = await leader.event("deleted at the provider", sandbox_id=held.sandbox_id)
        assert code == 0
        assert leads["at"] < deleted["at"]
        assert len(await provider.deletions()) == 1
        order = [e["event"] for e in leader.events if e["event"].startswith(("draining", "stopped"))]
        assert order == [
            "draining", "draining: jobs handed back", "draining: lead handed back", "draining: nothing in hand",
            "stopped",
        ]  # fmt: skip


async def until_leased(core: Broker, sandbox_id: str) -> None:
    """Its deletion is in hand."""

    async def leased() -> bool:
        row = await core.sandboxes.get("acme", sandbox_id)
        return row is not None and row.lease_token is not None

    await until(leased)


async def test_a_paused_leader_that_wakes_finds_another_leading_and_stands_by(
    ministack: str, table_name: str, provider: Provider
) -> None:
    async with (
        a_broker(ministack, table_name),
        a_worker_process(ministack, table_name, provider, SYNC_INTERVAL_SEC="0.3", **LEASE) as leader,
        a_worker_process(ministack, table_name, provider, SYNC_INTERVAL_SEC="0.3", **LEASE) as standby,
    ):
        first, second = (leader, standby) if await _leads(leader, standby) else (standby, leader)
        await first.event("job done", job="sync")
        first.signal_all(signal.SIGSTOP)
        await second.event("leading", fence=2)
        first.signal_all(signal.SIGCONT)

        await first.event("no longer leading: standing by")
        await until_phase(first, "standby")
        assert await phase(second) == "leading"


async def _leads(one: Process, other: Process) -> bool:
    """Whether it is the first of the two that won."""
    async with asyncio.timeout(30):
        while True:
            for worker in (one, other):
                if times(worker, "leading"):
                    return worker is one
            await asyncio.sleep(0.02)


async def test_a_write_that_reaches_the_store_after_the_take_over_is_refused(
    proxy: StoreProxy, ministack: str, table_name: str
) -> None:
    """The leader is paused with a batch of its sync on the way. It lands while another leads."""
    async with a_provider(sandboxes=6) as provider, a_broker(ministack, table_name) as core:
        held_up, let_go = asyncio.Event(), asyncio.Event()

        async def hold(body: dict[str, Any]) -> None:
            if any("available" in str(item) for item in body["TransactItems"]) and not held_up.is_set():
                held_up.set()
                await let_go.wait()

        with proxy.before("TransactWriteItems", hold):
            async with a_worker_process(
                proxy.url, table_name, provider, STORE_TIMEOUT_SEC="30", **LEASE
            ) as paused:
                await held_up.wait()
                paused.signal_all(signal.SIGSTOP)
                async with a_worker_process(
                    ministack, table_name, provider, SYNC_INTERVAL_SEC="3600", **LEASE
                ) as second:
                    await second.event("job done", job="sync")
                    ids = await provider.sandbox_ids()
                    gone = await core.sandboxes.get("acme", ids[0])
                    assert gone is not None
                    await core.sandboxes.remove(gone, TEST_CAUSE, now=0)  # so that the late write could land
                    let_go.set()
                    paused.signal_all(signal.SIGCONT)
                    await paused.event("no longer leading: standing by")
                    await until_phase(paused, "standby")

                    assert await core.sandboxes.get("acme", ids[0]) is None
                    assert await audit(core) == {"available": 5}


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed (Debian: faketime)")
async def test_clocks_that_are_a_minute_apart_steal_neither_the_lead_nor_a_deletion(
    ministack: str, table_name: str
) -> None:
    """-30 s leads, +30 s stands by, past the end of every lease; then the other way round by a take-over."""

    def skewed(by_s: int) -> dict[str, str]:
        return {"FAKETIME": f"{by_s:+d}s", "CLEANUP_LEASE_SEC": "2", **FAKED, **LEASE}

    async with (
        a_provider(delete_latency_s=5) as provider,
        a_broker(ministack, table_name) as core,
        a_worker_process(ministack, table_name, provider, **skewed(-30)) as slow,
    ):
        await slow.event("job done", job="sync")
        async with a_worker_process(ministack, table_name, provider, **skewed(30)) as fast:
            await fast.event("ready")
            held = await allocate(core, "student-1")
            row = await core.sandboxes.get("acme", held.sandbox_id)
            assert row is not None
            await release(core, held.sandbox_id, "student-1")
            due = (await core.sandboxes.get("acme", held.sandbox_id)) or row
            await core.sandboxes.touch(
                due, due.renew_lease(now=due.since - 60, lease_s=0)
            )  # due for slow clocks, too
            await slow.event("deleted at the provider", sandbox_id=held.sandbox_id)

            assert await phase(fast) == "standby"
            assert await provider.deletions() == [f"/sandbox/accounts/{row.external_id.rpartition('/')[2]}"]


async def test_a_leader_that_is_cut_off_from_the_store_stands_by_until_it_is_back(
    proxy: StoreProxy, table_name: str, provider: Provider
) -> None:
    async with (
        a_broker(proxy.url, table_name),
        a_worker_process(proxy.url, table_name, provider, **LEASE) as worker,
    ):
        await worker.event("job done", job="sync")
        proxy.faults.down = True
        await worker.event("no longer leading: standing by")
        during = await phase(worker)
        proxy.faults.down = False
        await worker.event("leading", fence=2)

    assert during == "standby"


async def test_sandboxes_are_counted_once_whoever_leads(
    ministack: str, table_name: str, provider: Provider
) -> None:
    """Three workers start in the same second: one fills the pool."""
    async with a_broker(ministack, table_name) as core:
        async with (
            a_worker_process(ministack, table_name, provider, **LEASE) as one,
            a_worker_process(ministack, table_name, provider, **LEASE) as two,
            a_worker_process(ministack, table_name, provider, **LEASE) as three,
        ):
            workers = (one, two, three)

            async def synced() -> bool:
                return any(times(worker, "job done", job="sync") for worker in workers)

            await until(synced)
            assert sum(times(worker, "leading") for worker in workers) == 1
        assert await core.sandboxes.count("acme", State.AVAILABLE) == 10
