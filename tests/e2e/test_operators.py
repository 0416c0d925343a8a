"""C3, C4, F2, C7: what operators ask for over HTTP is done by the worker, also when that dies on the way.

One broker for all: each test leaves it open, well, and with sandboxes to hand out.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.conftest import ADMIN_TOKEN, Running, a_run
from tests.e2e.test_make_run import leader_of
from tests.worker.conftest import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
QUICK = {"LEADER_LEASE_SEC": "2", "CLEANUP_POLL_SEC": "0.2", "SYNC_INTERVAL_SEC": "3600"}


@pytest_asyncio.fixture(loop_scope="module", scope="module", name="run")
async def _run() -> AsyncIterator[Running]:
    async with a_run(SIM_SANDBOXES="20", CLEANUP_CONCURRENCY="1", CLEANUP_MAX_ATTEMPTS="1", **QUICK) as running:
        yield running


async def admin(run: Running, method: str, path: str, **more: Any) -> httpx.Response:
    return await run.http.request(method, f"{run.api_urls[0]}/v1/admin{path}", headers=ADMIN, timeout=70, **more)


async def simulate(run: Running, **faults: Any) -> None:
    (await run.http.patch(f"{run.sim_url}/_simulator/faults", json=faults)).raise_for_status()


async def test_a_sync_on_demand_answers_with_its_result(run: Running) -> None:
    before = await run.stats()
    (await run.http.post(f"{run.sim_url}/_simulator/accounts", json={"count": 3})).raise_for_status()

    done = await admin(run, "POST", "/sync")
    stats = await run.stats()

    assert done.status_code == 200
    assert done.json()["state"] == "done"
    assert done.json()["result"]["added"] == 3
    assert stats["available"] == before["available"] + 3


async def test_a_cleanup_that_takes_longer_than_the_wait_is_followed_by_its_progress(run: Running) -> None:
    await simulate(run, delete_latency_s=1)
    for n in range(4):
        held = (await run.allocate(f"student-{n}")).json()
        await run.release(f"student-{n}", held["sandbox_id"])

    accepted = await admin(run, "POST", "/cleanup?wait=0")
    path = f"/jobs/{accepted.json()['job_id']}"
    seen: list[dict[str, Any]] = []

    async def ended() -> bool:
        seen.append((await admin(run, "GET", path)).json())
        return bool(seen[-1]["state"] == "done")

    await until(ended)
    stats = await run.stats()
    await simulate(run, delete_latency_s=0)

    assert accepted.status_code == 202
    assert accepted.headers["Location"] == f"/v1/admin{path}"
    assert any(0 < (job["percent"] or 0) < 100 for job in seen), "progress on the way"
    assert stats["pending_deletion"] == 0


async def test_a_job_whose_worker_is_killed_is_run_again_by_the_next_one(run: Running) -> None:
    """F2: the attempt counts, the standby takes the job over."""
    run.lines.clear()
    await simulate(run, list_latency_s=3)
    asked = asyncio.create_task(admin(run, "POST", "/sync?wait=60"))
    await run.line(r"job started")
    os.kill(await leader_of(run), signal.SIGKILL)
    await simulate(run, list_latency_s=0)

    done = await asked

    assert (done.status_code, done.json()["state"], done.json()["attempt"]) == (200, "done", 2)


async def test_under_maintenance_the_worker_begins_nothing_and_students_keep_what_they_have(run: Running) -> None:
    held = (await run.allocate("student-1")).json()
    mode = await admin(run, "POST", "/mode", json={"mode": "maintenance", "reason": "a rehearsal"})
    await asyncio.sleep(2.5)  # until every process has read it
    replay = await run.allocate("student-1")
    refused = await run.allocate("student-2")
    released = await run.release("student-1", held["sandbox_id"])
    queued = await admin(run, "POST", "/sync?wait=3")
    before = await run.stats()
    await admin(run, "POST", "/mode", json={"mode": "open", "reason": "over"})
    await run.line(rf"deleted at the provider.*sandbox_id={held['sandbox_id']}")

    async def done() -> bool:
        return bool((await admin(run, "GET", f"/jobs/{queued.json()['job_id']}")).json()["state"] == "done")

    await until(done)
    served = await run.allocate("student-2")

    assert mode.status_code == 200
    assert replay.status_code == 200
    assert replay.json() == held
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "BROKER_DRAINED")
    assert "a rehearsal" in refused.text
    assert released.status_code == 200
    assert (queued.status_code, queued.json()["state"]) == (202, "queued")
    assert before["pending_deletion"] == 1
    assert served.status_code == 201


async def test_failed_deletions_are_listed_by_reason_and_retried_together(run: Running) -> None:
    """E8, C5: the night's failures, seen by reason and put right in one go."""
    bad = []
    for n in range(3):
        held = (await run.allocate(f"student-{n}")).json()
        bad.append(held["sandbox_id"])
    await simulate(run, failing_accounts=[int(id_) for id_ in bad[:2]])
    for n, sandbox_id in enumerate(bad):
        await run.release(f"student-{n}", sandbox_id)

    deleted_before = (await run.stats())["deleted"]

    async def failed() -> bool:
        return (await run.stats())["deletion_failed"] == 2

    await until(failed)
    letters = (await admin(run, "GET", "/dead-letters")).json()
    await simulate(run, failing_accounts=[])
    body = {"status": "deletion_failed", "reason": "the provider is well again"}
    preview = await admin(run, "POST", "/bulk/retry?dry_run=true", json=body)
    done = await admin(run, "POST", "/bulk/retry", json=body)

    async def deleted() -> bool:
        return (await run.stats())["deleted"] == deleted_before + 3

    await until(deleted)

    assert "HTTP_500" in str(letters)
    assert preview.json()["total"] == 2
    assert (done.status_code, done.json()["result"]) == (200, {"done": 2})
