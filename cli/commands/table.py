"""`create-table` and `import`: what needs the store, and no API."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli.errors import PROGRAM, CliError, Misused
from cli.options import DryRun, Json, Yes
from cli.show import agreed, console, emit_json, emit_line, emit_table, right, say, trouble, wide

if TYPE_CHECKING:
    from broker.cli import Brought, Plan, Trouble


class ImportEnded(CliError):
    """It did not begin, or not end."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # 78 where settings or a table are wrong


def create_table() -> None:
    """Create the table that DDB_TABLE_NAME names.

    With indexes, TTL and point-in-time recovery. Settings come from the environment, as for the API and the
    worker; AWS credentials the usual way. Exit 78 when the settings are wrong. In production terraform does it.

    \b
    Examples:
      DDB_TABLE_NAME=broker AWS_REGION=eu-central-1 sandbox-broker create-table
    """
    from broker.cli import create_table_as_set  # noqa: PLC0415  half a second of AWS that no other command needs

    raise typer.Exit(create_table_as_set())


def import_table(
    source: Annotated[str, typer.Argument(metavar="TABLE", help="The old broker's table. It is only read.")],
    source_region: Annotated[
        str | None, typer.Option("--source-region", metavar="REGION", help="Its region, if not AWS_REGION.")
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="JSON: other attribute names than the usual ones."),
    ] = None,
    lab_hours: Annotated[
        float,
        typer.Option(
            "--lab-hours",
            min=0.1,
            max=720,
            metavar="HOURS",
            envvar="LAB_DURATION_HOURS",
            help="Of allocations without an end.",
        ),
    ] = 4,
    rate: Annotated[
        float, typer.Option("--rate", min=1, max=10_000, metavar="N", help="Items a second, read and written.")
    ] = 200,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Bring the sandboxes of the old broker's table over.

    First shows what would come, by status, and what would not, and why; then asks. Students keep what they
    hold. Nothing that is in our table is touched; run again, it goes on where it was. Our table, tenant and
    AWS credentials come from the environment, as for create-table.

    Stop the old broker before, and start our worker after it: docs/upgrade.md. Exit 1 where something stays
    behind or is in use on both sides, 78 where it is the wrong table.

    \b
    Examples:
      sandbox-broker import old-sandboxes --dry-run
      sandbox-broker import old-sandboxes --yes
      sandbox-broker import old-sandboxes --mapping names.json --rate 50 -y
    """
    from broker.cli import ImportFailed, Wanted, import_as_set  # noqa: PLC0415  as above

    if not (dry_run or yes or sys.stdin.isatty()):
        raise Misused("import asks before it begins, and nobody can answer here: add --yes, or --dry-run.")
    wanted = Wanted(
        source=source,
        region=source_region,
        mapping=_read(mapping),
        lease_s=round(lab_hours * 3600),
        items_per_s=rate,
    )

    def agree(plan: "Plan") -> bool:
        if not as_json:
            _show(plan)
        if dry_run or not plan.coming:
            return not dry_run
        return yes or agreed()

    bar = Progress(TextColumn("importing"), BarColumn(), MofNCompleteColumn(), console=console(stderr=True))
    task = bar.add_task("", total=None)

    def told(plan: "Plan", brought: "Brought") -> None:
        bar.start()
        bar.update(task, total=len(plan.coming), completed=brought.outcome.total())

    try:
        plan, brought = import_as_set(wanted, agreed=agree, told=told)
    except ImportFailed as failed:
        raise ImportEnded(str(failed), failed.exit_code) from None
    finally:
        bar.stop()
    _report(plan, brought, dry_run=dry_run, as_json=as_json)


def _read(mapping: Path | None) -> dict[str, Any]:
    if mapping is None:
        return {}
    try:
        found = json.loads(mapping.read_text())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no JSON"
        raise Misused(f"--mapping {mapping} cannot be read: {why}.") from None
    if not isinstance(found, dict):
        raise Misused(f"--mapping {mapping} holds no JSON object.")
    return found


def _show(plan: "Plan") -> None:
    """What would come, by status; what would not, and why."""
    states = sorted({sandbox.state.value for sandbox in plan.arrivals})
    rows = []
    for state in states:
        of = [sandbox for sandbox in plan.arrivals if sandbox.state == state]
        here = sum(sandbox.id in plan.here for sandbox in of)
        rows.append([state, str(len(of)), str(here), str(len(of) - here)])
    emit_table(["STATUS", right("FOUND"), right("HERE ALREADY"), right("WOULD COME")], rows)
    if plan.second:
        emit_line(f"{plan.second} of them are second sandboxes of a student: held beside the newest one.")
    if plan.others:
        emit_line(f"{plan.others} items are no sandboxes: passed over.")
    if plan.left:
        emit_line()
        _emit_left("CANNOT COME", plan.left)


def _report(plan: "Plan", brought: "Brought | None", *, dry_run: bool, as_json: bool) -> None:
    """What became of it, and the exit code.

    Raises:
        typer.Exit: 1 where something stays behind or contradicts, or where whoever was asked said no.
    """
    left = {**plan.left, **({} if brought is None else brought.left)}
    contradicted = plan.contradicted if brought is None else brought.contradicted
    if as_json:
        emit_json(
            {
                "would_come": len(plan.coming),
                "here_already": len(plan.here),
                "other_items": plan.others,
                "brought": None if brought is None else {k.value: n for k, n in brought.outcome.items()},
                "left": {why: {"count": t.count, "ids": t.ids} for why, t in left.items()},
                "in_use_on_both_sides": [sandbox.id for sandbox in contradicted],
            }
        )
    elif brought is not None:
        _tell(brought)
    if contradicted:
        ids = " ".join(sandbox.id for sandbox in contradicted)
        say(f"IN USE at the old broker, and not by the same student here: {ids}. Before anything else:")
        say(f"{PROGRAM} quarantine {ids} --reason 'in use at the old broker'")
    if brought is None and not dry_run:
        say("Nothing was changed.")
    if left or contradicted or (brought is None and not dry_run):
        raise typer.Exit(1)


def _tell(brought: "Brought") -> None:
    done = ", ".join(f"{count} {what.value}" for what, count in brought.outcome.items()) or "nothing to do"
    beside = f" {brought.beside} came beside what their students hold here." if brought.beside else ""
    emit_line(f"import: {done}.{beside}")
    if brought.left:
        _emit_left("STAYED BEHIND", brought.left)


def _emit_left(heading: str, left: "dict[str, Trouble]") -> None:
    rows = [(why, str(of.count), trouble(", ".join(of.ids))) for why, of in left.items()]
    emit_table([heading, right("HOW MANY"), wide("WHICH")], rows)
