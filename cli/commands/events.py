"""`events`: who changed what."""

import json
from typing import Annotated, Any, Final, Literal, get_args

import typer

from cli.api import Api, Body
from cli.errors import Misused
from cli.instants import Since, Until
from cli.options import Json, TenantName, api_of
from cli.show import emit_json, emit_table, kept, moment, say, wide

PAGE: Final = 1000
ALLOCATED: Final = "allocated"
Action = Literal[
    "allocate",
    "extend",
    "release",
    "quarantine",
    "reinstate",
    "discard",
    "force_release",
    "retry",
    "abandon",
    "bulk_delete",
    "bulk_retry",
    "bulk_quarantine",
    "bulk_force_release",
    "added",
    "came_back",
    "delete_again",
    "stale",
    "expire",
    "deleted",
    "delete_attempt_failed",
    "turned_away",
    "handed_back",
    "deletion_refused",
    "deletion_failed",
    "purged",
    "request_job",
    "cancel_job",
    "requeue_job",
    "refuse_job",
    "end_job",
    "set_mode",
    "create_tenant",
    "change_tenant",
    "drain_tenant",
    "resume_tenant",
    "drain_pool",
    "open_pool",
    "create_key",
    "rotate_key",
    "revoke_key",
]
"""By what a change was made."""


def events(
    context: typer.Context,
    sandbox: Annotated[str | None, typer.Option("--sandbox", metavar="ID", help="Only this sandbox's.")] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="WHO", help="Only by this credential, or worker's task.")
    ] = None,
    action: Annotated[
        Action | None,
        typer.Option("--action", metavar="WHAT", help=f"Only this one of {', '.join(get_args(Action))}."),
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", metavar="ID", help="Only what this request caused.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="ROWS", help="How many at the most.")] = 50,
    tenant: TenantName = None,
    as_json: Json = False,
) -> None:
    """Show who changed what, the newest first.

    Of the last 30 days: longer than that nothing is kept.

    \b
    Examples:
      sandbox-broker events --since 2h
      sandbox-broker events --actor bootstrap-admin --action force_release
      sandbox-broker events --since 2026-11-21T10:00 --until 2026-11-21T10:15
      sandbox-broker events --request cli-5f0c2b7a9d11 --json
    """
    if since is not None and until is not None and since > until:
        raise Misused(f"--since {moment(since)} is later than --until {moment(until)}: nothing lies between.")
    sought = {"sandbox": sandbox, "actor": actor, "action": action, "request": request}
    found = pages(api_of(context), limit, **sought, since=since, until=until, tenant=tenant)
    if as_json:
        emit_json(found)
        return
    columns = [kept("WHEN"), wide("WHAT"), wide("CHANGE"), wide("WHO"), wide("WHY")]
    emit_table(columns, ([moment(e["at"]), _what(e), change_of(e), who(e), why(e)] for e in found["events"]))
    if found["cursor"] is not None:
        say(f"These are the newest {found['count']}: --limit shows more, --until goes on from there.")


def pages(api: Api, limit: int | None, **query: Any) -> Body:
    """Pages as one: up to `limit` events, and the cursor of what was left out."""
    rows: list[Body] = []
    cursor: str | None = None
    while True:
        wanted = PAGE if limit is None else min(PAGE, limit - len(rows))
        page = api.get("/v1/admin/events", **query, limit=wanted, cursor=cursor)
        rows += page["events"]
        cursor = page["cursor"]
        if cursor is None or len(rows) == limit:
            return {"events": rows, "count": len(rows), "cursor": cursor}


def change_of(event: Body) -> str:
    """From what to what. Of things other than sandboxes only what differs."""
    before, after = event["before"], event["after"]
    if not isinstance(after, dict):
        return f"{before or 'new'} -> {after}"
    was = before if isinstance(before, dict) else {}
    return ", ".join(
        _differs(name, was.get(name), value) for name, value in after.items() if was.get(name) != value
    )


def _differs(name: str, was: Any, value: Any) -> str:
    return f"{name} {_plain(value)}" if was is None else f"{name} {_plain(was)} -> {_plain(value)}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def who(event: Body) -> str:
    """Who did it, and by what."""
    return f"{_called(event['actor'], event['actor_name'])} ({event['action']})"


def why(event: Body) -> str:
    """Whom it concerns, and what was said of it."""
    words: list[str] = []
    if ALLOCATED in (event["before"], event["after"]):
        words.append(student_of(event))
    if event["reason"]:
        words.append(f"reason: {event['reason']}")
    if event["error"]:
        words.append(f"error: {event['error']}")
    return "; ".join(words)


def student_of(row: Body) -> str:
    """Who holds it, and in which lab."""
    lab = f" of {row['track']}" if row["track"] else ""
    return f"{row['holder']}{lab}"


def _what(event: Body) -> str:
    return str(event["sandbox_id"] or _called(event["subject"], event["subject_name"]))


def _called(name: str, people_say: str | None) -> str:
    """A key by its id, and by what people call it."""
    return name if people_say is None else f"{name} '{people_say}'"
