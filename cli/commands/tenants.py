"""`tenants …`: the teams that share this installation. For the default tenant's admins."""

import re
from typing import Annotated, Any, Final

import typer

from cli.api import Api, Body
from cli.commands.pools import by_whom
from cli.errors import PROGRAM
from cli.options import Json, Reason, api_of, tenant_name
from cli.show import (
    emit_facts,
    emit_json,
    emit_line,
    emit_table,
    instant,
    kept,
    right,
    say,
    span,
    trouble,
    warn,
    wide,
)

app = typer.Typer(no_args_is_help=True)

_NEW_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
DEFAULT: Final = "default"
PAGE: Final = 1000


def _new_name(given: str) -> str:
    """In the API's words."""
    if not _NEW_NAME.fullmatch(given):
        raise typer.BadParameter("expected: 1 to 63 of the characters a-z 0-9 -, a letter or digit first")
    return given


def _seconds(given: str | None) -> int | str | None:
    """
    >>> [_seconds(text) for text in ("90m", "1.5h", "default", None)]
    [5400, 5400, 'default', None]
    """
    if given in (None, DEFAULT):
        return given
    if not (found := _SPAN.fullmatch(str(given))):
        raise typer.BadParameter("say it as 90m, 4h or 2d, or `default`")
    return round(float(found[1]) * _SECONDS[found[2]])


def _count(given: str | None) -> int | str | None:
    if given in (None, DEFAULT):
        return given
    if not str(given).isdecimal():
        raise typer.BadParameter("a whole number, or `default` for no limit")
    return int(str(given))


Name = Annotated[str, typer.Argument(metavar="TENANT", callback=tenant_name, help="Its name.")]
NewName = Annotated[str, typer.Argument(metavar="TENANT", callback=_new_name, help="Its name: a-z 0-9 -.")]
MaxLive = Annotated[
    str | None,
    typer.Option("--max-live", metavar="N", callback=_count, help="Sandboxes held at once; `default`: no limit."),
]
Lease = Annotated[
    str | None,
    typer.Option("--lease", metavar="SPAN", callback=_seconds, help="Of an allocation: 90m, 4h, or `default`."),
]
Extension = Annotated[
    str | None,
    typer.Option(
        "--max-extension", metavar="SPAN", callback=_seconds, help="Beyond that, by extending; 0s: none."
    ),
]
Requests = Annotated[
    str | None,
    typer.Option("--requests", metavar="RATE", help="Of all its keys, per API process: '500/10 seconds'."),
]
ProviderUrl = Annotated[
    str | None,
    typer.Option("--provider-url", metavar="URL", help="Its own provider; `default`: the installation's."),
]
ProviderSecret = Annotated[
    str | None,
    typer.Option(
        "--provider-secret", metavar="NAME", help="Its token: a name in Secrets Manager, or env:CSP_API_TOKEN_…"
    ),
]
Prefixes = Annotated[
    list[str] | None,
    typer.Option("--prefix", metavar="PREFIX", help="Accounts whose name begins so; several; `default`: all."),
]


@app.command("list")
def list_tenants(context: typer.Context, as_json: Json = False) -> None:
    """List all tenants.

    \b
    Examples:
      sandbox-broker tenants list
    """
    found = _pages(api_of(context))
    if as_json:
        emit_json(found)
        return
    columns = [kept("TENANT"), kept("STATE"), right("MAX LIVE"), right("LEASE"), wide("SANDBOXES FROM")]
    emit_table(columns, (_row(tenant) for tenant in found["tenants"]))


@app.command()
def show(context: typer.Context, tenant: Name, as_json: Json = False) -> None:
    """Show one tenant: its limits, its provider, what is drained.

    \b
    Examples:
      sandbox-broker tenants show north
    """
    _told(api_of(context).get(f"/v1/admin/tenants/{tenant}"), as_json=as_json)


@app.command()
def create(
    context: typer.Context,
    tenant: NewName,
    reason: Reason,
    max_live: MaxLive = None,
    lease: Lease = None,
    max_extension: Extension = None,
    requests: Requests = None,
    provider_url: ProviderUrl = None,
    provider_secret: ProviderSecret = None,
    prefix: Prefixes = None,
    as_json: Json = False,
) -> None:
    """Add a tenant. Its pool fills within a minute; then make it a key.

    \b
    Examples:
      sandbox-broker tenants create north --prefix north- --reason CHG-812
      sandbox-broker tenants create south --max-live 200 --reason CHG-813
    """
    facts = _facts(max_live, lease, max_extension, requests, provider_url, provider_secret, prefix)
    made = api_of(context).post("/v1/admin/tenants", {"name": tenant, **facts, "reason": reason})
    _told(made, as_json=as_json)
    warn(made)
    say(f"Does its provider answer? Look in a minute: {PROGRAM} status --tenant {tenant}")
    say(f"Then make it a key: {PROGRAM} keys create setup-scripts --role track --tenant {tenant}")


@app.command("set")
def set_(
    context: typer.Context,
    tenant: Name,
    reason: Reason,
    max_live: MaxLive = None,
    lease: Lease = None,
    max_extension: Extension = None,
    requests: Requests = None,
    provider_url: ProviderUrl = None,
    provider_secret: ProviderSecret = None,
    prefix: Prefixes = None,
    as_json: Json = False,
) -> None:
    """Change a tenant. What is not named stays; `default` sets a limit back.

    \b
    Examples:
      sandbox-broker tenants set north --max-live 300 --reason CHG-815
      sandbox-broker tenants set north --lease default --reason CHG-814
    """
    facts = _facts(max_live, lease, max_extension, requests, provider_url, provider_secret, prefix)
    if not facts:
        raise typer.BadParameter("say what is to be changed: --max-live, --lease, ...")
    changed = api_of(context).patch(f"/v1/admin/tenants/{tenant}", {**facts, "reason": reason})
    _told(changed, as_json=as_json)
    warn(changed)
    if {"provider", "prefixes"} & facts.keys():
        say(f"Does its provider answer? Look in a minute: {PROGRAM} status --tenant {tenant}")


@app.command()
def drain(context: typer.Context, tenant: Name, reason: Reason, as_json: Json = False) -> None:
    """Hand out nothing new to a tenant, until `resume`. It cannot end that itself.

    What its students hold stays held and can be released.

    \b
    Examples:
      sandbox-broker tenants drain north --reason 'INC-4711: it eats the budget'
    """
    drained = api_of(context).post(f"/v1/admin/tenants/{tenant}/drain", {"reason": reason})
    if as_json:
        emit_json(drained)
    else:
        back = f"Back: {PROGRAM} tenants resume {tenant} --reason '...'"
        emit_line(f"{tenant} drained, everywhere within about 2 s. {back}")


@app.command()
def resume(context: typer.Context, tenant: Name, reason: Reason, as_json: Json = False) -> None:
    """Hand out to a drained tenant again, whoever drained it.

    \b
    Examples:
      sandbox-broker tenants resume north --reason 'INC-4711 is over'
    """
    now = api_of(context).post(f"/v1/admin/tenants/{tenant}/resume", {"reason": reason})
    if as_json:
        emit_json(now)
        return
    left = ", ".join(d["prefix"] for d in now["drained"])
    still = f" Still drained by itself: {left}." if left else ""
    emit_line(f"{tenant} hands out again, everywhere within about 2 s.{still}")


def _pages(api: Api) -> Body:
    """All pages as one."""
    rows: list[Body] = []
    cursor: str | None = None
    while True:
        page = api.get("/v1/admin/tenants", limit=PAGE, cursor=cursor)
        rows += page["tenants"]
        if (cursor := page["cursor"]) is None:
            return {"tenants": rows, "count": len(rows), "cursor": None}


def _facts(
    max_live: str | None,
    lease: str | None,
    max_extension: str | None,
    requests: str | None,
    provider_url: str | None,
    provider_secret: str | None,
    prefix: list[str] | None,
) -> Body:
    """What was said, as the API takes it."""
    said: dict[str, Any] = {
        "max_live": max_live,
        "lease_s": lease,
        "max_extension_s": max_extension,
        "requests": requests,
    }
    facts = {name: None if value == DEFAULT else value for name, value in said.items() if value is not None}
    if provider_url == DEFAULT:
        facts["provider"] = None
    elif provider_url is not None and provider_secret is not None:
        facts["provider"] = {"base_url": provider_url, "secret": provider_secret}
    elif provider_url is not None or provider_secret is not None:
        raise typer.BadParameter("--provider-url and --provider-secret go together")
    if prefix:
        facts["prefixes"] = [] if prefix == [DEFAULT] else prefix
    return facts


def _row(tenant: Body) -> list[Any]:
    pools = ", ".join(f"{d['prefix']}*" for d in tenant["drained"])
    state = tenant["state"] if tenant["state"] == "drained" or not pools else f"active, drained: {pools}"
    state = trouble(state) if tenant["drained"] else state
    most, lease_s = tenant["max_live"], tenant["lease_s"]
    return [
        tenant["name"],
        state,
        "" if most is None else str(most),
        "" if lease_s is None else span(lease_s),
        _source(tenant),
    ]


def _source(tenant: Body) -> str:
    where = tenant["provider"]["base_url"] if tenant["provider"] else "the installation's provider"
    named = " or ".join(f"{prefix}*" for prefix in tenant["prefixes"])
    return f"{where}, {named}" if named else where


def _told(tenant: Body, *, as_json: bool) -> None:
    if as_json:
        emit_json(tenant)
        return
    lease_s, extension_s, provider = tenant["lease_s"], tenant["max_extension_s"], tenant["provider"]
    facts = [
        ("tenant", tenant["name"]),
        ("state", tenant["state"]),
        ("created", instant(tenant["created_at"])),
        ("max live", "no limit" if tenant["max_live"] is None else str(tenant["max_live"])),
        ("lease", DEFAULT if lease_s is None else span(lease_s)),
        ("max extension", DEFAULT if extension_s is None else span(extension_s)),
        ("requests", tenant["requests"] or "no limit of its own"),
        ("sandboxes from", _source(tenant)),
        ("token kept in", provider["secret"] if provider else ""),
    ]
    facts += [("drained", f"{d['prefix'] or 'all'}: {d['reason']} ({by_whom(d)})") for d in tenant["drained"]]
    emit_facts((name, value) for name, value in facts if value)
