"""`list` and `show`: what there is."""

import time
from typing import Annotated, Any, Final, Literal, get_args

import typer

from cli.api import Api, Body
from cli.errors import PROGRAM
from cli.options import Json, SandboxId, TenantName, api_of
from cli.show import emit_facts, emit_json, emit_table, instant, kept, right, say, since, span, wide

Status = Literal[
    "available", "allocated", "pending_deletion", "deletion_failed", "stale", "quarantined", "deleted"
]
PAGE: Final = 1000

NEXT: Final[dict[str, tuple[str, ...]]] = {
    "available": ("quarantine",),
    "allocated": ("force-release",),
    "deletion_failed": ("retry", "abandon"),
    "quarantined": ("reinstate", "discard"),
}
"""What an operator can do to it."""


def list_sandboxes(
    context: typer.Context,
    status: Annotated[
        Status | None,
        typer.Option("--status", metavar="STATUS", help=f"Only this one of {', '.join(get_args(Status))}."),
    ] = None,
    track: Annotated[str | None, typer.Option("--track", metavar="LAB", help="Only this lab's.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="ROWS", help="How many at the most.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All there are, however many.")] = False,
    tenant: TenantName = None,
    as_json: Json = False,
) -> None:
    """List sandboxes, with holders, errors and next attempts.

    \b
    Examples:
      sandbox-broker list --status pending_deletion
      sandbox-broker list --track kubernetes-101 --status allocated
      sandbox-broker list --all | grep lab-adventure-
      sandbox-broker list --all --json | jq -r '.sandboxes[].sandbox_id'
    """
    found = _pages(api_of(context), None if everything else limit, status=status, track=track, tenant=tenant)
    if as_json:
        emit_json(found)
        return
    columns = [kept("SANDBOX"), kept("NAME"), kept("STATUS"), right("FOR"), wide("WHAT ABOUT IT")]
    if status is not None:
        del columns[2]  # it is the same in every row, and the errors need the room
    rows = ([r["sandbox_id"], r["name"], r["status"], since(r["since"]), _about(r)] for r in found["sandboxes"])
    emit_table(columns, ([cell for n, cell in enumerate(row) if status is None or n != 2] for row in rows))
    if found["cursor"] is not None:
        say(f"These are the first {found['count']}: --limit shows more, --all shows all.")


def show(context: typer.Context, sandbox_id: SandboxId, tenant: TenantName = None, as_json: Json = False) -> None:
    """Show one sandbox, and what can be done to it.

    \b
    Examples:
      sandbox-broker show 2009521
      sandbox-broker show 2009521 --json
    """
    sandbox = api_of(context).get(f"/v1/admin/sandboxes/{sandbox_id}", tenant=tenant)
    emit_json(sandbox) if as_json else emit_facts(_facts(sandbox))


def _pages(api: Api, limit: int | None, **query: Any) -> Body:
    """Pages as one: up to `limit` rows, and the cursor of what was left out."""
    rows: list[Body] = []
    cursor: str | None = None
    while True:
        wanted = PAGE if limit is None else min(PAGE, limit - len(rows))
        page = api.get("/v1/admin/sandboxes", **query, limit=wanted, cursor=cursor)
        rows += page["sandboxes"]
        cursor = page["cursor"]
        if cursor is None or len(rows) == limit:
            return {"sandboxes": rows, "count": len(rows), "cursor": cursor}


def _about(row: Body) -> str:
    """What one wants to know of a sandbox in its state, in a few words."""
    words: list[str] = []
    if row["missing_since"] is not None:
        words.append(f"not listed by the provider for {since(row['missing_since'])} (missing_since)")
    if row["status"] == "allocated":
        lab = f" of {row['track']}" if row["track"] else ""
        words.append(f"{row['holder']}{lab}, {_ends(row)}")
    if row["status"] == "pending_deletion":
        words.append(f"attempt {row['attempt'] + 1}{_due(row)}")
    if row["status"] == "deletion_failed":
        words.append(f"{row['attempt']} attempts")
    if row["last_error"] and row["status"] in ("pending_deletion", "deletion_failed"):
        words.append(f"last_error {row['last_error']}")
    if row["reason"]:
        words.append(f"reason: {row['reason']}")
    return "; ".join(words)


def _ends(row: Body) -> str:
    if row["expires_at"] is None:
        return "no end"
    left_s = row["expires_at"] - time.time()
    return f"ends in {span(left_s)}" if left_s > 0 else f"ended {span(-left_s)} ago"


def _due(row: Body) -> str:
    if row["next_attempt_at"] is None:
        return ""
    left_s = row["next_attempt_at"] - time.time()
    return f" in {span(left_s)}" if left_s > 0 else " due"


def _facts(row: Body) -> list[tuple[str, str]]:
    facts: list[tuple[str, str | None]] = [
        ("sandbox", row["sandbox_id"]),
        ("name", row["name"]),
        ("account", row["external_id"]),
        ("status", row["status"]),
        ("since", instant(row["since"])),
        ("holder", row["holder"]),
        ("track", row["track"]),
        ("allocated", instant(row["allocated_at"])),
        ("expires", instant(row["expires_at"])),
        ("generation", str(row["generation"]) if row["generation"] else None),
        ("last sign of life", instant(row["heartbeat_at"])),
        ("ended", instant(row["ended_at"])),
        ("ended by", row["ended_by"]),
        ("deletions tried", str(row["attempt"]) if row["attempt"] else None),
        ("next attempt", instant(row["next_attempt_at"])),
        ("last error", row["last_error"]),
        ("missing since", instant(row["missing_since"])),
        ("reason", row["reason"]),
    ]
    for move in NEXT.get(row["status"], ()):
        facts.append(("you can", f"{PROGRAM} {move} {row['sandbox_id']} --reason '...'"))
    return [(name, value) for name, value in facts if value]
