"""What operators and admins do, of each team and of the installation."""

import math
from collections.abc import Mapping
from typing import Any

from hypothesis import note
from hypothesis import strategies as st

from broker.sandbox import State
from tests.api.service import ADMIN_TOKEN
from tests.chaos.machine import (
    HOUR,
    REASON,
    move,
    ranks,
    teams,
    workers,
)
from tests.chaos.teams import Pass, Team
from tests.chaos.worker_moves import WorkerMoves
from tests.chaos.world import LAB_S, OURS, THEIRS

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
SUPPLIES: Mapping[str, list[list[str]]] = {
    OURS: [[], ["lab-"], ["lab-network-"]],
    THEIRS: [["lab-network-"], ["lab-network-", "lab-adventure-0001"], ["lab-"], ["lab-network-0001"]],
}
"""Which accounts are whose: often each has its own, sometimes both name the same."""


class OperatorMoves(WorkerMoves):
    """They move sandboxes, set modes, pools, limits and prefixes, make and end keys, and look."""

    @move(3, team=teams, operation=st.sampled_from(sorted(STARTS_FROM)), rank=ranks)
    def operate(self, team: str, operation: str, rank: int) -> None:
        """Mostly on a sandbox in the state where it starts."""
        self.step()
        self.run(self._operate(self.teams[team], operation, rank))

    async def _operate(self, team: Team, operation: str, rank: int) -> None:
        stored = await self.stored(team)
        fitting = sorted(s.id for s in stored.in_state(STARTS_FROM[operation]))
        sandbox_id = fitting[rank % len(fitting)] if fitting and rank < 6 else self.an_id(rank)
        before = stored.sandboxes.get(sandbox_id)
        if operation == "force-release" and before is not None:
            self.may_end = {sandbox_id}
        answer = await self.order(team, "POST", f"/sandboxes/{sandbox_id}/{operation}", REASON)
        note(f"  {sandbox_id}: {answer.status_code}")
        assert answer.status_code in (200, 404, 409), answer.text
        assert (before is None) == (answer.status_code == 404)
        fits = before is not None and before.state is STARTS_FROM[operation]
        if fits and not (operation == "reinstate" and before is not None and before.missing_since):
            assert answer.status_code == 200, answer.text

    @move(1, mode=st.sampled_from(["open", "open", "open", "drained", "maintenance"]))
    def set_mode(self, mode: str) -> None:
        self.step()
        answer = self.run(self.world.order("POST", "/mode", {"mode": mode, **REASON}))
        assert answer.status_code == 200, answer.text
        self.mode = mode

    @move(2, team=teams, prefix=st.sampled_from(["", "lab-adventure-", "lab-network-", "lab-network-0001"]))
    def drain_or_open_a_pool(self, team: str, prefix: str) -> None:
        self.step()
        drained = self.teams[team].students.rules.drained
        drained ^= {prefix}
        wanted = {"prefix": prefix, "state": "drained" if prefix in drained else "open", **REASON}
        answer = self.run(self.order(self.teams[team], "POST", "/pools", wanted))
        assert answer.status_code == 200, answer.text
        assert {pool["prefix"] for pool in answer.json()["drained"]} == drained

    @move(2, team=teams, most=st.sampled_from([None, 0, 1, 1, 2, 3]), lab_h=st.sampled_from([None, None, 2]))
    def limit(self, team: str, most: int | None, lab_h: int | None) -> None:
        self.step()
        lease_s = lab_h and lab_h * HOUR
        self.run(self._limit(self.teams[team], {"max_live": most, "lease_s": lease_s}))
        self.teams[team].students.rules.lab_s = lease_s or LAB_S

    async def _limit(self, team: Team, limits: dict[str, int | None]) -> None:
        answer = await self.world.order("PATCH", f"/tenants/{team.name}", limits | REASON)
        assert answer.status_code == 200, answer.text
        team.students.rules.most = limits["max_live"]

    @move(1, team=teams, choice=st.integers(0, 3))
    def name_other_prefixes(self, team: str, choice: int) -> None:
        self.step()
        choices = SUPPLIES[team]
        self.run(self._supply(self.teams[team], choices[choice % len(choices)]))

    async def _supply(self, team: Team, prefixes: list[str]) -> None:
        answer = await self.world.order("PATCH", f"/tenants/{team.name}", {"prefixes": prefixes, **REASON})
        assert answer.status_code == 200, answer.text

    @move(
        4,
        team=teams,
        role=st.sampled_from(["track", "track", "operator"]),
        what=st.sampled_from(["make", "rotate", "rotate", "revoke", "revoke"]),
        overlap_s=st.sampled_from([0, 60, HOUR]),
        api=st.integers(0, 1),
    )
    def change_a_key(self, team: str, role: str, what: str, overlap_s: int, api: int) -> None:
        """The newest that is good; where there is none, one is made."""
        self.step()
        self.run(self._change_a_key(self.teams[team], role, what, overlap_s, api))

    async def _change_a_key(self, team: Team, role: str, what: str, overlap_s: int, api: int) -> None:
        good = [p for p in team.passes if p.key_id and p.role == role and not p.has_ended(self.world)]
        admin = team.a_pass(0, self.world, "admin").token
        if what == "make" or not good:
            made = await self._make_key("/keys", {"name": "a team's", "role": role}, token=admin, api=api)
            team.passes.append(made)
            return
        key = next((passed for passed in reversed(good) if passed.ends_at == math.inf), None)
        if key is None:
            return
        path = f"/v1/admin/keys/{key.key_id}"
        if what == "revoke":
            answer = await self.world.ask("POST", f"{path}/revoke", admin, api=api, body=REASON)
            assert answer.status_code == 200, answer.text
            key.end(self.world.clock.now, self.world, by=api)
        else:
            team.passes.append(
                await self._make_key(f"/keys/{key.key_id}/rotate", {"overlap_s": overlap_s}, token=admin, api=api)
            )
            key.end(self.world.now + overlap_s, self.world, by=api)

    async def _make_key(self, path: str, body: Any, *, token: str = ADMIN_TOKEN, api: int = 0) -> Pass:
        answer = await self.world.ask("POST", f"/v1/admin{path}", token, api=api, body=body)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        return Pass(made["token"], role=made["role"], key_id=made["id"])

    @move(
        2,
        team=teams,
        what=st.sampled_from(
            ["sync", "cleanup", "bulk-delete?status=stale", "bulk-delete?status=deletion_failed", *SELECTIONS]
        ),
        number=st.none() | workers,
        revoked=st.booleans(),
    )
    def ask_for_a_job(self, team: str, what: str, number: int | None, revoked: bool) -> None:
        """A bulk move takes whatever is in the state that it starts from: quarantine, one of two labs.

        By an operator's key where there is one, which may be `revoked` before the job is run."""
        self.step()
        ours = self.teams[team]
        body = {**REASON, **SELECTIONS[what]} if what in SELECTIONS else None
        path = f"/{what}{'&' if '?' in what else '?'}wait=0"
        operators = [p for p in ours.passes if p.role == "operator" and not p.has_ended(self.world)]
        token = operators[-1].token if operators else ours.a_pass(0, self.world, "admin").token
        answer = self.run(self.world.order("POST", path, body, token=token))
        assert answer.status_code == 202, answer.text
        if revoked and operators:
            self.run(self._change_a_key(ours, "operator", "revoke", 0, 0))
        if number is not None and self.mode != "maintenance":
            self.run(self._run_jobs(ours, self.worker(number, team)))

    @move(1, team=teams, api=st.integers(0, 1))
    def look_around(self, team: str, api: int) -> None:
        """Every list shows all of the team's own, and nothing else."""
        self.step()
        self.run(self._look_around(self.teams[team], api))

    async def _look_around(self, team: Team, api: int) -> None:
        await self.world.settle()
        stored, token = await self.stored(team), team.a_pass(0, self.world, "admin").token

        async def listed(path: str) -> Any:
            answer = await self.world.ask("GET", f"/v1/admin{path}", token, api=api)
            assert answer.status_code == 200, answer.text
            return answer.json()

        sandboxes = (await listed("/sandboxes?limit=1000"))["sandboxes"]
        assert {row["sandbox_id"] for row in sandboxes} == set(stored.sandboxes)
        keys = {row["id"]: row["state"] for row in (await listed("/keys?limit=200"))["keys"]}
        assert keys == {p.key_id: keys.get(p.key_id) for p in team.passes if p.key_id is not None}, (
            f"the keys of {team.name}"
        )
        jobs = {row["job_id"] for row in (await listed("/jobs?limit=100"))["jobs"]}
        assert jobs <= {job.id for job in stored.jobs}, f"jobs that are not {team.name}'s"
        events = (await listed("/events?limit=100"))["events"]
        assert {event["sandbox_id"] for event in events if event.get("sandbox_id")} <= set(stored.history)
        assert (await listed("/pools"))["held"] in (None, len(stored.slots))
        await self._stats_are_true(team)
