"""The last provider calls, in the order of their answers."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEPT = 10_000
LONGEST_PATH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    seq: int  # from 1, in the order of the answers, so that nothing appears behind a reader's back
    at: float  # of the arrival; Unix seconds, UTC
    duration_s: float
    method: str
    path: str
    query: str
    status: int | None  # None: no answer was begun


class Journal:
    """Bounded: an older call falls out for each beyond the last `KEPT`."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=KEPT)
        self.last_seq = 0

    def record(
        self, *, at: float, duration_s: float, method: str, path: str, query: str, status: int | None
    ) -> None:
        self.last_seq += 1
        call = Call(
            seq=self.last_seq,
            at=at,
            duration_s=round(duration_s, 6),
            method=method,
            path=path[:LONGEST_PATH],
            query=query[:LONGEST_PATH],
            status=status,
        )
        self._calls.append(call)

    def since(self, seq: int) -> list[Call]:
        return [call for call in self._calls if call.seq > seq]


class Journaling:
    """ASGI middleware: records every call that passes, refused and failed ones included."""

    def __init__(self, app: ASGIApp, *, journal: Callable[[], Journal], clock: Callable[[], float]) -> None:
        self._app = app
        self._journal = journal
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        journal = self._journal()  # at arrival: a call from before a reset stays out of the new journal
        at, began = self._clock(), time.perf_counter()
        status: int | None = None

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception:
            status = 500  # which a middleware further out will answer
            raise
        finally:
            journal.record(
                at=at,
                duration_s=time.perf_counter() - began,
                method=scope["method"],
                path=scope["path"],
                query=scope["query_string"].decode("latin-1"),
                status=status,
            )
