"""The answers, and the silences, that stand in place of the truth."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from simulator.answers import refusal
from simulator.connection import cut, until_gone
from simulator.faults import LONGEST_WAIT_S, Faults
from simulator.kinds import Fault

Pause = Callable[[float], Awaitable[bool]]
"""`Simulation.pause`."""


def page_for_people(status: int) -> Response:
    """What a proxy shows where an answer for programs belongs."""
    words = "Welcome" if status == 200 else f"{status} {HTTPStatus(status).phrase}"
    page = f"<html><head><title>{words}</title></head>\n<body><center><h1>{words}</h1></center></body></html>\n"
    return HTMLResponse(page, status_code=status)


def answer(fault: Fault, *, faults: Faults, pause: Pause) -> Response:
    if fault is Fault.HTML:
        return page_for_people(faults.html_status)
    if fault is Fault.TOO_MANY:
        after = {"Retry-After": str(faults.retry_after_s)} if faults.retry_after_s else None
        return refusal(429, "Too many requests.", headers=after)
    if fault is Fault.HANG:
        return Silence(pause)
    if fault is Fault.RESET:
        return Cut()
    return refusal(500, "Internal server error.")


class Cut(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await cut(scope, receive)


class Silence(Response):
    """No answer: no byte until the caller goes away; a reset when the simulator stops, or after ten minutes."""

    def __init__(self, pause: Pause) -> None:
        super().__init__()
        self._pause = pause

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        waits = [asyncio.ensure_future(wait) for wait in (self._pause(LONGEST_WAIT_S), until_gone(receive))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        await cut(scope, receive)
