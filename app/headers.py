"""The request headers that the broker reads, and what may stand in them."""

import re
from typing import Final

from starlette.types import Scope

HOLDER_HEADERS: Final = (b"x-instruqt-sandbox-id", b"x-track-id")
"""Who the student is: the first that is sent wins."""

ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

CHECKED: Final = frozenset({*HOLDER_HEADERS, b"x-instruqt-track-id", b"x-sandbox-name-prefix", b"idempotency-key"})


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
        if name not in CHECKED:
            continue
        if name in seen:
            return name.decode(), "is sent twice"
        seen.add(name)
        if value.strip() and not ID.fullmatch(value.strip()):
            return name.decode(), "may hold 1 to 128 of the characters A-Z a-z 0-9 . _ : -"
    return None
