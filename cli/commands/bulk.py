"""`bulk` and `bulk-delete`: many sandboxes at once, as a job. What it would do is shown first."""

import sys
from typing import Annotated, Literal

import typer

from cli.api import Api, Body
from cli.errors import Misused
from cli.follow import ask
from cli.options import DryRun, Json, MaybeReason, Reason, Yes, api_of
from cli.show import agreed, counted, emit_json, emit_line, say

Action = Literal["retry", "quarantine", "force-release"]
Status = Literal["available", "allocated", "deletion_failed"]
Priority = Literal["high", "normal", "low"]


def bulk(
    context: typer.Context,
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="What to do to each.")],
    reason: Reason,
    status: Annotated[
        Status | None,
        typer.Option("--status", metavar="STATUS", help="All of the status from which ACTION starts."),
    ] = None,
    track: Annotated[str | None, typer.Option("--track", metavar="LAB", help="Those of this lab.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Those whose name begins so.")
    ] = None,
    priority: Annotated[
        Priority, typer.Option("--priority", metavar="PRIORITY", help="In the queue: high, normal or low.")
    ] = "normal",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Retry, quarantine or force-release many sandboxes at once.

    Shows what it would do, asks, has the worker do it and follows it. `retry` takes all failed deletions
    unless told otherwise; the others need a --status, --track or --prefix. Ctrl-C leaves it running.

    \b
    Examples:
      sandbox-broker bulk retry --reason 'the provider is back'
      sandbox-broker bulk quarantine --prefix lab-7- --reason 'INC-4711' --dry-run
      sandbox-broker bulk force-release --track lab-101 --reason 'it is over' -y
    """
    if action == "retry" and not (status or track or prefix):
        status = "deletion_failed"
    chosen = {"status": status, "track": track, "prefix": prefix}
    body = {name: value for name, value in chosen.items() if value}
    if not body:
        raise Misused(f"bulk {action} needs a --status, a --track or a --prefix.")
    body |= {"reason": reason, "priority": priority}
    _run(context, f"/v1/admin/bulk/{action}", body, f"bulk {action}", dry_run=dry_run, yes=yes, as_json=as_json)


def bulk_delete(
    context: typer.Context,
    status: Annotated[
        Literal["stale", "deletion_failed"],
        typer.Option("--status", help="stale: they are removed. deletion_failed: they are given up."),
    ],
    reason: MaybeReason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove what is stale, or give up what cannot be deleted.

    Nothing in use is ever deleted by status. Shows what it would do, asks, has the worker do it and follows
    it. Ctrl-C leaves it running.

    \b
    Examples:
      sandbox-broker bulk-delete --status stale --dry-run
      sandbox-broker bulk-delete --status deletion_failed --reason 'by hand' --yes
    """
    body = {} if reason is None else {"reason": reason}
    what = "bulk-delete"
    _run(context, "/v1/admin/bulk-delete", body, what, dry_run=dry_run, yes=yes, as_json=as_json, status=status)


def _run(
    context: typer.Context,
    path: str,
    body: Body,
    what: str,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **query: str,
) -> None:
    """The dry run; then, if that is wanted, the job.

    Raises:
        Misused: nobody can be asked.
        typer.Exit: 1, where whoever was asked said no.
    """
    if not (dry_run or yes or sys.stdin.isatty()):
        raise Misused(f"{what} asks before it begins, and nobody can answer here: add --yes, or --dry-run.")
    api: Api = api_of(context)
    preview = api.post(path, body, dry_run=True, **query)
    if dry_run:
        emit_json(preview) if as_json else emit_line(_would(what, preview))
        return
    say(_would(what, preview))
    if not preview["total"]:
        emit_json(preview) if as_json else emit_line("nothing to do")
        return
    if not yes and not agreed():
        say("Nothing was changed.")
        raise typer.Exit(1)
    ask(api, path, body, wait_s=None, no_wait=False, as_json=as_json, **query)


def _would(what: str, preview: Body) -> str:
    ids = ", ".join(preview["sample"])
    more = ", ..." if preview["total"] > len(preview["sample"]) else ""
    left_alone = f"; left alone: {counted(preview['left_alone'])}" if preview["left_alone"] else ""
    return f"{what} would move {preview['total']}{f': {ids}{more}' if ids else ''}{left_alone}"
