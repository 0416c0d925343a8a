"""B6: a job goes with the permission of who asked for it: before it begins, and while it runs."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from broker.job import Job, JobState, Kind
from broker.key import Key
from broker.role import Role
from broker.sandbox import State
from broker.selection import Selector
from broker.store import table
from broker.store.events import Cause
from broker.wiring import Broker
from tests.audit import audit, items_of
from tests.builders import NOW, TEST_CAUSE
from tests.conftest import a_broker
from tests.store.conftest import Clock
from tests.worker.test_bulk import Slow, fill
from tests.worker.test_runner import RUN, Work, a_job_queued, a_runner, run_to_the_end, stored, until
from worker.job_context import Context
from worker.jobs.bulk import bulk_handler


async def a_key(core: Broker, role: Role = Role.OPERATOR, *, tenant: str = "acme", **changes: Any) -> Key:
    await core.tenants.ensure(tenant, shards=4, now=NOW)
    values: dict[str, Any] = {
        "id": "k7m2x9q4w1zb", "tenant": tenant, "role": role, "name": "a test's", "digest": "00", "pepper": "00",
        "created_by": "test", "created_at": NOW,
    }  # fmt: skip
    key = Key(**values | changes)
    await core.keys.create(key, TEST_CAUSE, now=NOW)
    return key


async def revoke(core: Broker, key: Key) -> None:
    def revoked(present: Key) -> Key:
        return present.revoke(by="ada", reason="it leaked", now=int(core.jobs._clock()))

    await core.keys.change(key.tenant, key.id, revoked, TEST_CAUSE, now=core.jobs._clock())


async def refusals(core: Broker) -> list[dict[str, Any]]:
    events = [table.decode(item) for item in await items_of(core) if item["pk"]["S"].startswith("EVT#acme#")]
    return [event for event in events if event["action"] == "refuse_job"]


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
async def test_a_job_of_a_live_key_runs(core: Broker, role: Role) -> None:
    key = await a_key(core, role)
    job = await a_job_queued(core, requested_by=key.credential)
    assert (await run_to_the_end(core, job, done)).state is JobState.DONE
    assert await refusals(core) == []


async def done(_: Context) -> Counter[str]:
    return Counter(ok=1)


LOST: dict[str, tuple[dict[str, Any], str]] = {
    "revoked": ({"revoked_at": NOW, "revoked_by": "ada", "revoked_reason": "it leaked"}, "is revoked"),
    "expired": ({"expires_at": NOW}, "is expired"),
    "of another tenant": ({"tenant": "north"}, "there is no key"),
    "of a viewer": ({"role": Role.VIEWER}, "has the role viewer, and this needs operator"),
    "of a track": ({"role": Role.TRACK}, "has the role track"),
    "forgotten": ({"ttl": NOW}, "there is no key"),
}


@pytest.mark.parametrize(
    ("kind", "how"),
    [(Kind.SYNC, how) for how in LOST] + [(kind, "revoked") for kind in Kind if kind is not Kind.SYNC],
)
async def test_a_job_whose_key_lost_the_permission_is_not_run_and_is_audited(
    core: Broker, caplog: pytest.LogCaptureFixture, kind: Kind, how: str
) -> None:
    changes, why = LOST[how]
    key = await a_key(core, **changes)
    job = await a_job_queued(core, kind, requested_by=key.credential, request_id="req-7")
    work = Work()
    work.may_end.set()

    with caplog.at_level(logging.WARNING, logger="worker"):
        ended = await run_to_the_end(core, job, work)

    assert work.begun == 0
    assert ended.state is JobState.DEAD
    assert ended.error is not None
    assert ended.error.startswith("PERMISSION_REVOKED: ")
    assert why in ended.error
    (event,) = await refusals(core)
    assert (event["subject"], event["version"]) == (f"job:{job.id}", ended.version)
    before, after = json.loads(event["before"]), json.loads(event["after"])
    assert (before["state"], after["state"]) == ("running", "dead")
    assert (event["actor"], event["request_id"], event["reason"]) == ("worker:jobs", "req-7", ended.error)
    assert "job refused: who asked for it may not any more" in caplog.messages
    refused = {"tenant": "acme", "kind": kind.value, "why": "permission"}
    assert core.metrics.registry.get_sample_value("worker_job_deaths_total", refused) == 1
    again = a_runner(core, work)
    await again.tick(RUN)
    await again.idle()
    assert work.begun == 0, "it is not tried again by itself"


async def test_a_key_that_nobody_knows_has_no_permission(core: Broker) -> None:
    job = await a_job_queued(core, requested_by="key:000000000000")
    assert (await run_to_the_end(core, job, Work())).state is JobState.DEAD


@pytest.mark.parametrize("name", ["bootstrap-admin", "o"])
async def test_a_bootstrap_credential_is_always_permitted(core: Broker, name: str) -> None:
    job = await a_job_queued(core, requested_by=name)
    assert (await run_to_the_end(core, job, done)).state is JobState.DONE


async def test_whoever_queues_it_again_answers_for_it(core: Broker) -> None:
    gone = await a_key(core)
    await revoke(core, gone)
    other = await a_key(core, id="another00000")
    job = await a_job_queued(core, requested_by=gone.credential)
    await run_to_the_end(core, job, done)

    cause = Cause(actor=other.credential, action="requeue_job", request_id="req-2")
    await core.jobs.requeue("acme", job.id, cause=cause)
    assert (await run_to_the_end(core, job, done)).state is JobState.DONE


async def test_a_bulk_job_stops_between_two_sandboxes_when_its_key_is_revoked(core: Broker) -> None:
    """The one under way is finished; the others stay as they are."""
    ids = await fill(core, 6)
    key = await a_key(core)
    now = Clock(1000.0)
    slow = Slow(core, after=2)
    job = await a_job_queued(core, Kind.BULK_DELETE, requested_by=key.credential, params={"status": "stale"})
    runner = a_runner(core, bulk_handler(Selector(core.sandboxes, core.tenants), slow), monotonic=now)
    await runner.tick(RUN)
    await slow.in_the_middle.wait()
    await revoke(core, key)
    now.now += 4
    run, _ = runner._runs[job.id]
    await until(lambda: run._context.stopped is not None)
    slow.go_on.set()
    await runner.idle()

    ended = await stored(core, job)
    assert (ended.state, len(slow.moved)) == (JobState.DEAD, ended.done)
    assert (ended.error or "").startswith("PERMISSION_REVOKED: key k7m2x9q4w1zb is revoked")
    assert 0 < len(slow.moved) < len(ids)
    assert (await audit(core))[State.STALE.value] == len(ids) - len(slow.moved)
    assert len(await refusals(core)) == 1


async def test_work_without_checkpoints_is_cut_after_its_patience(core: Broker) -> None:
    key = await a_key(core)
    now = Clock(1000.0)
    work = Work(stubborn=True)
    job = await a_job_queued(core, requested_by=key.credential)
    runner = a_runner(core, work, monotonic=now)
    await runner.tick(RUN)
    await until(lambda: work.steps > 0)
    await revoke(core, key)
    for _ in range(40):
        now.now += 1
        beat = (await stored(core, job)).beat

        async def beaten(before: int = beat) -> bool:
            present = await stored(core, job)
            return present.beat > before or present.state is not JobState.RUNNING

        await until(beaten)
        if (await stored(core, job)).state is not JobState.RUNNING:
            break
    await runner.idle()
    assert work.stopped_by == ["CancelledError"]
    assert ((await stored(core, job)).error or "").startswith("PERMISSION_REVOKED")


async def test_a_job_that_is_taken_over_is_looked_at_anew(core: Broker) -> None:
    key = await a_key(core)
    job = await core.jobs.lease(await a_job_queued(core, requested_by=key.credential), token="of-the-dead")
    await revoke(core, key)
    now, work = Clock(1000.0), Work()
    runner = a_runner(core, work, monotonic=now)
    await runner.tick(RUN)
    now.now += 60
    await runner.tick(RUN)
    await runner.idle()
    assert work.begun == 0
    assert (await stored(core, job)).state is JobState.DEAD


async def test_a_store_in_trouble_is_no_lost_permission(
    proxy: Any, table_name: str, clock: Callable[[], float]
) -> None:
    """It is not known, so it is not run; nor is it dead: it comes again."""
    async with a_broker(proxy.url, table_name, clock=clock) as core:
        key = await a_key(core)
        job = await a_job_queued(core, requested_by=key.credential)

        work = Work()
        proxy.faults.change({"throttle_ops": ["GetItem:consistent"], "throttle_next": 1})
        ended = await run_to_the_end(core, job, work)

    assert (work.begun, ended.state) == (0, JobState.QUEUED)
    assert "throttling" in (ended.error or "")


async def test_a_refusal_whose_answer_is_lost_is_written_once(
    proxy: Any, table_name: str, clock: Callable[[], float]
) -> None:
    async with a_broker(proxy.url, table_name, clock=clock) as core:
        key = await a_key(core)
        await revoke(core, key)
        job = await a_job_queued(core, requested_by=key.credential)
        proxy.faults.change({"lose_answer_ops": ["TransactWriteItems"], "lose_answer_next": 1})

        ended = await run_to_the_end(core, job, Work())

        assert ended.state is JobState.DEAD
        assert len(await refusals(core)) == 1


async def test_who_asks_for_a_sync_joins_no_other_keys(core: Broker) -> None:
    first = await a_job_queued(core, Kind.SYNC, requested_by="key:aaaaaaaaaaaa")
    assert (await a_job_queued(core, Kind.SYNC, requested_by="key:bbbbbbbbbbbb")).id != first.id
    assert (await a_job_queued(core, Kind.SYNC, requested_by="key:aaaaaaaaaaaa")).id == first.id


def test_a_job_is_refused_only_while_it_runs() -> None:
    job = Job(
        tenant="acme", id="1", kind=Kind.SYNC, requested_by="o", request_id="r", created_at=NOW, queued_at=NOW,
        due_at=NOW,
    )  # fmt: skip
    refused = replace(job, state=JobState.RUNNING).refuse(why="x", now=NOW)
    assert (refused.state, refused.error, refused.finished_at) == (JobState.DEAD, "PERMISSION_REVOKED: x", NOW)
