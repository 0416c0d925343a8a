"""What becomes of a sandbox of the old broker: its attributes, and which of our states it arrives in. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from broker.sandbox import TOMBSTONE_S, EndedBy, Sandbox, State

OLD_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "id": ("sandbox_id",),  # else what follows `SBX#` in PK
    "name": ("name", "sandbox_name"),
    "external_id": ("external_id",),
    "status": ("status",),
    "holder": ("allocated_to_sandbox_id", "allocated_to_track", "allocated_to"),
    "track": ("instruqt_track_id", "track_id"),
    "allocated_at": ("allocated_at",),
    "expires_at": ("expires_at",),  # else allocated_at and the length of a lab
    "ended_at": ("deletion_requested_at",),
    "attempt": ("deletion_retry_count",),
    "error": ("deletion_error", "last_error"),
}
"""Our fact <- the old broker's attributes, of which the first that has a value counts. Assumed: nobody has written
down what the old broker stored but its keys. `--mapping` replaces any of them."""

OLD_STATES: Final[dict[str, State]] = {
    "available": State.AVAILABLE,
    "allocated": State.ALLOCATED,
    "pending_deletion": State.PENDING_DELETION,
    "deletion_failed": State.DELETION_FAILED,
    "stale": State.STALE,
    "deleted": State.DELETED,
}
HOLDER_UNKNOWN: Final = "imported: it was allocated, and the old table does not say to whom"
SECOND: Final = "imported-"
"""Of a student's sandboxes but the newest, the claim's key begins so: each can be released, and ends by itself."""

_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MILLISECONDS: Final = 10**11
_LONGEST: Final = 1024


class Unmappable(Exception):
    """The item cannot come: why, in a few words that many items share."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an item was, and what it said."""

    pk: str
    values: Mapping[str, Any]


def mapping_of(changes: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """OLD_ATTRIBUTES with some of them replaced: by a name, or by a list of names.

    Raises:
        ValueError: a fact that there is not, or what is no name.
    """
    mapping = dict(OLD_ATTRIBUTES)
    for fact, given in changes.items():
        names = [given] if isinstance(given, str) else given
        if fact not in mapping:
            raise ValueError(f"{fact!r} is none of {', '.join(mapping)}")
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"{fact!r} takes an attribute's name, or a list of names")
        mapping[fact] = tuple(names)
    return mapping


def arrival_of(
    origin: Origin, *, tenant: str, mapping: Mapping[str, tuple[str, ...]], now: int, lease_s: int
) -> Sandbox:
    """The sandbox that this item becomes. A claim's key is not decided here: see with_claims().

    Raises:
        Unmappable: it says too little, or what nobody understands.
    """
    facts = {fact: _first(origin.values, names) for fact, names in mapping.items()}
    state = OLD_STATES.get(_text(facts["status"]).casefold())
    if state is None:
        raise Unmappable(f"status {_text(facts['status'])[:30]!r} is unknown" if facts["status"] else "no status")
    sandbox = Sandbox(
        tenant=tenant,
        id=_id(facts["id"] or origin.pk.partition("#")[2], "sandbox id"),
        state=state,
        version=now,
        name=_needed(facts["name"], "name"),
        external_id=_needed(facts["external_id"], "external id"),
        since=now,
    )
    match state:
        case State.ALLOCATED:
            return _allocated(sandbox, facts, now=now, lease_s=lease_s)
        case State.PENDING_DELETION | State.DELETION_FAILED | State.DELETED:
            return _ending(sandbox, facts, now=now)
    return sandbox


def _allocated(sandbox: Sandbox, facts: Mapping[str, Any], *, now: int, lease_s: int) -> Sandbox:
    """It keeps its holder. Who that is must be known, or it waits for a person: someone may be working in it."""
    holder = _text(facts["holder"])
    if not _ID.fullmatch(holder):
        return replace(sandbox, state=State.QUARANTINED, reason=HOLDER_UNKNOWN)
    began = _instant(facts["allocated_at"]) or now
    track = _text(facts["track"])
    return replace(
        sandbox,
        holder=holder,
        track=track if _ID.fullmatch(track) else None,
        allocated_at=began,
        expires_at=_instant(facts["expires_at"]) or began + lease_s,
    )


def _ending(sandbox: Sandbox, facts: Mapping[str, Any], *, now: int) -> Sandbox:
    """Its deletion goes on with all attempts before it; a student who releases it again hears the same answer."""
    holder = _text(facts["holder"])
    if _ID.fullmatch(holder):
        ended_at = _instant(facts["ended_at"]) or now
        sandbox = replace(sandbox, holder=holder, ended_at=ended_at, ended_by=EndedBy.RELEASE)
    match sandbox.state:
        case State.PENDING_DELETION:
            return replace(sandbox, next_attempt_at=now)
        case State.DELETED:
            return replace(sandbox, ttl=now + TOMBSTONE_S)
    error = _text(facts["error"])[:200] or "imported: the old broker gave it up"
    return replace(sandbox, attempt=_count(facts["attempt"]), last_error=error)


def with_claims(arrivals: Iterable[Sandbox]) -> list[Sandbox]:
    """The same, each allocation under a claim of its own: a student's newest one under the plain claim."""
    found = list(arrivals)
    newest: dict[str, Sandbox] = {}
    for sandbox in found:
        if sandbox.state is State.ALLOCATED and sandbox.holder is not None:
            seen = newest.get(sandbox.holder)
            if seen is None or _age(seen) < _age(sandbox):
                newest[sandbox.holder] = sandbox
    return [keyed(s) if s.state is State.ALLOCATED and newest[s.holder or ""] is not s else s for s in found]


def keyed(sandbox: Sandbox) -> Sandbox:
    """Held by the same student beside another one."""
    return replace(sandbox, claim_key=f"{SECOND}{sandbox.id}"[:128])


def _age(sandbox: Sandbox) -> tuple[int, str]:
    return sandbox.allocated_at or 0, sandbox.id


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((values[name] for name in names if values.get(name) not in (None, "")), None)


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _needed(value: Any, what: str) -> str:
    text = _text(value)
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise Unmappable(f"no {what}" if not text else f"no usable {what}")
    return text


def _id(value: Any, what: str) -> str:
    text = _text(value)
    if not _ID.fullmatch(text):
        raise Unmappable(f"no usable {what}" if text else f"no {what}")
    return text


def _count(value: Any) -> int:
    text = _text(value)
    return min(int(text), 10_000) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _instant(value: Any) -> int | None:
    """Unix seconds, of seconds or milliseconds or ISO 8601; None where it is no instant."""
    text = _text(value)
    try:
        at = float(text)
    except ValueError:
        try:
            at = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            return None
    seconds = at / 1000 if at > _MILLISECONDS else at
    return int(seconds) if 0 < seconds < _MILLISECONDS else None
