"""Students, workers, operators, a provider that lies and clocks that jump, in any order: the invariants hold.

CHAOS_EXAMPLES and CHAOS_STEPS lengthen the search and make it random; without them it is the same every time.
"""

import asyncio
import itertools
import os
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from broker.errors import LeadershipLost
from broker.job import JobState
from broker.lifecycle import MAX_EXTENSION_S
from broker.policy import CONFIRMATIONS, GUARDED, Explained
from broker.sandbox import State
from simulator.faults import Faults
from tests.audit import items_of
from tests.chaos.invariants import Account, Stored, check_provider, check_quiet, check_stored
from tests.chaos.students import Students, Told
from tests.chaos.world import LAB_S, World, a_world
from worker.provider.client import ProviderError

EXAMPLES, STEPS = int(os.environ.get("CHAOS_EXAMPLES", "0")), int(os.environ.get("CHAOS_STEPS", "0"))
SHRINK = bool(int(os.environ.get("CHAOS_SHRINK", "1")))
SANDBOXES = 5
MOST_WORKERS = 3
STEP_S = 3.0
"""What passes between two steps: more than any process remembers the mode, or that the pool is empty."""
GRACE_S, PURGE_S = 30 * 60, 24 * 3600
MINUTE, HOUR = 60, 3600

HEALTHY = Faults(delete_latency_s=0)
LIES: Mapping[str, Mapping[str, Any]] = {
    "honest": {},
    "empty": {"empty_listing": True},
    "half": {"listing_fraction": 0.5},
    "duplicates": {"duplicate_entries": 2},
    "lag": {"listing_lag_s": 3.0 * HOUR},
    "broken entries": {"list_garbage": "missing_fields"},
    "no JSON": {"list_garbage": "not_json"},
    "breaks off": {"fail_list_page": 2},
    "down": {"list_500_rate": 1.0},
}
MISHAPS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "500": {"delete_500_rate": 1.0},
    "html": {"delete_html_rate": 1.0},
    "429": {"delete_429_rate": 1.0},
    "reset, deleted": {"delete_reset_rate": 1.0, "reset_deletes": True},
    "hang, deleted": {"delete_hang_rate": 1.0, "hang_deletes": True},
    "some": {"delete_500_rate": 0.3, "delete_html_rate": 0.2, "delete_reset_rate": 0.2},
    "a proxy says ok": {"delete_garbage": "html200"},
}
STARTS_FROM = {
    "retry": State.DELETION_FAILED,
    "abandon": State.DELETION_FAILED,
    "quarantine": State.AVAILABLE,
    "reinstate": State.QUARANTINED,
    "discard": State.QUARANTINED,
    "force-release": State.ALLOCATED,
}
SELECTIONS: Mapping[str, Mapping[str, str]] = {
    "bulk/retry": {"status": "deletion_failed"},
    "bulk/quarantine": {"prefix": "lab-network-"},
    "bulk/force-release": {"status": "allocated"},
}
REASON = {"reason": "the state machine"}

students = st.sampled_from(["ann", "ben", "cho"])
keys = st.sampled_from([None, None, None, "second", "third"])
prefixes = st.sampled_from(["", "", "", "lab-adventure-", "lab-network-"])
ranks = st.integers(0, 7)
workers = st.integers(0, MOST_WORKERS - 1)
T = TypeVar("T")
_tables = itertools.count()


class Chaos(RuleBasedStateMachine):
    """Each rule is one step. It knows what the answer must be, and what the step may have ended."""

    def __init__(self, store_url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        table = f"broker-chaos-{os.getpid()}-{next(_tables)}"
        self.world: World = self.run(
            self.stack.enter_async_context(a_world(store_url, table, sandboxes=SANDBOXES))
        )
        self.students = Students()
        self.mode = "open"
        self.may_end: set[str] = set()
        self.steps = 0

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    async def look(self) -> Stored:
        return Stored.of(await items_of(self.world.core))

    def accounts(self) -> list[Account]:
        """The provider's sandboxes, as the simulator counts them."""
        return [
            Account(
                str(a.csp_id),
                f"identity/accounts/{a.uuid}",
                a.delete_requests,
                a.deletes_done,
                a.deleted_at is not None,
            )
            for a in self.world.simulation.inventory
            if a.account_type == "sandbox"
        ]

    def an_id(self, rank: int) -> str:
        accounts = self.accounts()
        return accounts[rank % len(accounts)].id

    def worker(self, number: int) -> Any:
        return self.world.workers[number % len(self.world.workers)]

    def step(self) -> str:
        """Begin a step: time passes. Returns the id of what it does."""
        self.world.jump(STEP_S)
        self.steps += 1
        return f"step-{self.steps}"

    @initialize()
    def the_pool_is_filled(self) -> None:
        self.run(self._sync(0, confirmed=False))

    # ------------------------------------------------------------------ students

    @rule(student=students, key=keys, prefix=prefixes, api=st.integers(0, 1))
    def allocate(self, student: str, key: str | None, prefix: str, api: int) -> None:
        self.step()
        self.run(self._allocate(student, key, prefix, api))

    async def _allocate(self, student: str, key: str | None, prefix: str, api: int) -> None:
        now, stored = self.world.now, await self.look()
        expected = self.students.expected((student, key), prefix, stored, now=now, open_=self.mode == "open")
        answer = await self._ask_for_one(student, key, prefix, api)
        assert (answer.status_code, _code(answer)) == expected, answer.text
        note(f"  {answer.status_code} {answer.json().get('sandbox_id', '')}")
        if answer.status_code == 201:
            assert stored.sandboxes[answer.json()["sandbox_id"]].state is State.AVAILABLE
            self.students.told((student, key), prefix, answer.json(), now=now)
        elif answer.status_code == 200:
            self.students.repeated((student, key), answer.json())

    async def _ask_for_one(self, student: str, key: str | None, prefix: str, api: int) -> httpx.Response:
        headers = {"X-Instruqt-Sandbox-ID": student}
        headers |= {"Idempotency-Key": key} if key else {}
        headers |= {"X-Sandbox-Name-Prefix": prefix} if prefix else {}
        return await self.world.ask("POST", "/v1/allocate", api=api, **headers)

    @rule(student=students, rank=ranks, api=st.integers(0, 1))
    def release(self, student: str, rank: int, api: int) -> None:
        """Mostly one that the student was told at some time; else anybody's."""
        self.step()
        told = [told.sandbox_id for told in self.students.ever if told.student == student]
        sandbox_id = told[-1 - rank % len(told)] if told and rank < 6 else self.an_id(rank)
        self.run(self._release(student, sandbox_id, api))

    async def _release(self, student: str, sandbox_id: str, api: int) -> None:
        before = (await self.look()).sandboxes.get(sandbox_id)
        headers = {"X-Instruqt-Sandbox-ID": student}
        seen = await self.world.ask("GET", f"/v1/sandboxes/{sandbox_id}", api=api, **headers)
        path = f"/v1/sandboxes/{sandbox_id}/mark-for-deletion"
        answer = await self.world.ask("POST", path, api=api, **headers)
        if before is None:
            assert (seen.status_code, answer.status_code) == (404, 404)
        elif before.holder != student:
            assert (seen.status_code, answer.status_code) == (403, 403)
        else:
            ended_by_other = before.ended_by not in (None, "released")
            assert (seen.status_code, answer.status_code) == (200, 410 if ended_by_other else 200)
            if before.state is State.ALLOCATED:
                self.may_end = {sandbox_id}
                after = (await self.look()).sandboxes[sandbox_id]
                assert after.state is State.PENDING_DELETION
        note(f"  {sandbox_id}: {answer.status_code}")

    @rule(student=students, rank=ranks, for_s=st.sampled_from([HOUR, 5 * HOUR, 7 * HOUR]), past=st.integers(0, 4))
    def extend(self, student: str, rank: int, for_s: int, past: int) -> None:
        """Mostly one that the student was told at some time, mostly by the generation that was told."""
        self.step()
        told = [told.sandbox_id for told in self.students.ever if told.student == student]
        sandbox_id = told[-1 - rank % len(told)] if told and rank < 6 else self.an_id(rank)
        self.run(self._extend(student, sandbox_id, for_s, stale=past == 0))

    async def _extend(self, student: str, sandbox_id: str, for_s: int, *, stale: bool) -> None:
        before, told = (await self.look()).sandboxes.get(sandbox_id), self.students.told_of(student, sandbox_id)
        generation = (told.answer["generation"] if told else 1) - stale
        until, headers = self.world.now + for_s, {"X-Instruqt-Sandbox-ID": student}
        path, body = f"/v1/sandboxes/{sandbox_id}", {"generation": generation}
        beaten = await self.world.ask("POST", f"{path}/heartbeat", body=body, **headers)
        answer = await self.world.ask("POST", f"{path}/extend", api=1, body=body | {"for_s": for_s}, **headers)
        note(f"  {sandbox_id}: {answer.status_code}")
        held = before is not None and told is not None and before.state is State.ALLOCATED
        if before is None:
            expected = 404, "SANDBOX_NOT_FOUND"
        elif told is None:
            expected = 403, "NOT_SANDBOX_OWNER"
        elif stale:
            expected = 409, "STALE_GENERATION"
        else:
            expected = (200, None) if held else (410, "ALLOCATION_EXPIRED")
        assert (beaten.status_code, _code(beaten)) == expected, beaten.text
        if expected[0] == 200 and before is not None and told is not None:
            ends, latest = before.expires_at or 0, (before.allocated_at or 0) + LAB_S + MAX_EXTENSION_S
            if max(latest, ends) < until:
                expected = 409, "EXTENSION_LIMIT"
            else:
                told.extended(max(ends, until))
                assert answer.json()["expires_at"] == told.answer["expires_at"], answer.text
        assert (answer.status_code, _code(answer)) == expected, answer.text

    @rule(count=st.integers(2, 3), number=workers, most=st.sampled_from([0, 0, 3]))
    def rush(self, count: int, number: int, most: int) -> None:
        """All at once: students, each twice and over both APIs, a release, a sync, a clean and an expiry; and
        an operator who puts up to `most` sandboxes into quarantine."""
        request_id = self.step()
        self.run(self._rush(["ann", "ben", "cho"][:count], self.worker(number), request_id, most=most))

    async def _rush(self, names: list[str], worker: Any, request_id: str, *, most: int) -> None:
        now = self.world.now
        self.may_end = {told.sandbox_id for told in self._due()}
        leaver = next((told for told in self.students.held() if told.student not in names), None)
        others: list[Coroutine[Any, Any, Any]] = [
            self._sync_once(worker, request_id, confirmed=False),
            worker.cleaner.tick(request_id),
            worker.expire(request_id),
        ]
        if leaver is not None:
            self.may_end.add(leaver.sandbox_id)
            others.append(self._release_at_once(leaver.student, leaver.sandbox_id))
            others.append(self._extend_at_once(leaver))
        for n, sandbox in enumerate((await self.look()).in_state(State.AVAILABLE)[:most]):  # what they all run for
            others.append(self._quarantine_after(0.004 * (n + 1), sandbox.id))
        self.world.proxy.faults.jitter_ms = 15  # whose call comes first is open
        wishes = [(name, (n + again) % 2) for again in (0, 1) for n, name in enumerate(names)]
        answers = await asyncio.gather(*(self._ask_for_one(name, None, "", api) for name, api in wishes), *others)
        self.world.proxy.faults.jitter_ms = 0
        created = {}
        for (name, _), answer in zip(wishes, answers, strict=False):
            assert answer.status_code in (200, 201, 409, 503), answer.text
            if answer.status_code == 201:
                self.students.told((name, None), "", answer.json(), now=now)
                assert created.setdefault(name, answer.json()) == answer.json(), f"{name} was given two"
        for (name, _), answer in zip(wishes, answers, strict=False):
            if answer.status_code == 200:
                self.students.repeated((name, None), answer.json())

    async def _quarantine_after(self, pause_s: float, sandbox_id: str) -> None:
        """In the moment in which the students' transactions are on their way."""
        await asyncio.sleep(pause_s)
        answer = await self.world.order("POST", f"/sandboxes/{sandbox_id}/quarantine", REASON)
        assert answer.status_code in (200, 409), answer.text

    async def _release_at_once(self, student: str, sandbox_id: str) -> None:
        path = f"/v1/sandboxes/{sandbox_id}/mark-for-deletion"
        answer = await self.world.ask("POST", path, X_Instruqt_Sandbox_ID=student)
        assert answer.status_code in (200, 410), answer.text

    async def _extend_at_once(self, told: Told) -> None:
        body = {"generation": told.answer["generation"], "for_s": 6 * HOUR}
        path, headers = f"/v1/sandboxes/{told.sandbox_id}/extend", {"X-Instruqt-Sandbox-ID": told.student}
        answer = await self.world.ask("POST", path, api=1, body=body, **headers)
        assert (answer.status_code, _code(answer)) in (
            (200, None), (409, "EXTENSION_LIMIT"), (410, "ALLOCATION_EXPIRED"),
        ), answer.text  # fmt: skip
        if answer.status_code == 200:
            told.extended(answer.json()["expires_at"])

    # ------------------------------------------------------------------ the worker

    @rule(number=workers, confirmed=st.integers(0, 3), lie=st.sampled_from([None, None, "empty", "half"]))
    def sync(self, number: int, confirmed: int, lie: str | None) -> None:
        """Of what the provider is said to say, or of a `lie` for this once."""
        self.step()
        faults = self.world.simulation.faults
        if lie is not None:
            self.world.simulation.faults = faults.changed(LIES[lie])
        self.run(self._sync(number, confirmed=confirmed == 3))
        self.world.simulation.faults = faults

    async def _sync(self, number: int, *, confirmed: bool) -> None:
        """Half of the pool or more goes stale only where it was confirmed, or came three times."""
        worker, request_id = self.worker(number), f"sync-{self.steps}"
        before = await self.look()
        expected = sum(s.state in GUARDED and s.missing_since is None for s in before.sandboxes.values())
        state = await self.world.core.sync_states.read("acme")
        suspected = state.suspicion.times if state and state.suspicion else 0
        await self._sync_once(worker, request_id, confirmed=confirmed)
        after = await self.look()
        mine = [e for events in after.history.values() for e in events if e["request_id"] == request_id]
        if worker is not self.world.workers[-1]:
            assert not mine, "a worker whose term is over wrote what it had listed"
        lost = sum(event["after"] == State.STALE for event in mine)
        alarming = lost and 2 * lost >= expected
        assert not alarming or confirmed or suspected + 1 >= CONFIRMATIONS, f"{lost} of {expected} went stale"

    async def _sync_once(self, worker: Any, request_id: str, *, confirmed: bool) -> None:
        try:
            await worker.sync(request_id, confirmed=confirmed)
        except (ProviderError, LeadershipLost) as error:
            note(f"  {error}")
        else:
            assert worker is self.world.workers[-1], "a fenced worker synced"

    @rule(number=workers, waits=st.booleans())
    def clean(self, number: int, waits: bool) -> None:
        """What is begun and not waited for goes on in the steps that follow."""
        self.run(self._clean(self.worker(number), self.step(), waits=waits))

    async def _clean(self, worker: Any, request_id: str, *, waits: bool) -> None:
        if waits:
            note(f"  {dict(await worker.cleaner.sweep(request_id))}")
        else:
            note(f"  {dict(await worker.cleaner.tick(request_id))}")
            await asyncio.sleep(0.01)

    @rule(turned=st.booleans())
    def two_clean_at_once(self, turned: bool) -> None:
        """The second begins while the first waits for the provider: nobody deletes what another has leased."""
        self.step()
        self.run(self._two_clean(turned=turned))

    async def _two_clean(self, *, turned: bool) -> None:
        if len(self.world.workers) == 1:
            await self.world.start_leader()
        if (held := next(self.students.held(), None)) is not None:
            await self._release(held.student, held.sandbox_id, 0)
        first, *_, second = self.world.workers[::-1] if turned else self.world.workers
        await self.world.settle()
        before = {account.id: account.delete_requests for account in self.accounts()}
        simulation = self.world.simulation
        simulation.faults = simulation.faults.changed({"delete_latency_s": 0.15})
        await first.cleaner.tick("two-1")
        await asyncio.sleep(0.05)
        await second.cleaner.tick("two-2")
        await self.world.settle()
        simulation.faults = simulation.faults.changed({"delete_latency_s": 0.0})
        for account in self.accounts():
            asked = account.delete_requests - before[account.id]
            assert asked <= 1, f"{account.id}: {asked} deletions at once"

    @rule(number=workers, what=st.sampled_from(["expire", "purge", "revive", "gauges"]))
    def tick(self, number: int, what: str) -> None:
        request_id = self.step()
        self.run(self._tick(self.worker(number), what, request_id))

    async def _tick(self, worker: Any, what: str, request_id: str) -> None:
        due = {told.sandbox_id for told in self._due()}
        before = await self.look()
        if what == "expire":
            self.may_end = due
        await getattr(worker, what)(request_id)
        after = await self.look()
        match what:
            case "expire":
                late = due & {s.id for s in after.in_state(State.ALLOCATED)}
                assert not late, f"their time is over: {late}"
            case "purge":
                for gone in set(before.sandboxes) - set(after.sandboxes):
                    stale = before.sandboxes[gone]
                    assert self.world.now - stale.since >= PURGE_S, f"{gone} was purged too early"
            case "gauges":
                await self.world.settle()
                await worker.gauges(request_id)
                gauges, counts = await self.world.core.gauges.read("acme"), (await self.look()).counts()
                assert gauges is not None
                assert gauges.states == {state: counts[state] for state in State}

    def _due(self) -> list[Any]:
        return [told for told in self.students.held() if told.answer["expires_at"] + GRACE_S <= self.world.now]

    @rule(number=workers)
    def run_requested_jobs(self, number: int) -> None:
        self.step()
        self.run(self._run_jobs(self.worker(number)))

    async def _run_jobs(self, worker: Any) -> None:
        queued = [j async for j in self.world.core.jobs.walk("acme", JobState.QUEUED)]
        if any(job.kind == "bulk_force_release" for job in queued):
            self.may_end = {told.sandbox_id for told in self.students.held()}
        for _ in range(4):  # two run at once
            note(f"  {dict(await worker.runner.tick('jobs'))}")
            await worker.runner.idle()

    @rule()
    def another_worker_takes_the_lead(self) -> None:
        self.step()
        if len(self.world.workers) < MOST_WORKERS:
            self.run(self.world.start_leader())

    # ------------------------------------------------------------------ operators

    @rule(operation=st.sampled_from(sorted(STARTS_FROM)), rank=ranks)
    def operate(self, operation: str, rank: int) -> None:
        """Mostly on a sandbox in the state where it starts."""
        self.step()
        self.run(self._operate(operation, rank))

    async def _operate(self, operation: str, rank: int) -> None:
        stored = await self.look()
        fitting = sorted(s.id for s in stored.in_state(STARTS_FROM[operation]))
        sandbox_id = fitting[rank % len(fitting)] if fitting and rank < 6 else self.an_id(rank)
        before = stored.sandboxes.get(sandbox_id)
        if operation == "force-release":
            self.may_end = {sandbox_id}
        answer = await self.world.order("POST", f"/sandboxes/{sandbox_id}/{operation}", REASON)
        note(f"  {sandbox_id}: {answer.status_code}")
        assert answer.status_code in (200, 404, 409), answer.text
        assert (before is None) == (answer.status_code == 404)
        fits = before is not None and before.state is STARTS_FROM[operation]
        if fits and not (operation == "reinstate" and before is not None and before.missing_since):
            assert answer.status_code == 200, answer.text

    @rule(mode=st.sampled_from(["open", "open", "drained", "maintenance"]))
    def set_mode(self, mode: str) -> None:
        self.step()
        answer = self.run(self.world.order("POST", "/mode", {"mode": mode, **REASON}))
        assert answer.status_code == 200, answer.text
        self.mode = mode

    @rule(
        what=st.sampled_from(
            ["sync", "cleanup", "bulk-delete?status=stale", "bulk-delete?status=deletion_failed", *SELECTIONS]
        ),
        number=st.none() | workers,
    )
    def ask_for_a_job(self, what: str, number: int | None) -> None:
        """A bulk move takes whatever is in the state that it starts from: quarantine, one of two labs."""
        self.step()
        body = REASON | SELECTIONS[what] if what in SELECTIONS else None
        path = f"/{what}{'&' if '?' in what else '?'}wait=0"
        answer = self.run(self.world.order("POST", path, body))
        assert answer.status_code == 202, answer.text
        if number is not None and self.mode != "maintenance":
            self.run(self._run_jobs(self.worker(number)))

    # ------------------------------------------------------------------ the provider, and time

    @rule(name=st.sampled_from([None, "lab-network-0001", "lab-network-0002"]))
    def the_provider_adds_an_account(self, name: str | None) -> None:
        self.step()
        self.world.simulation.inventory.add(now=self.world.clock.now, name=name)

    @rule(rank=ranks, what=st.sampled_from(["rename", "hide", "vanish", "disable", "enable"]))
    def the_provider_changes_an_account(self, rank: int, what: str) -> None:
        """`vanish`: somebody deletes it behind our back."""
        self.step()
        simulation, csp_id = self.world.simulation, int(self.an_id(rank))
        match what:
            case "rename":
                simulation.inventory.change(csp_id, name=f"lab-renamed-{self.steps:04d}")
            case "hide":
                hidden = {*simulation.faults.hidden_accounts, csp_id}
                simulation.faults = simulation.faults.changed({"hidden_accounts": sorted(hidden)})
            case "vanish":
                simulation.inventory.delete(csp_id, now=self.world.clock.now)
            case _:
                simulation.inventory.change(csp_id, state=f"{what}d" if what == "disable" else "active")

    @rule(
        lie=st.sampled_from([None, *sorted(LIES)]),
        mishap=st.sampled_from([None, *sorted(MISHAPS)]),
        rank=st.none() | ranks,
    )
    def the_provider_misbehaves(self, lie: str | None, mishap: str | None, rank: int | None) -> None:
        """From now on: its listing, its deletions, or those of one account."""
        self.step()
        if lie is not None:
            self._switch({name for changes in LIES.values() for name in changes} | {"hidden_accounts"}, LIES[lie])
        if mishap is not None:
            self._switch({name for changes in MISHAPS.values() for name in changes}, MISHAPS[mishap])
        if rank is not None:
            self._switch({"failing_accounts"}, {"failing_accounts": [int(self.an_id(rank))]})

    def _switch(self, names: set[str], changes: Mapping[str, Any]) -> None:
        simulation, healthy = self.world.simulation, HEALTHY.shown()
        before = {name: list(v) if isinstance(v := healthy[name], tuple) else v for name in names}
        simulation.faults = simulation.faults.changed(before | dict(changes))

    @rule(seconds=st.sampled_from([10 * MINUTE, 5 * HOUR, 25 * HOUR, 8 * 24 * HOUR]))
    def time_passes(self, seconds: int) -> None:
        self.world.jump(seconds)

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def everything_holds(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        stored = await self.look()
        self.students.check(stored, may_end=self.may_end)
        self.may_end = set()
        check_stored(stored)
        check_provider(stored, self.accounts())
        if not any(worker.cleaner._running for worker in self.world.workers):
            stats = (await self.world.order("GET", "/stats")).json()
            counts = {state.value: n for state, n in stored.counts().items()}
            assert {state: n for state, n in stats.items() if n and state != "total"} == counts

    def teardown(self) -> None:
        """The provider is well again, and time passes: then everything comes to an end."""
        try:
            if self.steps:
                self.run(self._comes_to_rest())
        finally:
            with suppress(Exception):
                self.run(self.world.settle())
            self.run(self.stack.aclose())
            self.runner.close()

    async def _comes_to_rest(self) -> None:
        await self.world.order("POST", "/mode", {"mode": "open", "reason": "the storm is over"})
        simulation, worker = self.world.simulation, self.world.workers[-1]
        simulation.faults = HEALTHY
        for account in list(simulation.inventory):
            if account.account_type == "sandbox" and account.state == "disabled":
                simulation.inventory.change(account.csp_id, state="active")
        await self.world.settle()
        for _ in range(4):  # each longer than a failed deletion is left to rest
            self.world.jump(7 * HOUR)
            await worker.sync("rest", confirmed=True)
            await worker.revive("rest")
            await worker.expire("rest")
            for _ in range(3):
                await worker.runner.tick("rest")
                await worker.runner.idle()
                self.world.jump(10 * MINUTE)  # what failed once waits no longer
            self.world.jump(MINUTE)
            await worker.cleaner.sweep("rest")
            await worker.cleaner.sweep("rest")
        await worker.sync("rest", confirmed=True)
        self.may_end = {told.sandbox_id for told in self.students.held()}
        await self._check()
        check_quiet(await self.look(), self.accounts())
        await self._is_explained()

    async def _is_explained(self) -> None:
        state = await self.world.core.sync_states.read("acme")
        assert state is not None
        assert state.accounts[Explained.UNKNOWN] == 0, state
        listed = [a for a in self.world.simulation.inventory if a.deleted_at is None]
        assert sum(state.accounts.values()) == len(listed)
        for unfinished in (JobState.QUEUED, JobState.RUNNING):
            jobs = [job async for job in self.world.core.jobs.walk("acme", unfinished)]
            assert not jobs, f"jobs that did not end: {jobs}"


def _code(answer: httpx.Response) -> str | None:
    return answer.json()["error"]["code"] if answer.is_error else None


@pytest.mark.timeout(7200 if EXAMPLES else 600)
def test_the_invariants_hold_whatever_happens_in_whatever_order(ministack: str) -> None:
    chosen = settings(
        max_examples=EXAMPLES or 14,
        stateful_step_count=STEPS or 34,
        derandomize=not EXAMPLES,
        database=None,
        report_multiple_bugs=False,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
    )
    run_state_machine_as_test(lambda: Chaos(ministack), settings=chosen)
