"""F1-F5 in the store: leases, order, ends by token, cancellation, requeue, archive; on every engine."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from broker.errors import (
    JobNotFound,
    JobWrongState,
    LeaseLost,
    StoreThrottled,
    StoreUnavailable,
    WriteConflict,
)
from broker.job import ARCHIVE_S, Job, JobState, Kind, Priority, Progress
from broker.store import table
from broker.store.event_log import event_from
from broker.store.events import Cause
from broker.store.job_items import job_item
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from local.store_proxy.answers import Refused, error
from tests.audit import items_of
from tests.builders import NOW, a_job, a_running_job, said_by
from tests.conftest import a_broker
from tests.store.conftest import Clock


async def enqueue(broker: Broker, kind: Kind = Kind.BULK_RETRY, **more: Any) -> Job:
    values: dict[str, Any] = {"params": {}, "priority": Priority.NORMAL, "requested_by": "o", "request_id": "r"}
    return await broker.jobs.enqueue(more.pop("tenant", "acme"), kind, **values | more)


async def told(broker: Broker, tenant: str = "acme") -> list[tuple[Any, ...]]:
    """What the events of jobs say, in their order: who did what, from which state to which, in which request."""
    items = [item for item in await items_of(broker) if item["pk"]["S"].startswith(f"EVT#{tenant}#")]
    events = sorted(map(event_from, items), key=lambda event: event.event_id)
    states = [[e and e["state"] for e in (event.before, event.after)] for event in events]
    return [(e.actor, e.action, *s, e.request_id, e.error) for e, s in zip(events, states, strict=True)]


async def put(broker: Broker, job: Job) -> Job:
    await broker.client.call("put_item", TableName=broker.client.table.name, Item=job_item(job))
    return job


async def stored(broker: Broker, job: Job) -> Job:
    present = await broker.jobs.get(job.tenant, job.id)
    assert present is not None
    return present


async def queue(broker: Broker, tenant: str = "acme") -> list[str]:
    return [job.id async for job in broker.jobs.walk(tenant, JobState.QUEUED)]


async def test_a_job_comes_back_as_it_was_queued(broker: Broker) -> None:
    job = await enqueue(broker, params={"status": "stale"}, reason="cleaning up", request_id="req-9")

    assert await stored(broker, job) == job
    assert (job.state, job.attempt, job.created_at, job.requested_by) == (JobState.QUEUED, 0, NOW, "o")
    assert (job.params, job.reason, job.request_id) == ({"status": "stale"}, "cleaning up", "req-9")


async def test_ids_sort_by_time_and_are_unique(broker: Broker, clock: Clock) -> None:
    ids = []
    for _ in range(3):
        ids += [(await enqueue(broker)).id for _ in range(2)]
        clock.now += 0.001

    assert len(set(ids)) == 6
    assert [id_[:13] for id_ in ids] == sorted(id_[:13] for id_ in ids)


async def test_another_tenants_job_is_nobodys(broker: Broker) -> None:
    job = await enqueue(broker)

    assert await broker.jobs.get("rival", job.id) is None
    assert await queue(broker, "rival") == []
    with pytest.raises(JobNotFound):
        await broker.jobs.request_cancel("rival", job.id, cause=said_by("x"))
    with pytest.raises(JobNotFound):
        await broker.jobs.requeue("rival", job.id, cause=said_by("x"))
    assert (await stored(broker, job)).version == 1


async def test_the_queue_is_taken_by_priority_then_age_and_low_does_not_starve(
    broker: Broker, clock: Clock
) -> None:
    old_low = await enqueue(broker, priority=Priority.LOW)
    clock.now += 1500
    old_normal = await enqueue(broker)
    clock.now += 299
    fresh = [await enqueue(broker, priority=p) for p in (Priority.LOW, Priority.NORMAL, Priority.HIGH)]
    clock.now += 2
    newest = await enqueue(broker, priority=Priority.HIGH)

    low, normal, high = (job.id for job in fresh)
    assert await queue(broker) == [high, old_low.id, old_normal.id, newest.id, normal, low]


@pytest.mark.parametrize("kind", [Kind.SYNC, Kind.CLEANUP])
async def test_a_second_request_joins_the_one_that_waits(broker: Broker, kind: Kind) -> None:
    first = await enqueue(broker, kind)
    other = await enqueue(broker, kind, params={"confirm": "true"})
    rivals = await enqueue(broker, kind, tenant="rival")

    again = await enqueue(broker, kind, priority=Priority.HIGH, requested_by="p", request_id="q")

    assert again == first
    assert len(await queue(broker)) == 2
    assert len({first.id, other.id, rivals.id}) == 3


async def test_what_runs_already_is_not_joined_for_it_may_have_read_before(broker: Broker) -> None:
    first = await enqueue(broker, Kind.SYNC)
    await broker.jobs.lease(first, token="t")

    assert (await enqueue(broker, Kind.SYNC)).id != first.id


async def test_bulk_jobs_are_never_joined(broker: Broker) -> None:
    assert (await enqueue(broker)).id != (await enqueue(broker)).id


async def test_of_two_who_lease_a_job_one_does(broker: Broker) -> None:
    job = await enqueue(broker)

    leases = [broker.jobs.lease(job, token=token) for token in ("a", "b")]
    results = await asyncio.gather(*leases, return_exceptions=True)

    assert sorted(type(result) for result in results if not isinstance(result, Job)) == [WriteConflict]
    winner = await stored(broker, job)
    assert (winner.state, winner.attempt, winner.started_at) == (JobState.RUNNING, 1, NOW)
    assert winner in results
    assert await queue(broker) == []
    assert [row async for row in broker.jobs.walk("acme", JobState.RUNNING)] == [winner]


async def test_a_beat_writes_the_progress_and_tells_what_else_has_happened(broker: Broker, clock: Clock) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")
    await broker.jobs.request_cancel("acme", leased.id, cause=said_by("operator-2"))
    clock.now += 5

    renewed = await broker.jobs.renew(leased, Progress(done=3, failed=1, total=9))

    assert renewed == await stored(broker, leased)
    assert (renewed.beat, renewed.version) == (1, leased.version + 2)
    assert (renewed.done, renewed.failed, renewed.total, renewed.progress_at) == (3, 1, 9, NOW + 5)
    assert renewed.cancel_requested_by == "operator-2"


async def test_a_total_that_is_not_known_yet_is_not_written(broker: Broker) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")

    assert (await broker.jobs.renew(leased, Progress(done=3))).total is None


async def test_a_lapsed_job_goes_to_one_of_two_and_the_dead_ones_beat_and_end_are_refused(broker: Broker) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")

    takes = [broker.jobs.take_over(leased, token=token) for token in ("a", "b")]
    results = await asyncio.gather(*takes, return_exceptions=True)

    assert sorted(type(result) for result in results if not isinstance(result, Job)) == [WriteConflict]
    with pytest.raises(LeaseLost):
        await broker.jobs.renew(leased, Progress())
    with pytest.raises(LeaseLost):
        await broker.jobs.conclude(leased, lambda job: job.finish({"late": 1}, now=NOW))
    present = await stored(broker, leased)
    assert (present.state, present.attempt, present.kills) == (JobState.RUNNING, 2, 1)
    assert present in results


async def test_who_beat_since_is_not_taken_over(broker: Broker) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")
    await broker.jobs.renew(leased, Progress())

    with pytest.raises(WriteConflict):
        await broker.jobs.take_over(leased, token="thief")

    assert (await stored(broker, leased)).lease_token == "t"


async def test_an_ended_job_is_neither_renewed_nor_taken_over(broker: Broker) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")
    await broker.jobs.conclude(leased, lambda job: job.finish({"ok": 1}, now=NOW))

    with pytest.raises(LeaseLost):
        await broker.jobs.renew(leased, Progress())
    with pytest.raises(WriteConflict):
        await broker.jobs.take_over(leased, token="thief")

    assert (await stored(broker, leased)).result == {"ok": 1}


async def test_an_end_that_meets_a_beat_and_a_request_is_written_on_what_they_left(broker: Broker) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")
    await broker.jobs.renew(leased, Progress(done=2, total=4))
    await broker.jobs.request_cancel("acme", leased.id, cause=said_by("operator-2"))

    await broker.jobs.conclude(leased, lambda job: job.fail(error="E", now=NOW, retry_at=NOW + 9))

    present = await stored(broker, leased)
    assert (present.state, present.done, present.total) == (JobState.CANCELLED, 2, 4)


async def test_an_end_that_is_written_twice_stands_once(broker: Broker) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")
    ended = await broker.jobs.conclude(leased, lambda job: job.finish({"ok": 1}, now=NOW))

    again = await broker.jobs.conclude(leased, lambda job: job.finish({"ok": 2}, now=NOW))

    assert again == ended == await stored(broker, leased)


async def test_a_failed_job_waits_in_its_old_place(broker: Broker) -> None:
    first, second = await enqueue(broker), await enqueue(broker, priority=Priority.LOW)
    leased = await broker.jobs.lease(first, token="t")

    await broker.jobs.conclude(leased, lambda job: job.fail(error="E", now=NOW, retry_at=NOW + 9))

    assert await queue(broker) == [first.id, second.id]
    assert (await stored(broker, first)).due_at == NOW + 9


async def test_a_queued_job_is_cancelled_at_once_and_again_with_the_same_answer(broker: Broker) -> None:
    job = await enqueue(broker)

    cancelled = await broker.jobs.request_cancel("acme", job.id, cause=said_by("operator-2"))
    again = await broker.jobs.request_cancel("acme", job.id, cause=said_by("operator-3"))

    assert cancelled == again == await stored(broker, job)
    assert (cancelled.state, cancelled.cancel_requested_by, cancelled.cancel_requested_at) == (
        JobState.CANCELLED, "operator-2", NOW,
    )  # fmt: skip
    with pytest.raises(WriteConflict):
        await broker.jobs.lease(job, token="t")


async def test_a_running_job_is_flagged_by_the_first_who_asks(broker: Broker) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")

    for who in ("operator-2", "operator-3"):
        flagged = await broker.jobs.request_cancel("acme", leased.id, cause=said_by(who))

    assert (flagged.state, flagged.cancel_requested_by) == (JobState.RUNNING, "operator-2")
    assert flagged == await stored(broker, leased)


@pytest.mark.parametrize("state", [JobState.DONE, JobState.DEAD, JobState.TIMED_OUT])
async def test_what_has_ended_cannot_be_cancelled(broker: Broker, state: JobState) -> None:
    job = await put(broker, a_job(state=state, finished_at=NOW, cancel_requested_by="too late"))

    with pytest.raises(JobWrongState):
        await broker.jobs.request_cancel("acme", job.id, cause=said_by("o"))

    assert await stored(broker, job) == job


@pytest.mark.parametrize("state", [JobState.DEAD, JobState.TIMED_OUT, JobState.CANCELLED])
async def test_of_two_who_requeue_a_dead_job_one_does(broker: Broker, state: JobState) -> None:
    job = await put(broker, a_running_job(state=state, finished_at=NOW, ttl=NOW + 99, attempt=5))

    results = await asyncio.gather(
        *(broker.jobs.requeue("acme", job.id, cause=said_by(f"operator-{n}")) for n in range(2)),
        return_exceptions=True,
    )

    assert sorted(type(result) for result in results if not isinstance(result, Job)) == [JobWrongState]
    present = await stored(broker, job)
    assert present in results
    assert (present.state, present.attempt, present.ttl, present.lease_token) == (JobState.QUEUED, 0, None, None)
    assert await queue(broker) == [job.id]


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.DONE])
async def test_what_did_not_fail_cannot_be_requeued(broker: Broker, state: JobState) -> None:
    job = await put(broker, a_running_job(state=state))

    with pytest.raises(JobWrongState):
        await broker.jobs.requeue("acme", job.id, cause=said_by("o"))

    assert await stored(broker, job) == job


async def test_an_ended_job_is_there_for_thirty_days_and_hidden_after_though_the_item_stays(
    broker: Broker, clock: Clock
) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")
    dead = await broker.jobs.conclude(leased, lambda job: job.time_out(error="E", now=NOW))

    async def seen() -> tuple[bool, int, int]:
        listed = [row async for row in broker.jobs.walk("acme", JobState.TIMED_OUT)]
        counted = await broker.jobs.count("acme", JobState.TIMED_OUT)
        return await broker.jobs.get("acme", dead.id) is not None, len(listed), counted

    clock.now = NOW + ARCHIVE_S - 1
    assert await seen() == (True, 1, 1)
    clock.now += 1
    assert await seen() == (False, 0, 0)
    with pytest.raises(JobNotFound):
        await broker.jobs.requeue("acme", dead.id, cause=said_by("o"))
    assert table.job_key("acme", dead.id)["pk"] in [item["pk"] for item in await items_of(broker)]


async def test_ended_jobs_are_listed_by_their_end_the_newest_first_page_by_page(broker: Broker) -> None:
    for number in range(1, 6):
        await put(broker, a_job(number=number, state=JobState.DONE, finished_at=NOW + number))
    listed, after = [], None

    while True:
        rows, after = await broker.jobs.page("acme", JobState.DONE, limit=2, newest_first=True, after=after)
        listed += [row.finished_at for row in rows]
        if after is None:
            break

    assert listed == [NOW + n for n in (5, 4, 3, 2, 1)]


async def test_attributes_of_a_newer_release_survive_every_write_of_this_one(broker: Broker) -> None:
    job = await enqueue(broker)
    await broker.client.call(
        "update_item",
        TableName=broker.client.table.name,
        Key=table.job_key("acme", job.id),
        UpdateExpression="SET future = :m",
        ExpressionAttributeValues={":m": {"L": [{"N": "1"}]}},
    )

    leased = await broker.jobs.lease(job, token="t")
    await broker.jobs.renew(leased, Progress(done=1))
    await broker.jobs.conclude(leased, lambda j: j.time_out(error="E", now=NOW))
    await broker.jobs.requeue("acme", job.id, cause=said_by("o"))

    item = next(i for i in await items_of(broker) if i["pk"] == table.job_key("acme", job.id)["pk"])
    assert item["future"] == {"L": [{"N": "1"}]}
    assert item["state"] == {"S": "queued"}


async def test_a_job_of_a_newer_release_is_passed_over_and_left_alone(broker: Broker) -> None:
    newer = job_item(a_job()) | table.encode({"kind": "rebalance"})
    await broker.client.call("put_item", TableName=broker.client.table.name, Item=newer)
    mine = await enqueue(broker)

    assert await queue(broker) == [mine.id]
    assert await broker.jobs.get("acme", a_job().id) is None


@pytest.mark.parametrize("write", ["enqueue", "lease", "requeue", "cancel", "conclude"])
async def test_a_write_whose_answer_is_lost_is_looked_for_and_counts(
    proxy: StoreProxy, table_name: str, write: str
) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as broker:
        job = await enqueue(broker)
        if write == "conclude":
            job = await broker.jobs.lease(job, token="t")
        if write == "requeue":
            job = await put(broker, a_running_job(state=JobState.DEAD))
        writes = {
            "enqueue": lambda: enqueue(broker),
            "lease": lambda: broker.jobs.lease(job, token="t"),
            "requeue": lambda: broker.jobs.requeue("acme", job.id, cause=said_by("o")),
            "cancel": lambda: broker.jobs.request_cancel("acme", job.id, cause=said_by("o")),
            "conclude": lambda: broker.jobs.conclude(job, lambda j: j.finish({}, now=NOW)),
        }
        proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems", "UpdateItem"]})

        after = await writes[write]()

        assert proxy.faults.lose_answer_next == 0, "the answer was lost"
        assert await stored(broker, after) == after


async def test_a_job_that_begins_before_its_lost_answer_is_looked_for_is_queued_once(
    proxy: StoreProxy, ministack: str, table_name: str
) -> None:
    async with (
        a_broker(proxy.url, table_name, clock=Clock(NOW)) as broker,
        a_broker(ministack, table_name, clock=Clock(NOW)) as worker,
    ):

        async def take(_: object) -> None:
            rows, _ = await worker.jobs.page("acme", JobState.QUEUED, limit=1)
            await worker.jobs.lease(rows[0], token="t")

        proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]})
        with proxy.after("TransactWriteItems", take):
            job = await enqueue(broker)

        assert proxy.faults.lose_answer_next == 0
        assert (await stored(broker, job)).state is JobState.RUNNING


async def test_a_write_that_never_arrived_is_no_success(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as broker:
        job = await enqueue(broker)
        proxy.faults.reset_next = 1

        with pytest.raises(StoreUnavailable):
            await broker.jobs.lease(job, token="t")

        assert await stored(broker, job) == job


async def test_a_stale_index_makes_nobody_join_what_has_begun(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as broker:
        first = await enqueue(broker, Kind.SYNC)
        await proxy.settle()
        proxy.faults.freeze_indexes = True
        await broker.jobs.lease(first, token="t")

        assert await queue(broker) == [first.id], "the index still shows it as queued"
        assert (await enqueue(broker, Kind.SYNC)).id != first.id


ENDS = {
    "done": (lambda job: job.finish({"ok": 1}, now=NOW), "done", None),
    "failed": (lambda job: job.fail(error="E", now=NOW, retry_at=NOW + 9), None, None),
    "failed for the last time": (
        lambda job: replace(job, attempt=job.max_attempts).fail(error="E", now=NOW, retry_at=NOW), "dead", "E",
    ),
    "timed out": (lambda job: job.time_out(error="DEADLINE", now=NOW), "timed_out", "DEADLINE"),
    "stopped": (lambda job: job.stop(now=NOW), "cancelled", None),
    "handed back": (lambda job: job.hand_back(now=NOW), None, None),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
async def test_the_asking_and_the_end_are_events_and_what_is_between_is_none(broker: Broker, end: str) -> None:
    move, state, error = ENDS[end]
    leased = await broker.jobs.lease(await enqueue(broker), token="t")
    await broker.jobs.renew(leased, Progress(done=3, failed=1, total=9))

    for _ in range(2):
        await broker.jobs.conclude(leased, move)

    asking = ("o", "request_job", None, "queued", "r", None)
    ended = [("worker:jobs", "end_job", "running", state, "r", error)] if state else []
    assert await told(broker) == [asking, *ended]


async def test_a_job_that_kills_its_workers_ends_with_an_event(broker: Broker) -> None:
    job = await put(broker, a_running_job(attempt=4))

    again = await broker.jobs.take_over(job, token="b")
    assert await told(broker) == []
    await broker.jobs.take_over(again, token="c")

    ((actor, action, before, after, request_id, error),) = await told(broker)
    assert (actor, action, before, after, request_id) == ("worker:jobs", "end_job", "running", "dead", "req-test")
    assert "KILLED_ITS_WORKER" in error


async def test_what_people_ask_of_a_job_is_told_with_who_and_in_which_request(broker: Broker) -> None:
    leased = await broker.jobs.lease(await enqueue(broker), token="t")
    olga = Cause(actor="olga", action="cancel_job", request_id="req-1", reason="the wrong lab")
    await broker.jobs.request_cancel("acme", leased.id, cause=olga)
    await broker.jobs.request_cancel("acme", leased.id, cause=replace(olga, actor="too late"))
    await broker.jobs.conclude(leased, lambda job: job.stop(now=NOW))
    await broker.jobs.requeue(
        "acme", leased.id, cause=Cause(actor="ada", action="requeue_job", request_id="req-2")
    )

    assert await told(broker) == [
        ("o", "request_job", None, "queued", "r", None),
        ("olga", "cancel_job", "running", "running", "req-1", None),
        ("worker:jobs", "end_job", "running", "cancelled", "r", None),
        ("ada", "requeue_job", "cancelled", "queued", "req-2", None),
    ]
    events = [table.decode(i) for i in await items_of(broker) if i["pk"]["S"].startswith("EVT#")]
    assert {event["subject"] for event in events} == {f"job:{leased.id}"}
    assert [event["reason"] for event in events if event["actor"] == "olga"] == ["the wrong lab"]


async def test_joining_a_sync_that_waits_changes_nothing_and_is_no_event(broker: Broker) -> None:
    await enqueue(broker, Kind.SYNC)
    await enqueue(broker, Kind.SYNC, requested_by="p", request_id="q")

    assert await told(broker) == [("o", "request_job", None, "queued", "r", None)]


async def test_of_two_who_cancel_or_requeue_at_once_one_leaves_an_event(broker: Broker) -> None:
    job = await enqueue(broker)
    await asyncio.gather(*(broker.jobs.request_cancel("acme", job.id, cause=said_by(f"c{n}")) for n in range(3)))
    requeues = [broker.jobs.requeue("acme", job.id, cause=said_by(f"r{n}")) for n in range(3)]
    await asyncio.gather(*requeues, return_exceptions=True)

    assert [(before, after) for _, _, before, after, *_ in await told(broker)] == [
        (None, "queued"), ("queued", "cancelled"), ("cancelled", "queued"),
    ]  # fmt: skip


async def test_a_beat_that_meets_a_request_to_cancel_keeps_its_lease(proxy: StoreProxy, table_name: str) -> None:
    """DynamoDB refuses a write of an item that a transaction is at: that is no word about the lease."""
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as broker:
        leased = await broker.jobs.lease(await enqueue(broker), token="t")
        committed, release = asyncio.Event(), asyncio.Event()

        async def hold(_: object) -> None:
            committed.set()
            await release.wait()

        async def let_go(_: object) -> None:
            release.set()
            await cancelling

        with proxy.after("TransactWriteItems", hold):
            cancelling = asyncio.create_task(broker.jobs.request_cancel("acme", leased.id, cause=said_by("o")))
            await committed.wait()
            with proxy.after("GetItem", let_go):
                renewed = await broker.jobs.renew(leased, Progress(done=2))

        assert proxy.counts.faults["real_conflict"] == 1
        assert (renewed.done, renewed.beat, renewed.cancel_requested_by) == (2, 1, "o")


async def test_a_beat_that_never_gets_its_turn_is_trouble_and_no_lost_lease(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as broker:
        leased = await broker.jobs.lease(await enqueue(broker), token="t")

        async def conflict(_: object) -> None:
            raise Refused(error("TransactionConflictException", "a transaction is at it"))

        with proxy.before("UpdateItem", conflict), pytest.raises(StoreUnavailable):
            await broker.jobs.renew(leased, Progress())

        assert (await stored(broker, leased)).lease_token == "t"


@pytest.mark.parametrize("slot", [0, 1])
async def test_a_request_that_meets_a_conflict_is_tried_again_and_told_once(
    proxy: StoreProxy, table_name: str, slot: int
) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as broker:
        job = await enqueue(broker)
        proxy.faults.change({"conflict_next": {str(slot): 3}})

        cancelled = await broker.jobs.request_cancel("acme", job.id, cause=said_by("o"))

        assert cancelled == await stored(broker, job)
        assert [action for _, action, *_ in await told(broker)] == ["request_job", "test"]


async def test_a_job_that_cannot_be_queued_leaves_no_event_and_is_trouble(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as broker:
        for fault, raised in (
            ({"throttle_next": 1, "throttle_ops": ["TransactWriteItems"]}, StoreThrottled),
            ({"conflict_next": {"0": 1}}, StoreUnavailable),
            ({"reset_next": 1}, StoreUnavailable),
        ):
            proxy.faults.change(fault)
            with pytest.raises(raised):
                await enqueue(broker)
        assert await queue(broker) == []
        assert await told(broker) == []
