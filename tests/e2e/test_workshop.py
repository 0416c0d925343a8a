"""A workshop on real processes: two APIs, a worker, a provider, and a store behind the proxy that misbehaves."""

import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from local.engine import free_port
from tests.audit import audit
from tests.conftest import a_broker
from tests.e2e.conftest import ROOT, Running, a_run, environment


@asynccontextmanager
async def a_proxied_store(ministack: str) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """The store proxy as a process of its own; yields its URL and a client of its control routes."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "local.store_proxy", "--upstream", ministack, "--port", str(port)),
        cwd=ROOT,
        env=environment(),
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as control:
            for _ in range(200):
                try:
                    if (await control.get("/_proxy/faults")).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{port}", control
    finally:
        process.terminate()
        await process.wait()


async def test_three_hundred_students_press_start_at_once_on_two_processes(
    ministack: str, table_name: str
) -> None:
    """A3 on real processes, A4 on top: every student's script calls twice, on either process."""
    async with (
        a_proxied_store(ministack) as (url, control),
        a_run(DDB_ENDPOINT_URL=url, DDB_TABLE_NAME=table_name, API_PROCESSES="2", SIM_SANDBOXES="200") as run,
    ):
        await control.patch("/_proxy/faults", json={"latency_ms": 3, "jitter_ms": 3, "index_lag_s": 0.5})

        answers = await asyncio.gather(
            *(run.allocate(f"student-{n}", api=n + again) for n in range(300) for again in range(2))
        )
        await control.patch("/_proxy/faults", json={"index_lag_s": 0})

    odd = {a.text for a in answers if a.status_code not in (200, 201, 409)}
    assert not odd, odd
    by_student = [answers[n : n + 2] for n in range(0, 600, 2)]
    statuses = Counter(tuple(sorted(a.status_code for a in pair)) for pair in by_student)
    held = [{a.json()["sandbox_id"] for a in pair} for pair in by_student if pair[0].status_code < 300]
    assert statuses == {(200, 201): 200, (409, 409): 100}
    assert all(len(ids) == 1 for ids in held)
    assert len(set.union(*held)) == 200
    async with a_broker(ministack, table_name) as core:
        assert (await audit(core, "default"))["allocated"] == 200


async def test_a_day_of_workshops_in_seconds_survives_sync_and_a_store_in_trouble(
    ministack: str, table_name: str
) -> None:
    """E3 as a soak: sync runs all the time while labs begin and end and the store loses answers."""
    async with a_proxied_store(ministack) as (url, control):
        settings = {
            "DDB_ENDPOINT_URL": url,
            "DDB_TABLE_NAME": table_name,
            "API_PROCESSES": "2",
            "SIM_SANDBOXES": "120",
            "SYNC_INTERVAL_SEC": "0.3",
            "CLEANUP_POLL_SEC": "0.2",
            "SIM_LISTING_LAG_S": "2",
            "SIM_DELETE_LATENCY_S": "0.1",
            "RATE_LIMIT_PER_STUDENT": "100000/minute",
        }
        async with a_run(**settings) as run:
            await control.patch(
                "/_proxy/faults",
                json={"latency_ms": 1, "index_lag_s": 0.3, "lose_answer_rate": 0.02, "conflict_rate": 0.02},
            )
            dice = random.Random(7)
            labs = await asyncio.gather(*(a_lab(run, f"student-{n}", dice) for n in range(60)))
            await control.patch("/_proxy/faults", json={"lose_answer_rate": 0, "conflict_rate": 0})
            await asyncio.gather(*(run.release(f"student-{n}", last) for n, last in enumerate(labs) if last))
            await settled(run)
            await control.patch("/_proxy/faults", json={"index_lag_s": 0})
            accounts = await run.provider_accounts()

        async with a_broker(ministack, table_name) as core:
            states = await audit(core, "default")

    deleted = [a for a in accounts if a["deletes_done"]]
    assert states["allocated"] == states["pending_deletion"] == 0
    assert states["deleted"] == len(deleted)
    assert states["available"] == 120 - len(deleted)
    assert len(deleted) >= 60
    assert all(a["deletes_done"] == 1 for a in deleted)


async def a_lab(run: Running, student: str, dice: random.Random) -> str | None:
    """Begin and end a lab a few times, as the scripts do: repeat on 503. Returns what is still held."""
    held: str | None = None
    for _ in range(dice.randint(1, 2)):
        for _ in range(50):
            answer = await run.allocate(student, api=dice.randint(0, 1))
            if answer.status_code != 503:
                break
            await asyncio.sleep(0.05)
        if answer.status_code == 409:
            return None
        assert answer.status_code in (200, 201), answer.text
        held = answer.json()["sandbox_id"]
        await asyncio.sleep(dice.random())
        if dice.random() < 0.6:
            released = await run.release(student, held, api=dice.randint(0, 1))
            held = None if released.status_code == 200 else held
    return held


async def settled(run: Running) -> None:
    """Wait until nothing is being deleted."""
    for _ in range(200):
        stats = await run.stats()
        if not stats["pending_deletion"] and not stats["allocated"]:
            return
        await asyncio.sleep(0.3)


async def test_a_rolling_sigterm_answers_what_was_begun() -> None:
    """A first look at draining: requests in flight when the signal comes are answered."""
    async with a_run(SIM_SANDBOXES="40") as run:
        begun = [asyncio.create_task(run.allocate(f"student-{n}")) for n in range(30)]
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(run.stop(signal.SIGTERM))
        answers = await asyncio.gather(*begun, return_exceptions=True)
        await stopping

    served = [a for a in answers if isinstance(a, httpx.Response)]
    assert all(a.status_code == 201 for a in served)
