"""`pools …`: hand out nothing new of some sandboxes, while the others go on."""

from typing import Annotated

import typer

from cli.api import Body
from cli.errors import PROGRAM
from cli.options import Json, Reason, TenantName, api_of
from cli.show import emit_json, emit_line, emit_table, instant, kept, warn, wide

app = typer.Typer(no_args_is_help=True)

Prefix = Annotated[
    str, typer.Argument(metavar="PREFIX", help="What the names of the pool begin with; '' is all of the tenant.")
]


@app.command("list")
def list_pools(context: typer.Context, tenant: TenantName = None, as_json: Json = False) -> None:
    """List the pools that are drained.

    \b
    Examples:
      sandbox-broker pools list
    """
    found = api_of(context).get("/v1/admin/pools", tenant=tenant)
    if as_json:
        emit_json(found)
        return
    rows = ([d["prefix"] or "(all)", instant(d["at"]), by_whom(d), d["reason"]] for d in found["drained"])
    emit_table([kept("DRAINED"), kept("SINCE"), kept("BY"), wide("WHY")], rows)


@app.command()
def drain(context: typer.Context, prefix: Prefix, reason: Reason, as_json: Json = False) -> None:
    """Hand out nothing new of a pool. What is held of it stays held and can be released.

    \b
    Examples:
      sandbox-broker pools drain lab-7- --reason 'INC-4711: lab 7 is broken'
      sandbox-broker pools drain '' --reason 'the course is over'
    """
    now = _set(context, prefix, "drained", reason)
    if as_json:
        emit_json(now)
        return
    warn(now)
    back = f"Back: {PROGRAM} pools open {prefix or repr('')} --reason '...'"
    emit_line(f"{prefix or 'all'} drained, everywhere within about 2 s. {back}")


@app.command("open")
def open_(context: typer.Context, prefix: Prefix, reason: Reason, as_json: Json = False) -> None:
    """Hand out of a pool again.

    \b
    Examples:
      sandbox-broker pools open lab-7- --reason 'INC-4711 is over'
    """
    now = _set(context, prefix, "open", reason)
    if as_json:
        emit_json(now)
        return
    left = ", ".join(d["prefix"] or "all" for d in now["drained"])
    shut = [d["prefix"] for d in now["drained"] if prefix.startswith(d["prefix"])]
    if shut:
        emit_line(f"{prefix or 'all'} stays shut: it lies within {shut[0] or 'all'}, which is drained.")
    else:
        still = f" Still drained: {left}." if left else ""
        emit_line(f"{prefix or 'all'} open, everywhere within about 2 s.{still}")


def by_whom(drained: Body) -> str:
    """Who drained it, and whether that was the platform, whose alone it is to open it."""
    return f"{drained['by']} (platform)" if drained["platform"] else str(drained["by"])


def _set(context: typer.Context, prefix: str, state: str, reason: str) -> Body:
    return api_of(context).post("/v1/admin/pools", {"prefix": prefix, "state": state, "reason": reason})
