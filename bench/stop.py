"""Ctrl-C and SIGTERM end a run in order: what it started is ended, what it made for a while is removed."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


class Stopped(BaseException):
    """The run was told to end."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


class Stop:
    """Hears the signals. The first one counts; more of them do not disturb the ending."""

    def __init__(self) -> None:
        self._number = 0
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, _: FrameType | None) -> None:
        if self._number:
            return
        self._number = number
        if self._running is None:
            raise Stopped(number)
        loop, task = self._running
        loop.call_soon_threadsafe(task.cancel)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, on a loop of its own.

        Raises:
            Stopped: a signal came; the coroutine was cancelled and has cleaned up.
        """

        async def watched() -> T:
            task = asyncio.current_task()
            if task is not None:
                self._running = asyncio.get_running_loop(), task
            try:
                return await coroutine
            finally:
                self._running = None

        try:
            return uvloop.run(watched())
        except BaseException:
            if self._number:  # whatever the cancellation has become on its way out
                raise Stopped(self._number) from None
            raise
