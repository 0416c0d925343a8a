"""`jobs …` and `dead-letters`: what was asked of the worker, and what failed for good."""

from typing import Annotated, Literal, get_args

import typer

from cli.api import Body
from cli.errors import PROGRAM
from cli.follow import ENDED, follow, numbers_of, tell
from cli.options import JobId, Json, MaybeReason, TenantName, api_of, said
from cli.show import (
    counted,
    emit_facts,
    emit_json,
    emit_line,
    emit_table,
    instant,
    kept,
    right,
    say,
    since,
    wide,
)

app = typer.Typer(
    no_args_is_help=True,
    help="""Look after jobs: what was asked of the worker.

    \b
    Examples:
      sandbox-broker jobs list --state running
      sandbox-broker jobs watch 1760000000000-9f8e7d6c5b4a
    """,
)

State = Literal["queued", "running", "done", "dead", "cancelled", "timed_out"]


@app.command("list")
def list_jobs(
    context: typer.Context,
    state: Annotated[
        State | None,
        typer.Option("--state", metavar="STATE", help=f"Only this one of {', '.join(get_args(State))}."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=200, metavar="ROWS", help="How many at the most.")
    ] = 50,
    tenant: TenantName = None,
    as_json: Json = False,
) -> None:
    """List jobs: the queue, what runs, what has ended.

    The queue in the order in which it is taken; what ended in the last 30 days, newest first.

    \b
    Examples:
      sandbox-broker jobs list
      sandbox-broker jobs list --state dead
    """
    page = api_of(context).get("/v1/admin/jobs", state=state, limit=limit, tenant=tenant)
    if as_json:
        emit_json(page)
        return
    columns = [kept("JOB"), kept("KIND"), kept("STATE"), right("AGE"), wide("PROGRESS")]
    emit_table(
        columns,
        ([j["job_id"], j["kind"], j["state"], since(j["created_at"]), _progress(j)] for j in page["jobs"]),
    )
    if page["cursor"] is not None:
        say("There are more: raise --limit, or name a --state.")


@app.command()
def show(context: typer.Context, job_id: JobId, tenant: TenantName = None, as_json: Json = False) -> None:
    """Show one job: who asked for it, and what came of it.

    \b
    Examples:
      sandbox-broker jobs show 1760000000000-9f8e7d6c5b4a
      sandbox-broker jobs show 1760000000000-9f8e7d6c5b4a --json
    """
    job = api_of(context).get(f"/v1/admin/jobs/{job_id}", tenant=tenant)
    emit_json(job) if as_json else emit_facts(_facts(job))


@app.command()
def watch(context: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Follow a job to its end. Exit 1 when it ends badly; Ctrl-C leaves it running.

    \b
    Examples:
      sandbox-broker jobs watch 1760000000000-9f8e7d6c5b4a
    """
    api = api_of(context)
    job = follow(api, api.get(f"/v1/admin/jobs/{job_id}"))
    tell(job, as_json=as_json, must_be_done=True)


@app.command()
def cancel(context: typer.Context, job_id: JobId, reason: MaybeReason = None, as_json: Json = False) -> None:
    """Cancel a job.

    A queued one at once, a running one between two sandboxes, within 30 s. What it did stays done.

    \b
    Examples:
      sandbox-broker jobs cancel 1760000000000-9f8e7d6c5b4a
    """
    job = api_of(context).post(f"/v1/admin/jobs/{job_id}/cancel", said(reason))
    if as_json:
        emit_json(job)
    elif job["state"] == "cancelled":
        emit_line(f"{job['kind']} {job_id} cancelled")
    else:
        emit_line(f"{job['kind']} {job_id} {job['state']}, stops within 30 s: {PROGRAM} jobs watch {job_id}")


@app.command()
def requeue(context: typer.Context, job_id: JobId, reason: MaybeReason = None, as_json: Json = False) -> None:
    """Queue a job again that died or was cancelled.

    It begins anew, with all its attempts.

    \b
    Examples:
      sandbox-broker jobs list --state dead
      sandbox-broker jobs requeue 1760000000000-9f8e7d6c5b4a
    """
    job = api_of(context).post(f"/v1/admin/jobs/{job_id}/requeue", said(reason))
    if as_json:
        emit_json(job)
    else:
        emit_line(f"{job['kind']} {job_id} {job['state']}, follow it: {PROGRAM} jobs watch {job_id}")


def dead_letters(context: typer.Context, tenant: TenantName = None, as_json: Json = False) -> None:
    """Show what failed for good, the top reasons first.

    Sandboxes whose deletion failed, jobs that died or timed out.

    \b
    Examples:
      sandbox-broker dead-letters
      sandbox-broker dead-letters --json | jq .sandboxes.reasons
    """
    dead = api_of(context).get("/v1/admin/dead-letters", tenant=tenant)
    if as_json:
        emit_json(dead)
        return
    _letters("sandboxes whose deletion failed for good", dead["sandboxes"])
    if dead["sandboxes"]["total"]:
        sample = dead["sandboxes"]["sample"]
        emit_table(
            [kept("SANDBOX"), kept("NAME"), right("FOR"), wide("WHY")],
            ([s["sandbox_id"], s["name"], since(s["since"]), s["last_error"] or ""] for s in sample),
        )
        emit_line(f"Again, all of them: {PROGRAM} bulk retry --reason '...'")
    emit_line()
    _letters("jobs that died or timed out", dead["jobs"])
    if dead["jobs"]["total"]:
        emit_table(
            [kept("JOB"), kept("KIND"), right("ENDED"), wide("WHY")],
            ([j["job_id"], j["kind"], since(j["finished_at"]), j["error"] or ""] for j in dead["jobs"]["sample"]),
        )
        emit_line(f"Again: {PROGRAM} jobs requeue ID")


def _letters(what: str, letters: Body) -> None:
    looked_at = "" if letters["examined"] == letters["total"] else f" (reasons of {letters['examined']})"
    emit_line(f"{letters['total']} {what}{looked_at}")
    if letters["reasons"]:
        rows = ([str(r["count"]), r["reason"]] for r in letters["reasons"])
        emit_table([right("COUNT"), wide("REASON")], rows)
        emit_line()


def _progress(job: Body) -> str:
    if job["state"] == "done":
        return counted(job["result"] or {})
    if job["state"] in ENDED:
        return str(job["error"] or job["state"])
    return numbers_of(job)


def _facts(job: Body) -> list[tuple[str, str]]:
    """What there is to say of it, in the order in which it happened."""
    facts: list[tuple[str, str]] = [
        ("job", job["job_id"]),
        ("kind", job["kind"]),
        ("about", ", ".join(f"{name} {value}" for name, value in job["params"].items())),
        ("state", job["state"] if job["state"] in ENDED else f"{job['state']}: {numbers_of(job)}"),
        ("reason", job["reason"] or ""),
        ("asked for by", f"{job['requested_by']} {instant(job['created_at'])}"),
        ("request", job["request_id"]),
        ("priority", job["priority"]),
        ("attempt", f"{job['attempt']} of {job['max_attempts']}"),
        ("started", instant(job["started_at"])),
        ("handled", f"{job['done']} well, {job['failed']} left alone"),
        ("ended", instant(job["finished_at"])),
        ("result", "" if job["result"] is None else counted(job["result"])),
        ("error", job["error"] or ""),
    ]
    for done in ("requeued", "cancel_requested"):
        if job[f"{done}_by"]:
            facts.append((done.replace("_", " "), f"by {job[f'{done}_by']} {instant(job[f'{done}_at'])}"))
    return [(name, value) for name, value in facts if value]
