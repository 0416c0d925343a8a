"""What students do, and what they must be answered."""

from hypothesis import note
from hypothesis import strategies as st

from broker.lifecycle import MAX_EXTENSION_S
from broker.sandbox import State
from tests.chaos.machine import (
    HOUR,
    Machine,
    code_of,
    move,
    ranks,
    students,
    teams,
    tokens,
)
from tests.chaos.teams import Team

keys = st.sampled_from([None, None, None, "second", "third"])
prefixes = st.sampled_from(["", "", "", "lab-adventure-", "lab-network-"])


class StudentMoves(Machine):
    """They allocate, release, extend and beat, with good tokens and with others."""

    @move(6, team=teams, student=students, key=keys, prefix=prefixes, api=st.integers(0, 1), token=tokens)
    def allocate(self, team: str, student: str, key: str | None, prefix: str, api: int, token: int) -> None:
        self.step()
        self.run(self._allocate(self.teams[team], student, key, prefix, api, token))

    async def _allocate(
        self, team: Team, student: str, key: str | None, prefix: str, api: int, token: int
    ) -> None:
        now, stored = self.world.now, await self.stored(team)
        told = team.students
        expected = told.expected((student, key), prefix, stored, now=now, open_=self.mode == "open")
        passed = team.a_pass(token, self.world)
        answer = await self.by_student(
            team, passed, "POST", "/v1/allocate", api=api, **wish_of(student, key, prefix)
        )
        if answer is None:
            return
        assert (answer.status_code, code_of(answer)) == expected, answer.text
        note(f"  {answer.status_code} {answer.json().get('sandbox_id', '')}")
        if answer.status_code == 201:
            assert stored.sandboxes[answer.json()["sandbox_id"]].state is State.AVAILABLE
            told.told((student, key), prefix, answer.json(), now=now)
        elif answer.status_code == 200:
            told.repeated((student, key), answer.json())

    @move(3, team=teams, student=students, rank=ranks, api=st.integers(0, 1), token=tokens)
    def release(self, team: str, student: str, rank: int, api: int, token: int) -> None:
        self.step()
        ours = self.teams[team]
        self.run(self._release(ours, *self.pair_for(ours, student, rank), api, token))

    async def _release(self, team: Team, student: str, sandbox_id: str, api: int, token: int = 0) -> None:
        before, passed = (await self.stored(team)).sandboxes.get(sandbox_id), team.a_pass(token, self.world)
        path, headers = f"/v1/sandboxes/{sandbox_id}", {"X-Instruqt-Sandbox-ID": student}
        seen = await self.by_student(team, passed, "GET", path, api=api, **headers)
        answer = await self.by_student(team, passed, "POST", f"{path}/mark-for-deletion", api=api, **headers)
        if answer is None or seen is None:
            assert answer is None, "a token was refused, and then let in"
            return
        if before is None:
            assert (seen.status_code, answer.status_code) == (404, 404)
        elif before.holder != student:
            assert (seen.status_code, answer.status_code) == (403, 403)
        else:
            ended_by_other = before.ended_by not in (None, "released")
            assert (seen.status_code, answer.status_code) == (200, 410 if ended_by_other else 200)
            if before.state is State.ALLOCATED:
                self.may_end = {sandbox_id}
                after = (await self.stored(team)).sandboxes[sandbox_id]
                assert after.state is State.PENDING_DELETION
        note(f"  {sandbox_id}: {answer.status_code}")

    @move(
        3,
        team=teams,
        student=students,
        rank=ranks,
        for_s=st.sampled_from([HOUR, 5 * HOUR, 7 * HOUR]),
        past=st.integers(0, 4),
        token=tokens,
    )
    def extend(self, team: str, student: str, rank: int, for_s: int, past: int, token: int) -> None:
        """Mostly by the generation that was told."""
        self.step()
        ours = self.teams[team]
        self.run(self._extend(ours, *self.pair_for(ours, student, rank), for_s, stale=past == 0, token=token))

    async def _extend(
        self, team: Team, student: str, sandbox_id: str, for_s: int, *, stale: bool, token: int
    ) -> None:
        before = (await self.stored(team)).sandboxes.get(sandbox_id)
        told, passed = team.students.told_of(student, sandbox_id), team.a_pass(token, self.world)
        generation = (told.answer["generation"] if told else 1) - stale
        until, headers = self.world.now + for_s, {"X_Instruqt_Sandbox_ID": student}
        path, body = f"/v1/sandboxes/{sandbox_id}", {"generation": generation}
        beaten = await self.by_student(team, passed, "POST", f"{path}/heartbeat", api=0, body=body, **headers)
        answer = await self.by_student(
            team, passed, "POST", f"{path}/extend", api=1, body=body | {"for_s": for_s}, **headers
        )
        held = before is not None and told is not None and before.state is State.ALLOCATED
        expected: tuple[int, str | None]
        if before is None:
            expected = 404, "SANDBOX_NOT_FOUND"
        elif told is None:
            expected = 403, "NOT_SANDBOX_OWNER"
        elif stale:
            expected = 409, "STALE_GENERATION"
        else:
            expected = (200, None) if held else (410, "ALLOCATION_EXPIRED")
        if beaten is not None:
            assert (beaten.status_code, code_of(beaten)) == expected, beaten.text
        if answer is None:
            return
        if expected[0] == 200 and before is not None and told is not None:
            lab_s = team.students.rules.lab_s
            ends, latest = before.expires_at or 0, (before.allocated_at or 0) + lab_s + MAX_EXTENSION_S
            if max(latest, ends) < until:
                expected = 409, "EXTENSION_LIMIT"
            else:
                told.extended(max(ends, until))
                assert answer.json()["expires_at"] == told.answer["expires_at"], answer.text
        note(f"  {sandbox_id}: {answer.status_code}")
        assert (answer.status_code, code_of(answer)) == expected, answer.text


def wish_of(student: str, key: str | None = None, prefix: str = "") -> dict[str, str]:
    headers = {"X-Instruqt-Sandbox-ID": student}
    headers |= {"Idempotency-Key": key} if key else {}
    headers |= {"X-Sandbox-Name-Prefix": prefix} if prefix else {}
    return headers
