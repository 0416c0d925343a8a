"""`keys …`: who may come in. A new token goes to standard output alone, to be piped; all else is said."""

import sys
from typing import Annotated, Final, Literal

import typer
from rich.text import Text

from cli.api import Api, Body
from cli.errors import PROGRAM, Misused
from cli.options import AdminsTenant, Json, KeyId, Reason, Yes, api_of
from cli.show import (
    agreed,
    emit_facts,
    emit_json,
    emit_line,
    emit_table,
    instant,
    kept,
    right,
    say,
    since,
    trouble,
    warn,
    wide,
)

app = typer.Typer(
    no_args_is_help=True,
    help="""Make, rotate and revoke API keys. Needs an admin's token.

    \b
    Examples:
      sandbox-broker keys create 'kubernetes-101 tracks' --role track > token
      sandbox-broker keys list
      sandbox-broker keys rotate k7m2x9q4w1zb --overlap 3600 > token
      sandbox-broker keys revoke k7m2x9q4w1zb --reason 'INC-4712: it leaked'
    """,
)

Role = Literal["track", "viewer", "operator", "admin"]
_PATH: Final = "/v1/admin/keys"


@app.command("list")
def list_keys(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=200, metavar="ROWS", help="How many at the most.")
    ] = 50,
    tenant: AdminsTenant = None,
    as_json: Json = False,
) -> None:
    """List keys, the newest first. No secret is in it: nobody can be told one twice.

    \b
    Examples:
      sandbox-broker keys list
      sandbox-broker keys list --tenant north --json
    """
    page = api_of(context).get(_PATH, limit=limit, tenant=tenant)
    if as_json:
        emit_json(page)
        return
    columns = [kept("KEY"), kept("ROLE"), kept("STATE"), right("AGE"), right("USED"), wide("NAME"), wide("ENDS")]
    emit_table(
        columns,
        (
            [k["id"], k["role"], _state(k), since(k["created_at"]), _used(k), k["name"], _end(k)]
            for k in page["keys"]
        ),
    )
    if page["cursor"] is not None:
        say("There are more: raise --limit.")


@app.command()
def show(context: typer.Context, key_id: KeyId, tenant: AdminsTenant = None, as_json: Json = False) -> None:
    """Show one key: whose it is, who made it, when it was last used, why it ended.

    An admin of the default tenant finds a key of any tenant by its id alone.

    \b
    Examples:
      sandbox-broker keys show k7m2x9q4w1zb
    """
    key = api_of(context).get(f"{_PATH}/{key_id}", tenant=tenant)
    emit_json(key) if as_json else emit_facts(_facts(key))


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it: 1 to 64 characters.")],
    role: Annotated[Role, typer.Option("--role", metavar="ROLE", help="track, viewer, operator or admin.")],
    days: Annotated[
        int | None,
        typer.Option("--expires-in-days", min=1, max=3650, metavar="DAYS", help="It ends by itself. Else never."),
    ] = None,
    tenant: AdminsTenant = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its token is printed this once.

    \b
    Examples:
      sandbox-broker keys create k8s-101 --role track --expires-in-days 90 > token
      sandbox-broker keys create grafana --role viewer --tenant north
    """
    body = {"name": name, "role": role} | ({} if days is None else {"expires_in_days": days})
    _tell(api_of(context).post(_PATH, body, tenant=tenant), as_json=as_json)


@app.command()
def rotate(
    context: typer.Context,
    key_id: KeyId,
    overlap_s: Annotated[
        int,
        typer.Option(
            "--overlap",
            min=0,
            max=604800,
            metavar="SECONDS",
            help="So long the old token is good, too: 0 to 7 days.",
        ),
    ] = 3600,
    tenant: AdminsTenant = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a key in the place of another: same name, role and end. The new token is printed this once.

    Asks first where it is the last admin key of its tenant. Whose it may be: as for `keys show`.

    \b
    Examples:
      sandbox-broker keys rotate k7m2x9q4w1zb > token
      sandbox-broker keys rotate k7m2x9q4w1zb --overlap 0
    """
    api = api_of(context)
    if not yes:
        _ask_of_the_last(api, key_id, tenant, "Who loses the new token")
    made = api.post(f"{_PATH}/{key_id}/rotate", {"overlap_s": overlap_s}, tenant=tenant)
    _tell(made, as_json=as_json)
    say(f"{key_id} is good for {overlap_s} s more, or until its own end if that is sooner.")


@app.command()
def revoke(
    context: typer.Context,
    key_id: KeyId,
    reason: Reason,
    tenant: AdminsTenant = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End a key. Every process refuses it within 10 seconds; its waiting jobs are not run.

    Asks first where it is the last admin key of its tenant. Whose it may be: as for `keys show`.

    \b
    Examples:
      sandbox-broker keys revoke k7m2x9q4w1zb --reason 'INC-4712: it leaked'
    """
    api = api_of(context)
    if not yes:
        _ask_of_the_last(api, key_id, tenant, "Whoever needs another one then")
    key = api.post(f"{_PATH}/{key_id}/revoke", {"reason": reason}, tenant=tenant)
    warn(key)
    if as_json:
        emit_json(key)
    else:
        emit_line(f"{key_id} ({key['name']}) of {key['tenant']} revoked, everywhere within 10 s")
        say(f"What it did: {PROGRAM} events --actor key:{key_id} --since 2d --tenant {key['tenant']}")


def _ask_of_the_last(api: Api, key_id: str, tenant: str | None, who: str) -> None:
    """Go on with the last key that may make keys only where that is meant.

    Raises:
        Misused: nobody can be asked.
        typer.Exit: 1, where whoever was asked said no.
    """
    key = api.get(f"{_PATH}/{key_id}", tenant=tenant)
    if not key["last_admin"]:
        return
    text = f"{key_id} is the last admin key of {key['tenant']}. {who} asks the default tenant's admins."
    if not sys.stdin.isatty():
        raise Misused(f"{text} If that is meant: --yes.")
    say(text)
    if not agreed():
        say("Nothing was changed.")
        raise typer.Exit(1)


def _tell(made: Body, *, as_json: bool) -> None:
    """The token, or all of it as JSON, on standard output."""
    if as_json:
        emit_json(made)
    else:
        emit_line(made["token"])
    warn(made)
    say(f"key {made['id']} ({made['name']}): {made['role']} of {made['tenant']}, {_end(made) or 'never ends'}.")
    again = f"{PROGRAM} keys rotate {made['id']} --tenant {made['tenant']} --overlap 0"
    say(f"The token is shown this once. Lost: {again}")


def _state(key: Body) -> str | Text:
    return str(key["state"]) if key["state"] == "live" else trouble(key["state"])


def _used(key: Body) -> str:
    return since(key["last_used_at"]) or "never"


def _end(key: Body) -> str:
    if key["revoked_at"] is not None:
        return f"revoked: {key['revoked_reason']}"
    if key["expires_at"] is None:
        return ""
    replaced = f", replaced by {key['replaced_by']}" if key["replaced_by"] else ""
    return f"ends {instant(key['expires_at'])}{replaced}"


def _facts(key: Body) -> list[tuple[str, str | Text]]:
    """What there is to say of it, in the order in which it happened."""
    facts: list[tuple[str, str | Text]] = [
        ("key", key["id"]),
        ("name", key["name"]),
        ("tenant", key["tenant"]),
        ("role", key["role"]),
        ("state", _state(key)),
        ("made by", f"{key['created_by']} {instant(key['created_at'])}"),
        ("in place of", key["replaces"] or ""),
        ("last used", instant(key["last_used_at"]) or "never"),
        ("ends", instant(key["expires_at"]) or "never"),
        ("replaced by", key["replaced_by"] or ""),
        ("pepper", key["pepper"]),
    ]
    if key["revoked_at"] is not None:
        facts.append(("revoked", f"by {key['revoked_by']} {instant(key['revoked_at'])}"))
        facts.append(("why", key["revoked_reason"] or ""))
    return [(name, value) for name, value in facts if value]
