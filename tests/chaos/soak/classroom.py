"""The students of one tenant: they allocate, repeat, hang up, extend, release or forget; each keeps a record."""

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.api.keys import bearer
from tests.chaos.soak.courses import Course
from tests.chaos.soak.fleet import LAB_S, Fleet

PATIENCE_S = 60.0
TROUBLE = (429, 500, 502, 503, 504)
PRYING = (("GET", ""), ("POST", "/mark-for-deletion"), ("POST", "/extend"))


class Violation(Exception):
    """An invariant does not hold. The text names the sandbox where there is one."""


@dataclass
class Record:
    """One student's one sandbox, from the first answer to the last word."""

    student: str
    sandbox_id: str
    generation: int
    told_at: float  # wall clock, as the ones below
    ends_at: float  # as it was last told
    given_up_at: float | None = None  # the student's own release was confirmed, or nobody asks any more
    taken_at: float | None = None  # the broker said that it ended by itself


@dataclass
class Classroom:
    """All records, and the rule that no sandbox is in two of them."""

    fleet: Fleet
    random: random.Random
    course: Course
    namesakes: "Classroom | None" = None  # students of the same names, of another tenant with the same provider
    done: Counter[str] = field(default_factory=Counter)
    records: dict[str, Record] = field(default_factory=dict)
    stopping: bool = False

    async def attend(self, seat: int) -> None:
        """One lab after the other until the lesson ends."""
        labs = 0
        async with httpx.AsyncClient(timeout=10) as http:
            while not self.stopping:
                labs += 1
                # A name comes back for some labs, as of those who restart one, and then is a new one.
                await self._lab(http, f"student-{seat}-{labs // 4}")
                await asyncio.sleep(self.random.uniform(0.2, 3))

    async def _lab(self, http: httpx.AsyncClient, student: str) -> None:
        record = await self._allocate(http, student)
        if record is None:
            return
        ends_at = time.time() + self.random.uniform(0, 10)
        while time.time() < ends_at and not self.stopping:
            await asyncio.sleep(self.random.uniform(0.3, 2))
            await self._look(http, record)
        if self.random.random() < 0.1:
            self.done["forgot to release"] += 1
            return
        await self._release(http, record)

    async def _allocate(self, http: httpx.AsyncClient, student: str) -> Record | None:
        """As the setup script does: repeat while told to, with a little impatience."""
        ends_at = time.time() + PATIENCE_S
        while time.time() < ends_at and not self.stopping:
            if self.random.random() < 0.1:
                self.done["hung up"] += 1
                with suppress(httpx.HTTPError):
                    await self._ask(
                        http, "POST", "/v1/allocate", student, timeout=self.random.uniform(0.001, 0.05)
                    )
            answer = await self._ask(http, "POST", "/v1/allocate", student)
            if answer is not None and answer.status_code in (200, 201):
                self.done["allocated" if answer.status_code == 201 else "allocated by a repeat"] += 1
                return self._told(student, answer.json())
            if answer is not None and answer.status_code not in (409, *TROUBLE):
                raise Violation(f"{student} was answered {answer.status_code}: {answer.text}")
            await asyncio.sleep(self.random.uniform(0.1, 1))
        return None

    def _told(self, student: str, answer: dict[str, Any]) -> Record:
        sandbox_id = str(answer["sandbox_id"])
        record = self.records.get(sandbox_id)
        if self.namesakes is not None and sandbox_id in self.namesakes.records:
            raise Violation(f"{sandbox_id} was told in {self.course.name} and in {self.namesakes.course.name}")
        if record is None:
            record = Record(student, sandbox_id, answer["generation"], time.time(), answer["expires_at"])
            self.records[sandbox_id] = record
        elif record.student != student:
            raise Violation(f"{sandbox_id} was told to {record.student} and to {student}")
        elif record.given_up_at is not None:
            raise Violation(f"{sandbox_id} was told to {student} again after its release")
        elif record.generation != answer["generation"]:
            raise Violation(f"{sandbox_id} was told to {student} in two generations")
        elif record.ends_at > answer["expires_at"]:
            raise Violation(
                f"{sandbox_id} was told to {student} to last until {record.ends_at}, and then for less"
            )
        record.ends_at = answer["expires_at"]
        return record

    async def _look(self, http: httpx.AsyncClient, record: Record) -> None:
        """Repeat the allocation, extend it or view: the same sandbox, unless the broker ended it."""
        if self.random.random() < 0.1:
            await self._pry(http, record.student)
        if self.random.random() < 0.2:
            await self._extend(http, record)
            return
        if self.random.random() < 0.5:
            path = f"/v1/sandboxes/{record.sandbox_id}"
            answer = await self._ask(http, "GET", path, record.student)
            if answer is not None and answer.status_code not in (200, *TROUBLE):
                raise Violation(
                    f"{record.sandbox_id}: its student was answered {answer.status_code}: {answer.text}"
                )
            return
        answer = await self._ask(http, "POST", "/v1/allocate", record.student)
        if answer is None or answer.status_code not in (200, 201):
            return
        if str(answer.json()["sandbox_id"]) == record.sandbox_id:
            self.done["repeated"] += 1
            return
        self.done["given another after the broker ended it"] += 1
        record.taken_at = record.taken_at or time.time()
        other = self._told(record.student, answer.json())
        await self._release(http, other)

    async def _pry(self, http: httpx.AsyncClient, student: str) -> None:
        """Ask for what another tenant's students hold: there is no such thing."""
        theirs = [] if self.namesakes is None else list(self.namesakes.records)
        if not theirs:
            return
        foreign, method, path = self.random.choice(theirs), *self.random.choice(PRYING)
        body = {"generation": 1, "for_s": 60} if path == "/extend" else None
        answer = await self._ask(http, method, f"/v1/sandboxes/{foreign}{path}", student, body=body)
        if answer is not None and answer.status_code not in (404, *TROUBLE):
            raise Violation(f"{foreign}: a student of {self.course.name} was answered {answer.status_code}")
        self.done["pried in vain"] += 1

    async def _extend(self, http: httpx.AsyncClient, record: Record) -> None:
        """By its generation, or by one that is none: that must not be let through."""
        path, stale = f"/v1/sandboxes/{record.sandbox_id}/extend", self.random.random() < 0.2
        body = {"generation": record.generation - stale, "for_s": LAB_S}
        answer = await self._ask(http, "POST", path, record.student, body=body)
        if answer is None or answer.status_code in TROUBLE:
            return
        if answer.status_code not in ((409,) if stale else (200, 409, 410)):
            said = f"{answer.status_code}: {answer.text}"
            raise Violation(f"{record.sandbox_id}: its extension{' by a stale one' * stale} was answered {said}")
        if answer.status_code == 200:
            self.done["extended"] += 1
            self._told(record.student, answer.json())

    async def _release(self, http: httpx.AsyncClient, record: Record) -> None:
        path = f"/v1/sandboxes/{record.sandbox_id}/mark-for-deletion"
        for _ in range(60):
            answer = await self._ask(http, "POST", path, record.student)
            if answer is not None and answer.status_code == 200:
                record.given_up_at = record.given_up_at or time.time()
                self.done["released"] += 1
                return
            if answer is not None and answer.status_code == 410:
                record.taken_at = record.taken_at or time.time()
                self.done["found it ended"] += 1
                return
            if answer is not None and answer.status_code not in TROUBLE:
                raise Violation(
                    f"{record.sandbox_id}: its release was answered {answer.status_code}: {answer.text}"
                )
            await asyncio.sleep(self.random.uniform(0.2, 1))
        self.done["gave up releasing"] += 1

    async def _ask(
        self,
        http: httpx.AsyncClient,
        method: str,
        path: str,
        student: str,
        *,
        body: dict[str, int] | None = None,
        timeout: float = 10,
    ) -> httpx.Response | None:
        """One call to any API; None where there was no answer."""
        url, badge = self.random.choice(self.fleet.apis).url, self.course.badge(self.random)
        headers = bearer(badge.token) | {"X-Instruqt-Sandbox-ID": student}
        asked_at = time.monotonic()
        try:
            answer = await http.request(method, url + path, headers=headers, json=body, timeout=timeout)
        except httpx.HTTPError:
            self.done["had no answer"] += 1
            return None
        if answer.is_error:
            self.done[f"was answered {answer.status_code} {answer.json()['error']['code']}"] += 1
        if answer.status_code == 401:
            if not badge.doubted:
                raise Violation(f"a good key of {self.course.name}, {badge.key_id}, was refused")
            return None
        if badge.must_be_refused(asked_at) and answer.status_code not in TROUBLE:
            raise Violation(f"the key {badge.key_id} of {self.course.name} has ended, and was let in")
        return answer
