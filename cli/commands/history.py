"""`history`: one sandbox's life, and who held it at a given time."""

import time
from dataclasses import asdict, dataclass
from typing import Final

import typer

from cli.api import Api, Body
from cli.commands.events import ALLOCATED, change_of, pages, student_of, who, why
from cli.errors import PROGRAM, CliError, Misused, Refused
from cli.instants import At
from cli.options import Json, SandboxId, TenantName, api_of
from cli.show import emit_json, emit_line, emit_table, kept, moment, wide

KEPT_S: Final = 30 * 24 * 3600
"""How long the broker remembers events."""
_BY_ID: Final = f"A sandbox goes by its id, not by its name: {PROGRAM} list shows both."
NOT_YET: Final = "unknown to the broker"


def history(
    context: typer.Context,
    sandbox_id: SandboxId,
    at: At = None,
    tenant: TenantName = None,
    as_json: Json = False,
) -> None:
    """Show one sandbox's life, the oldest first; or who held it.

    Of the last 30 days, also of a sandbox that is gone. Exit 1 when nothing is known.

    \b
    Examples:
      sandbox-broker history 2009521
      sandbox-broker history 2009521 --at 10:04
      sandbox-broker history 2009521 --at 2026-11-21T10:04
      sandbox-broker history 2009521 --json | jq -r '.events[].actor'
    """
    api, now = api_of(context), int(time.time())
    if at is not None and at > now:
        raise Misused(f"--at {moment(at)} is in the future: it is {moment(now)} now.")
    found = pages(api, None, sandbox=sandbox_id, tenant=tenant)
    found["events"].reverse()
    if at is not None:
        held = _held(api, sandbox_id, found["events"], at=at, now=now, tenant=tenant)
        emit_json(asdict(held)) if as_json else emit_line(held.sentence())
        return
    if not found["events"]:
        raise CliError(f"Nothing is recorded of {sandbox_id} in the last 30 days. {_BY_ID}")
    if as_json:
        emit_json(found)
        return
    emit_table(
        [kept("WHEN"), wide("CHANGE"), wide("WHO"), wide("WHY")],
        ([moment(e["at"]), change_of(e), who(e), why(e)] for e in found["events"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How things stood with a sandbox. Nobody held it where `holder` is None."""

    sandbox_id: str
    at: int
    state: str
    holder: str | None  # with the lab, as people are told
    since: int | None  # when that began; None: before what is recorded
    until: int | None  # when it ended; None: it has not
    last_holder: str | None  # who held it before that, where nobody did
    next_holder: str | None  # who was given it next, where nobody held it
    next_since: int | None

    def sentence(self) -> str:
        begun = f" since {moment(self.since)}" if self.since else ""
        over = f", until {moment(self.until)}" if self.until else ", and still is"
        if self.holder is None:
            last = f"; the last who did was {self.last_holder}" if self.last_holder else ""
            next_ = (
                f"; the next who did is {self.next_holder}, from {moment(self.next_since)}"
                if self.next_since
                else ""
            )
            then = f"{self.sandbox_id} at {moment(self.at)}: it was {self.state}"
            return f"Nobody held {then}{begun}{over}{last}{next_}."
        begun = begun or " since before what is kept"
        return f"{self.sandbox_id} was held by {self.holder} at {moment(self.at)}:{begun}{over}."


def _held(api: Api, sandbox_id: str, events: list[Body], *, at: int, now: int, tenant: str | None) -> Held:
    """How things stood at an instant, by the events around it; where there are none, by how they stand now.

    Raises:
        CliError: nothing is known about that instant.
    """
    earlier = [event for event in events if event["at"] <= at]
    later = [event for event in events if event["at"] > at]
    if earlier:
        state, told = str(earlier[-1]["after"]), earlier[-1]
    elif later and at > now - KEPT_S:
        state, told = str(later[0]["before"] or NOT_YET), later[0]
    else:
        told = _present(api, sandbox_id, at, tenant)
        state = str(told["status"])
    began = next((e["at"] for e in reversed(earlier) if e["before"] != state), told.get("since"))
    ended = next((e["at"] for e in later if e["after"] != state), None)
    holder = last = given = None
    if state == ALLOCATED:
        holder = student_of(told)
    else:
        last = next((student_of(e) for e in reversed(earlier) if e["before"] == ALLOCATED), None)
        given = next((e for e in later if e["after"] == ALLOCATED), None)
    return Held(
        sandbox_id=sandbox_id,
        at=at,
        state=state,
        holder=holder,
        since=began,
        until=ended,
        last_holder=last,
        next_holder=None if given is None else student_of(given),
        next_since=None if given is None else given["at"],
    )


def _present(api: Api, sandbox_id: str, at: int, tenant: str | None) -> Body:
    """The sandbox as it is, where it has been so since before the instant."""
    try:
        sandbox = api.get(f"/v1/admin/sandboxes/{sandbox_id}", tenant=tenant)
    except Refused as error:
        if error.code != "SANDBOX_NOT_FOUND":
            raise
    else:
        if sandbox["since"] <= at:
            return sandbox
    raise CliError(
        f"Who held {sandbox_id} at {moment(at)} is not known: nothing is recorded of it then. "
        f"Events are kept for 30 days: {PROGRAM} history {sandbox_id}. {_BY_ID}"
    )
