"""What workers do, each at its own time, and those whose term is over as well."""

import asyncio
from typing import Any

from hypothesis import note
from hypothesis import strategies as st

from broker.errors import LeadershipLost
from broker.job import JobState
from broker.policy import CONFIRMATIONS, GUARDED
from broker.sandbox import State
from tests.chaos.invariants import Stored
from tests.chaos.machine import (
    GRACE_S,
    MOST_WORKERS,
    move,
    teams,
    workers,
)
from tests.chaos.provider_moves import LIES
from tests.chaos.student_moves import StudentMoves
from tests.chaos.teams import Team
from worker.provider.client import ProviderError

PURGE_S = 24 * 3600


class WorkerMoves(StudentMoves):
    """They sync, clean, expire, purge, seat, and run jobs."""

    @move(
        2,
        number=workers,
        team=teams,
        confirmed=st.integers(0, 3),
        lie=st.sampled_from([None, None, "empty", "half"]),
    )
    def sync(self, number: int, team: str, confirmed: int, lie: str | None) -> None:
        """Of what the provider is said to say, or of a `lie` for this once."""
        self.step()
        faults = self.world.simulation.faults
        if lie is not None:
            self.world.simulation.faults = faults.changed(LIES[lie])
        self.run(self._sync(number, team, confirmed=confirmed == 3))
        self.world.simulation.faults = faults

    async def _sync(self, number: int, team: str, *, confirmed: bool) -> None:
        """Half of the pool or more goes stale only where it was confirmed, or came three times."""
        worker, request_id = self.worker(number, team), f"sync-{self.steps}"
        before = await self.stored(self.teams[team])
        expected = sum(s.state in GUARDED and s.missing_since is None for s in before.sandboxes.values())
        state = await self.world.core.sync_states.read(team)
        suspected = state.suspicion.times if state and state.suspicion else 0
        await self._sync_once(worker, request_id, confirmed=confirmed)
        after = await self.stored(self.teams[team])
        mine = [e for events in after.history.values() for e in events if e["request_id"] == request_id]
        if number % len(self.world.workers) != len(self.world.workers) - 1:
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
            assert worker is self.process(-1)[worker.tenant], "a fenced worker synced"

    @move(3, number=workers, team=teams, waits=st.booleans())
    def clean(self, number: int, team: str, waits: bool) -> None:
        """What is begun and not waited for goes on in the steps that follow."""
        self.run(self._clean(self.worker(number, team), self.step(), waits=waits))

    async def _clean(self, worker: Any, request_id: str, *, waits: bool) -> None:
        if waits:
            note(f"  {dict(await worker.cleaner.sweep(request_id))}")
        else:
            note(f"  {dict(await worker.cleaner.tick(request_id))}")
            await asyncio.sleep(0.01)

    @move(1, team=teams, turned=st.booleans())
    def two_clean_at_once(self, team: str, turned: bool) -> None:
        """The second begins while the first waits for the provider: nobody deletes what another has leased."""
        self.step()
        self.run(self._two_clean(self.teams[team], turned=turned))

    async def _two_clean(self, team: Team, *, turned: bool) -> None:
        if len(self.world.workers) == 1:
            await self.world.start_leader()
        if (held := next(team.students.held(), None)) is not None:
            await self._release(team, held.student, held.sandbox_id, 0)
        first, *_, second = self.world.workers[::-1] if turned else self.world.workers
        await self.world.settle()
        before = {account.id: account.delete_requests for account in self.accounts()}
        simulation = self.world.simulation
        simulation.faults = simulation.faults.changed({"delete_latency_s": 0.15})
        await first[team.name].cleaner.tick("two-1")
        await asyncio.sleep(0.05)
        await second[team.name].cleaner.tick("two-2")
        await self.world.settle()
        simulation.faults = simulation.faults.changed({"delete_latency_s": 0.0})
        for account in self.accounts():
            asked = account.delete_requests - before[account.id]
            assert asked <= 1, f"{account.id}: {asked} deletions at once"

    @move(
        4,
        number=workers,
        team=teams,
        what=st.sampled_from(["expire", "expire", "purge", "revive", "gauges", "seat"]),
    )
    def tick(self, number: int, team: str, what: str) -> None:
        request_id = self.step()
        self.run(self._tick(self.teams[team], self.worker(number, team), what, request_id))

    async def _tick(self, team: Team, worker: Any, what: str, request_id: str) -> None:
        due = {told.sandbox_id for told in team.due(self.world.now - GRACE_S)}
        before = await self.stored(team)
        if what == "expire":
            self.may_end = due
        await getattr(worker, what)(request_id)
        after = await self.stored(team)
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
                gauges, counts = await self.world.core.gauges.read(team.name), (await self.stored(team)).counts()
                assert gauges is not None
                assert gauges.states == {state: counts[state] for state in State}
            case "seat":
                self._all_are_seated(team, after)

    def _all_are_seated(self, team: Team, stored: Stored) -> None:
        """Whoever has a sandbox under a limit counts, and below it wherever there is room."""
        most, held = team.students.rules.most, stored.in_state(State.ALLOCATED)
        if most is None:
            return
        assert not [s.id for s in held if s.slot is None], "held, and not counted"
        beyond = [slot for slot in stored.slots if slot >= most]
        assert not beyond or len(stored.slots) - len(beyond) == most, (
            f"slots {beyond} are beyond the limit, with room"
        )

    @move(1, number=workers, team=teams)
    def run_requested_jobs(self, number: int, team: str) -> None:
        self.step()
        self.run(self._run_jobs(self.teams[team], self.worker(number, team)))

    async def _run_jobs(self, team: Team, worker: Any) -> None:
        """Those that are queued. Of whoever may not ask for them any more none is run."""
        stored = await self.stored(team)
        queued = {job.id: job for job in stored.jobs if job.state is JobState.QUEUED}
        if any(job.kind == "bulk_force_release" for job in queued.values()):
            self.may_end = {told.sandbox_id for told in team.students.held()}
        ended = {f"key:{passed.key_id}" for passed in team.passes if passed.has_ended(self.world)}
        for _ in range(4):  # two run at once
            note(f"  {dict(await worker.runner.tick('jobs'))}")
            await worker.runner.idle()
            if not any(job.state is JobState.QUEUED for job in (await self.stored(team)).jobs):
                break
        after = await self.stored(team)
        for job in after.jobs:
            if job.id not in queued or job.answers_for_it not in ended or job.state is JobState.QUEUED:
                continue
            assert (job.error or "").startswith("PERMISSION_REVOKED"), f"{job.id} was run for {job.answers_for_it}"
            told = [event["action"] for event in after.notes[f"job:{job.id}"]]
            assert "refuse_job" in told, f"{job.id} was refused without an event: {told}"
            done = [e for events in after.history.values() for e in events if e["request_id"] == job.request_id]
            assert not done, f"{job.id} was refused, and did {done}"

    @move(1)
    def another_worker_takes_the_lead(self) -> None:
        self.step()
        if len(self.world.workers) < MOST_WORKERS:
            self.run(self.world.start_leader())
