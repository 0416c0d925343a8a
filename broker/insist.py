"""Writing beside others: tried again from a fresh read until it is written, refused, or given up as trouble."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from broker.errors import StoreUnavailable, WriteConflict

Present = TypeVar("Present")
Written = TypeVar("Written")

MAX_TRIES: Final = 6
_PAUSE_S: Final = 0.02


async def insist(
    read: Callable[[], Awaitable[Present]], attempt: Callable[[Present], Awaitable[Written]]
) -> Written:
    """A lost race is run again from a fresh read; an answer that was lost is looked into once.

    So an attempt must know what it finds written as its own doing.

    Raises:
        StoreUnavailable: no answer, twice; or as many races were lost as there are tries.
    """
    for number in range(MAX_TRIES):
        present = await read()
        try:
            return await attempt(present)
        except WriteConflict:
            await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
        except StoreUnavailable:
            if number:
                raise
    raise StoreUnavailable("contention")
