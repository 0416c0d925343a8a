"""F2-F6, F8: every move of a job, the queue's one order, and what its progress says."""

from typing import Any

import pytest

from broker.errors import IllegalMove
from broker.job import (
    ARCHIVE_S,
    DEADLINE_S,
    ENDED,
    MAX_ATTEMPTS,
    MOVES,
    REQUEUEABLE,
    WORTH_S,
    Job,
    JobState,
    Kind,
    Priority,
    Progress,
)
from tests.builders import NOW, a_job, a_running_job

LATER = NOW + 100

TRANSITIONS: dict[str, tuple[set[JobState], JobState, Any]] = {
    "lease": ({JobState.QUEUED}, JobState.RUNNING, lambda j: j.lease(token="t", now=LATER)),
    "take over": ({JobState.RUNNING}, JobState.RUNNING, lambda j: j.take_over(token="t", now=LATER)),
    "finish": ({JobState.RUNNING}, JobState.DONE, lambda j: j.finish({"ok": 1}, now=LATER)),
    "fail": ({JobState.RUNNING}, JobState.QUEUED, lambda j: j.fail(error="E", now=LATER, retry_at=LATER + 5)),
    "hand back": ({JobState.RUNNING}, JobState.QUEUED, lambda j: j.hand_back(now=LATER)),
    "time out": ({JobState.RUNNING}, JobState.TIMED_OUT, lambda j: j.time_out(error="E", now=LATER)),
    "stop": ({JobState.RUNNING}, JobState.CANCELLED, lambda j: j.stop(now=LATER)),
    "requeue": (set(REQUEUEABLE), JobState.QUEUED, lambda j: j.requeue(by="o", now=LATER)),
}


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_transition_starts_from_its_states_and_no_other(name: str, state: JobState) -> None:
    starts, to, transition = TRANSITIONS[name]
    before = a_running_job(state=state, version=7)

    if state not in starts:
        with pytest.raises(IllegalMove):
            transition(before)
        return
    after: Job = transition(before)
    assert (after.state, after.version) == (to, 8)
    assert (after.ttl, after.finished_at) == ((LATER + ARCHIVE_S, LATER) if to in ENDED else (None, None))


@pytest.mark.parametrize("state", JobState)
def test_a_request_to_cancel_ends_what_waits_and_tells_what_runs(state: JobState) -> None:
    before = a_running_job(state=state)

    if state not in (JobState.QUEUED, JobState.RUNNING):
        with pytest.raises(IllegalMove):
            before.request_cancel(by="o", now=LATER)
        return
    after = before.request_cancel(by="o", now=LATER)
    assert after.state is (JobState.CANCELLED if state is JobState.QUEUED else JobState.RUNNING)
    assert (after.cancel_requested_by, after.cancel_requested_at, after.version) == ("o", LATER, 3)


def test_every_state_has_its_moves_and_every_kind_its_deadline() -> None:
    assert set(MOVES) == set(JobState)
    assert set(JobState) - ENDED == {JobState.QUEUED, JobState.RUNNING}
    assert {JobState.DEAD, JobState.TIMED_OUT, JobState.CANCELLED} == REQUEUEABLE
    assert set(DEADLINE_S) == set(Kind)
    assert set(WORTH_S) == set(Priority)


@pytest.mark.parametrize("waited_s", [1799, 1801])
def test_a_low_job_goes_before_a_fresh_high_one_after_half_an_hour_and_not_before(waited_s: int) -> None:
    low = a_job(priority=Priority.LOW)
    high = a_job(priority=Priority.HIGH, queued_at=NOW + waited_s)

    assert (low.order_at < high.order_at) == (waited_s > 1800)


@pytest.mark.parametrize("waited_s", [299, 301])
def test_a_normal_job_goes_before_a_fresh_high_one_after_five_minutes_and_not_before(waited_s: int) -> None:
    high = a_job(priority=Priority.HIGH, queued_at=NOW + waited_s)

    assert (a_job().order_at < high.order_at) == (waited_s > 300)


@pytest.mark.parametrize("priority", Priority)
def test_among_equals_the_older_goes_first(priority: Priority) -> None:
    assert a_job(priority=priority).order_at < a_job(priority=priority, queued_at=NOW + 1).order_at


def test_the_last_attempt_that_fails_is_the_end() -> None:
    failed = [a_running_job(attempt=n).fail(error="E", now=LATER, retry_at=LATER + 9) for n in (4, 5)]

    assert [job.state for job in failed] == [JobState.QUEUED, JobState.DEAD]
    assert (failed[0].due_at, failed[0].error, failed[1].error) == (LATER + 9, "E", "E")
    assert MAX_ATTEMPTS == 5


def test_a_job_that_keeps_killing_its_worker_ends_dead_and_says_so() -> None:
    job = a_job().lease(token="t0", now=NOW)
    for n in range(1, MAX_ATTEMPTS):
        job = job.take_over(token=f"t{n}", now=NOW + n)
        assert (job.state, job.attempt, job.kills, job.beat) == (JobState.RUNNING, n + 1, n, 0)
        assert (job.lease_token, job.started_at) == (f"t{n}", NOW + n)

    dead = job.take_over(token="t9", now=LATER)

    assert (dead.state, dead.attempt, dead.kills, dead.lease_token) == (JobState.DEAD, 5, 5, None)
    assert dead.error == "KILLED_ITS_WORKER: 5 of 5 attempts ended with their worker"


def test_handing_back_is_no_attempt_and_keeps_the_place_in_the_queue() -> None:
    before = a_job(queued_at=NOW - 50)

    after = before.lease(token="t", now=NOW).hand_back(now=LATER)

    assert (after.attempt, after.order_at, after.due_at) == (0, before.order_at, LATER)


@pytest.mark.parametrize("end", ["fail", "hand back", "take over"])
def test_what_was_to_be_cancelled_is_not_run_again(end: str) -> None:
    flagged = a_running_job().request_cancel(by="o", now=NOW)

    after: Job = TRANSITIONS[end][2](flagged)

    assert (after.state, after.cancel_requested_by) == (JobState.CANCELLED, "o")


def test_a_requeued_job_begins_anew_at_the_end_of_the_queue_and_says_who_queued_it() -> None:
    dead = a_running_job(attempt=5, kills=2, done=3, failed=1, total=9).fail(error="E", now=NOW, retry_at=0)

    again = dead.requeue(by="operator-2", now=LATER)

    assert (again.attempt, again.kills, again.lease_token, again.ttl, again.finished_at) == (
        0,
        0,
        None,
        None,
        None,
    )
    assert (again.done, again.failed, again.total, again.percent) == (0, 0, None, None)
    assert (again.queued_at, again.created_at, again.due_at) == (LATER, NOW, LATER)
    assert (again.requeued_by, again.requeued_at, again.error) == ("operator-2", LATER, "E")
    assert again.lease(token="t", now=LATER).finish({}, now=LATER).error is None


@pytest.mark.parametrize(
    ("progress", "took_s", "percent", "eta_s"),
    [
        (Progress(), 10, None, None),
        (Progress(done=5), 10, None, None),
        (Progress(total=40), 10, 0.0, None),
        (Progress(done=9, failed=1, total=40), 10, 25.0, 30),
        (Progress(done=9, failed=1, total=40), 0, 25.0, None),
        (Progress(done=40, total=40), 10, 100.0, 0),
        (Progress(done=50, total=40), 10, 100.0, 0),
        (Progress(total=0), 10, 100.0, None),
    ],
)
def test_percentage_and_time_left_follow_from_the_rate_of_this_attempt(
    progress: Progress, took_s: int, percent: float | None, eta_s: int | None
) -> None:
    job = a_running_job().progressed(progress, now=NOW + took_s)

    assert (job.percent, job.eta_s) == (percent, eta_s)
    ended = job.stop(now=NOW + took_s)
    assert (ended.percent, ended.eta_s) == (percent, None)
    assert job.finish({}, now=LATER).percent == 100.0
