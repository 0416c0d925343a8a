"""The request headers that the broker reads, and what may stand in them."""

import re
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Scope

ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class Header:
    """One that a track's script may send: an ID, or nothing. Its text and example are for the document."""

    name: str
    text: str
    example: str
    raw: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.raw = self.name.lower().encode()

    def of(self, scope: Scope) -> str | None:
        """What the request says, None where it is empty or was not sent. `malformed` has looked at it."""
        value = header(scope, self.raw)
        return None if value is None else value.decode("latin-1")


STUDENT: Final = (
    Header("X-Instruqt-Sandbox-ID", "Names the student. Wins over X-Track-ID.", "ins-4711"),
    Header("X-Track-ID", "Names the student; the older header.", "trk-4711"),
)
"""Who the student is: the first that is sent wins."""
PREFIX: Final = Header("X-Sandbox-Name-Prefix", "Only a sandbox whose name begins so.", "lab-adventure-")
TRACK: Final = Header("X-Instruqt-Track-ID", "The lab, for the operators' lists.", "kubernetes-101")
KEY: Final = Header("Idempotency-Key", "A further sandbox of the same student, once per key.", "second-vm")

_CHECKED: Final = frozenset(one.raw for one in (*STUDENT, PREFIX, TRACK, KEY))


def student_of(scope: Scope) -> str | None:
    """Who the student is, None where neither header says it."""
    return next(filter(None, (one.of(scope) for one in STUDENT)), None)


def header(scope: Scope, name: bytes) -> bytes | None:
    """The header's value; one that is empty was not sent."""
    for sent, value in scope["headers"]:
        if sent == name:
            stripped: bytes = value.strip()
            return stripped or None
    return None


def malformed(scope: Scope) -> tuple[str, str] | None:
    """The first of our headers that breaks the contract, and why."""
    seen: set[bytes] = set()
    for name, value in scope["headers"]:
        if name not in _CHECKED:
            continue
        if name in seen:
            return name.decode(), "is sent twice"
        seen.add(name)
        if value.strip() and not ID.fullmatch(value.strip()):
            return name.decode(), "may hold 1 to 128 of the characters A-Z a-z 0-9 . _ : -"
    return None
