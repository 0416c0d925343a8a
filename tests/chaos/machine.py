"""What every move of the property test stands on: the world, what its people know, and one look at it all."""

import asyncio
import itertools
import os
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import httpx
from hypothesis import note
from hypothesis import strategies as st

from tests.audit import items_of
from tests.chaos.invariants import Account, Look, Stored
from tests.chaos.teams import Pass, Team
from tests.chaos.world import OURS, TENANTS, THEIRS, World, a_world

NAMES = [*(f"lab-adventure-{n:04d}" for n in range(1, 5)), *(f"lab-network-{n:04d}" for n in range(1, 4))]
MOST_WORKERS = 3
STEP_S = 3.0
"""What passes between two steps: more than any process remembers the mode, or that the pool is empty."""
GRACE_S = 30 * 60
MINUTE, HOUR = 60, 3600
REASON = {"reason": "the state machine"}

students = st.sampled_from(["ann", "ben", "cho"])
teams = st.sampled_from([OURS, THEIRS])
tokens = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2])
"""Of a team's: the newest that is good; else one that was, or is."""
ranks = st.integers(0, 7)
workers = st.integers(0, MOST_WORKERS - 1)
T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., None])
_tables = itertools.count()


def move(weight: int, **arguments: st.SearchStrategy[Any]) -> Callable[[Method], Method]:
    """One of the things that may happen, so many times as often as those of weight 1.

    Rules of hypothesis are not weighed, and of a few examples most do without most rules.
    """

    def marked(method: Method) -> Method:
        method.__dict__["move"] = (weight, arguments)
        return method

    return marked


class Machine:
    """Each move is one step. It knows what the answer must be, and what the step may have ended."""

    def __init__(self, store_url: str) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        table = f"broker-chaos-{os.getpid()}-{next(_tables)}"
        self.world: World = self.run(self.stack.enter_async_context(a_world(store_url, table, names=NAMES)))
        self.teams = {tenant: Team(tenant) for tenant in TENANTS}
        self.mode = "open"
        self.may_end: set[str] = set()
        self.seating: set[str] = set()
        self.steps = 0
        self.seen: tuple[int, Look] | None = None

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    async def look(self) -> Look:
        """The table as it is; read anew only where somebody may have written since."""
        writes = self.world.writes()
        if self.seen is None or self.seen[0] != writes or self.world.at_work():
            self.seen = (writes, Look.of(await items_of(self.world.core)))
        return self.seen[1]

    async def stored(self, team: Team) -> Stored:
        return (await self.look()).tenants[team.name]

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

    def pair_for(self, team: Team, student: str, rank: int) -> tuple[str, str]:
        """Mostly one that the student was told, or who else was; else the other team's namesake's, or any."""
        namesakes = self.teams[OURS if team.name == THEIRS else THEIRS].students
        told = (namesakes if rank == 7 else team.students).told_to(student)
        if rank < 5 and not told:
            told = team.students.ever
        if not told or rank == 6:
            return student, self.an_id(rank)
        chosen = told[-1 - rank % len(told)]
        return chosen.student, chosen.sandbox_id

    def process(self, number: int) -> dict[str, Any]:
        """A worker process: what it does for each tenant."""
        return self.world.workers[number % len(self.world.workers)]

    def worker(self, number: int, team: str) -> Any:
        return self.process(number)[team]

    def step(self) -> str:
        """Begin a step: time passes. Returns the id of what it does."""
        self.world.jump(STEP_S)
        self.steps += 1
        return f"step-{self.steps}"

    async def by_student(
        self, team: Team, passed: Pass, method: str, path: str, *, api: int, **more: Any
    ) -> httpx.Response | None:
        """The answer; None where the token lets nobody in, which must be so exactly where it has ended."""
        lets_in = passed.lets_in(api, self.world)
        answer = await self.world.ask(method, path, passed.token, api=api, **more)
        if answer.status_code == 401:
            assert not lets_in, f"a good token of {team.name} was refused: {answer.text}"
            note("  401")
            return None
        assert lets_in is not False, f"a token of {team.name} that has ended was let in: {answer.text}"
        return answer

    async def order(self, team: Team, method: str, path: str, body: Any = None) -> httpx.Response:
        """As the team's own admin."""
        return await self.world.order(method, path, body, token=team.a_pass(0, self.world, "admin").token)

    async def _stats_are_true(self, team: Team) -> None:
        stats = (await self.order(team, "GET", "/stats")).json()
        counts = {state.value: n for state, n in (await self.stored(team)).counts().items()}
        assert {state: n for state, n in stats.items() if n and state != "total"} == counts


def code_of(answer: httpx.Response) -> str | None:
    return answer.json()["error"]["code"] if answer.is_error else None
