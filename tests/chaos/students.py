"""What the students of one tenant were told: the model that the broker's answers are held against."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from broker.sandbox import Sandbox, State
from broker.store.claims import ENDED_CLAIM_S
from tests.chaos.invariants import Stored
from tests.chaos.world import LAB_S, MOST_CLAIMS

Key = tuple[str, str | None]
Answer = tuple[int, str]


@dataclass
class Told:
    """One answer, and when it stopped being true."""

    student: str
    key: str | None
    prefix: str
    answer: dict[str, Any]
    ended_at: int | None = None

    @property
    def sandbox_id(self) -> str:
        return str(self.answer["sandbox_id"])

    def extended(self, expires_at: int) -> None:
        """It was told another end since."""
        self.answer |= {"expires_at": expires_at}

    def blocks(self, now: int) -> bool:
        """Whether nothing new is given under its key: while it is held, and for a day after where it has a key."""
        if self.ended_at is None:
            return True
        return self.key is not None and self.ended_at > now - ENDED_CLAIM_S


@dataclass
class Rules:
    """What operators have set of a tenant."""

    most: int | None = None  # live allocations
    was: int | None = None  # the limit that it was changed from in this very step: some still go by it
    lab_s: int = LAB_S
    drained: set[str] = field(default_factory=set)

    def closes(self, prefix: str) -> bool:
        return prefix.startswith(tuple(self.drained))

    def hands_out(self, name: str, prefix: str) -> bool:
        return name.startswith(prefix) and not name.startswith(tuple(self.drained))


@dataclass
class Students:
    """Everything told to anybody of a tenant, newest last."""

    rules: Rules = field(default_factory=Rules)
    claims: dict[Key, Told] = field(default_factory=dict)
    ever: list[Told] = field(default_factory=list)

    def held(self) -> Iterator[Told]:
        return (told for told in self.claims.values() if told.ended_at is None)

    def expected(self, key: Key, prefix: str, stored: Stored, *, now: int, open_: bool) -> tuple[int, str | None]:
        """Status and code of the only right answer to this wish, when nothing else happens meanwhile."""
        claim, rules = self.claims.get(key), self.rules
        if claim is not None and claim.blocks(now):
            if claim.key is not None and claim.prefix != prefix:
                return 409, "IDEMPOTENCY_KEY_REUSED"
            return (200, None) if claim.ended_at is None else (410, "ALLOCATION_ENDED")
        if not open_:
            return 503, "BROKER_DRAINED"
        if rules.closes(prefix):
            return 503, "POOL_DRAINED"
        if key[1] is not None and sum(told.student == key[0] for told in self.held()) >= MOST_CLAIMS:
            return 409, "HOLDER_LIMIT"
        if rules.most is not None and len(stored.slots) >= rules.most:
            return 409, "QUOTA_EXCEEDED"
        if any(rules.hands_out(sandbox.name, prefix) for sandbox in stored.in_state(State.AVAILABLE)):
            return 201, None
        return 409, "NO_SANDBOXES_AVAILABLE"

    def told(self, key: Key, prefix: str, answer: dict[str, Any], *, now: int) -> None:
        """A 201: nobody was ever told this sandbox before."""
        sandbox_id = answer["sandbox_id"]
        others = [told for told in self.ever if told.sandbox_id == sandbox_id]
        assert not others, f"{sandbox_id} was told to {key} after {others}"
        assert (answer["allocated_at"], answer["expires_at"]) == (now, now + self.rules.lab_s)
        self.claims[key] = Told(*key, prefix, answer)
        self.ever.append(self.claims[key])

    def told_to(self, student: str) -> list[Told]:
        return [told for told in self.ever if told.student == student]

    def told_of(self, student: str, sandbox_id: str) -> Told | None:
        """What this student was told of this sandbox."""
        mine = (told for told in self.ever if (told.student, told.sandbox_id) == (student, sandbox_id))
        return next(mine, None)

    def repeated(self, key: Key, answer: dict[str, Any]) -> None:
        """A 200: the first answer, word for word, but for the end, which may have been put off since."""
        assert answer == self.claims[key].answer, f"a replay to {key} differs from the first answer"

    def check(self, stored: Stored, *, may_end: set[str], seating: set[str], now: int) -> None:
        """Whoever holds a sandbox still does, unless this step may have ended it; and no more do than may.

        `seating`: those that had no slot yet, and may have been given one in this step.
        """
        for told in self.held():
            sandbox = stored.sandboxes.get(told.sandbox_id)
            assert sandbox is not None, f"{told.sandbox_id}: gone under {told.student}"
            if _is_held_by(sandbox, told):
                continue
            assert told.sandbox_id in may_end, f"{told.student} lost {told.sandbox_id}: it is {sandbox.state}"
            told.ended_at = sandbox.ended_at
        holders = {told.sandbox_id: told.student for told in self.held()}
        stored_holders = {s.id: s.holder for s in stored.in_state(State.ALLOCATED)}
        assert holders == stored_holders, "the store says other than what the students were told"
        self._check_quota(stored, seating, now)

    def _check_quota(self, stored: Stored, seating: set[str], now: int) -> None:
        """What is new has a slot where there is a limit, and those that have one are no more than it allows.

        A limit that was lowered keeps what there is, as does one where there was none (ADR 11).
        """
        new = [sandbox for sandbox in stored.in_state(State.ALLOCATED) if sandbox.allocated_at == now]
        most = self.rules.most
        if most is None or not new:
            return
        unseated = [sandbox.id for sandbox in new if sandbox.slot is None]
        assert not unseated, f"allocated under a limit, and without a slot: {unseated}"
        seated = sum(sandbox_id not in seating for sandbox_id in stored.slots.values())
        assert seated <= max(most, self.rules.was or 0), f"{seated} are held, and {most} may be"


def _is_held_by(sandbox: Sandbox, told: Told) -> bool:
    return sandbox.state is State.ALLOCATED and (sandbox.holder, sandbox.claim_key) == (told.student, told.key)
