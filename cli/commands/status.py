"""`status`: the whole broker on one screen, also when parts of it are in trouble."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import typer
from rich.text import Text

from cli.api import Api, Body
from cli.commands.reconcile import belief
from cli.errors import PROGRAM, Refused
from cli.follow import numbers_of
from cli.options import Json, api_of
from cli.show import emit_facts, emit_json, span, trouble

SILENT_S: Final = 180.0
"""Pool numbers older than this: the worker counts every minute, the API looks every minute."""
_AGE: Final = re.compile(r"^broker_pool_snapshot_age_seconds\{.*\} ([0-9.e+]+)$", re.MULTILINE)

Facts = Iterator[tuple[str, str | Text]]


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show the broker on one screen.

    Mode, API, worker, the last sync, jobs, dead letters, sandboxes by status.

    What cannot be shown says why, and the rest is shown nevertheless. Exit 1 then, and when no worker
    seems to lead; 3 when there is no API.

    \b
    Examples:
      sandbox-broker status
      watch -n 5 sandbox-broker status
      sandbox-broker status --json | jq .stats
    """
    seen = _asked(api_of(context))
    if as_json:
        emit_json(seen)
    else:
        emit_facts(_facts(seen))
    if any("error" in part for part in seen.values()) or _silent(seen["worker"]):
        raise typer.Exit(1)


def _asked(api: Api) -> dict[str, Body]:
    """Every part at once: the API's own bodies, or its refusals.

    Raises:
        Unreachable: there is no API.
    """
    parts: dict[str, Callable[[], Body]] = {
        "ready": api.ready,
        "worker": lambda: _worker(api.metrics()),
        "mode": lambda: api.get("/v1/admin/mode", patient=False),
        "stats": lambda: api.get("/v1/admin/stats", patient=False),
        "running": lambda: api.get("/v1/admin/jobs", patient=False, state="running", limit=200),
        "queued": lambda: api.get("/v1/admin/jobs", patient=False, state="queued", limit=200),
        "dead_letters": lambda: api.get("/v1/admin/dead-letters", patient=False),
        "reconciliation": lambda: api.get("/v1/admin/reconciliation", patient=False),
    }
    first = {"ready": _part(parts.pop("ready"))}  # alone: without an API there is nothing else to ask
    with ThreadPoolExecutor(len(parts)) as pool:
        return first | dict(zip(parts, pool.map(_part, parts.values()), strict=True))


def _part(ask: Callable[[], Body]) -> Body:
    try:
        return ask()
    except Refused as error:
        if error.status in (401, 403):
            raise  # it would be the same for all
        return error.envelope()


def _worker(metrics: str) -> Body:
    """What the API knows of the worker: how old the numbers are that it leaves for the scrapers."""
    found = _AGE.search(metrics)
    return {"pool_counted_s_ago": None if found is None else round(float(found[1]))}


def _facts(seen: dict[str, Body]) -> Facts:
    for name, told in _TOLD.items():
        if error := seen[name].get("error"):
            yield (
                name.replace("_", " "),
                trouble(f"{error['message']} ({error['code']}, request {error['request_id']})"),
            )
        else:
            yield from told(seen[name])


def _mode(mode: Body) -> Facts:
    if mode["mode"] == "open":
        yield "mode", "open"
    else:
        yield (
            "mode",
            trouble(f"{mode['mode']} by {mode['by']}: {mode['reason']}. Back: {PROGRAM} mode open --reason '...'"),
        )


def _ready(ready: Body) -> Facts:
    details = ", ".join(f"{name} {value}" for name, value in (ready.get("details") or {}).items())
    text = f"{ready['status']}{f' ({details})' if details else ''}"
    yield "API", text if ready["status"] == "ready" else trouble(text)


def _silent(worker: Body) -> bool:
    ago_s = worker.get("pool_counted_s_ago")
    return ago_s is not None and ago_s > SILENT_S


def _worker_facts(worker: Body) -> Facts:
    ago_s = worker["pool_counted_s_ago"]
    if ago_s is None:
        yield "worker", trouble("has never counted the pool: is one running?")
    elif ago_s > SILENT_S:
        yield (
            "worker",
            trouble(f"NO LEADER? The pool was last counted {span(ago_s)} ago. See each worker's /readyz"),
        )
    else:
        yield "worker", f"counted the pool {span(ago_s)} ago"


def _stats(stats: Body) -> Facts:
    width = max(len(str(count)) for count in stats.values())
    for name, count in stats.items():
        text = f"{count:>{width}}"
        yield name, trouble(f"{text}  {PROGRAM} dead-letters") if name == "deletion_failed" and count else text


def _running(page: Body) -> Facts:
    yield "jobs running", _count(page)
    for job in page["jobs"][:5]:
        yield "", f"{job['kind']} {job['job_id']} {numbers_of(job)}"


def _queued(page: Body) -> Facts:
    yield "jobs queued", _count(page)


def _count(page: Body) -> str:
    return f"{page['count']}{'+' if page['cursor'] else ''}"


def _dead(dead: Body) -> Facts:
    jobs, sandboxes = dead["jobs"]["total"], dead["sandboxes"]["total"]
    text = f"{sandboxes} sandboxes, {jobs} jobs"
    yield "dead letters", trouble(f"{text}: {PROGRAM} dead-letters") if jobs or sandboxes else text


def _reconciled(seen: Body) -> Facts:
    if seen["at"] is None:
        yield "last sync", trouble("none has read a listing yet")
        return
    unknown = seen["accounts"].get("unknown", 0)
    text = f"{span(seen['age_s'])} ago, {seen['listed']} accounts, {unknown} unexplained. {belief(seen)}"
    yield "last sync", trouble(f"{text} {PROGRAM} reconcile") if unknown or not seen["believed"] else text


_TOLD: Final[dict[str, Callable[[Any], Facts]]] = {
    "mode": _mode,
    "ready": _ready,
    "worker": _worker_facts,
    "reconciliation": _reconciled,
    "running": _running,
    "queued": _queued,
    "dead_letters": _dead,
    "stats": _stats,
}
"""In the order in which one reads it; `ready` is what the API says of itself."""
