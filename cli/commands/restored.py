"""`restored …`: what a restored table needs before anything is handed out of it. Needs the store, and no API."""

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CliError, Misused
from cli.instants import instant_of
from cli.options import DryRun, Json, Reason, Yes
from cli.show import agreed, emit_json, emit_line, emit_table, kept, moment, say, wide

if TYPE_CHECKING:
    from broker.restored import Report

app = typer.Typer(no_args_is_help=True)


def _past_instant_of(text: str) -> int:
    """As instant_of(). Of what is still to come no event tells: nothing would be repeated, and all cleared."""
    if (instant := instant_of(text)) > time.time():
        raise typer.BadParameter(f"{moment(instant)} is still to come: it is the instant of the restore, in UTC")
    return instant


RestoredTo = Annotated[
    int,
    typer.Option(
        "--since",
        parser=_past_instant_of,
        metavar="WHEN",
        help="What the table was restored to: a time in UTC, or how long ago.",
    ),
]
_OLD = "The table that this one was restored from. It is only read."


class RestoreEnded(CliError):
    """It was not begun, or not ended."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # 78 where settings or a table are wrong


@app.command()
def hold(
    since: RestoredTo,
    reason: Reason,
    old_table: Annotated[str | None, typer.Option("--old-table", metavar="TABLE", help=_OLD)] = None,
    as_json: Json = False,
) -> None:
    """Quarantine all that is available in a restored table, in maintenance.

    Before any process runs on it: what it calls available may have been handed out since. Refused where a worker
    does. With the old table, students' releases and extensions since are repeated, too. DDB_TABLE_NAME has to
    name the restored table; settings and AWS credentials come from the environment, as for create-table. Run it
    again if it was interrupted.

    \b
    Examples:
      sandbox-broker restored hold --old-table old --since 10:04 --reason INC-4711
    """
    from broker.restored import RestoreRefused, Wanted, hold_as_set  # noqa: PLC0415  half a second of AWS

    try:
        report = hold_as_set(Wanted(old_table=old_table, since=since, reason=reason))
    except RestoreRefused as refused:
        raise RestoreEnded(str(refused), refused.exit_code) from None
    _show(report, as_json=as_json)
    table = os.environ.get("DDB_TABLE_NAME", "the restored table")
    say(f"{table} is in maintenance. Next: API and worker on it; then drain, sync, clear.")


@app.command()
def clear(
    old_table: Annotated[str, typer.Option("--old-table", metavar="TABLE", help=_OLD)],
    since: RestoredTo,
    reason: Reason,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put what `restored hold` took out back into the pool, where nobody has it.

    After a sync, and before the broker is opened. What the old table's events say was allocated since, what is
    not available there, and what the provider does not list stays out, and is shown with its holder: `discard`
    it when that student's time is over. Run it again if it was interrupted.

    \b
    Examples:
      sandbox-broker restored clear --old-table old --since 1h --reason INC-47
    """
    from broker.restored import RestoreRefused, Wanted, clear_as_set  # noqa: PLC0415  as above

    if not (dry_run or yes or sys.stdin.isatty()):
        raise Misused("restored clear asks before it begins, and nobody can answer here: add --yes, or --dry-run.")
    wanted = Wanted(old_table=old_table, since=since, reason=reason, dry_run=True)
    try:
        report = clear_as_set(wanted)
        if not dry_run:
            if not yes:
                _show(report, as_json=False)
                if not agreed():
                    say("Nothing was changed.")
                    raise typer.Exit(1)
            report = clear_as_set(Wanted(old_table=old_table, since=since, reason=reason))
    except RestoreRefused as refused:
        raise RestoreEnded(str(refused), refused.exit_code) from None
    _show(report, as_json=as_json)


def _show(report: "Report", *, as_json: bool) -> None:
    """Counts, and what stays out of the pool."""
    if as_json:
        rows = [
            {"tenant": k.tenant, "sandbox_id": k.sandbox_id, "why": k.why, "holder": k.holder, "until": k.until}
            for k in report.kept
        ]
        emit_json({"outcome": dict(report.outcome), "kept": rows})
        return
    if report.kept:
        emit_table(
            [kept("SANDBOX"), "TENANT", "HELD BY", "UNTIL", wide("WHY NOT")],
            (
                [k.sandbox_id, k.tenant, k.holder or "", "" if k.until is None else moment(k.until), k.why]
                for k in report.kept
            ),
        )
    emit_line(", ".join(f"{count} {what}" for what, count in report.outcome.items()) or "nothing to do")
