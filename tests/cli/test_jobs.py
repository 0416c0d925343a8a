"""C3, F8: asking the worker from a shell, following it, leaving it alone, and what became of it."""

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from broker.job import Job, JobState, Kind
from local.engine import free_port
from tests.api.service import Api, an_api
from tests.api.test_jobs import a_worker, first_queued, put_jobs, queued
from tests.builders import NOW, a_job
from tests.cli.conftest import served
from tests.cli.shell import Done, Shell, ended, said
from tests.worker.test_runner import until
from worker.job_context import Context
from worker.provider.client import ProviderError


def now() -> int:
    """Of this second, as what ended a month ago is archived."""
    return int(time.time())


ENDED_BADLY = {
    JobState.DEAD: lambda job: replace(job, attempt=5).fail(error="HTTP_500", now=now(), retry_at=now()),
    JobState.TIMED_OUT: lambda job: job.time_out(error="DEADLINE", now=now()),
}


class Steps:
    """A handler that stands still after each step until it is let on."""

    def __init__(self, total: int | None = 500) -> None:
        self._total = total
        self._next = asyncio.Event()
        self.stopped = False

    async def __call__(self, context: Context) -> Counter[str]:
        context.progress(done=120, failed=3, total=self._total)
        while not self._next.is_set():
            await asyncio.sleep(0.02)
            try:
                await context.checkpoint()
            except BaseException:
                self.stopped = True
                raise
        return Counter(deleted=497, lost_race=3)

    def finish(self) -> None:
        self._next.set()


async def done(_: Context) -> Counter[str]:
    return Counter(added=3, unchanged=7)


async def the_job(api: Api, job_id: str) -> Job:
    job = await api.core.jobs.get("acme", job_id)
    assert job is not None
    return job


async def becomes(api: Api, job_id: str, fact: Callable[[Job], bool]) -> None:
    async def met() -> bool:
        return fact(await the_job(api, job_id))

    await until(met)


async def running(api: Api) -> list[Job]:
    return [job async for job in api.core.jobs.walk("acme", JobState.RUNNING)]


@pytest.mark.parametrize(("command", "kind"), [("sync", Kind.SYNC), ("cleanup", Kind.CLEANUP)])
async def test_what_is_asked_for_is_followed_to_its_end_and_its_counts_are_told(
    shell: Shell, api: Api, command: str, kind: Kind
) -> None:
    async with a_worker(api, done):
        told = await shell.run(command, "--reason", "before the workshop")
        as_json = await shell.run(command, "--json")

    assert told.code == 0, told.err
    (job_id,) = re.findall(rf"^{command} (\S+) done in \d+s: 3 added, 7 unchanged$", told.out, re.MULTILINE)
    job = await the_job(api, job_id)
    assert (job.kind, job.state, job.reason, job.params) == (kind, JobState.DONE, "before the workshop", {})
    assert as_json.json == (await api.admin(f"/jobs/{as_json.json['job_id']}")).json()


async def test_a_confirmed_sync_is_asked_for_as_one(shell: Shell, api: Api) -> None:
    told = await shell.run("sync", "--confirm", "--reason", "half of the labs were closed", "--no-wait")
    bare = await shell.run("sync", "--confirm", "--no-wait")

    assert (await the_job(api, told.out.strip())).params == {"confirm": "true"}
    assert (bare.code, "--reason" in bare.err) == (2, True)


async def test_without_waiting_the_jobs_id_is_all_that_is_printed(shell: Shell, api: Api) -> None:
    told = await shell.run("sync", "--no-wait")
    as_json = await shell.run("cleanup", "--no-wait", "--json")

    waiting = {job.id: job.kind.value for job in await queued(api)}
    assert (told.code, as_json.code) == (0, 0)
    assert waiting == {told.out.strip(): "sync", as_json.json["job_id"]: "cleanup"}
    assert f"sandbox-broker jobs watch {told.out.strip()}" in told.err


async def test_a_wait_that_is_over_first_is_1_and_the_job_goes_on(shell: Shell, api: Api) -> None:
    told = await shell.run("sync", "--wait", "1", "--json")

    (job,) = await queued(api)
    assert (told.code, told.json["job_id"]) == (1, job.id)
    assert f"sync {job.id} is queued, and goes on." in told.err
    assert f"sandbox-broker jobs cancel {job.id}" in told.err


@pytest.mark.parametrize("options", [["--wait", "5", "--no-wait"], ["--wait", "0"], ["--wait", "soon"]])
def test_wait_and_no_wait_exclude_each_other_and_a_wait_has_a_bound(
    misused: Callable[..., Done], options: list[str]
) -> None:
    assert [misused(command, *options).code for command in ("sync", "cleanup")] == [2, 2]


@pytest.mark.parametrize("end", ENDED_BADLY, ids=str)
async def test_a_job_that_ends_badly_is_1_with_its_error_and_how_to_run_it_again(
    shell: Shell, api: Api, end: JobState
) -> None:
    following = asyncio.create_task(shell.run("cleanup", "--json"))
    waiting = await first_queued(api)
    leased = await api.core.jobs.lease(waiting, token="t")
    await api.core.jobs.conclude(leased, ENDED_BADLY[end])

    told = await following

    assert told.code == 1
    assert told.json["state"] == end.value
    error = {JobState.DEAD: "HTTP_500", JobState.TIMED_OUT: "DEADLINE"}[end]
    assert f"cleanup {waiting.id} ended {end.value}: {error}." in told.err
    assert f"sandbox-broker jobs requeue {waiting.id}" in told.err


async def test_the_progress_is_lines_where_there_is_no_terminal(shell: Shell, api: Api) -> None:
    steps = Steps()
    async with a_worker(api, steps):
        process = await shell.start("cleanup")
        job = await first_queued(api)
        before = await said(process, "running, 123/500")
        steps.finish()
        told = await ended(process, after=before)

    assert "sandbox-broker: cleanup running, 123/500 25% 3 failed" in told.err
    assert f"(job {job.id})" in told.err
    assert "\x1b" not in told.err
    assert re.fullmatch(rf"cleanup {job.id} done in \d+s: 497 deleted, 3 lost race\n", told.out)


@pytest.mark.parametrize(("total", "words"), [(500, r"123/500 25% 3 failed"), (None, r"123 so far")])
async def test_on_a_terminal_the_progress_is_a_bar_that_fits_and_goes_away(
    shell: Shell, api: Api, total: int | None, words: str
) -> None:
    steps = Steps(total)
    async with a_worker(api, steps), shell.on_a_terminal("sync") as terminal:
        await terminal.until(words)
        assert max(map(len, terminal.text.splitlines())) <= 80
        assert "sync running" in terminal.text
        assert "━" in terminal.text
        assert ("╸" in terminal.text) == (total is not None), "where the share of the bar ends"
        steps.finish()
        assert await terminal.end() == 0
        assert terminal.text.rstrip().endswith("497 deleted, 3 lost race")


async def test_ctrl_c_leaves_the_job_running_says_how_to_go_on_and_is_130(shell: Shell, api: Api) -> None:
    steps = Steps()
    async with a_worker(api, steps):
        async with shell.on_a_terminal("cleanup") as terminal:
            await terminal.until("123/500")
            terminal.interrupt()
            assert await terminal.end() == 130
            (job,) = await running(api)
            assert "The job goes on." in terminal.text
            assert f"sandbox-broker jobs watch {job.id}" in terminal.text.replace("\n", "")
            assert f"sandbox-broker jobs cancel {job.id}" in terminal.text.replace("\n", "")
            assert "\x1b[?25h" in terminal.seen, "the cursor is back"
        assert (await the_job(api, job.id)).cancel_requested_by is None
        steps.finish()
        watched = await shell.run("jobs", "watch", job.id)

    assert (watched.code, steps.stopped) == (0, False)
    assert "497 deleted" in watched.out


async def test_ctrl_c_in_a_script_is_130_without_a_traceback(shell: Shell, api: Api) -> None:
    process = await shell.start("sync")
    job = await first_queued(api)
    await said(process, "waits for the worker")
    process.send_signal(signal.SIGINT)

    told = await ended(process)

    assert (told.code, told.out) == (130, "")
    assert job.id in told.err
    assert (await the_job(api, job.id)).state is JobState.QUEUED


async def test_an_api_that_goes_away_for_a_while_is_waited_for(api: Api) -> None:
    port = free_port()
    steps = Steps()
    async with a_worker(api, steps):
        async with served(api.app, port) as url:
            process = await Shell(url).start("cleanup")
            job = await first_queued(api)
            await becomes(api, job.id, lambda job: job.state is JobState.RUNNING)
        await said(process, "the API does not answer")
        steps.finish()
        async with served(api.app, port):
            told = await ended(process)

    assert told.code == 0, told.err


async def test_who_follows_a_job_leaves_room_for_other_commands_where_requests_are_limited(
    ministack: str, table_name: str
) -> None:
    """Looking twice a second would use up `60/minute` in half a minute, and the cancel would be refused."""
    async with (
        an_api(ministack, table_name, RATE_LIMIT_PER_CREDENTIAL="8/8 second") as api,
        served(api.app) as url,
    ):
        process = await Shell(url).start("cleanup")
        job = await first_queued(api)
        await asyncio.sleep(6)
        cancelled = await Shell(url).run("jobs", "cancel", job.id)
        told = await ended(process)
        metrics = await api.metrics()

    assert (cancelled.code, cancelled.err) == (0, "")
    assert (told.code, "ended cancelled" in told.err) == (1, True)
    assert metrics.get('broker_rate_limited_total{scope="credential"}', 0) == 0


async def test_a_failed_attempt_says_when_the_next_one_is_and_why(shell: Shell, api: Api) -> None:
    async def failing(_: Context) -> Counter[str]:
        raise ProviderError("HTTP_500: [/b]\x1b[2J")

    async with a_worker(api, failing):
        told = await shell.run("sync", "--wait", "3")
        async with shell.on_a_terminal("sync", "--wait", "3") as terminal:
            await terminal.until(r"sync queued .*? attempt \d of 5 in \d+s: HTTP_500: \[/b\]")
            await terminal.end()
            assert "\x1b[2J" not in terminal.seen

    assert told.code == 1
    assert re.search(r"sync queued, attempt 2 of 5 in \d+s: HTTP_500: \[/b\]", told.err), told.err
    assert "\x1b" not in told.err


async def test_jobs_that_nobody_takes_send_one_to_the_status(shell: Shell, api: Api) -> None:
    old = a_job(created_at=int(time.time()) - 60)
    await put_jobs(api, old)

    listed = await shell.run("jobs", "list")

    assert "nobody has taken it yet: sandbox-broker status" in listed.out


async def test_the_list_holds_every_state_and_can_be_narrowed(shell: Shell, api: Api) -> None:
    await put_jobs(
        api, *(a_job(number=n, state=state, finished_at=NOW, error="E") for n, state in enumerate(JobState))
    )
    every, dead, two = await shell.run_each(
        ["jobs", "list"], ["jobs", "list", "--state", "dead"], ["jobs", "list", "--limit", "2"]
    )

    assert [row[2] for row in every.rows[1:]] == [state.value for state in JobState]
    assert [row[0] for row in dead.rows[1:]] == [f"{NOW}000-{list(JobState).index(JobState.DEAD):012x}"]
    assert (len(two.rows), "There are more" in two.err) == (3, True)


async def test_a_job_is_shown_with_who_asked_for_it_and_what_came_of_it(shell: Shell, api: Api) -> None:
    ids = " ".join(str(n) for n in range(7))
    await put_jobs(
        api,
        a_job(kind=Kind.BULK_RETRY, params={"ids": ids}, reason="INC-4711", state=JobState.DEAD, error="HTTP_500",
              attempt=5, finished_at=NOW + 60, cancel_requested_by="ann", cancel_requested_at=NOW),
    )  # fmt: skip

    shown = await shell.run("jobs", "show", a_job().id)

    facts = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert (facts["kind"], facts["state"], facts["about"]) == ("bulk_retry", "dead", "ids 7 ids")
    assert (facts["reason"], facts["attempt"], facts["error"]) == ("INC-4711", "5 of 5", "HTTP_500")
    assert facts["request"] == "req-test"
    assert "cancel requested  by ann 2025-" in shown.out


async def test_a_queued_job_is_cancelled_at_once_and_can_be_queued_again(shell: Shell, api: Api) -> None:
    await put_jobs(api, a_job())

    cancelled = await shell.run("jobs", "cancel", a_job().id)
    assert (await the_job(api, a_job().id)).state is JobState.CANCELLED
    again = await shell.run("jobs", "requeue", a_job().id)

    assert cancelled.out == f"sync {a_job().id} cancelled\n"
    assert again.out == f"sync {a_job().id} queued, follow it: sandbox-broker jobs watch {a_job().id}\n"
    assert (await the_job(api, a_job().id)).requeued_by == "bootstrap-admin"


async def test_a_running_job_is_cancelled_between_two_steps_and_watching_it_is_then_1(
    shell: Shell, api: Api
) -> None:
    async with a_worker(api, Steps()):
        process = await shell.start("cleanup")
        job = await first_queued(api)
        await becomes(api, job.id, lambda job: job.state is JobState.RUNNING)
        cancelled = await shell.run("jobs", "cancel", job.id)
        told = await ended(process)
        watched = await shell.run("jobs", "watch", job.id)

    assert f"cleanup {job.id} running, stops within 30 s" in cancelled.out
    for followed in (told, watched):
        assert followed.code == 1
        assert f"cleanup {job.id} ended cancelled." in followed.err


async def test_what_a_job_is_not_in_a_state_for_is_1(shell: Shell, api: Api) -> None:
    await put_jobs(api, a_job(state=JobState.DONE, finished_at=NOW, result={"added": 1}))

    for done_ in await shell.run_each(["jobs", "cancel", a_job().id], ["jobs", "requeue", a_job().id]):
        assert done_.code == 1
        assert "(JOB_WRONG_STATE, request cli-" in done_.err
    watched = await shell.run("jobs", "watch", a_job().id)
    assert (watched.code, watched.out.endswith(": 1 added\n")) == (0, True)
