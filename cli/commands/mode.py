"""`mode …`: open, drain or pause the whole broker."""

import typer

from cli.api import Body
from cli.errors import PROGRAM
from cli.options import Json, Reason, api_of
from cli.show import emit_facts, emit_json, emit_line, instant

app = typer.Typer(invoke_without_command=True)

MEANING = {
    "open": "sandboxes are handed out, the worker works",
    "drained": "nothing new is handed out; what is held stays, and can be released",
    "maintenance": "nothing new is handed out, and the worker begins nothing",
}


@app.callback()
def mode(context: typer.Context, as_json: Json = False) -> None:
    """Show the mode of the whole broker, or change it.

    A change is in force on every process within about 2 s.

    \b
    Examples:
      sandbox-broker mode
      sandbox-broker mode drain --reason 'INC-4711: the provider lost its network'
      sandbox-broker mode open --reason 'INC-4711 is over'
    """
    if context.invoked_subcommand is None:
        show(context, as_json=as_json)


@app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show the mode, who set it and why.

    \b
    Examples:
      sandbox-broker mode show
    """
    now = api_of(context).get("/v1/admin/mode")
    if as_json:
        emit_json(now)
        return
    facts = [("mode", f"{now['mode']}: {MEANING[now['mode']]}")]
    facts += [("reason", now["reason"] or ""), ("by", now["by"] or ""), ("since", instant(now["at"]))]
    emit_facts((name, value) for name, value in facts if value)


@app.command()
def drain(context: typer.Context, reason: Reason, as_json: Json = False) -> None:
    """Hand out nothing new. What is held stays held, and can be looked at and released.

    \b
    Examples:
      sandbox-broker mode drain --reason 'INC-4711: the provider lost its network'
    """
    _set(context, "drained", reason, as_json=as_json)


@app.command()
def maintenance(context: typer.Context, reason: Reason, as_json: Json = False) -> None:
    """Hand out nothing new, and let the worker begin nothing.

    No sync, no deletion, no job; what has begun is finished.

    \b
    Examples:
      sandbox-broker mode maintenance --reason 'the table is being restored'
    """
    _set(context, "maintenance", reason, as_json=as_json)


@app.command("open")
def open_(context: typer.Context, reason: Reason, as_json: Json = False) -> None:
    """Hand out sandboxes again, and have the worker work.

    \b
    Examples:
      sandbox-broker mode open --reason 'INC-4711 is over'
    """
    _set(context, "open", reason, as_json=as_json)


def _set(context: typer.Context, to: str, reason: str, *, as_json: bool) -> None:
    now: Body = api_of(context).post("/v1/admin/mode", {"mode": to, "reason": reason})
    if as_json:
        emit_json(now)
        return
    back = "" if to == "open" else f". Back: {PROGRAM} mode open --reason '...'"
    emit_line(f"{now['mode']}, everywhere within about 2 s: {MEANING[now['mode']]}{back}")
