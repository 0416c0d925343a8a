"""The tenants of a soak, and what their people hold: keys that come and go, and a limit that moves."""

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from app.key_ring import TRUST_S
from broker.tenant import origin_of
from tests.api.service import ADMIN_TOKEN, API_TOKEN
from tests.chaos.soak.fleet import OTHER_TOKEN, Fleet, Member

Order = Callable[..., Awaitable[Any]]
MOST = 3
"""What the limited one may hold at first: less than it has students."""
LIMIT_HOLDS_S = 20.0
"""For so long some process may still go by a former limit: one that was paused, with an attempt under way."""
SLACK_S = 1.0


@dataclass
class Badge:
    """A student's token."""

    token: str
    key_id: str | None = None  # None: the installation's own, which never ends
    doubted: bool = False  # its end was asked for: whether it is good is open until `ended_at`
    ended_at: float | None = None  # by the monotonic clock, as the one below

    def must_be_refused(self, asked_at: float) -> bool:
        """Whether every process knew of its end when it was asked."""
        return self.ended_at is not None and asked_at > self.ended_at + TRUST_S + SLACK_S


@dataclass
class Course:
    """One tenant."""

    name: str
    simulator: Member
    stock: int  # of sandboxes that its provider keeps ready
    prefix: str = ""
    provider: str | None = None  # as in Sandbox.provider
    admin: str = ADMIN_TOKEN
    badges: list[Badge] = field(default_factory=list)
    limits: deque[tuple[float, int]] = field(default_factory=deque)  # since when, and how many

    def badge(self, dice: random.Random) -> Badge:
        """Mostly the newest that is good; now and then one that is over."""
        over = [badge for badge in self.badges if badge.doubted]
        if over and dice.random() < 0.05:
            return dice.choice(over[-5:])
        return next(badge for badge in reversed(self.badges) if not badge.doubted)

    def limited(self, most: int) -> None:
        """From now on, or a little later, or perhaps never: the answer may be lost."""
        self.limits.append((time.monotonic(), most))

    def may_hold(self) -> int | None:
        """The largest limit that anybody may still go by; None where there is none."""
        while len(self.limits) > 1 and self.limits[1][0] < time.monotonic() - LIMIT_HOLDS_S:
            self.limits.popleft()
        return max((most for _, most in self.limits), default=None)


def courses_of(fleet: Fleet) -> list[Course]:
    """The installation's own; one on its provider, under a limit; one with a provider that often hangs."""
    other = origin_of(fleet.other_simulator.url)
    return [
        Course("acme", fleet.simulator, 40, badges=[Badge(API_TOKEN)]),
        Course("north", fleet.simulator, 15, prefix="north-"),
        Course("south", fleet.other_simulator, 25, provider=other),
    ]


async def enrol(courses: list[Course], fleet: Fleet, order: Order) -> None:
    """Make the tenants, and keys for their people."""
    _, north, south = courses
    provider = {"base_url": fleet.other_simulator.url, "secret": f"env:{OTHER_TOKEN}"}
    north.limited(MOST)
    for course, facts in (
        (north, {"prefixes": [north.prefix], "max_live": MOST}),
        (south, {"provider": provider}),
    ):
        assert await order("POST", "/tenants", facts | {"name": course.name, "reason": "soak"}), course.name
        course.admin = (await order("POST", f"/keys?tenant={course.name}", {"name": "soak", "role": "admin"}))[
            "token"
        ]
        await new_key(course, order)


async def new_key(course: Course, order: Order) -> None:
    made = await order("POST", "/keys", {"name": "soak", "role": "track"}, course)
    if made is not None:
        course.badges.append(Badge(made["token"], made["id"]))


async def end_a_key(course: Course, order: Order, dice: random.Random) -> str | None:
    """Revoke or rotate the oldest good one, where another is left; what was done."""
    good = [badge for badge in course.badges if badge.key_id and not badge.doubted]
    if len(good) < 2:
        return None
    badge, overlap_s = good[0], dice.choice([0, 3])
    badge.doubted = True
    if dice.random() < 0.5:
        if await order("POST", f"/keys/{badge.key_id}/revoke", {"reason": "soak"}, course) is not None:
            badge.ended_at = time.monotonic()
        return "revoked"
    made = await order("POST", f"/keys/{badge.key_id}/rotate", {"overlap_s": overlap_s}, course)
    if made is not None:
        badge.ended_at = time.monotonic() + overlap_s
        course.badges.append(Badge(made["token"], made["id"]))
    return "rotated"
