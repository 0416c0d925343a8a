"""Following a job to its end: a progress bar on a terminal, lines elsewhere. The job does not need us."""

import sys
import time
from typing import Final, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from cli.api import Api, Body
from cli.errors import PROGRAM, CliError, Refused, Unreachable
from cli.show import clean, console, counted, emit_json, emit_line, say, since, span

POLL_S: Final = 0.5
PATIENCE_S: Final = 60.0
"""So long an API that does not answer is waited for, as while its tasks are replaced."""
LINE_S: Final = 10.0
"""Between two lines where there is no terminal."""
UNTAKEN_S: Final = 15.0
"""After this long in the queue one wonders whether anybody works."""
ENDED: Final = frozenset({"done", "dead", "cancelled", "timed_out"})


class _Bar:
    """One line that changes: `sync running ━━━━ 120/500 24% 3 failed 41s left`."""

    def __init__(self) -> None:
        what = TextColumn("{task.description}", markup=False)
        numbers = TextColumn("{task.fields[numbers]}", markup=False)
        columns = SpinnerColumn(), what, BarColumn(bar_width=16), numbers
        self._progress = Progress(*columns, console=console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=None, numbers="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *why: object) -> None:
        self._progress.stop()

    def show(self, job: Body, trouble: str | None) -> None:
        percent = job["percent"]
        self._progress.update(
            self._task,
            description=f"{job['kind']} {job['state']}",
            numbers=clean(trouble or numbers_of(job)),
            completed=percent or 0,
            total=None if percent is None else 100,
        )


class _Lines:
    """A line when something changes but the numbers, and now and then for these."""

    def __init__(self) -> None:
        self._state: tuple[object, ...] | None = None
        self._said_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        return None

    def show(self, job: Body, trouble: str | None) -> None:
        state = (trouble, job["state"], job["attempt"])
        if job["state"] in ENDED or (state == self._state and time.monotonic() - self._said_at < LINE_S):
            return
        self._state, self._said_at = state, time.monotonic()
        say(f"{job['kind']} {job['state']}, {trouble or numbers_of(job)} (job {job['job_id']})")


def numbers_of(job: Body) -> str:
    """How far it is, in a few words."""
    if job["state"] == "queued":
        return _queued(job)
    handled = job["done"] + job["failed"]
    if job["total"] is None:
        return f"{handled} so far"
    words = [f"{handled}/{job['total']}", f"{job['percent']:.0f}%"]
    if job["failed"]:
        words.append(f"{job['failed']} failed")
    if job["eta_s"] is not None:
        words.append(f"{span(job['eta_s'])} left")
    return " ".join(words)


def _queued(job: Body) -> str:
    if job["attempt"] and job["error"]:
        again_s = max(0, job["due_at"] - time.time())
        return f"attempt {job['attempt'] + 1} of {job['max_attempts']} in {span(again_s)}: {job['error']}"
    if time.time() - (job["requeued_at"] or job["created_at"]) > UNTAKEN_S:
        return f"nobody has taken it yet: {PROGRAM} status"
    return "waits for the worker"


def follow(api: Api, job: Body, *, for_s: float | None = None) -> Body:
    """The job once it has ended, or as it is after `for_s` seconds. Ctrl-C leaves it running and says so.

    Raises:
        Refused, Unreachable: the API is in trouble for longer than a minute.
    """
    ends_at = None if for_s is None else time.monotonic() + for_s
    shown: _Bar | _Lines = _Bar() if sys.stderr.isatty() else _Lines()
    try:
        with shown:
            return _followed(api, job, shown, ends_at)
    except KeyboardInterrupt:
        say(f"The job goes on. {_ways(job)}")
        raise


def _followed(api: Api, job: Body, shown: _Bar | _Lines, ends_at: float | None) -> Body:
    answered_at = time.monotonic()
    trouble: str | None = None
    while job["state"] not in ENDED:
        shown.show(job, trouble)
        pause_s = api.pause_s(POLL_S)
        if ends_at is not None:
            pause_s = min(pause_s, ends_at - time.monotonic())
            if pause_s <= 0:
                break
        time.sleep(pause_s)
        try:
            job, trouble = api.get(f"/v1/admin/jobs/{job['job_id']}"), None
            answered_at = time.monotonic()
        except (Refused, Unreachable) as error:
            passing = error.passing if isinstance(error, Unreachable) else error.retry_after_s is not None
            if not passing or time.monotonic() - answered_at > PATIENCE_S:
                say(f"The job goes on without us. {_ways(job)}")
                raise
            trouble = "the API does not answer"
    shown.show(job, trouble)
    return job


def _ways(job: Body) -> str:
    return f"Follow it: {PROGRAM} jobs watch {job['job_id']} - cancel it: {PROGRAM} jobs cancel {job['job_id']}"


def tell(job: Body, *, as_json: bool, must_be_done: bool) -> None:
    """Print what became of a job that was asked for or followed.

    Raises:
        CliError: it ended badly; or it has not ended although it was to be done by now.
    """
    if as_json:
        emit_json(job)
    name = f"{job['kind']} {job['job_id']}"
    if job["state"] not in ENDED:
        if must_be_done:
            raise CliError(f"{name} is {job['state']}, and goes on. {_ways(job)}")
        if not as_json:
            emit_line(job["job_id"])
        say(f"{name} is {job['state']}. {_ways(job)}")
    elif job["state"] != "done":
        why = f": {job['error']}" if job["error"] else ""
        raise CliError(f"{name} ended {job['state']}{why}. Run it again: {PROGRAM} jobs requeue {job['job_id']}")
    elif not as_json:
        took = span(job["finished_at"] - job["started_at"]) if job["started_at"] else since(job["created_at"])
        emit_line(f"{name} done in {took}: {counted(job['result'] or {})}")
    if guarded := (job["result"] or {}).get("guarded"):
        raise CliError(
            f"The listing was NOT believed: {guarded} sandboxes are missing from it. Look: {PROGRAM} reconcile. "
            f"If it is right: {PROGRAM} sync --confirm --reason '...'"
        )


def ask(
    api: Api, path: str, body: Body, *, wait_s: float | None, no_wait: bool, as_json: bool, **query: str
) -> None:
    """Ask the worker for a job, follow it as told, and print what became of it.

    Raises:
        CliError: the API said no or nothing, or the job did not end well.
    """
    job = api.post(path, body, wait=0, **query)
    if not no_wait:
        job = follow(api, job, for_s=wait_s)
    tell(job, as_json=as_json, must_be_done=not no_wait)
