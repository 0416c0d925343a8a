"""K7: a worker of the previous release goes, one of this release takes up what it left; and back."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.sandbox import State
from broker.store import table
from broker.store.leader import LEADER_SCOPE
from broker.wiring import Broker
from tests.allocation.students import allocate, release
from tests.api.process import ROOT, Process
from tests.api.service import ADMIN
from tests.cli.shell import Shell
from tests.conftest import a_broker
from tests.upgrade.releases import a_worker, an_api
from tests.worker.conftest import a_provider, until


async def _started(*contexts: Any) -> list[Process]:
    """Enter in threads: the provider serves in this loop, and they need it to become ready."""
    return [await asyncio.to_thread(context.__enter__) for context in contexts]


async def _ended(context: Any) -> None:
    await asyncio.to_thread(context.__exit__, None, None, None)


async def _stopped(worker: Process) -> int:
    worker.terminate()
    return await asyncio.to_thread(worker.popen.wait, 40)


def _counts(core: Broker, state: State, count: int) -> Callable[[], Any]:
    async def reached() -> bool:
        return await core.sandboxes.count("acme", state) == count

    return reached


async def _job_ended(core: Broker, job_id: str) -> str:
    async def over() -> bool:
        job = await core.jobs.get("acme", job_id)
        return job is not None and job.finished_at is not None

    await until(over, within_s=60)
    job = await core.jobs.get("acme", job_id)
    assert job is not None
    return job.state.value


async def _asked_to_sync(api: Process) -> str:
    url = f"{api.url}/v1/admin/sync?wait=0"
    answer = await asyncio.to_thread(httpx.post, url, headers=ADMIN, trust_env=False, timeout=20)
    return str(answer.json()["job_id"])


@pytest.mark.timeout(300)
async def test_a_worker_of_this_release_takes_up_what_one_of_an_older_release_left(
    before_tenants: Path, ministack: str, table_name: str
) -> None:
    """Its pool, a deletion in the middle of which it was killed, a job that nobody ran, its last report.

    That has the number of another election, far above ours.
    """
    async with a_provider(delete_latency_s=0.2) as provider, a_broker(ministack, table_name) as core:
        place = (ministack, table_name)
        forty = table.update_of({}, table.encode({"fence": 40, "beat": 0, "since": 1, "holder": "long ago"}))
        forty_leaders = core.client.update(table.leader_key("acme"), forty, "attribute_not_exists(pk)")["Update"]
        await core.client.call("update_item", **forty_leaders)
        old_api = an_api(before_tenants, *place)
        old_worker = a_worker(before_tenants, *place, provider.url)
        api, worker = await _started(old_api, old_worker)
        try:
            await until(_counts(core, State.AVAILABLE, 10), within_s=60)
            held = await allocate(core, "student-1")
            await provider.faults(delete_latency_s=5)
            await release(core, held.sandbox_id, "student-1")

            async def in_hand() -> bool:
                row = await core.sandboxes.get("acme", held.sandbox_id)
                return row is not None and row.lease_token is not None

            await until(in_hand, within_s=60)
            await asyncio.to_thread(worker.wait_for_status, "/healthz", 200)
            worker.popen.kill()
            await provider.faults(delete_latency_s=0)
            job_id = await _asked_to_sync(api)
            report = await core.reports.read("acme")
            await _age_report(core)

            new_api, new_worker = an_api(ROOT, *place), a_worker(ROOT, *place, provider.url)
            shown, _ = await _started(new_api, new_worker)
            try:
                await until(_counts(core, State.DELETED, 1), within_s=60)
                ended = await _job_ended(core, job_id)
                status = await _until_leading(shown)
                deletions = await provider.deletions()
            finally:
                await _ended(new_worker)
                await _ended(new_api)
        finally:
            await _ended(old_worker)
            await _ended(old_api)

    assert report is not None
    assert report.fence > 40
    assert ended == "done"
    assert status["provider"]
    assert len(set(deletions)) == 1


async def _age_report(core: Broker) -> None:
    """As if the last worker of the old release had gone two minutes ago."""
    change = table.update_of({}, table.encode({"at": int(time.time()) - 120}))
    update = core.client.update(table.report_key("acme"), change, "attribute_exists(pk)")["Update"]
    await core.client.call("update_item", **update)


async def _until_leading(api: Process) -> dict[str, Any]:
    """What the API says of the worker, once that has reported."""
    async with asyncio.timeout(60):
        while True:
            answer = await asyncio.to_thread(api.get, "/v1/admin/worker", **ADMIN)
            body: dict[str, Any] = answer.json()
            if body["status"] == "leading" and body["provider"] is not None:
                return body
            await asyncio.sleep(0.2)


@pytest.mark.timeout(300)
async def test_a_worker_of_the_previous_release_takes_up_what_this_one_left(
    previous: Path, ministack: str, table_name: str
) -> None:
    """The way back: what was released and what ran out under this release is deleted, its pool goes on."""
    async with a_provider() as provider, a_broker(ministack, table_name, lease_s=1) as core:
        new_worker = a_worker(ROOT, ministack, table_name, provider.url)
        (worker,) = await _started(new_worker)
        try:
            await until(_counts(core, State.AVAILABLE, 10), within_s=60)
            code = await _stopped(worker)
        finally:
            await _ended(new_worker)
        held = await allocate(core, "student-1")
        await release(core, held.sandbox_id, "student-1")
        await allocate(core, "student-2")
        old_worker = a_worker(previous, ministack, table_name, provider.url)
        await _started(old_worker)
        try:
            await until(_counts(core, State.DELETED, 2), within_s=60)
            left = await core.sandboxes.count("acme", State.AVAILABLE)
        finally:
            await _ended(old_worker)

    assert code == 0
    assert left == 8


@pytest.mark.timeout(300)
async def test_this_worker_does_not_lead_beside_one_that_elects_by_tenant(
    before_tenants: Path, ministack: str, table_name: str
) -> None:
    """Whoever starts them in the wrong order has one leader all the same: the older one, until it stops.

    `validate pre` tells before: it fails over the old deployment, until its workers are gone.
    """
    async with a_provider() as provider, a_broker(ministack, table_name) as core:
        old_api = an_api(before_tenants, ministack, table_name)
        old_worker = a_worker(before_tenants, ministack, table_name, provider.url)
        new_worker = a_worker(ROOT, ministack, table_name, provider.url)
        api, old = await _started(old_api, old_worker)
        try:
            await asyncio.to_thread(old.wait_for_event, "leading", within_s=60)
            before = await Shell(api.url).run("validate", "pre")
            (new,) = await _started(new_worker)
            await asyncio.to_thread(new.wait_for_event, "an older release's worker leads: stop it", within_s=60)
            meanwhile = await core.leader.read(LEADER_SCOPE)
            await _stopped(old)
            await asyncio.to_thread(new.wait_for_event, "leading", within_s=60)
            after = await Shell(api.url).run("validate", "pre")
        finally:
            await _ended(new_worker)
            await _ended(old_worker)
            await _ended(old_api)

    assert meanwhile is None
    assert before.code == 1
    assert "leads by an older release's election -> Stop all its workers" in before.out
    assert after.code == 0, after.out
