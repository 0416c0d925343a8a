"""Students, workers, operators, a provider that lies and clocks that jump, in any order: the invariants hold.

Two tenants share it all, by equal names: what one does is never seen in what the other is answered.

CHAOS_EXAMPLES and CHAOS_STEPS lengthen the search and make it random; without them it is the same every time.
"""

import os
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from broker.job import JobState
from broker.policy import Explained
from broker.sandbox import State
from tests.api.service import ADMIN_TOKEN, API_TOKEN
from tests.chaos.invariants import check_provider, check_quiet, check_stored
from tests.chaos.machine import HOUR, MINUTE
from tests.chaos.operator_moves import SUPPLIES
from tests.chaos.provider_moves import HEALTHY, ProviderMoves
from tests.chaos.rush import Rush
from tests.chaos.teams import Pass, Team
from tests.chaos.world import OURS, TENANTS, THEIRS

EXAMPLES, STEPS = int(os.environ.get("CHAOS_EXAMPLES", "0")), int(os.environ.get("CHAOS_STEPS", "0"))
SHRINK = bool(int(os.environ.get("CHAOS_SHRINK", "1")))
UNFINISHED = (JobState.QUEUED, JobState.RUNNING)


class Chaos(Rush, ProviderMoves, RuleBasedStateMachine):
    """Moves, one after the other, each drawn by its weight; then all comes to rest."""

    def __init__(self, store_url: str) -> None:
        RuleBasedStateMachine.__init__(self)
        Rush.__init__(self, store_url)

    @initialize()
    def the_pool_is_filled(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        ours, theirs = self.teams[OURS], self.teams[THEIRS]
        ours.passes.append(Pass(API_TOKEN))
        ours.passes.append(Pass(ADMIN_TOKEN, role="admin"))
        for role in ("admin", "track"):
            theirs.passes.append(await self._make_key(f"/keys?tenant={THEIRS}", {"name": "theirs", "role": role}))
        await self._supply(theirs, SUPPLIES[THEIRS][0])
        for team in TENANTS:
            await self._sync(0, team, confirmed=False)

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(MOVES))
        method = getattr(self, name)
        arguments = data.draw(st.fixed_dictionaries(method.move[1]))
        note(f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
        method(**arguments)

    @invariant()
    def everything_holds(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        look = await self.look()
        for tenant, team in self.teams.items():
            stored = look.tenants[tenant]
            team.students.check(stored, may_end=self.may_end, seating=self.seating, now=self.world.now)
            team.students.rules.was = None
        self.may_end, self.seating = set(), set()
        check_stored(look)
        check_provider(look, self.accounts())

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
        simulation, leading = self.world.simulation, self.process(-1)
        simulation.faults = HEALTHY
        for account in list(simulation.inventory):
            if account.account_type == "sandbox" and account.state == "disabled":
                simulation.inventory.change(account.csp_id, state="active")
        await self.world.settle()
        for worker in leading.values():
            await worker.sync("rest", confirmed=True)
        for _ in range(4):
            self.world.jump(7 * HOUR)  # longer than a failed deletion is left to rest
            for worker in leading.values():
                await self._rests(worker)
            if not await self._restless():
                break
        for worker in leading.values():
            await worker.sync("rest", confirmed=True)
        for team in self.teams.values():
            self.may_end |= {told.sandbox_id for told in team.students.held()}
        await self._check()
        check_quiet(await self.look(), self.accounts())
        for team in self.teams.values():
            await self._stats_are_true(team)
            await self._is_explained(team)

    async def _rests(self, worker: Any) -> None:
        await worker.revive("rest")
        await worker.expire("rest")
        for _ in range(3):
            await worker.runner.tick("rest")
            await worker.runner.idle()
            self.world.jump(10 * MINUTE)  # what failed once waits no longer
        self.world.jump(MINUTE)
        await worker.cleaner.sweep("rest")
        await worker.cleaner.sweep("rest")

    async def _restless(self) -> bool:
        """Whether something is still on its way, that another round may see to."""
        look = await self.look()
        busy = (State.PENDING_DELETION, State.DELETION_FAILED, State.ALLOCATED)
        jobs = [job for stored in look.tenants.values() for job in stored.jobs]
        return any(s.state in busy for s in look.sandboxes()) or any(job.state in UNFINISHED for job in jobs)

    async def _is_explained(self, team: Team) -> None:
        state = await self.world.core.sync_states.read(team.name)
        assert state is not None
        assert state.accounts[Explained.UNKNOWN] == 0, state
        listed = [a for a in self.world.simulation.inventory if a.deleted_at is None]
        assert sum(state.accounts.values()) == len(listed)
        unfinished = [job for job in (await self.stored(team)).jobs if job.state in UNFINISHED]
        assert not unfinished, f"jobs that did not end: {unfinished}"


MOVES = [name for name in dir(Chaos) for _ in range(getattr(getattr(Chaos, name), "move", (0,))[0])]


@pytest.mark.timeout(7200 if EXAMPLES else 600)
def test_the_invariants_hold_whatever_happens_in_whatever_order(ministack: str) -> None:
    chosen = settings(
        max_examples=EXAMPLES or 14,
        stateful_step_count=STEPS or 48,
        derandomize=not EXAMPLES,
        database=None,
        report_multiple_bugs=False,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
    )
    run_state_machine_as_test(lambda: Chaos(ministack), settings=chosen)  # type: ignore[arg-type]
