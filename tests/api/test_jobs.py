"""C3, C4, F4, F5, F8: what operators ask the worker for, how the answer comes, and what is refused."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from broker.job import Job, JobState, Kind, Priority, Progress
from broker.sandbox import State
from broker.store.job_items import job_item
from broker.store.table import Item
from local.store_proxy import StoreProxy
from tests.api.service import ADMIN, TRACK, Api, asked_of, error_of, refusal
from tests.api.test_admin_lists import in_state, put
from tests.builders import NOW, a_job, a_running_job, said_by
from tests.worker.test_runner import until
from worker.job_context import Context, Handler
from worker.job_run import Pace
from worker.provider.client import ProviderError
from worker.runner import Runner

INVALID = (400, "INVALID_REQUEST")
BULK = {"reason": "a test", "status": "available"}


async def post(api: Api, path: str, json: Any = None, **query: Any) -> httpx.Response:
    waits = {} if path.startswith("/jobs/") else {"wait": 0}
    return await api.http.post(f"/v1/admin{path}", headers=ADMIN, json=json, params=waits | query)


async def stored(api: Api, answer: httpx.Response) -> Job:
    job = await api.core.jobs.get("acme", answer.json()["job_id"])
    assert job is not None
    return job


async def queued(api: Api) -> list[Job]:
    return [job async for job in api.core.jobs.walk("acme", JobState.QUEUED)]


async def first_queued(api: Api) -> Job:
    """The job that was just asked for, whatever became of it since."""
    seen: list[Job] = []

    async def there() -> bool:
        rows = [await api.core.jobs.page("acme", state, limit=1) for state in JobState]
        seen.extend(job for found, _ in rows for job in found)
        return bool(seen)

    await until(there)
    return seen[0]


async def put_jobs(api: Api, *jobs: Job, **more: Any) -> None:
    for job in jobs:
        item: Item = job_item(job) | more
        await api.core.client.call("put_item", TableName=api.core.client.table.name, Item=item)


async def done(_: Context) -> Counter[str]:
    return Counter(added=3)


@asynccontextmanager
async def a_worker(api: Api, handler: Handler = done) -> AsyncIterator[Runner]:
    """A worker beside the API, that looks at the queue ten times a second."""
    handlers: dict[Kind, Handler] = dict.fromkeys(Kind, handler)
    core, pace = api.core, Pace(beat_s=0.1)
    runner = Runner(core.jobs, handlers, core.metrics, permissions=core.permissions, tenant="acme", pace=pace)

    async def ticking() -> None:
        while True:
            await runner.tick("tick")
            await asyncio.sleep(0.1)

    ticks = asyncio.create_task(ticking())
    try:
        yield runner
    finally:
        ticks.cancel()
        await asyncio.gather(ticks, return_exceptions=True)
        await runner.cancel_all()


@pytest.mark.parametrize(("path", "kind"), [("/sync", Kind.SYNC), ("/cleanup", Kind.CLEANUP)])
async def test_what_is_done_within_the_wait_is_200_with_the_result(api: Api, path: str, kind: Kind) -> None:
    async with a_worker(api):
        answer = await post(api, path, wait=20)

    assert answer.status_code == 200
    body = answer.json()
    assert (body["kind"], body["state"], body["result"]) == (kind.value, "done", {"added": 3})
    assert (body["percent"], body["attempt"], body["priority"]) == (100.0, 1, "high")
    assert "location" not in answer.headers


async def test_what_is_not_done_yet_is_202_with_a_place_to_look_and_goes_on(api: Api) -> None:
    answer = await post(api, "/sync", {"confirm": True, "reason": "provider says so"}, wait=0.3)

    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    async with a_worker(api):

        async def ended() -> bool:
            look = await api.http.get(answer.headers["Location"], headers=ADMIN)
            return bool(look.json()["state"] == "done")

        await until(ended)
    job = await stored(api, answer)
    assert (job.params, job.reason) == ({"confirm": "true"}, "provider says so")
    assert (job.request_id, job.requested_by) == (answer.headers["X-Request-ID"], "bootstrap-admin")


async def test_a_second_sync_joins_the_first_and_both_see_its_end(api: Api) -> None:
    first = await post(api, "/sync")
    async with a_worker(api):
        second = await post(api, "/sync", wait=20)

    assert (second.status_code, second.json()["job_id"]) == (200, first.json()["job_id"])


@pytest.mark.parametrize("end", ["dead", "timed_out", "cancelled"])
async def test_what_ends_badly_within_the_wait_is_no_success(api: Api, end: str) -> None:
    """A script that looks at the status alone must not take it for done."""

    now = int(time.time())
    moves: dict[str, Callable[[Job], Job]] = {
        "timed_out": lambda job: job.time_out(error="DEADLINE", now=now),
        "dead": lambda job: replace(job, attempt=5).fail(error="HTTP_500", now=now, retry_at=now),
    }

    async def end_it() -> None:
        waiting = await first_queued(api)
        if end == "cancelled":
            await api.core.jobs.request_cancel("acme", waiting.id, cause=said_by("someone"))
            return
        leased = await api.core.jobs.lease(waiting, token="t")
        await api.core.jobs.conclude(leased, moves[end])

    answer, _ = await asyncio.gather(post(api, "/cleanup", wait=20), end_it())

    assert refusal(answer) == (409, "JOB_FAILED")
    details = error_of(answer)["details"]
    assert details["state"] == end
    assert details["error"] == {"dead": "HTTP_500", "timed_out": "DEADLINE", "cancelled": None}[end]
    assert (await api.admin(f"/jobs/{details['job_id']}")).json()["state"] == end


async def test_a_failed_attempt_is_on_its_way_still(api: Api) -> None:
    async def failing(_: Context) -> Counter[str]:
        raise ProviderError("HTTP_500")

    async with a_worker(api, failing):
        answer = await post(api, "/sync", wait=1.5)

    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["error"], answer.json()["attempt"]) == ("queued", "HTTP_500", 1)


async def test_a_process_that_leaves_answers_at_once_and_the_job_stays(api: Api) -> None:
    asked = asyncio.create_task(post(api, "/sync", wait=60))
    await first_queued(api)
    api.app.state.readiness.draining = True

    answer = await asyncio.wait_for(asked, 20)

    assert answer.status_code == 202
    assert (await stored(api, answer)).state is JobState.QUEUED


async def test_a_store_that_goes_away_during_the_wait_queues_nothing_twice(
    proxied: Api, proxy: StoreProxy
) -> None:
    asked = asyncio.create_task(post(proxied, "/bulk/quarantine", BULK, wait=1.5))
    await first_queued(proxied)
    proxy.faults.down = True

    answer = await asked

    assert (answer.status_code, answer.json()["state"]) == (202, "queued")


async def test_a_store_that_is_away_queues_nothing_and_says_so(proxied: Api, proxy: StoreProxy) -> None:
    proxy.faults.down = True
    answers = [await post(proxied, "/sync"), await proxied.admin("/jobs"), await proxied.admin("/jobs/1")]
    answers += [await post(proxied, f"/jobs/1/{do}") for do in ("cancel", "requeue")]
    answers += [
        await proxied.admin("/dead-letters"),
        await post(proxied, "/bulk-delete", status="stale", dry_run=1),
    ]
    assert {refusal(answer) for answer in answers} == {(503, "STORE_UNAVAILABLE")}
    proxy.faults.down = False
    assert await queued(proxied) == []


@pytest.mark.parametrize("status", ["stale", "deletion_failed"])
async def test_bulk_delete_takes_what_is_stale_or_failed(api: Api, status: str) -> None:
    answer = await post(api, "/bulk-delete", status=status)

    job = await stored(api, answer)
    assert answer.status_code == 202
    assert (job.kind, job.params, job.priority) == (Kind.BULK_DELETE, {"status": status}, Priority.NORMAL)


async def test_bulk_delete_keeps_the_reason_that_it_is_given(api: Api) -> None:
    given = await post(api, "/bulk-delete", {"reason": " seen to by hand "}, status="deletion_failed")
    none = await post(api, "/bulk-delete", status="deletion_failed")
    bad = await post(api, "/bulk-delete", {"reason": "x"}, status="deletion_failed")

    assert (await stored(api, given)).reason == "seen to by hand"
    assert (await stored(api, none)).reason is None
    assert refusal(bad) == INVALID


async def test_bulk_delete_takes_no_other_status(api: Api) -> None:
    for status in (*(set(State) - {State.STALE, State.DELETION_FAILED}), "", "STALE", None):
        query = {} if status is None else {"status": str(status)}
        for dry_run in (True, False):
            assert refusal(await post(api, "/bulk-delete", dry_run=dry_run, **query)) == INVALID, status
    assert await queued(api) == []


async def test_a_dry_run_counts_shows_some_and_changes_nothing(api: Api) -> None:
    await put(api, [in_state(State.STALE, n) for n in range(25)])
    await put(api, [in_state(State.DELETION_FAILED, 50)])

    answer = await post(api, "/bulk-delete", status="stale", dry_run=True)

    body = answer.json()
    assert answer.status_code == 200
    assert (body["dry_run"], body["kind"], body["total"], body["left_alone"]) == (True, "bulk_delete", 25, {})
    assert body["sample"] == [in_state(State.STALE, n).id for n in range(20)]
    assert await queued(api) == []
    assert (await api.admin("/stats")).json()["stale"] == 25


async def test_a_dry_run_of_given_ids_says_why_some_would_be_left_alone(api: Api) -> None:
    await put(api, [in_state(State.ALLOCATED, 1), in_state(State.DELETED, 2)])
    ids = [in_state(State.ALLOCATED, 1).id, in_state(State.DELETED, 2).id, "unknown"]

    answer = await post(api, "/bulk/force-release", {"reason": "lab is broken", "ids": ids}, dry_run=True)

    body = answer.json()
    assert (body["total"], body["sample"], body["left_alone"]) == (1, ids[:1], {"deleted": 1, "not_found": 1})


@pytest.mark.parametrize(
    ("move", "status"),
    [("retry", "deletion_failed"), ("quarantine", "available"), ("force-release", "allocated")],
)
async def test_a_bulk_move_keeps_what_was_asked_for(api: Api, move: str, status: str) -> None:
    body = {"reason": " lab 7 is broken ", "status": status, "track": "lab", "prefix": "a-", "priority": "low"}

    job = await stored(api, await post(api, f"/bulk/{move}", body))

    assert job.kind.value == f"bulk_{move.replace('-', '_')}"
    assert job.params == {"status": status, "track": "lab", "prefix": "a-"}
    assert (job.priority, job.reason) == (Priority.LOW, "lab 7 is broken")


async def test_a_thousand_ids_are_taken_once_each_and_shown_as_a_number(api: Api) -> None:
    ids = [str(2_009_000 + n) for n in range(999)]

    answer = await post(api, "/bulk/retry", {"reason": "a test", "ids": [*ids, ids[0]]})

    assert (await stored(api, answer)).params == {"ids": " ".join(ids)}
    assert answer.json()["params"] == {"ids": "999 ids"}
    assert refusal(await post(api, "/bulk/retry", {"reason": "a test", "ids": [*ids, "1", "2"]})) == INVALID


BAD_BODIES: dict[str, Any] = {
    "no body": None,
    "no reason": {"status": "available"},
    "a short reason": BULK | {"reason": "ab"},
    "a blank reason": BULK | {"reason": "     "},
    "a long reason": BULK | {"reason": "x" * 201},
    "a reason of two lines": BULK | {"reason": "one\ntwo"},
    "a reason with an escape": BULK | {"reason": "\x1b[31mred"},
    "a reason with an invisible letter": BULK | {"reason": "ab\u200bcd"},
    "a number for a reason": BULK | {"reason": 12345},
    "nothing selected": {"reason": "a test"},
    "nulls selected": {"reason": "a test", "ids": None, "status": None},
    "ids and a status": BULK | {"ids": ["1"]},
    "no ids": {"reason": "a test", "ids": []},
    "an odd id": {"reason": "a test", "ids": ["a b"]},
    "an empty id": {"reason": "a test", "ids": [""]},
    "a long id": {"reason": "a test", "ids": ["x" * 129]},
    "an id that is a number": {"reason": "a test", "ids": [2009001]},
    "ids that are a text": {"reason": "a test", "ids": "2009001"},
    "a status of another move": BULK | {"status": "allocated"},
    "a status that nothing starts from": BULK | {"status": "deleted"},
    "an odd track": {"reason": "a test", "track": "a#b"},
    "an empty prefix": {"reason": "a test", "prefix": ""},
    "an odd priority": BULK | {"priority": "urgent"},
    "a field that is not there": BULK | {"force": True},
    "a list": [BULK],
    "a text": "quarantine",
    "a number": 1,
}


async def test_a_bulk_move_that_is_badly_asked_for_is_refused_and_asks_the_store_nothing(
    proxied: Api, proxy: StoreProxy
) -> None:
    proxy.counts.reset()
    for why, body in BAD_BODIES.items():
        for dry_run in (True, False):
            answer = await post(proxied, "/bulk/quarantine", body, dry_run=dry_run)
            assert refusal(answer) == INVALID, why
            assert "body" in str(error_of(answer)["details"]), why
    assert asked_of(proxy) == Counter()


@pytest.mark.parametrize("reason", ["abc", "x" * 200, "Übung, 日本: “why?”"])
async def test_a_reason_may_be_in_any_language_and_up_to_its_bounds(api: Api, reason: str) -> None:
    assert (await stored(api, await post(api, "/bulk/quarantine", BULK | {"reason": reason}))).reason == reason


ODD_BODIES = (
    b"{broken", b"[" * 60_000, b"\xff\xfe", b'{"reason": "\\ud800abc"}', b"[]", b'"x"', b'{"force": 1}',
    b'{"reason": "x"}', b'{"confirm": "yes"}', b'{"confirm": 1}', b"name=value",
)  # fmt: skip


async def test_a_request_with_an_odd_body_is_refused_and_queues_nothing(api: Api) -> None:
    for path in ("/sync", "/cleanup"):
        for body in ODD_BODIES:
            answer = await api.http.post(f"/v1/admin{path}", headers=ADMIN, content=body, params={"wait": 0})
            assert refusal(answer) == INVALID, (path, body[:20])
    assert await queued(api) == []


@pytest.mark.parametrize("body", [b"", b"  ", b"{}", b'{"reason": null}'])
async def test_a_sync_needs_no_body(api: Api, body: bytes) -> None:
    answer = await api.http.post("/v1/admin/sync", headers=ADMIN, content=body, params={"wait": 0})

    assert answer.status_code == 202


@pytest.mark.parametrize("path", ["/sync", "/bulk/retry"])
@pytest.mark.parametrize(("headers", "expected"), [({}, (401, "UNAUTHENTICATED")), (TRACK, (403, "FORBIDDEN"))])
async def test_who_may_not_ask_learns_nothing_of_what_was_wrong_with_the_body(
    api: Api, path: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    answer = await api.http.post(f"/v1/admin{path}", headers=headers, content=b"{broken")

    assert refusal(answer) == expected


@pytest.mark.parametrize("path", ["/sync", "/cleanup", "/bulk-delete"])
async def test_the_wait_has_bounds(api: Api, path: str) -> None:
    for wait in ("-1", "60.1", "inf", "nan", "soon", ""):
        assert refusal(await post(api, path, status="stale", wait=wait)) == INVALID, wait
    assert await queued(api) == []


@pytest.mark.parametrize(
    "path",
    ["/jobs?limit=0", "/jobs?limit=201", "/jobs?limit=x", "/jobs?state=odd", "/jobs/a%20b", f"/jobs/{'x' * 129}"],
)
async def test_what_is_badly_asked_about_jobs_is_refused(api: Api, path: str) -> None:
    assert refusal(await api.http.get(f"/v1/admin{path}", headers=ADMIN)) == INVALID


async def test_an_unknown_job_is_404_whatever_is_asked_of_it(api: Api) -> None:
    answers = [await api.admin("/jobs/unknown")]
    answers += [await post(api, f"/jobs/unknown/{do}") for do in ("cancel", "requeue")]
    assert {refusal(answer) for answer in answers} == {(404, "JOB_NOT_FOUND")}


async def test_a_running_job_shows_how_far_it_is_and_how_long_it_takes(api: Api) -> None:
    shown = a_running_job().progressed(Progress(done=9, failed=1, total=40), now=NOW + 10)
    await put_jobs(api, shown)

    body = (await api.admin(f"/jobs/{shown.id}")).json()

    facts = {name: body[name] for name in ("state", "done", "failed", "total", "percent", "eta_s", "progress_at")}
    assert facts == {
        "state": "running", "done": 9, "failed": 1, "total": 40,
        "percent": 25.0, "eta_s": 30, "progress_at": NOW + 10,
    }  # fmt: skip


async def test_a_queued_job_is_cancelled_and_leaves_its_trail(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    job_id = (await post(api, "/bulk/quarantine", BULK)).json()["job_id"]

    with caplog.at_level(logging.INFO, logger="app"):
        answer = await post(api, f"/jobs/{job_id}/cancel")

    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert answer.json()["cancel_requested_by"] == "bootstrap-admin"
    line = vars(next(record for record in caplog.records if record.getMessage() == "request"))
    assert (line["outcome"], line["job_id"], line["caller"]) == ("job_cancel_requested", job_id, "bootstrap-admin")


async def test_a_running_bulk_job_is_cancelled_between_two_sandboxes(api: Api) -> None:
    begun: list[str] = []

    async def endless(context: Context) -> Counter[str]:
        begun.append(context.job.id)
        while True:
            await context.checkpoint()
            await asyncio.sleep(0.01)

    async with a_worker(api, endless):
        asked = asyncio.create_task(post(api, "/bulk/quarantine", BULK, wait=20))
        job_id = (await first_queued(api)).id
        await until(lambda: job_id in begun)
        cancelled = await post(api, f"/jobs/{job_id}/cancel")
        answer = await asked

    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "running")
    assert refusal(answer) == (409, "JOB_FAILED")
    assert error_of(answer)["details"]["state"] == "cancelled"


async def test_what_has_ended_cannot_be_cancelled_and_what_did_not_fail_cannot_be_requeued(api: Api) -> None:
    ended = a_job(number=1, state=JobState.DONE, finished_at=NOW)
    waiting = a_job(number=2)
    await put_jobs(api, ended, waiting)

    answers = [await post(api, f"/jobs/{ended.id}/{do}") for do in ("cancel", "requeue")]
    answers.append(await post(api, f"/jobs/{waiting.id}/requeue"))

    assert {refusal(answer) for answer in answers} == {(409, "JOB_WRONG_STATE")}


async def test_of_two_who_requeue_at_once_one_wins(api: Api) -> None:
    dead = a_running_job(state=JobState.DEAD, attempt=5, finished_at=NOW, error="HTTP_500")
    await put_jobs(api, dead)

    answers = await asyncio.gather(*(post(api, f"/jobs/{dead.id}/requeue") for _ in range(2)))

    assert sorted(answer.status_code for answer in answers) == [200, 409]
    winner = next(answer for answer in answers if answer.status_code == 200).json()
    assert (winner["state"], winner["attempt"], winner["requeued_by"]) == ("queued", 0, "bootstrap-admin")
    assert [job.id for job in await queued(api)] == [dead.id]
