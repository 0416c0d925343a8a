"""`sandbox-broker`: the commands, and how each way of ending becomes an exit code."""

import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from broker.version import VERSION
from cli.commands import (
    asks,
    bulk,
    config,
    events,
    history,
    jobs,
    keys,
    mode,
    moves,
    pools,
    reconcile,
    restored,
    sandboxes,
    status,
    table,
    tenants,
    validate,
)
from cli.errors import PROGRAM, CliError, Misused, ReaderGone
from cli.options import Options
from cli.show import emit_line, say

HELP: Final = """Operate the sandbox broker from a shell, over its HTTP API.

\b
Where and as whom:
  BROKER_URL           the API's address, http://127.0.0.1:8080 unless set
  BROKER_ADMIN_TOKEN   the admin token (`make run` prints it), or an API key

\b
First things first:
  sandbox-broker status                            how is it?
  sandbox-broker dead-letters                      what failed for good?
  sandbox-broker list --status pending_deletion    what waits for deletion?
  sandbox-broker bulk retry --reason 'INC-4711'    try failed ones again
  sandbox-broker mode drain --reason 'INC-4711'    hand out nothing new
  sandbox-broker history ID --at 2026-11-21T10:04  who had it then?
  sandbox-broker validate post                     was it deployed well?

\b
Exit codes:
  0  done                     3    the API cannot be reached
  1  the API said no,         78   create-table, import: wrong
     or a job or a check           settings, or another table
     ended badly              130  Ctrl-C
  2  asked for wrongly
"""


class Commands(TyperGroup):
    """Words what typer finds wrong where it could be plainer."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            Misused: a command that acts was given the option of those that show.
        """
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise
        except Exception as error:
            if getattr(error, "option_name", None) == "--tenant":  # an unknown option, which has no public class
                raise Misused(_OWN_ALONE) from None
            raise


_OWN_ALONE: Final = (
    "This command takes no --tenant: it works on the tenant of the token or key that it is given. "
    "For another tenant take a key of that tenant; --tenant is for what shows something, and for `keys`."
)

app = typer.Typer(
    name=PROGRAM,
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        emit_line(f"{PROGRAM} {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    url: Annotated[
        str, typer.Option("--url", metavar="URL", envvar="BROKER_URL", help="The API's address.")
    ] = "http://127.0.0.1:8080",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="FILE", help="A file that holds the token, instead of BROKER_ADMIN_TOKEN."
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, max=600, metavar="SECONDS", help="For one answer of the API.")
    ] = 20,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    context.obj = Options(url=url, token_file=token_file, timeout_s=timeout_s)


app.command("status")(status.status)
app.command("config")(config.config)
app.command("list")(sandboxes.list_sandboxes)
app.command("show")(sandboxes.show)
app.command("events")(events.events)
app.command("history")(history.history)
app.command("dead-letters")(jobs.dead_letters)
app.command("reconcile")(reconcile.reconcile)
app.command("sync")(asks.sync)
app.command("cleanup")(asks.cleanup)
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(mode.app, name="mode")
app.add_typer(pools.app, name="pools", help="Drain a pool, or open it again.")
app.add_typer(tenants.app, name="tenants", help="The teams that share this installation.")
app.command("retry")(moves.retry)
app.command("quarantine")(moves.quarantine)
app.command("reinstate")(moves.reinstate)
app.command("discard")(moves.discard)
app.command("force-release")(moves.force_release)
app.command("abandon")(moves.abandon)
app.command("bulk")(bulk.bulk)
app.command("bulk-delete")(bulk.bulk_delete)
app.add_typer(validate.app, name="validate", help="Before and after a deployment: can it be, was it?")
app.add_typer(restored.app, name="restored", help="After a restore of the table: hold, sync, clear.")
app.command("create-table")(table.create_table)
app.command("import")(table.import_table)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is the process's. Whatever happens is a sentence, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale that lacks a letter is no reason to fail
    try:
        get_command(app).main(args=arguments, prog_name=PROGRAM)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except ReaderGone as gone:
        return gone.exit_code
    except CliError as error:
        say(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001  the process's edge
        say(f"That did not work, and should have: {_named(error)}. It is a bug, or another release's API.")
        return 1
    return 0


def _named(error: Exception) -> str:
    """The error and its place; not its text, in which anything may stand."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(at.filename).name}, line {at.lineno}"
