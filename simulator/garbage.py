"""Bodies that are wrong in every way that a JSON can be wrong, and pages that a proxy puts in between."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from simulator.faults import Faults
from simulator.kinds import DeleteGarbage, ListGarbage
from simulator.mishaps import Pause, page_for_people

Entry = dict[str, Any]

JSON = "application/json"
LOGIN = "/login"
NESTED = 100_000
CHUNK = b"x" * 65_536
DRIP_S = 0.1

WRONG_FIELDS: tuple[tuple[str, Any], ...] = (
    ("csp_id", None),
    ("csp_id", True),
    ("csp_id", 2009001.5),
    ("csp_id", {"value": 2009001}),
    ("csp_id", "../2009001"),
    ("id", None),
    ("id", 7),
    ("id", ""),
    ("id", "identity/accounts/.."),
    ("name", None),
    ("name", 7),
    ("name", ["lab"]),
    ("name", ""),
    ("name", "two\nlines"),
    ("name", "\ud800"),
    ("name", "x" * 5000),
    ("account_type", 1),
    ("state", None),
    ("state", ["active"]),
    ("created_at", -1),
    ("sfdc_account_id", {}),
)
NO_ENTRIES: tuple[Any, ...] = (None, "an account", 7, [])


@dataclass(frozen=True, slots=True)
class Sender:
    """What garbage is made of: the true entries, the switches, and a pause that ends with the simulator."""

    entries: list[Entry]
    faults: Faults
    pause: Pause

    def huge(self) -> Response:
        """Begins like a listing of nobody: a reader that takes it all in pays for it in memory."""

        async def body() -> AsyncIterator[bytes]:
            yield b'{"results": [], "padding": "'
            for _ in range(self.faults.huge_body_mb * 1_048_576 // len(CHUNK)):
                yield CHUNK
            yield b'"}'

        return StreamingResponse(body(), media_type=JSON)

    def dripping(self) -> Response:
        """No wait for a byte is long, and there is no last one."""

        async def body() -> AsyncIterator[bytes]:
            while await self.pause(DRIP_S):
                yield b" "

        return StreamingResponse(body(), media_type=JSON)

    def spoiled(self, spoil: Callable[[Entry, int], Any]) -> Response:
        """Some entries spoiled, always those of the same accounts."""
        every = self.faults.garbage_every
        results = [
            entry if entry["csp_id"] % every else spoil(entry, entry["csp_id"] // every) for entry in self.entries
        ]
        return _json({"results": results})


def _json(document: Any) -> Response:
    """As JSONResponse, and able to spell what it refuses to: a lone surrogate."""
    return Response(json.dumps(document), media_type=JSON)


def _lacking(entry: Entry, turn: int) -> Entry:
    lost = list(entry)[turn % len(entry)]
    return {name: value for name, value in entry.items() if name != lost}


def _mistyped(entry: Entry, turn: int) -> Any:
    which = turn % (len(WRONG_FIELDS) + len(NO_ENTRIES))
    if which >= len(WRONG_FIELDS):
        return NO_ENTRIES[which - len(WRONG_FIELDS)]
    name, value = WRONG_FIELDS[which]
    return entry | {name: value}


def _truth(sender: Sender) -> Response:
    return JSONResponse({"results": sender.entries})


def _truncated(sender: Sender) -> Response:
    whole = bytes(_truth(sender).body)
    return Response(whole[: len(whole) * 2 // 3], media_type=JSON)


def _plain(sender: Sender) -> Response:
    return Response(_truth(sender).body, media_type="text/plain")


def _nested(_: Sender) -> Response:
    return Response(b'{"results": ' + b"[" * NESTED + b"]" * NESTED + b"}", media_type=JSON)


def _redirect(_: Sender) -> Response:
    return RedirectResponse(LOGIN, status_code=302)


LISTS: dict[ListGarbage, Callable[[Sender], Response]] = {
    ListGarbage.NONE: _truth,
    ListGarbage.NOT_JSON: lambda _: Response("results: none today", media_type=JSON),
    ListGarbage.TRUNCATED_JSON: _truncated,
    ListGarbage.BAD_ENCODING: lambda _: Response(b'{"results": [{"name": "\xff\xfe"}]}', media_type=JSON),
    ListGarbage.EMPTY_BODY: lambda _: Response(media_type=JSON),
    ListGarbage.DEEP_NESTING: _nested,
    ListGarbage.WRONG_SHAPE: lambda sender: _json({"results": {str(e["csp_id"]): e for e in sender.entries}}),
    ListGarbage.NULL_RESULTS: lambda _: _json({"results": None}),
    ListGarbage.MISSING_FIELDS: lambda sender: sender.spoiled(_lacking),
    ListGarbage.WRONG_TYPES: lambda sender: sender.spoiled(_mistyped),
    ListGarbage.WRONG_CONTENT_TYPE: _plain,
    ListGarbage.HUGE_BODY: Sender.huge,
    ListGarbage.DRIPPING_BODY: Sender.dripping,
    ListGarbage.REDIRECT: _redirect,
}

DELETIONS: dict[DeleteGarbage, Callable[[Sender], Response]] = {  # for NONE there is the truth
    DeleteGarbage.HTML200: lambda _: page_for_people(200),
    DeleteGarbage.NOT_FOUND_HTML: lambda _: page_for_people(404),
    DeleteGarbage.HUGE_BODY: Sender.huge,
    DeleteGarbage.DRIPPING_BODY: Sender.dripping,
    DeleteGarbage.REDIRECT: _redirect,
}
