"""What nobody tries again by itself, and the most frequent reasons."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from broker.job import Job, JobState
from broker.sandbox import Sandbox, State
from broker.store.jobs import Jobs
from broker.store.sandboxes import Sandboxes

EXAMINED: Final = 1000
SAMPLE: Final = 20
REASONS: Final = 10
_DEAD: Final = (JobState.DEAD, JobState.TIMED_OUT)
_PARTICULAR: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b(?=\w*\d)[0-9a-f]{8,}\b|\d{4,}")

T = TypeVar("T", Job, Sandbox)


@dataclass(frozen=True, slots=True)
class Letters(Generic[T]):
    """How many there are, how many were looked at, the reasons of these by frequency, and a few of them."""

    total: int
    examined: int
    reasons: dict[str, int]
    sample: list[T]


def reason_of(error: str | None) -> str:
    """What errors of one cause have in common: without ids and long numbers, short.

    >>> reason_of("HTTP_500: account 2009521")
    'HTTP_500: account *'
    """
    first_line = (error or "unknown").strip().partition("\n")[0]
    return _PARTICULAR.sub("*", first_line)[:120]


class DeadLetters:
    """Looks at a bounded number of them: totals are of all."""

    def __init__(self, jobs: Jobs, sandboxes: Sandboxes) -> None:
        self._jobs = jobs
        self._sandboxes = sandboxes

    async def jobs(self, tenant: str) -> Letters[Job]:
        counts = await asyncio.gather(*(self._jobs.count(tenant, state) for state in _DEAD))
        pages = [self._jobs.page(tenant, state, limit=EXAMINED, newest_first=True) for state in _DEAD]
        rows = [job for found, _ in await asyncio.gather(*pages) for job in found]
        rows.sort(key=lambda job: job.finished_at or 0, reverse=True)
        return _letters(sum(counts), rows[:EXAMINED], [job.error for job in rows[:EXAMINED]])

    async def sandboxes(self, tenant: str) -> Letters[Sandbox]:
        total = await self._sandboxes.count(tenant, State.DELETION_FAILED)
        rows = await _first(self._sandboxes.walk(tenant, State.DELETION_FAILED), EXAMINED)
        return _letters(total, rows, [sandbox.last_error for sandbox in rows])


def _letters(total: int, rows: list[T], errors: list[str | None]) -> Letters[T]:
    reasons = Counter(map(reason_of, errors)).most_common(REASONS)
    return Letters(total, len(rows), dict(reasons), rows[:SAMPLE])


async def _first(walk: AsyncIterator[Sandbox], count: int) -> list[Sandbox]:
    rows: list[Sandbox] = []
    async for row in walk:
        rows.append(row)
        if len(rows) == count:
            break
    return rows
