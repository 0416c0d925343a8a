"""`reconcile`: what the provider's accounts are to us, and which of them nothing explains."""

from collections.abc import Iterable
from typing import Final

import typer
from rich.text import Text

from cli.api import Body
from cli.errors import PROGRAM
from cli.options import Json, TenantName, api_of
from cli.show import emit_json, emit_line, emit_table, kept, right, since, span, trouble, wide

MEANING: Final[dict[str, str]] = {
    "available": "in the pool",
    "held": "a student has it",
    "being_deleted": "released, or deleted and listed for a while longer",
    "failed": f"its deletion failed for good: {PROGRAM} dead-letters",
    "quarantined": "taken out of the pool by an operator",
    "foreign": "in conflict: of this tenant's prefixes, and another sandbox has it",
    "other_tenants": "by its name another tenant's",
    "no_sandbox": "of another type, not active, or of nobody's prefixes",
    "unknown": "nothing explains it: someone must look",
}


def reconcile(context: typer.Context, tenant: TenantName = None, as_json: Json = False) -> None:
    """Show what the provider's accounts are to us.

    Names those that nothing explains; every listed account is in exactly one row. Reads what the last sync
    kept: `sandbox-broker sync` brings it up to date.

    \b
    Examples:
      sandbox-broker reconcile
      sandbox-broker reconcile --json | jq .unexplained
    """
    seen = api_of(context).get("/v1/admin/reconciliation", tenant=tenant)
    if as_json:
        emit_json(seen)
        return
    if seen["at"] is None:
        emit_line(f"No sync has read a listing yet. Is a worker running? {PROGRAM} sync")
        return
    emit_line(f"Listed {span(seen['age_s'])} ago: {seen['listed']} accounts. {belief(seen)}")
    emit_line()
    emit_table(
        [kept("ACCOUNTS ARE"), right("COUNT"), wide("MEANING")],
        ([kind, str(count), MEANING.get(kind, "")] for kind, count in seen["accounts"].items()),
    )
    _name(seen)


def belief(seen: Body) -> str:
    """Whether the listing was believed, in a sentence."""
    missing = f"{seen['missing']} of {seen['expected']} expected were missing"
    if seen["believed"]:
        return f"Believed; {missing}."
    doubt = seen["suspicion"]
    return (
        f"NOT believed for {since(doubt['since'])}: {missing}, {doubt['times']} time(s) in a row. Nothing goes "
        f"stale until the third time, or until {PROGRAM} sync --confirm --reason '...'."
    )


def _name(seen: Body) -> None:
    """Those that nothing explains, and for how long."""
    if not (unknown := seen["accounts"].get("unknown", 0)):
        return
    emit_line()
    rows: Iterable[list[str | Text]] = (
        [since(row["first_seen_at"]), trouble(row["what"])] for row in seen["unexplained"]
    )
    emit_table([right("FOR"), wide("UNEXPLAINED")], rows)
    if unknown > len(seen["unexplained"]):
        emit_line(f"... and {unknown - len(seen['unexplained'])} more")
