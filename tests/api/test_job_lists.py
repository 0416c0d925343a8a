"""C3, F4: lists of jobs page through everything once; the dead letters say what fails most."""

from typing import Any

import pytest

from app.dead_letters import EXAMINED, reason_of
from broker.job import JobState
from broker.sandbox import State
from tests.api.service import Api, refusal
from tests.api.test_admin_lists import in_state, put
from tests.api.test_jobs import put_jobs
from tests.builders import NOW, a_job


async def job_pages(api: Api, **query: Any) -> list[list[str]]:
    found: list[list[str]] = []
    cursor: dict[str, str] = {}
    for _ in range(100):
        body = (await api.admin("/jobs", **query, **cursor)).json()
        assert body["count"] == len(body["jobs"]) <= query.get("limit", 50)
        found.append([job["job_id"] for job in body["jobs"]])
        if body["cursor"] is None:
            return found
        cursor = {"cursor": body["cursor"]}
    raise AssertionError("the list has no end")


@pytest.fixture
async def every_state(api: Api) -> dict[JobState, list[str]]:
    """Three jobs in each state, by state in the order they are listed, and an archived one in each."""
    listed: dict[JobState, list[str]] = {}
    for n, state in enumerate(JobState):
        facts: dict[str, Any] = {"state": state}
        ended = state not in (JobState.QUEUED, JobState.RUNNING)
        jobs = []
        for k in range(3):
            at = {"queued_at": NOW + k, "started_at": NOW + k, "finished_at": NOW + k if ended else None}
            jobs.append(a_job(number=10 * n + k, **facts, **at))
        await put_jobs(api, *jobs, a_job(number=10 * n + 9, **facts, finished_at=NOW, ttl=NOW))
        ids = [job.id for job in jobs]
        listed[state] = ids[::-1] if ended else ids
    return listed


@pytest.mark.parametrize("limit", [1, 2, 3, 200])
async def test_every_job_is_listed_once_in_order_whatever_the_page(
    api: Api, every_state: dict[JobState, list[str]], limit: int
) -> None:
    pages = await job_pages(api, limit=limit)

    assert [job for page in pages for job in page] == [job for state in JobState for job in every_state[state]]


@pytest.mark.parametrize("state", JobState)
async def test_a_state_lists_its_own(api: Api, every_state: dict[JobState, list[str]], state: JobState) -> None:
    assert [job for page in await job_pages(api, state=state.value, limit=2) for job in page] == every_state[state]


async def test_a_cursor_is_good_for_its_own_list_alone(api: Api, every_state: dict[JobState, list[str]]) -> None:
    cursor = (await api.admin("/jobs", limit=1)).json()["cursor"]
    await api.fill(2)
    other = (await api.admin("/sandboxes", limit=1)).json()["cursor"]

    assert (await api.admin("/jobs", limit=1, cursor=cursor)).status_code == 200
    for path, query in (
        ("/jobs", {"cursor": cursor[:-2]}),
        ("/jobs", {"cursor": cursor, "state": "dead"}),
        ("/jobs", {"cursor": other}),
        ("/sandboxes", {"cursor": cursor}),
    ):
        assert refusal(await api.admin(path, **query)) == (400, "INVALID_CURSOR"), (path, query)


async def test_the_dead_letters_show_totals_top_reasons_and_samples(api: Api) -> None:
    errors = ["HTTP_500: account 2009001", "HTTP_500: account 2009002", "TIMEOUT: DELETE"]
    await put_jobs(
        api,
        a_job(number=1, state=JobState.DEAD, finished_at=NOW + 1, error="HTTP_500"),
        a_job(number=2, state=JobState.TIMED_OUT, finished_at=NOW + 2, error="DEADLINE: it ran for over 600 s"),
        a_job(number=3, state=JobState.CANCELLED, finished_at=NOW + 3, error="HTTP_500"),
        a_job(number=4, state=JobState.DEAD, finished_at=NOW, ttl=NOW, error="archived"),
    )
    failed = [in_state(State.PENDING_DELETION, n).fail_deletion(error=e, now=NOW, retry_at=None)
              for n, e in enumerate(errors)]  # fmt: skip
    await put(api, failed)

    body = (await api.admin("/dead-letters")).json()

    jobs, sandboxes = body["jobs"], body["sandboxes"]
    assert (jobs["total"], jobs["examined"]) == (2, 2)
    assert [job["job_id"] for job in jobs["sample"]] == [a_job(number=2).id, a_job(number=1).id]
    assert {row["reason"]: row["count"] for row in jobs["reasons"]} == {
        "HTTP_500": 1, "DEADLINE: it ran for over 600 s": 1,
    }  # fmt: skip
    assert (sandboxes["total"], sandboxes["examined"]) == (3, 3)
    assert sandboxes["reasons"] == [
        {"reason": "HTTP_500: account *", "count": 2}, {"reason": "TIMEOUT: DELETE", "count": 1},
    ]  # fmt: skip
    assert sorted(row["sandbox_id"] for row in sandboxes["sample"]) == sorted(sandbox.id for sandbox in failed)


async def test_of_many_dead_letters_a_bounded_number_is_read_and_all_are_counted(api: Api) -> None:
    count = EXAMINED + 30
    await put(api, [in_state(State.DELETION_FAILED, n) for n in range(count)])

    sandboxes = (await api.admin("/dead-letters")).json()["sandboxes"]

    assert (sandboxes["total"], sandboxes["examined"], len(sandboxes["sample"])) == (count, EXAMINED, 20)
    assert sandboxes["reasons"] == [{"reason": "unknown", "count": EXAMINED}]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "unknown"),
        ("HTTP_500", "HTTP_500"),
        ("HTTP_502: <html>", "HTTP_502: <html>"),
        ("gone: identity/accounts/7f9c24e5-2f36-4b1c-9d6e-0a1b2c3d4e5f", "gone: identity/accounts/*"),
        ("lease 9f8e7d6c5b4a3210 of 2009521 lost", "lease * of * lost"),
        ("facade decade", "facade decade"),
        ("one\ntwo", "one"),
        ("x" * 500, "x" * 120),
    ],
)
def test_errors_of_one_cause_have_one_reason(error: str | None, reason: str) -> None:
    assert reason_of(error) == reason
