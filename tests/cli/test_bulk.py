"""C4: many sandboxes at once: the dry run first, then a question, then the job."""

import re
import signal
from collections.abc import Callable

import pytest

from broker.job import Kind
from broker.sandbox import State
from tests.api.service import Api
from tests.api.test_jobs import a_worker, first_queued, queued
from tests.cli.shell import Done, Shell, ended, said
from tests.cli.test_jobs import done, the_job

WHY = ["--reason", "INC-4711: odd network"]


@pytest.fixture
async def pool(api: Api) -> None:
    await api.fill(3, state=State.DELETION_FAILED)
    await api.fill(25, first=10)
    await api.fill(2, first=50, state=State.STALE)


BULKS = [
    (["bulk", "retry", *WHY], Kind.BULK_RETRY, {"status": "deletion_failed"}, 3),
    (["bulk", "quarantine", "--prefix", "lab-", *WHY], Kind.BULK_QUARANTINE, {"prefix": "lab-"}, 25),
    (
        ["bulk", "quarantine", "--status", "available", "--track", "l", *WHY],
        Kind.BULK_QUARANTINE, {"status": "available", "track": "l"}, 0,
    ),
    (["bulk", "force-release", "--track", "lab-101", *WHY], Kind.BULK_FORCE_RELEASE, {"track": "lab-101"}, 0),
    (["bulk-delete", "--status", "stale", *WHY], Kind.BULK_DELETE, {"status": "stale"}, 2),
]  # fmt: skip


@pytest.mark.usefixtures("pool")
async def test_a_dry_run_says_what_it_would_do_and_does_nothing(shell: Shell, api: Api) -> None:
    every = await shell.run_each(*([*command, "--dry-run"] for command, *_ in BULKS))

    for told, (_, _, _, count) in zip(every, BULKS, strict=True):
        assert told.code == 0, told.err
        assert f"would move {count}" in told.out
    assert "2009010, 2009011" in every[1].out
    assert every[1].out.rstrip().endswith(", ..."), "20 of 25 are named"
    as_json = await shell.run("bulk", "retry", *WHY, "--dry-run", "--json")
    assert (as_json.json["dry_run"], as_json.json["total"]) == (True, 3)
    assert await queued(api) == []


@pytest.mark.usefixtures("pool")
async def test_with_a_yes_the_worker_does_it_and_the_end_is_told(shell: Shell, api: Api) -> None:
    asked = [(command, kind, params) for command, kind, params, count in BULKS if count]
    async with a_worker(api, done):
        every = await shell.run_each(*([*command, "--yes", "--json"] for command, _, _ in asked))

    for told, (_, kind, params) in zip(every, asked, strict=True):
        assert told.code == 0, told.err
        job = await the_job(api, told.json["job_id"])
        assert (job.kind, job.params, job.reason) == (kind, params, "INC-4711: odd network")
        assert "would move" in told.err


@pytest.mark.usefixtures("pool")
async def test_nobody_there_to_answer_is_2_and_nothing_is_asked_for(shell: Shell, api: Api) -> None:
    for told in await shell.run_each(*(command for command, *_ in BULKS)):
        assert (told.code, told.out) == (2, "")
        assert "add --yes, or --dry-run" in told.err
    assert await queued(api) == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("\x04", 1)])
@pytest.mark.usefixtures("pool")
async def test_on_a_terminal_it_asks_and_only_a_yes_is_one(shell: Shell, api: Api, answer: str, code: int) -> None:
    async with a_worker(api, done), shell.on_a_terminal("bulk", "retry", *WHY) as terminal:
        await terminal.until(r"Do it\? \[y/N\] ")
        assert "bulk retry would move 3: 2009001, 2009002, 2009003" in terminal.text
        assert await queued(api) == []
        terminal.type(answer)
        assert await terminal.end() == code
        assert ("Nothing was changed." in terminal.text) == bool(code)
        assert bool(re.search(r"bulk_retry \S+ done in \d+s: 3 added", terminal.text)) == (not code)


@pytest.mark.usefixtures("pool")
async def test_ctrl_c_at_the_question_changes_nothing_and_is_130(shell: Shell, api: Api) -> None:
    async with shell.on_a_terminal("bulk", "retry", *WHY) as terminal:
        await terminal.until(r"Do it\?")
        terminal.interrupt()
        assert await terminal.end() == 130
    assert await queued(api) == []


async def test_nothing_to_do_asks_nobody_and_queues_nothing(shell: Shell, api: Api) -> None:
    async with shell.on_a_terminal("bulk-delete", "--status", "stale") as terminal:
        assert await terminal.end() == 0
        assert "nothing to do" in terminal.text
    assert await queued(api) == []


def test_a_move_that_would_take_everything_must_be_told_which(misused: Callable[..., Done]) -> None:
    """Only `retry` has a set of its own: quarantining or ending all there is is no default."""
    for move in ("quarantine", "force-release"):
        told = misused("bulk", move, *WHY, "--yes")
        assert (told.code, "needs a --status, a --track or a --prefix" in told.err) == (2, True)


@pytest.mark.parametrize(
    "odd",
    [["bulk", "explode", *WHY], ["bulk", "retry"], ["bulk-delete"], ["bulk-delete", "--status", "allocated"]],
)
def test_what_is_badly_asked_for_is_2(misused: Callable[..., Done], odd: list[str]) -> None:
    assert misused(*odd, "--yes").code == 2


@pytest.mark.usefixtures("pool")
async def test_ctrl_c_while_it_is_followed_leaves_it_to_the_worker(shell: Shell, api: Api) -> None:
    process = await shell.start("bulk", "retry", *WHY, "--yes", "--priority", "low")
    asked = await first_queued(api)
    await said(process, "waits for the worker")
    process.send_signal(signal.SIGINT)
    told = await ended(process)
    (job,) = await queued(api)
    assert (told.code, f"sandbox-broker jobs watch {job.id}" in told.err) == (130, True)
    assert (job.id, job.priority.value, job.cancel_requested_by) == (asked.id, "low", None)
