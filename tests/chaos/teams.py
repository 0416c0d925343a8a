"""What a team knows: its students, and the tokens that it was given, with their ends."""

import math
from dataclasses import dataclass, field

from app.key_ring import TRUST_S
from tests.chaos.students import Students, Told
from tests.chaos.world import World


@dataclass
class Pass:
    """A token, and since when it is good for nothing."""

    token: str
    role: str = "track"
    key_id: str | None = None  # None: one of the installation's own, which never ends
    ends_at: float = math.inf  # by the wall clock
    told_at: float = -math.inf  # when that was said, by the monotonic clock
    told_by: int = 0  # the API that was told: it goes by it at once

    def has_ended(self, world: World) -> bool:
        return world.clock.now >= self.ends_at

    def lets_in(self, api: int, world: World) -> bool | None:
        """Whether this API must let it in, or must not; None in the seconds in which it may know either."""
        if not self.has_ended(world):
            return True
        knows = api == self.told_by or world.monotonic() - self.told_at >= TRUST_S
        return False if knows else None

    def end(self, at: float, world: World, *, by: int) -> None:
        self.ends_at = min(self.ends_at, at)
        self.told_at, self.told_by = world.monotonic(), by


@dataclass
class Team:
    """A tenant's people."""

    name: str
    students: Students = field(default_factory=Students)
    passes: list[Pass] = field(default_factory=list)

    def a_pass(self, rank: int, world: World, role: str = "track") -> Pass:
        """Of this role: the newest that is good for rank 0, where there is one; else any, from the newest on."""
        fitting = [passed for passed in reversed(self.passes) if passed.role == role]
        good = [passed for passed in fitting if not passed.has_ended(world)]
        return good[0] if rank == 0 and good else fitting[rank % len(fitting)]

    def due(self, ended_before: int) -> list[Told]:
        """Whose time was over then."""
        return [told for told in self.students.held() if told.answer["expires_at"] <= ended_before]
