"""What is printed: fit for 80 columns, for pipes, for programs, and harmless whatever the provider said."""

import asyncio
import re
import subprocess
from typing import Any

import pytest

from broker.job import JobState
from broker.policy import Explained, Suspicion
from broker.sandbox import State
from broker.store.sync_state import SyncState
from tests.api.service import ADMIN, Api
from tests.api.test_admin_lists import in_state, put
from tests.api.test_jobs import put_jobs
from tests.builders import NOW, a_job, a_running_job, a_sandbox
from tests.cli.shell import COMMAND, ESCAPES, ROOT, Shell
from tests.cli.test_screens import a_worker_reported
from tests.worker.conftest import a_leader

LONG = "HTTP_500: " + " ".join(f"word-{n}" for n in range(60))
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred [bold]b[/bold]\r\n\u202egnp.exe \x9b31m"


@pytest.fixture
async def trouble(api: Api) -> None:
    """Something of everything there is to print, with errors that are long."""
    await put(api, [in_state(state, 10 * n + k) for n, state in enumerate(State) for k in range(3)])
    failed = [
        a_sandbox(number=900 + n, state=State.DELETION_FAILED, attempt=8, last_error=LONG, reason="INC-4711 " * 20)
        for n in range(3)
    ]
    await put(api, failed)
    await put_jobs(
        api,
        a_job(number=1),
        a_running_job(number=2, done=120, failed=3, total=500, progress_at=NOW + 60),
        a_job(number=3, state=JobState.DEAD, attempt=5, error=LONG, started_at=NOW, finished_at=NOW + 5),
    )
    state = SyncState(
        at=NOW,
        accounts={Explained.AVAILABLE: 3, Explained.UNKNOWN: 70},
        unexplained={f"{n}: {LONG}": NOW for n in range(2)},
        expected=9,
        missing=6,
        suspicion=Suspicion(sketch=frozenset({6}), times=2, since=NOW, counted_at=NOW),
    )
    await a_worker_reported(api, 10, alerts={"DeletionStuck": LONG}, provider={"delete": f"open {LONG}"})
    async with a_leader(api.core) as leadership:
        await api.core.sync_states.write("acme", state, after=None, fence=leadership.fence)


PATHS = {
    ("list",): "/sandboxes",
    ("list", "--status", "deletion_failed"): "/sandboxes?status=deletion_failed",
    ("show", "2009900"): "/sandboxes/2009900",
    ("dead-letters",): "/dead-letters",
    ("reconcile",): "/reconciliation",
    ("jobs", "list"): "/jobs",
    ("jobs", "show", f"{NOW}000-000000000003"): f"/jobs/{NOW}000-000000000003",
    ("mode",): "/mode",
}
"""What each command prints, apart from `status`, which is several."""
COMMANDS = [*map(list, PATHS), ["status"]]


@pytest.mark.usefixtures("trouble")
async def test_on_a_terminal_it_fits_80_columns_and_nothing_is_left_out(shell: Shell) -> None:
    for command in COMMANDS:
        async with shell.on_a_terminal(*command) as terminal:
            assert await terminal.end() == (command == ["status"]), "an alert is on"
            assert max(map(len, terminal.text.splitlines())) <= 80, terminal.text
            assert "…" not in terminal.text, command
            assert "\x1b[1m" in terminal.seen, "names and headers are bold"


@pytest.mark.usefixtures("trouble")
async def test_in_a_pipe_there_is_no_escape_no_cut_and_one_row_is_one_line(shell: Shell) -> None:
    piped = await shell.run_each(*COMMANDS)

    for command, done in zip(COMMANDS, piped, strict=True):
        assert done.code == (command == ["status"]), done.err  # an alert is on
        assert "\x1b" not in done.out + done.err, command
        assert all(line == line.rstrip() for line in done.out.splitlines()), command
    failed = piped[1].out
    assert len(failed.splitlines()) == 1 + 6
    assert failed.count(LONG) == 3


@pytest.mark.usefixtures("trouble")
async def test_no_color_takes_the_colours_and_columns_sets_the_width(shell: Shell) -> None:
    async with shell.on_a_terminal("status") as coloured:
        await coloured.end()
    async with shell.on_a_terminal("status", NO_COLOR="1") as plain:
        await plain.end()
    async with shell.on_a_terminal("list", TERM="dumb") as dumb:
        await dumb.end()
    watched = await shell.run("list", COLUMNS="60")

    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert (bool(colour.search(coloured.seen)), bool(colour.search(plain.seen))) == (True, False)
    assert "\x1b" not in dumb.seen
    assert max(map(len, watched.out.splitlines())) <= 60


def timeless(body: Any) -> Any:
    """Without what grows by the second."""
    return body | ({"age_s": "?"} if "age_s" in body else {})


async def answer(api: Api, path: str) -> Any:
    return (await api.http.get(f"/v1/admin{path}", headers=ADMIN)).json()


@pytest.mark.usefixtures("trouble")
async def test_json_is_the_apis_own_body(shell: Shell, api: Api) -> None:
    printed = await shell.run_each(*([*command, "--json"] for command in COMMANDS))

    for done, path in zip(printed, PATHS.values(), strict=False):
        assert timeless(done.json) == timeless(await answer(api, path)), path
    screen = printed[-1].json
    assert set(screen) == {
        "ready", "worker", "pools", "mode", "stats", "running", "queued", "dead_letters", "reconciliation",
    }  # fmt: skip
    assert screen["stats"] == await answer(api, "/stats")
    assert screen["running"] == await answer(api, "/jobs?state=running")


async def test_what_the_provider_said_moves_no_cursor_and_changes_no_colour(shell: Shell, api: Api) -> None:
    await put(api, [a_sandbox(state=State.DELETION_FAILED, attempt=8, last_error=HOSTILE, name="lab-[red]x")])
    for command in (["list"], ["show", "2009001"], ["dead-letters"]):
        async with shell.on_a_terminal(*command) as terminal:
            assert await terminal.end() == 0
            left = ESCAPES.sub("", terminal.seen)
            assert not set(left) & {"\x1b", "\x07", "\x9b", "\u202e"}
            assert "\x1b[2J" not in terminal.seen
            assert "\x1b[31mred" not in terminal.seen
            assert "[bold]b[/bold]" in terminal.text.replace("\n", "")
    as_json = await shell.run("show", "2009001", "--json")
    assert as_json.out.isascii()
    assert as_json.json["last_error"] == HOSTILE


async def test_a_locale_without_the_letters_fails_nothing(shell: Shell, api: Api) -> None:
    await put(api, [a_sandbox(name="Übung-日本")])
    for more in ([], ["--json"]):
        done = await shell.run("list", *more, LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert done.code == 0, done.err


@pytest.mark.usefixtures("trouble")
async def test_a_reader_that_has_had_enough_ends_it_quietly_and_a_full_disk_says_so(shell: Shell) -> None:
    def run(after: str) -> tuple[str, str]:
        command = f"set -o pipefail; {' '.join(COMMAND)} list --all {after}; echo code $?"
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=shell.environment(), capture_output=True, text=True, check=False
        )
        return done.stdout, done.stderr

    assert await asyncio.to_thread(run, "| true") == ("code 141\n", "")
    assert await asyncio.to_thread(run, "> /dev/full") == (
        "code 1\n", "sandbox-broker: The output cannot be written: No space left on device.\n",
    )  # fmt: skip


async def test_errors_of_a_command_that_prints_json_leave_standard_output_empty(shell: Shell) -> None:
    done = await shell.run("show", "unknown", "--json")
    assert (done.code, done.out) == (1, "")


async def test_nothing_is_a_header_and_no_rows(shell: Shell) -> None:
    assert (await shell.run("list")).out == "SANDBOX  NAME  STATUS  FOR  WHAT ABOUT IT\n"
    assert (await shell.run("jobs", "list")).out == "JOB  KIND  STATE  AGE  PROGRESS\n"
