"""The options and arguments that commands share, and the client they lead to."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.api import Api, Body
from cli.connection import connection_of
from cli.show import say

_ID: Final = re.compile(r"(?=.*[A-Za-z0-9_:-])[A-Za-z0-9._:-]{1,128}")
_TENANT: Final = re.compile(r"(?=.*[A-Za-z0-9_:-])[A-Za-z0-9._:-]{1,64}")
_REASON_CHARS: Final = (3, 200)


@dataclass(frozen=True, slots=True)
class Options:
    """What stands before the command. Nothing is looked at until a command needs the API."""

    url: str
    token_file: Path | None
    timeout_s: float


def api_of(context: typer.Context) -> Api:
    """The client for this command, closed when it ends.

    Raises:
        Misused: the environment or the options describe none.
    """
    options = context.find_object(Options)
    if options is None:
        raise RuntimeError("the main command has not run")
    api = Api(connection_of(url=options.url, token_file=options.token_file, timeout_s=options.timeout_s), say=say)
    context.call_on_close(api.close)
    return api


def _reason(given: str | None) -> str | None:
    """What the API would refuse; here it is refused before the first of many calls."""
    low, high = _REASON_CHARS
    if given is None:
        return None
    said = given.strip()
    if not low <= len(said) <= high or not said.isprintable():
        raise typer.BadParameter(f"{low} to {high} printable characters, please")
    return said


def _id(given: str) -> str:
    """As the API takes them. `..` would lead to another route."""
    if not _ID.fullmatch(given):
        raise typer.BadParameter("an id has 1 to 128 of the characters A-Z a-z 0-9 . _ : -")
    return given


def tenant_name(given: str) -> str:
    """As the API takes them: those of BROKER_TENANT included, which are spelled more freely than new ones."""
    if not _TENANT.fullmatch(given):
        raise typer.BadParameter("a tenant's name has 1 to 64 of the characters A-Z a-z 0-9 . _ : -")
    return given


def _tenant(given: str | None) -> str | None:
    return None if given is None else tenant_name(given)


def _ids(given: list[str]) -> list[str]:
    return list(dict.fromkeys(map(_id, given)))


def said(reason: str | None) -> Body:
    """The body of a request for which a reason may be given."""
    return {} if reason is None else {"reason": reason}


Json = Annotated[bool, typer.Option("--json", help="Print what the API answered, as JSON.")]
_WHY: Final = typer.Option(
    "--reason", metavar="TEXT", callback=_reason, help="Why, for whoever asks later. 3 to 200 characters."
)
Reason = Annotated[str, _WHY]
MaybeReason = Annotated[str | None, _WHY]
SandboxId = Annotated[str, typer.Argument(metavar="ID", callback=_id, help="A sandbox, as `list` shows it.")]
SandboxIds = Annotated[list[str], typer.Argument(metavar="ID", callback=_ids, help="One sandbox or more.")]
JobId = Annotated[str, typer.Argument(metavar="ID", callback=_id, help="A job, as `jobs list` shows it.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", callback=_id, help="A key, as `keys list` shows it.")]
Wait = Annotated[
    float | None,
    typer.Option("--wait", min=1, metavar="SECONDS", help="Follow it for so long; exit 1 if it goes on by then."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not follow it: print the job's id.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")]
TenantName = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        callback=_tenant,
        help="Another tenant's: for operators of the default tenant. Else your own.",
    ),
]
AdminsTenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        callback=_tenant,
        help="Another tenant's: for admins of the default tenant. Else your own.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Needed where nobody can answer.")]
