"""Everything at once, for the races that steps one after the other never see."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx
from hypothesis import strategies as st

from broker.sandbox import State
from tests.chaos.machine import (
    GRACE_S,
    HOUR,
    REASON,
    code_of,
    move,
    teams,
    workers,
)
from tests.chaos.operator_moves import OperatorMoves
from tests.chaos.student_moves import wish_of
from tests.chaos.students import Told
from tests.chaos.teams import Team
from tests.chaos.world import OURS, THEIRS


class Rush(OperatorMoves):
    """A morning."""

    @move(
        3,
        team=teams,
        count=st.integers(2, 3),
        number=workers,
        most=st.sampled_from([None, None, 1, 2]),
        squeezed=st.sampled_from([None, None, 1, 3]),
        away=st.sampled_from([0, 0, 3]),
    )
    def rush(self, team: str, count: int, number: int, most: int | None, squeezed: int | None, away: int) -> None:
        """All at once: students of a team, each twice and over both APIs, their namesakes of the other, a release,
        a sync, a clean and an expiry; and an operator who puts up to `away` sandboxes into quarantine. Under the
        limit of `most`, which becomes `squeezed` meanwhile."""
        ours = self.teams[team]
        for each in self.teams.values():
            if each.a_pass(0, self.world).has_ended(self.world):
                self.run(self._change_a_key(each, "track", "make", 0, 0))
        if most is not None:
            self.step()
            self.run(self._limit(ours, {"max_live": len(self.run(self.stored(ours)).slots) + most}))
        request_id = self.step()
        self.run(
            self._rush(ours, ["ann", "ben", "cho"][:count], self.worker(number, team), request_id, squeezed, away)
        )

    async def _rush(
        self, team: Team, names: list[str], worker: Any, request_id: str, squeezed: int | None, away: int
    ) -> None:
        now, stored = self.world.now, await self.stored(team)
        self.may_end = {told.sandbox_id for told in team.due(now - GRACE_S)}
        self.seating = {s.id for s in stored.in_state(State.ALLOCATED) if s.slot is None}
        leaver = next((told for told in team.students.held() if told.student not in names), None)
        others: list[Coroutine[Any, Any, Any]] = [
            self._sync_once(worker, request_id, confirmed=False),
            worker.cleaner.tick(request_id),
            worker.expire(request_id),
            worker.seat(request_id),
        ]
        if leaver is not None:
            self.may_end.add(leaver.sandbox_id)
            others.append(self._release_at_once(team, leaver.student, leaver.sandbox_id))
            others.append(self._extend_at_once(team, leaver))
        if squeezed is not None and team.students.rules.most is not None:
            team.students.rules.was = team.students.rules.most
            others.append(self._limit(team, {"max_live": squeezed}))
        for n, sandbox in enumerate(stored.in_state(State.AVAILABLE)[:away]):  # what they all run for
            others.append(self._quarantine_after(0.004 * (n + 1), team, sandbox.id))
        namesakes = self.teams[OURS if team.name == THEIRS else THEIRS]
        wishes = [(team, name, (n + again) % 2) for again in (0, 1) for n, name in enumerate(names)]
        wishes += [(namesakes, name, n % 2) for n, name in enumerate(names)]
        holders = {(of.name, t.student) for of in (team, namesakes) for t in of.students.held() if t.key is None}
        self.world.proxy.faults.jitter_ms = 15  # whose call comes first is open
        asking = (
            self.world.ask("POST", "/v1/allocate", of.a_pass(0, self.world).token, api=api, **wish_of(name))
            for of, name, api in wishes
        )
        answers = await asyncio.gather(*asking, *others)
        self.world.proxy.faults.jitter_ms = 0
        created: dict[tuple[str, str], Any] = {}
        for (of, name, _), answer in zip(wishes, answers, strict=False):
            self._may_be(answer, of, held=(of.name, name) in holders)
            if answer.status_code == 201:
                of.students.told((name, None), "", answer.json(), now=now)
                assert created.setdefault((of.name, name), answer.json()) == answer.json(), f"{name} was given two"
        for (of, name, _), answer in zip(wishes, answers, strict=False):
            if answer.status_code == 200:
                of.students.repeated((name, None), answer.json())

    def _may_be(self, answer: httpx.Response, of: Team, *, held: bool) -> None:
        """What a tenant's people have not set is no reason there, and whoever holds a sandbox is given it."""
        rules, code = of.students.rules, code_of(answer)
        reasons = {None, "NO_SANDBOXES_AVAILABLE", "ALLOCATION_IN_PROGRESS"}
        reasons |= {"BROKER_DRAINED"} if self.mode != "open" else set()
        reasons |= {"POOL_DRAINED"} if rules.closes("") else set()
        reasons |= {"QUOTA_EXCEEDED"} if rules.most is not None else set()
        assert code in reasons, f"{of.name}: {answer.text}"
        assert not held or self.may_end or answer.status_code == 200, f"{of.name}: held, and {answer.text}"

    async def _quarantine_after(self, pause_s: float, team: Team, sandbox_id: str) -> None:
        """In the moment in which the students' transactions are on their way."""
        await asyncio.sleep(pause_s)
        answer = await self.order(team, "POST", f"/sandboxes/{sandbox_id}/quarantine", REASON)
        assert answer.status_code in (200, 409), answer.text

    async def _release_at_once(self, team: Team, student: str, sandbox_id: str) -> None:
        path, token = f"/v1/sandboxes/{sandbox_id}/mark-for-deletion", team.a_pass(0, self.world).token
        answer = await self.world.ask("POST", path, token, X_Instruqt_Sandbox_ID=student)
        assert answer.status_code in (200, 410), answer.text

    async def _extend_at_once(self, team: Team, told: Told) -> None:
        body = {"generation": told.answer["generation"], "for_s": 6 * HOUR}
        path, headers = f"/v1/sandboxes/{told.sandbox_id}/extend", {"X-Instruqt-Sandbox-ID": told.student}
        token = team.a_pass(0, self.world).token
        answer = await self.world.ask("POST", path, token, api=1, body=body, **headers)
        assert (answer.status_code, code_of(answer)) in (
            (200, None), (409, "EXTENSION_LIMIT"), (410, "ALLOCATION_EXPIRED"),
        ), answer.text  # fmt: skip
        if answer.status_code == 200:
            told.extended(answer.json()["expires_at"])
