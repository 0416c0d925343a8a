"""What is done by hand to named sandboxes: one call each; what fails is told, and the rest goes on."""

import getpass
import sys
from typing import Final

import typer
from rich.progress import track
from rich.text import Text

from cli.api import Api, Body
from cli.errors import Refused, Unreachable
from cli.options import Json, MaybeReason, Reason, SandboxIds, api_of
from cli.show import clean, console, emit_json, emit_table, kept, say, trouble, wide

NOT_TRIED: Final = {
    "error": {"code": "NOT_TRIED", "message": "The API could not be reached any more.", "request_id": None}
}


def retry(context: typer.Context, ids: SandboxIds, reason: MaybeReason = None, as_json: Json = False) -> None:
    """Try failed deletions again, with all their attempts.

    \b
    Examples:
      sandbox-broker retry 2009521
      sandbox-broker retry 2009521 2009522 --reason 'the provider is back'
      sandbox-broker bulk retry --reason 'the provider is back'
    """
    _each(context, "retry", ids, reason or f"retried from a shell by {_who()}", as_json=as_json)


def quarantine(context: typer.Context, ids: SandboxIds, reason: Reason, as_json: Json = False) -> None:
    """Take available sandboxes out of the pool. From the answer on nobody is given them.

    \b
    Examples:
      sandbox-broker quarantine 2009521 --reason 'INC-4711: odd network'
    """
    _each(context, "quarantine", ids, reason, as_json=as_json)


def reinstate(context: typer.Context, ids: SandboxIds, reason: Reason, as_json: Json = False) -> None:
    """Put quarantined sandboxes back into the pool.

    \b
    Examples:
      sandbox-broker reinstate 2009521 --reason 'INC-4711: looked at, is fine'
    """
    _each(context, "reinstate", ids, reason, as_json=as_json)


def discard(context: typer.Context, ids: SandboxIds, reason: Reason, as_json: Json = False) -> None:
    """Have quarantined sandboxes deleted at the provider.

    \b
    Examples:
      sandbox-broker discard 2009521 --reason 'INC-4711: beyond repair'
    """
    _each(context, "discard", ids, reason, as_json=as_json)


def force_release(context: typer.Context, ids: SandboxIds, reason: Reason, as_json: Json = False) -> None:
    """End allocations by hand.

    The students lose these sandboxes, and may allocate anew.

    \b
    Examples:
      sandbox-broker force-release 2009521 --reason 'the room is closed'
      sandbox-broker bulk force-release --track lab-101 --reason 'it is over'
    """
    _each(context, "force-release", ids, reason, as_json=as_json)


def abandon(context: typer.Context, ids: SandboxIds, reason: Reason, as_json: Json = False) -> None:
    """Give up failed deletions, seen to by other means.

    \b
    Examples:
      sandbox-broker abandon 2009521 --reason 'deleted in the provider console'
    """
    _each(context, "abandon", ids, reason, as_json=as_json)


def _who() -> str:
    try:
        return clean(getpass.getuser())[:100]
    except (OSError, KeyError):
        return "somebody"


def _each(context: typer.Context, move: str, ids: list[str], reason: str, *, as_json: bool) -> None:
    """Move one after the other.

    Raises:
        Unreachable: the API went away; those after it were not tried.
        typer.Exit: 1, where one or more were refused.
    """
    api = api_of(context)
    results: dict[str, Body] = {}
    gone: Unreachable | None = None
    to = console(stderr=True)
    for id_ in track(ids, move, console=to, transient=True, disable=not sys.stderr.isatty() or len(ids) == 1):
        if gone is not None:
            results[id_] = NOT_TRIED
            continue
        try:
            results[id_] = _moved(api, move, id_, reason)
        except Unreachable as error:
            gone = error
            results[id_] = error.envelope()
    _tell(results, as_json=as_json)
    if gone is not None:
        raise gone
    if refused := sum("error" in result for result in results.values()):
        say(f"{refused} of {len(results)} not moved.")
        raise typer.Exit(1)


def _moved(api: Api, move: str, sandbox_id: str, reason: str) -> Body:
    """The sandbox, or the API's refusal. One that concerns every sandbox ends the command instead.

    Raises:
        Unreachable: no answer.
        Refused: the token is not good for this.
    """
    try:
        return api.post(f"/v1/admin/sandboxes/{sandbox_id}/{move}", {"reason": reason})
    except Refused as error:
        if error.status in (401, 403):
            raise
        return error.envelope()


def _tell(results: dict[str, Body], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {"id": id_} | (result if "error" in result else {"sandbox": result}) for id_, result in results.items()
        ]
        emit_json({"results": rows})
        return
    emit_table(
        [kept("SANDBOX"), kept("NOW"), wide("WHY NOT")],
        ([id_, _now(result), _why_not(result)] for id_, result in results.items()),
    )


def _now(result: Body) -> str | Text:
    return trouble("not moved") if "error" in result else str(result["status"])


def _why_not(result: Body) -> str:
    if "error" not in result:
        return ""
    error = result["error"]
    return f"{error['message']} ({error['code']}, request {error['request_id']})"
