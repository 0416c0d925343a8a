"""F1-F6, F8: jobs run under leases, whoever dies, hangs, is cancelled, runs out of time or has to leave."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from broker.errors import LeaseLost, StoreThrottled, WriteConflict
from broker.job import MAX_ATTEMPTS, Job, JobState, Kind, Priority, Progress
from broker.store.jobs import Jobs
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.builders import NOW, said_by
from tests.conftest import a_broker
from tests.store.conftest import Clock
from worker.job_context import Context, HandedBack, Handler, JobCancelled
from worker.job_run import Pace
from worker.provider.client import ProviderError
from worker.runner import DEATHS, Runner

RUN = "jobs-1"
FAST = Pace(lease_s=15, beat_s=0.05, patience_s=0.3)
LAPSE_S = FAST.lease_s


async def quick(_: Context) -> Counter[str]:
    return Counter(ok=1)


def a_runner(core: Broker, handler: Handler = quick, **changes: Any) -> Runner:
    values: dict[str, Any] = {
        "tenant": "acme", "pace": FAST, "clock": core.jobs._clock, "permissions": core.permissions,
    }  # fmt: skip
    return Runner(changes.pop("jobs", core.jobs), dict.fromkeys(Kind, handler), core.metrics, **values | changes)


async def a_job_queued(core: Broker, kind: Kind = Kind.BULK_RETRY, **more: Any) -> Job:
    values: dict[str, Any] = {"params": {}, "priority": Priority.NORMAL, "requested_by": "o", "request_id": "r"}
    return await core.jobs.enqueue("acme", kind, **values | more)


async def stored(core: Broker, job: Job) -> Job:
    present = await core.jobs.get("acme", job.id)
    assert present is not None
    return present


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            met = condition()
            if met is True or (not isinstance(met, bool) and await met):
                return
            await asyncio.sleep(0.02)


async def run_to_the_end(core: Broker, job: Job, handler: Handler, **changes: Any) -> Job:
    runner = a_runner(core, handler, **changes)
    await runner.tick(RUN)
    await runner.idle()
    return await stored(core, job)


class Work:
    """A handler that the test watches and lets go on. It steps, with a checkpoint each, until it may end."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.stubborn = stubborn  # has no checkpoints
        self.begun = 0
        self.steps = 0
        self.may_end = asyncio.Event()
        self.stopped_by: list[str] = []

    async def __call__(self, context: Context) -> Counter[str]:
        self.begun += 1
        context.progress(total=100)
        try:
            while not self.may_end.is_set():
                await asyncio.sleep(0.01)
                if not self.stubborn:
                    await context.checkpoint()
                self.steps += 1
                context.progress(done=self.steps)
        except (Exception, asyncio.CancelledError) as stop:
            self.stopped_by.append(type(stop).__name__)
            raise
        return Counter(stepped=self.steps)


@asynccontextmanager
async def running(core: Broker, work: Work, **changes: Any) -> AsyncIterator[tuple[Runner, Job]]:
    """A runner in the middle of a job."""
    job = await a_job_queued(core)
    runner = a_runner(core, work, **changes)
    await runner.tick(RUN)
    await until(lambda: work.steps > 0)
    try:
        yield runner, job
    finally:
        work.may_end.set()
        await runner.idle()


async def test_a_job_runs_and_leaves_its_counts(core: Broker) -> None:
    seen: list[Context] = []

    async def handler(context: Context) -> Counter[str]:
        seen.append(context)
        context.progress(done=2, failed=1, total=3)
        return Counter(retried=2, wrong_state=1)

    job = await a_job_queued(core, params={"status": "stale"}, reason="why", request_id="req-7", requested_by="op")
    ended = await run_to_the_end(core, job, handler)

    assert (ended.state, ended.attempt, ended.result) == (JobState.DONE, 1, {"retried": 2, "wrong_state": 1})
    assert (ended.done, ended.failed, ended.total, ended.percent) == (2, 1, 3, 100.0)
    (told,) = seen
    facts = (told.tenant, told.params, told.request_id, told.requested_by, told.reason)
    assert facts == ("acme", {"status": "stale"}, "req-7", "op", "why")


async def test_of_two_runners_one_runs_a_job(core: Broker) -> None:
    job = await a_job_queued(core)
    work = Work()
    work.may_end.set()
    runners = [a_runner(core, work) for _ in range(2)]

    outcomes = await asyncio.gather(*(runner.tick(RUN) for runner in runners))
    for runner in runners:
        await runner.idle()

    assert work.begun == 1
    assert sum(outcome["started"] for outcome in outcomes) == 1
    assert (await stored(core, job)).attempt == 1


async def test_a_running_job_beats_and_shows_its_progress(core: Broker) -> None:
    work = Work()
    async with running(core, work) as (_, job):

        async def beaten() -> bool:
            return (await stored(core, job)).beat >= 3

        await until(beaten)
        shown = await stored(core, job)
        assert (shown.state, shown.total, shown.attempt) == (JobState.RUNNING, 100, 1)
        assert 0 < shown.done <= work.steps
        assert core.metrics.registry.get_sample_value("worker_jobs_running", {"tenant": "acme"}) == 1

    assert core.metrics.registry.get_sample_value("worker_jobs_running", {"tenant": "acme"}) == 0


def test_progress_is_fresh_within_two_seconds_and_a_holder_lets_go_before_anybody_takes_over() -> None:
    pace = Pace()
    slowest_beat_s = pace.beat_s + pace.lease_s / 4
    assert pace.beat_s <= 1.5
    assert pace.lease_s / 2 + slowest_beat_s < pace.lease_s
    assert pace.patience_s + slowest_beat_s < 30, "cancelled within half a minute"


async def test_a_lost_lease_stops_the_work_and_its_late_end_is_refused(core: Broker) -> None:
    work = Work()
    async with running(core, work) as (runner, job):
        thief: Job | None = None
        while thief is None:
            with suppress(WriteConflict):  # a beat came first
                thief = await core.jobs.take_over(await stored(core, job), token="thief")
        await runner.idle()

    assert len(work.stopped_by) == 1
    assert await stored(core, job) == thief


async def test_a_job_whose_worker_died_is_run_again_once_it_has_not_beaten_for_a_lease(core: Broker) -> None:
    now = Clock(1000)
    job = await core.jobs.lease(await a_job_queued(core), token="of-the-dead")
    runner = a_runner(core, monotonic=now)

    early = []
    for now.now in (1000, 1000 + LAPSE_S - 0.1):
        early.append(await runner.tick(RUN))
    now.now = 1000 + LAPSE_S
    taken = await runner.tick(RUN)
    await runner.idle()

    assert early == [Counter(), Counter()]
    assert taken == Counter(taken_over=1)
    ended = await stored(core, job)
    assert (ended.state, ended.attempt, ended.kills) == (JobState.DONE, 2, 1)


async def test_no_more_lapsed_jobs_are_taken_over_at_once_than_there_are_slots(core: Broker) -> None:
    now = Clock(1000)
    for token in ("one", "two"):
        await core.jobs.lease(await a_job_queued(core), token=token)
    runner = a_runner(core, monotonic=now, concurrency=1)
    await runner.tick(RUN)
    now.now += LAPSE_S

    outcomes = []
    for _ in range(2):
        outcomes.append(await runner.tick(RUN))
        await runner.idle()

    assert outcomes == [Counter(taken_over=1)] * 2


async def test_a_job_that_beats_is_nobody_elses_however_the_clocks_go(core: Broker) -> None:
    """The observer's wall clock is an hour ahead; its own monotonic clock counts, and the beats."""
    now, skewed = Clock(1000), Clock(NOW + 3600)
    job = await core.jobs.lease(await a_job_queued(core), token="alive")
    runner = a_runner(core, monotonic=now, clock=skewed)

    for _ in range(5):
        assert await runner.tick(RUN) == Counter()
        now.now += LAPSE_S - 1
        await core.jobs.renew(job, Progress())

    assert (await stored(core, job)).lease_token == "alive"


async def test_a_stale_index_makes_nobody_take_over_a_job_that_beats(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as core:
        now = Clock(1000)
        job = await core.jobs.lease(await a_job_queued(core), token="alive")
        await proxy.settle()
        proxy.faults.freeze_indexes = True
        runner = a_runner(core, monotonic=now)

        for _ in range(3):
            await core.jobs.renew(job, Progress())
            assert await runner.tick(RUN) == Counter()
            now.now += LAPSE_S

        assert (await stored(core, job)).lease_token == "alive"


async def test_a_job_that_keeps_killing_its_worker_ends_in_the_dead_letters(
    core: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Each worker leases it and is gone: nothing of it is ever written again."""
    now = Clock(1000)
    job = await core.jobs.lease(await a_job_queued(core), token="of-the-dead")
    begun = 0

    async def poison(_: Context) -> Counter[str]:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()
        raise AssertionError

    with caplog.at_level(logging.ERROR, logger="worker"):
        for _ in range(MAX_ATTEMPTS + 2):
            runner = a_runner(core, poison, monotonic=now)
            await runner.tick(RUN)
            now.now += LAPSE_S
            await runner.tick(RUN)
            await runner.cancel_all()

    dead = await stored(core, job)
    assert (dead.state, dead.attempt, dead.kills) == (JobState.DEAD, MAX_ATTEMPTS, MAX_ATTEMPTS)
    assert begun <= MAX_ATTEMPTS - 1
    assert dead.error is not None
    assert dead.error.startswith("KILLED_ITS_WORKER: 5 of 5")
    deaths = {"tenant": "acme", "kind": "bulk_retry", "why": "killed"}
    assert core.metrics.registry.get_sample_value("worker_job_deaths_total", deaths) == 1
    assert "job ended for good" in caplog.text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ProviderError("HTTP_500"), "HTTP_500"),
        (StoreThrottled(), "The store is throttling. Repeat the request."),
        (RuntimeError("password=hunter2"), "CRASHED: RuntimeError"),
    ],
)
async def test_a_failed_job_is_tried_again_after_a_pause_and_ends_dead_after_its_attempts(
    core: Broker, clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    async def failing(_: Context) -> Counter[str]:
        raise error

    job = await a_job_queued(core)
    with caplog.at_level(logging.WARNING, logger="worker"):
        for attempt in range(1, MAX_ATTEMPTS):
            failed = await run_to_the_end(core, job, failing)
            assert (failed.state, failed.attempt, failed.error) == (JobState.QUEUED, attempt, told)
            assert failed.due_at > clock.now
            assert await a_runner(core, failing).tick(RUN) == Counter(), "not before it is due"
            clock.now = failed.due_at
        dead = await run_to_the_end(core, job, failing)

    assert (dead.state, dead.attempt, dead.error) == (JobState.DEAD, MAX_ATTEMPTS, told)
    deaths = {"tenant": "acme", "kind": "bulk_retry", "why": "attempts"}
    assert core.metrics.registry.get_sample_value("worker_job_deaths_total", deaths) == 1
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert bool(tracebacks) == isinstance(error, RuntimeError)


async def test_a_job_that_waits_for_its_time_stops_nobody_behind_it(core: Broker, clock: Clock) -> None:
    async def failing(_: Context) -> Counter[str]:
        raise ProviderError("HTTP_500")

    first = await a_job_queued(core)
    await run_to_the_end(core, first, failing)
    second = await a_job_queued(core, priority=Priority.LOW)

    assert (await run_to_the_end(core, second, quick)).state is JobState.DONE
    assert (await stored(core, first)).state is JobState.QUEUED


async def test_jobs_start_in_the_queues_order_and_no_more_at_once_than_there_are_slots(
    core: Broker, clock: Clock
) -> None:
    order: list[str] = []
    at_once = 0

    async def handler(context: Context) -> Counter[str]:
        nonlocal at_once
        order.append(context.request_id)
        at_once += 1
        assert at_once == 1
        await asyncio.sleep(0.05)
        at_once -= 1
        return Counter()

    await a_job_queued(core, priority=Priority.LOW, request_id="old low")
    clock.now += 1801
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        await a_job_queued(core, priority=priority, request_id=priority.value)
    runner = a_runner(core, handler, concurrency=1)
    while len(order) < 4:
        await runner.tick(RUN)
        await runner.idle()

    assert order == ["old low", "high", "normal", "low"]


async def test_two_slots_run_two_jobs_and_the_third_waits(core: Broker) -> None:
    for _ in range(3):
        await a_job_queued(core)
    work = Work()
    runner = a_runner(core, work)

    first, second = [await runner.tick(RUN) for _ in range(2)]

    assert (first, second) == (Counter(started=2), Counter())
    assert core.metrics.registry.get_sample_value("worker_jobs_queued", {"tenant": "acme"}) == 1
    work.may_end.set()
    await runner.idle()
    assert await runner.tick(RUN) == Counter(started=1)
    await runner.idle()


async def test_a_cancelled_job_stops_at_its_next_checkpoint(core: Broker) -> None:
    work = Work()
    async with running(core, work) as (runner, job):
        await core.jobs.request_cancel("acme", job.id, cause=said_by("operator-2"))
        await runner.idle()

    ended = await stored(core, job)
    assert work.stopped_by == [JobCancelled.__name__]
    assert (ended.state, ended.cancel_requested_by, ended.error) == (JobState.CANCELLED, "operator-2", None)
    assert (ended.done, ended.total) == (work.steps, 100)


async def test_a_cancelled_job_that_does_not_stop_by_itself_is_cut(core: Broker) -> None:
    work = Work(stubborn=True)
    async with running(core, work) as (runner, job):
        await core.jobs.request_cancel("acme", job.id, cause=said_by("operator-2"))
        await runner.idle()

    assert work.stopped_by == ["CancelledError"]
    assert (await stored(core, job)).state is JobState.CANCELLED


async def test_a_job_that_was_cancelled_in_the_queue_is_never_run(core: Broker) -> None:
    job = await a_job_queued(core)
    await core.jobs.request_cancel("acme", job.id, cause=said_by("o"))
    work = Work()

    ended = await run_to_the_end(core, job, work)

    assert (ended.state, work.begun) == (JobState.CANCELLED, 0)


async def test_past_its_deadline_a_job_is_cut_timed_out_counted_and_told_as_an_error(
    core: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    job = await a_job_queued(core)
    work = Work()
    deadlines = dict.fromkeys(Kind, 3600.0) | {Kind.BULK_RETRY: 0.2}

    with caplog.at_level(logging.ERROR, logger="worker"):
        ended = await run_to_the_end(core, job, work, deadlines_s=deadlines)

    assert (ended.state, ended.error) == (JobState.TIMED_OUT, "DEADLINE: it ran for over 0.2 s")
    assert ended.done == work.steps > 0
    assert len(work.stopped_by) == 1
    deaths = {"tenant": "acme", "kind": "bulk_retry", "why": "timed_out"}
    assert core.metrics.registry.get_sample_value("worker_job_deaths_total", deaths) == 1
    assert "job ended for good" in caplog.text
    assert await a_runner(core).tick(RUN) == Counter(), "it is not tried again by itself"


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_worker_that_leaves_hands_its_jobs_back_and_that_is_no_attempt(
    core: Broker, stubborn: bool
) -> None:
    work = Work(stubborn=stubborn)
    async with running(core, work) as (runner, job):
        await runner.drain(2)
        back = await stored(core, job)
        after_the_drain = await runner.tick(RUN)

    assert work.stopped_by == ["CancelledError" if stubborn else HandedBack.__name__]
    assert (back.state, back.attempt, back.due_at) == (JobState.QUEUED, 0, int(core.jobs._clock()))
    assert after_the_drain == Counter()
    ended = await run_to_the_end(core, job, quick)
    assert (ended.state, ended.attempt) == (JobState.DONE, 1)


async def test_a_worker_that_no_longer_leads_lets_go_and_writes_nothing(core: Broker) -> None:
    work = Work()
    now = Clock(1000)
    pace = Pace(lease_s=LAPSE_S, beat_s=3600)
    async with running(core, work, pace=pace, monotonic=now) as (runner, job):
        before = await stored(core, job)
        await runner.cancel_all()

        assert await stored(core, job) == before
        assert len(work.stopped_by) == 1
        work.may_end.set()
        await runner.tick(RUN)  # it leads again
        now.now += LAPSE_S
        assert await runner.tick(RUN) == Counter(taken_over=1)
        await runner.idle()

    assert (await stored(core, job)).attempt == 2


async def test_a_worker_that_stops_leading_while_it_leaves_hands_nothing_back(core: Broker) -> None:
    work = Work(stubborn=True)
    async with running(core, work) as (runner, job):
        leaving = asyncio.create_task(runner.drain(20))
        await asyncio.sleep(0)
        await runner.cancel_all()
        await leaving

    assert work.stopped_by == ["CancelledError"]
    assert (await stored(core, job)).state is JobState.RUNNING, "it lapses"


async def test_a_worker_that_stops_leading_while_it_takes_a_job_does_not_begin_it(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as core:
        job = await a_job_queued(core)
        work = Work()
        runner = a_runner(core, work)

        with proxy.before("UpdateItem", lambda _: runner.cancel_all()):
            await runner.tick(RUN)
        await runner.idle()

        assert work.begun == 0
        assert (await stored(core, job)).state is JobState.RUNNING, "it lapses"


async def test_a_worker_that_begins_to_leave_while_it_takes_a_job_hands_it_back(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as core:
        job = await a_job_queued(core)
        work = Work()
        runner = a_runner(core, work)

        with proxy.before("UpdateItem", lambda _: runner.drain(1)):
            await runner.tick(RUN)

        assert work.begun == 0
        back = await stored(core, job)
        assert (back.state, back.attempt) == (JobState.QUEUED, 0)


async def test_a_short_outage_of_the_store_stops_no_job(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as core:
        work = Work()
        async with running(core, work) as (_, job):
            proxy.faults.down = True
            seen = work.steps
            await until(lambda: work.steps > seen + 20)
            proxy.faults.down = False
            beat = (await stored(core, job)).beat

            async def beats() -> bool:
                return (await stored(core, job)).beat > beat

            await until(beats)
        assert (await stored(core, job)).state is JobState.DONE


async def test_a_worker_that_cannot_beat_for_half_a_lease_stops_by_itself(
    proxy: StoreProxy, table_name: str
) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as core:
        work = Work()
        pace = Pace(lease_s=1, beat_s=0.05)
        async with running(core, work, pace=pace) as (runner, job):
            proxy.faults.down = True
            await runner.idle()
            proxy.faults.down = False

        assert len(work.stopped_by) == 1
        assert (await stored(core, job)).state is JobState.RUNNING, "whoever leads takes it over"


async def test_one_bad_beat_after_many_good_ones_stops_no_job(proxy: StoreProxy, table_name: str) -> None:
    """A lease's half counts from the last good beat, not from the beginning."""
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as core:
        work = Work()
        now = Clock(1000)
        async with running(core, work, pace=Pace(lease_s=8, beat_s=0.02), monotonic=now) as (_, job):

            async def beaten(times: int) -> bool:
                return (await stored(core, job)).beat >= times

            for number in range(1, 6):
                now.now += 1.9
                await until(lambda number=number: beaten(3 * number))
            proxy.faults.change({"throttle_next": 1, "throttle_ops": ["UpdateItem"]})
            await until(lambda: beaten(20))
            assert proxy.faults.throttle_next == 0
        assert (await stored(core, job)).state is JobState.DONE


async def test_an_end_whose_answer_is_lost_is_written_once(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as core:
        job = await a_job_queued(core)

        async def handler(_: Context) -> Counter[str]:
            proxy.faults.change({"lose_answer_next": 1, "lose_answer_ops": ["TransactWriteItems"]})
            return Counter(ok=1)

        ended = await run_to_the_end(core, job, handler, pace=Pace(beat_s=60))

        assert proxy.faults.lose_answer_next == 0
        assert (ended.state, ended.result, ended.version) == (JobState.DONE, {"ok": 1}, 3)


async def test_a_store_that_is_away_at_the_end_of_a_job_is_waited_for(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name, clock=Clock(NOW)) as core:
        job = await a_job_queued(core)

        async def handler(_: Context) -> Counter[str]:
            proxy.faults.reset_next = 3
            return Counter(ok=1)

        assert (await run_to_the_end(core, job, handler)).state is JobState.DONE


async def test_a_handler_that_finds_its_lease_lost_ends_and_writes_nothing(core: Broker) -> None:
    async def handler(_: Context) -> Counter[str]:
        raise LeaseLost

    job = await a_job_queued(core)
    assert (await run_to_the_end(core, job, handler)).state is JobState.RUNNING


class Heartless(Jobs):
    """A store with a bug in its heartbeat."""

    async def renew(self, leased: Job, progress: Progress) -> Job:
        raise RuntimeError("a bug")


async def test_a_dead_heartbeat_stops_the_job(
    core: Broker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    job = await a_job_queued(core)
    work = Work()

    with caplog.at_level(logging.ERROR, logger="worker"):
        ended = await run_to_the_end(
            core, job, work, jobs=Heartless(core.client, core.tenants, core.events, clock=clock)
        )

    assert len(work.stopped_by) == 1
    assert (ended.state, ended.error) == (JobState.QUEUED, "HEARTBEAT_DIED")
    assert "heartbeat died" in caplog.text


async def test_a_runner_without_a_handler_for_every_kind_is_refused(core: Broker) -> None:
    with pytest.raises(ValueError, match="cleanup"):
        Runner(core.jobs, {Kind.SYNC: quick}, core.metrics, permissions=core.permissions, tenant="acme", pace=FAST)


async def test_the_first_death_is_an_increase_as_deaths_are_counted_from_0(core: Broker, clock: Clock) -> None:
    """The alert JobDied asks for an increase, and a series that begins at 1 has none."""

    async def unasked(_: Context) -> Counter[str]:
        return Counter()

    a_runner(core, unasked)

    deaths = [{"tenant": "acme", "kind": kind.value, "why": why} for kind in Kind for why in DEATHS]
    assert {core.metrics.registry.get_sample_value("worker_job_deaths_total", death) for death in deaths} == {0}
