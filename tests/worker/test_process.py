"""The worker as a process: health, metrics, signals, a store that is not there, a table that is not ours."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.sandbox import State
from local.engine import free_port
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, release
from tests.conftest import a_broker
from tests.e2e.conftest import ROOT
from tests.worker.conftest import TOKEN, Provider, a_provider

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
FAKED = {
    "LD_PRELOAD": str(FAKETIME),
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # it makes threads that wait for Python's lock spin
}
"""A process whose wall clock is another one."""


def environment(store_url: str, table_name: str, provider_url: str, port: int, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "BROKER_ENV": "development",
        "BROKER_TENANT": "acme",
        "DDB_ENDPOINT_URL": store_url,
        "DDB_TABLE_NAME": table_name,
        "CSP_BASE_URL": provider_url,
        "CSP_API_TOKEN": TOKEN,
        "WORKER_HOST": "127.0.0.1",
        "WORKER_PORT": str(port),
        "CLEANUP_POLL_SEC": "0.1",
        "GAUGES_INTERVAL_SEC": "0.3",
        "BOOT_TIMEOUT_SEC": "60",
        "BOOT_BUDGET_MS": "60000",
        **more,
    }


class Process:
    """A running worker: its log lines as they come, and its own HTTP."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.events: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while raw := await self.process.stdout.readline():
            self.events.append(json.loads(raw))

    async def event(self, name: str, **facts: Any) -> dict[str, Any]:
        """The first event of this name with these facts, waiting for it."""
        async with asyncio.timeout(90):
            while True:
                for event in self.events:
                    if event["event"] == name and facts.items() <= event.items():
                        return event
                await asyncio.sleep(0.02)

    def signal_all(self, number: signal.Signals) -> None:
        """To the worker and to its supervisor."""
        os.killpg(self.process.pid, number)

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self.process.wait(), 40)
        await self._reading
        return code


@asynccontextmanager
async def a_worker_process(
    store_url: str, table_name: str, provider: Provider, **more: str
) -> AsyncIterator[Process]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "worker"),
        cwd=ROOT,
        env=environment(store_url, table_name, provider.url, port, **more),
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        start_new_session=True,
    )
    running = Process(process, port)
    try:
        yield running
    finally:
        if process.returncode is None:
            await running.stop()


async def test_it_fills_the_pool_and_shows_its_health_and_numbers(
    ministack: str, table_name: str, provider: Provider
) -> None:
    async with (
        a_broker(ministack, table_name) as core,
        a_worker_process(ministack, table_name, provider) as worker,
    ):
        done = await worker.event("job done", job="sync")
        async with httpx.AsyncClient() as http:
            health = await http.get(f"{worker.url}/healthz")
            metrics = (await http.get(f"{worker.url}/metrics")).text
        available = await core.sandboxes.count("acme", State.AVAILABLE)
        snapshot = await core.gauges.read("acme")
        code = await worker.stop()

    assert done["counts"] == {"added": 10}
    assert done["request_id"].startswith("sync-")
    assert health.json()["status"] == "ok"
    assert 'worker_job_sandboxes_total{duty="sync",outcome="added",tenant="acme"} 10.0' in metrics
    assert 'worker_job_runs_total{duty="sync",outcome="ok",tenant="acme"} 1.0' in metrics
    assert available == 10
    assert snapshot is not None
    assert snapshot.states[State.AVAILABLE] == 10
    assert code == 0


async def test_sigterm_finishes_the_deletion_in_hand_and_starts_no_other(ministack: str, table_name: str) -> None:
    async with (
        a_provider(delete_latency_s=1) as provider,
        a_broker(ministack, table_name) as core,
        a_worker_process(ministack, table_name, provider, CLEANUP_CONCURRENCY="1") as worker,
    ):
        await worker.event("job done", job="sync")
        for n in range(2):
            held = await allocate(core, f"student-{n}")
            await release(core, held.sandbox_id, f"student-{n}")
        await worker.event("job done", job="clean")
        code = await worker.stop()
        deleted = await core.sandboxes.count("acme", State.DELETED)
        pending = await core.sandboxes.count("acme", State.PENDING_DELETION)

    assert code == 0
    assert (deleted, pending) == (1, 1)
    assert [e["event"] for e in worker.events if e["event"] in ("draining", "stopped")] == ["draining", "stopped"]


async def test_a_deletion_under_a_killed_worker_is_taken_up_by_the_next_one(
    ministack: str, table_name: str
) -> None:
    """kill -9 in the middle; the lease is two seconds of the provider's deadline and thirty of margin."""
    async with a_provider(delete_latency_s=2) as provider, a_broker(ministack, table_name) as core:
        async with a_worker_process(ministack, table_name, provider) as first:
            await first.event("job done", job="sync")
            held = await allocate(core, "student-1")
            await release(core, held.sandbox_id, "student-1")
            await first.event("job done", job="clean")
            first.process.kill()
            await first.process.wait()
        leased = await core.sandboxes.get("acme", held.sandbox_id)
        assert leased is not None
        assert leased.next_attempt_at is not None
        due = leased.fail_deletion(error="the lease lapsed", now=0, retry_at=0)  # as time would do
        await core.sandboxes.touch(leased, due)
        async with a_worker_process(ministack, table_name, provider) as second:
            await second.event("deleted at the provider", sandbox_id=held.sandbox_id)

        row = await core.sandboxes.get("acme", held.sandbox_id)
    assert leased.lease_token is not None
    assert row is not None
    assert (row.state, row.attempt) == (State.DELETED, 2)


async def test_a_store_that_is_not_there_is_waited_for(
    proxy: StoreProxy, table_name: str, provider: Provider
) -> None:
    async with a_broker(proxy.url, table_name):
        proxy.faults.down = True
        async with a_worker_process(proxy.url, table_name, provider) as worker:
            await worker.event("store not reachable yet, boot waits")
            async with httpx.AsyncClient() as http:
                health = await http.get(f"{worker.url}/healthz")
            proxy.faults.down = False
            await worker.event("job done", job="sync")

    assert health.status_code == 200


async def test_an_outage_fails_jobs_and_not_the_worker(
    proxy: StoreProxy, table_name: str, provider: Provider
) -> None:
    async with (
        a_broker(proxy.url, table_name),
        a_worker_process(proxy.url, table_name, provider, SYNC_INTERVAL_SEC="0.3") as worker,
    ):
        await worker.event("job done", job="sync")
        proxy.faults.down = True
        failed = await worker.event("job failed, the next tick tries again", job="sync")
        proxy.faults.down = False
        worker.events.clear()
        await worker.event("job done", job="sync")

    assert failed["level"] == "warning"


async def test_a_table_that_is_not_there_ends_the_worker_with_78(
    ministack: str, table_name: str, provider: Provider
) -> None:
    async with a_worker_process(ministack, f"{table_name}-missing", provider) as worker:
        code = await asyncio.wait_for(worker.process.wait(), 30)
        event = await worker.event("this table is not the broker's")

    assert code == 78
    assert "not found" in event["why"].lower()
    assert "create-table" in event["why"]


async def test_sigterm_ends_the_process_in_time_whatever_hangs(
    proxy: StoreProxy, ministack: str, table_name: str, provider: Provider
) -> None:
    """The store hangs, and somebody scrapes without reading the answer."""
    async with (
        a_broker(ministack, table_name),
        a_worker_process(
            proxy.url, table_name, provider, GRACEFUL_SHUTDOWN_TIMEOUT_SEC="3", STORE_TIMEOUT_SEC="30"
        ) as worker,
    ):
        await worker.event("job done", job="sync")
        port = int(worker.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        proxy.faults.change({"hang_next": 1000, "hang_s": 60})
        worker.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(worker.process.wait(), 15)
        writer.close()

    assert worker.process.returncode in (0, 1)


async def test_a_scheduler_that_stands_still_ends_the_process(
    ministack: str, table_name: str, provider: Provider
) -> None:
    """The clock is set back an hour under the leader: it must not go on leading without doing anything."""
    if not FAKETIME.exists():  # noqa: ASYNC240
        pytest.skip("libfaketime is not installed (Debian: faketime)")
    with tempfile.NamedTemporaryFile("w", suffix=".rc") as clock:
        clock.write("+0")
        clock.flush()
        fake = FAKED | {
            "FAKETIME_TIMESTAMP_FILE": clock.name,
            "FAKETIME_NO_CACHE": "1",
        }
        async with (
            a_broker(ministack, table_name),
            a_worker_process(ministack, table_name, provider, **fake) as worker,
        ):
            await worker.event("job done", job="sync")
            clock.seek(0)
            clock.write("-3600")
            clock.flush()
            code = await asyncio.wait_for(worker.process.wait(), 180)

    assert code == 1
    assert any("scheduler stands still" in event["event"] for event in worker.events)
