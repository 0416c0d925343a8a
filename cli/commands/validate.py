"""`validate pre|ready|post`: whether a release can be deployed, and whether it was."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from cli.connection import Connection, connection_of
from cli.errors import Misused
from cli.options import Json, Options, api_of
from cli.show import emit_json
from cli.validation import golden, live, repository
from cli.validation.check import Check, noted, passed, report, show
from cli.validation.settings_file import ROOT

TRACK_TOKEN: Final = "BROKER_API_TOKEN"  # noqa: S105  its name

app = typer.Typer(no_args_is_help=True)

EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", metavar="FILE", help="The declared settings: NAME=value, a line each."),
]


@app.command()
def pre(context: typer.Context, as_json: Json = False) -> None:
    """Look at what this release would be deployed over.

    Ready, no newer release, the table's schema, no worker that elects otherwise than ours. Exit 1 where one
    of them is not so: `docs/upgrade.md` says in which order to go on.

    \b
    Examples:
      sandbox-broker validate pre
      BROKER_URL=https://broker.example.org sandbox-broker validate pre --json
    """
    _end("pre", live.before(api_of(context)), as_json=as_json)


@app.command()
def ready(env_file: EnvFile = None, as_json: Json = False) -> None:
    """Look at this clone: can it be built and deployed?

    Files, plans, requirements with hashes, Dockerfiles with a pinned base; with --env-file, what API and
    worker say of these settings. Secrets may be exported instead. Asks no broker. Exit 1 where something lacks.

    \b
    Examples:
      sandbox-broker validate ready
      sandbox-broker validate ready --env-file production.env
    """
    _end("ready", repository.checks(ROOT, env_file), as_json=as_json)


@app.command()
def post(
    context: typer.Context,
    env_file: EnvFile = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Take a sandbox whose name begins so.")
    ] = "",
    no_golden_path: Annotated[
        bool, typer.Option("--no-golden-path", help="Take no sandbox: leave the golden path out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at what has been deployed, and go the golden path.

    5 connects (at least 4 succeed, mean below 10 s), release, configuration as declared, a worker that leads,
    metrics. Then a student that does not exist gets a sandbox, asks again, looks, extends and releases it:
    it costs one sandbox of the pool. What was taken is given back, also at Ctrl-C. Exit 1 where one fails.

    BROKER_API_TOKEN is the tracks' token, for the golden path.

    \b
    Examples:
      sandbox-broker validate post --env-file production.env
      sandbox-broker validate post --prefix lab-7- --json
      sandbox-broker validate post --no-golden-path
    """
    for number in golden.ENDED_BY:
        if signal.getsignal(number) is signal.SIG_DFL:  # Ctrl-C is an interrupt already; nohup is left to hold
            signal.signal(number, _as_interrupt)
    options = context.ensure_object(Options)
    connection = connection_of(url=options.url, token_file=options.token_file, timeout_s=options.timeout_s)
    token = os.environ.get(TRACK_TOKEN, "").strip()
    if not (token or no_golden_path):
        raise Misused(f"{TRACK_TOKEN} is not set. export it, or leave the golden path out: --no-golden-path.")
    checks = list(live.after(connection, api_of(context), env_file))
    if not live.reached(checks):
        checks.append(noted("golden path", "not gone: no broker answers"))
    elif not no_golden_path:
        student = Connection(url=connection.url, token=token, timeout_s=connection.timeout_s)
        checks += golden.walk(student, prefix=prefix)
    _end("post", checks, as_json=as_json)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM and a terminal that closes end it as Ctrl-C does, so that what was taken is given back."""
    raise KeyboardInterrupt


def _end(stage: str, found: Iterable[Check], *, as_json: bool) -> None:
    """Show what was found.

    Raises:
        typer.Exit: 1 where something is not as it should be.
    """
    checks = list(found)
    if as_json:
        emit_json(report(stage, checks))
    else:
        show(stage, checks)
    if not passed(checks):
        raise typer.Exit(1)
