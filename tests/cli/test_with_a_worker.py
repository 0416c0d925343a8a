"""The CLI against all the real parts: API and worker processes, a store, a provider that has its moods."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.sandbox import State
from broker.wiring import Broker
from tests.allocation.students import allocate, release
from tests.api.process import a_process
from tests.cli.shell import Shell
from tests.conftest import a_broker
from tests.worker.conftest import Provider, a_provider, until
from tests.worker.test_process import a_worker_process


@asynccontextmanager
async def everything(
    ministack: str, table_name: str, provider: Provider, **settings: str
) -> AsyncIterator[tuple[Shell, Broker]]:
    """A worker that has filled the pool, and an API process beside it."""
    async with (
        a_broker(ministack, table_name) as core,
        a_worker_process(ministack, table_name, provider, SYNC_INTERVAL_SEC="3600", **settings) as worker,
    ):
        await worker.event("job done", job="sync")
        process = a_process(DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=table_name)
        api = await asyncio.to_thread(process.__enter__)
        try:
            yield Shell(api.url), core
        finally:
            await asyncio.to_thread(process.__exit__, None, None, None)


async def test_a_listing_that_is_not_believed_is_seen_and_confirmed_from_the_shell(
    ministack: str, table_name: str
) -> None:
    """As SyncNotBelieved tells: look, and then sync --confirm."""
    async with (
        a_provider(sandboxes=10) as provider,
        everything(ministack, table_name, provider) as (shell, core),
    ):
        hidden = (await provider.sandbox_ids())[:6]
        await provider.faults(hidden_accounts=[int(id_) for id_ in hidden])

        doubted = await shell.run("sync")
        seen = await shell.run("reconcile")
        assert await core.sandboxes.count("acme", State.STALE) == 0
        confirmed = await shell.run("sync", "--confirm", "--reason", "half of the labs were closed")
        believed, status = await shell.run_each(["reconcile"], ["status", "--json"])

    assert (doubted.code, "6 guarded" in doubted.out, "NOT believed" in doubted.err) == (1, True, True)
    assert "NOT believed" in seen.out
    assert "6 of 10 expected were missing" in seen.out
    assert (confirmed.code, "6 stale" in confirmed.out) == (0, True)
    assert "NOT believed" not in believed.out
    assert (status.json["stats"]["stale"], status.json["worker"]["counted_s_ago"] is not None) == (6, True)


async def test_deletions_that_failed_for_good_are_found_and_tried_again_from_the_shell(
    ministack: str, table_name: str
) -> None:
    """As DeletionsFailedForGood tells: dead-letters, then bulk retry; then cleanup takes them."""
    settings = {"CLEANUP_MAX_ATTEMPTS": "1", "CLEANUP_RETRY_BASE_SEC": "1"}
    async with (
        a_provider(sandboxes=6) as provider,
        everything(ministack, table_name, provider, **settings) as (shell, core),
    ):
        ids = await provider.sandbox_ids()
        await provider.faults(failing_accounts=[int(id_) for id_ in ids])
        for n in range(4):
            held = await allocate(core, f"student-{n}")
            await release(core, held.sandbox_id, f"student-{n}")

        async def all_failed() -> bool:
            return await core.sandboxes.count("acme", State.DELETION_FAILED) == 4

        await until(all_failed)
        dead = await shell.run("dead-letters")
        await provider.faults(failing_accounts=[])
        again = await shell.run("bulk", "retry", "--reason", "the provider is back", "--yes")
        cleaned = await shell.run("cleanup")

        async def all_gone() -> bool:
            return await core.sandboxes.count("acme", State.DELETED) == 4

        await until(all_gone)
        status = await shell.run("status")

    assert dead.out.startswith("4 sandboxes whose deletion failed for good\n")
    assert re.search(r"^ +4 +HTTP_500", dead.out, re.MULTILINE), dead.out
    assert (again.code, "4 done" in again.out) == (0, True), again
    assert cleaned.code == 0, cleaned.err
    assert re.search(r"^dead letters +0 sandboxes, 0 jobs$", status.out, re.MULTILINE)
    assert re.search(r"^deleted +4$", status.out, re.MULTILINE)


async def test_under_maintenance_a_job_waits_and_goes_on_when_it_is_over(ministack: str, table_name: str) -> None:
    async with (
        a_provider(sandboxes=3) as provider,
        everything(ministack, table_name, provider) as (shell, _),
    ):
        await shell.run("mode", "maintenance", "--reason", "the table is being restored")
        await asyncio.sleep(3)  # in force everywhere within about 2 s
        waiting = await shell.run("sync", "--wait", "2")
        await shell.run("mode", "open", "--reason", "restored")
        job_id = re.findall(r"jobs watch (\S+)", waiting.err)[0]
        watched = await shell.run("jobs", "watch", job_id)

    assert (waiting.code, "is queued, and goes on." in waiting.err) == (1, True)
    assert (watched.code, "3 unchanged" in watched.out) == (0, True), watched
