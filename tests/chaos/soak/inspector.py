"""Looks at a soak meanwhile and at its end: every invariant, from the store, the provider and the processes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from broker.job import JobState
from broker.sandbox import State
from broker.wiring import Broker
from tests.audit import items_of
from tests.chaos.invariants import Account, Look, Stored, check_provider, check_quiet, check_stored
from tests.chaos.soak.classroom import Classroom, Record, Violation
from tests.chaos.soak.fleet import GRACE_S, LAB_S, Fleet, Member

WRITES = ("TransactWriteItems", "UpdateItem", "PutItem", "DeleteItem")
STILL_S = 0.3
"""Within it every write that the engine has taken is done."""
SKEW_S = 2
MOST_MB = 300.0
"""What no process may need; an API or a worker at rest takes about 100."""


@dataclass
class Inspector:
    """Asserts, or keeps what the report tells."""

    fleet: Fleet
    core: Broker
    classrooms: list[Classroom]
    looks: int = 0
    samples: int = 0
    leaders_seen: int = 0
    took_s: float = 0.0
    most_held: dict[str, int] = field(default_factory=dict)
    resident_mb: dict[str, float] = field(default_factory=dict)

    async def look(self) -> Look:
        """Stop every write for a moment, so that one look sees one state, and check it."""
        began = time.monotonic()
        async with self._writes_held():
            look = Look.of(await items_of(self.core))
            accounts = {provider: await self.accounts(member) for provider, member in self._providers().items()}
        self.looks += 1
        try:
            check_stored(look)
            for provider, known in accounts.items():
                check_provider(look, known, provider)
            for classroom in self.classrooms:
                stored = look.tenants[classroom.course.name]
                _check_course(classroom, stored)
                for record in classroom.records.values():
                    _check_record(record, stored)
        except AssertionError as violation:
            raise Violation(_told(violation)) from violation
        self.took_s = time.monotonic() - began
        return look

    def _providers(self) -> dict[str | None, Member]:
        return {room.course.provider: room.course.simulator for room in self.classrooms}

    @asynccontextmanager
    async def _writes_held(self) -> AsyncIterator[None]:
        let_go = asyncio.Event()

        async def hold(body: Any) -> None:
            if (
                not body.get("Key", {}).get("pk", {}).get("S", "").startswith("LEA#")
            ):  # else no leader outlives a look
                await let_go.wait()

        with ExitStack() as stack:
            for operation in WRITES:
                stack.enter_context(self.fleet.proxy.before(operation, hold))
            try:
                await asyncio.sleep(STILL_S)
                yield
            finally:
                let_go.set()

    async def accounts(self, simulator: Member) -> list[Account]:
        return [
            Account(
                str(a["csp_id"]),
                a["id"],
                a["delete_requests"],
                a["deletes_done"],
                a["deleted_at"] is not None,
            )
            for a in (await self.fleet.simulate("GET", "accounts", at=simulator))["results"]
            if a["account_type"] == "sandbox"
        ]

    async def watch(self) -> None:
        """Sample what the processes say and need, until cancelled."""
        async with httpx.AsyncClient(timeout=1) as http:
            while True:
                await asyncio.sleep(0.25)
                leaders = await self._leaders(http)
                self.samples += 1
                self.leaders_seen += bool(leaders)
                if len(leaders) > 1:
                    await self._must_not_both_lead(http, *leaders[:2])
                await self._count_slots()
                for member in self.fleet.all():
                    self._weigh(member)
                for member in self.fleet.fallen():
                    tail = member.child.tail if member.child else []
                    raise Violation(f"{member.name} ended by itself: {tail}")

    async def _count_slots(self) -> None:
        """No more is held than any limit of the last seconds allows, unless it was held before that."""
        for course in (room.course for room in self.classrooms):
            if course.may_hold() is None:
                continue
            held = await self.core.quota.held(course.name)
            before, most = self.most_held.get(course.name, 0), course.may_hold() or 0
            if held > max(most, before):
                raise Violation(f"{course.name} holds {held}, and {most} may be")
            self.most_held[course.name] = held

    def _weigh(self, member: Member) -> None:
        needs_mb = member.resident_mb()
        kind = member.name[:-1]
        self.resident_mb[kind] = max(needs_mb, self.resident_mb.get(kind, 0))
        if needs_mb > MOST_MB:
            raise Violation(f"{member.name} has grown to {needs_mb:.0f} MB")

    async def _leaders(self, http: httpx.AsyncClient) -> list[Member]:
        says = await asyncio.gather(*(self._leads(http, worker) for worker in self.fleet.workers))
        return [worker for worker, leads in zip(self.fleet.workers, says, strict=True) if leads]

    async def _must_not_both_lead(self, http: httpx.AsyncClient, one: Member, other: Member) -> None:
        """Answers of one sample are moments apart: both lead if one does before and after the other does."""
        says = [await self._leads(http, worker) for worker in (one, other, one)]
        if all(says):
            raise Violation(f"{one.name} and {other.name} both lead")

    async def _leads(self, http: httpx.AsyncClient, worker: Member) -> bool:
        """What it says of itself, by its clock at the moment of the answer."""
        with suppress(httpx.HTTPError):
            details = (await http.get(f"{worker.url}/readyz")).json()["details"]
            return bool(details.get("leader") == "me")
        return False

    async def comes_to_rest(self, rooms: list[Classroom], *, within_s: float = 180) -> Look:
        """With all well again: nothing is pending, no job is left, and whatever was told is deleted. Of these."""
        ends_at = time.monotonic() + within_s
        while True:
            look = await self.look()
            restless = {room.course.name: _restless(look.tenants[room.course.name]) for room in rooms}
            restless = {name: found for name, found in restless.items() if found}
            print(f"  not at rest yet: {restless}" if restless else "  at rest", flush=True)
            if not restless:
                break
            if time.monotonic() > ends_at:
                raise Violation(f"it does not come to rest: {restless}")
            await asyncio.sleep(max(4.0, 3 * self.took_s))  # to do something, a leader needs some seconds
        for room in rooms:
            for record in room.records.values():
                if look.tenants[room.course.name].sandboxes[record.sandbox_id].state is not State.DELETED:
                    raise Violation(f"{record.sandbox_id} was {record.student}'s, and is not deleted")
        return look

    async def check_quiet(self, look: Look) -> None:
        """At the very end: what the providers have is what is known of them."""
        try:
            for provider, member in self._providers().items():
                check_quiet(look, await self.accounts(member), provider)
        except AssertionError as violation:
            raise Violation(_told(violation)) from violation


def _restless(stored: Stored) -> dict[str, int]:
    busy = (State.ALLOCATED, State.PENDING_DELETION, State.DELETION_FAILED, State.STALE)
    found = {state.value: len(stored.in_state(state)) for state in busy}
    for unfinished in (JobState.QUEUED, JobState.RUNNING):
        found[f"jobs {unfinished.value}"] = sum(job.state is unfinished for job in stored.jobs)
    return {what: count for what, count in found.items() if count}


def _check_course(room: Classroom, stored: Stored) -> None:
    """All of it is the tenant's own; and what is held under a limit that was always there has a slot."""
    course = room.course
    others = "" if room.namesakes is None else room.namesakes.course.prefix
    for sandbox in stored.sandboxes.values():
        mine = sandbox.name.startswith(course.prefix) and not (others and sandbox.name.startswith(others))
        assert mine, f"{sandbox.id}: {sandbox.name} is not {course.name}'s"
        assert sandbox.provider == course.provider, f"{sandbox.id}: is of {sandbox.provider}"
        if course.limits and sandbox.state is State.ALLOCATED:
            assert sandbox.slot is not None, f"{sandbox.id}: held, and not counted"


def _check_record(record: Record, stored: Stored) -> None:
    """What the student was told holds in the store, and nobody ended it without the right to."""
    sandbox = stored.sandboxes.get(record.sandbox_id)
    assert sandbox is not None, f"{record.sandbox_id}: told to {record.student}, and lost"
    assert sandbox.holder == record.student, (
        f"{record.sandbox_id}: {record.student}'s, but {sandbox.holder} has it"
    )
    if record.given_up_at is not None:
        assert sandbox.state is not State.ALLOCATED, f"{record.sandbox_id}: released, and still allocated"
    if record.taken_at is not None:
        assert sandbox.ended_by is not None, f"{record.sandbox_id}: {record.student} was told of an end"
    if sandbox.ended_by == "expired":
        due = max(record.ends_at, (sandbox.allocated_at or 0) + LAB_S) + GRACE_S
        assert (sandbox.ended_at or 0) >= due - SKEW_S, f"{record.sandbox_id}: expired before its time"


def _told(violation: AssertionError) -> str:
    return str(violation).partition("\nassert")[0]
