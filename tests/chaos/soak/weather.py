"""What is done to the broker during a soak: to its processes, its provider and its store, and by its operators."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from local.store_proxy.faults import Faults as StoreFaults
from simulator.faults import Faults as ProviderFaults
from tests.api.keys import bearer
from tests.api.service import ADMIN_TOKEN
from tests.chaos.soak.courses import Course, end_a_key, new_key
from tests.chaos.soak.fleet import Fleet, Member

DELETIONS: dict[str, dict[str, Any]] = {
    "deletions answer 500": {"delete_500_rate": 0.9},
    "deletions answer HTML": {"delete_html_rate": 0.7},
    "deletions answer 429": {"delete_429_rate": 0.8, "retry_after_s": 1},
    "deletions hang, done": {"delete_hang_rate": 0.5, "hang_deletes": True},
    "deletions are reset, done": {"delete_reset_rate": 0.6, "reset_deletes": True},
    "deletions are slow": {"delete_latency_s": 1.0, "delete_latency_jitter_s": 2.0},
}
LISTINGS: dict[str, dict[str, Any]] = {
    "listing is empty": {"empty_listing": True},
    "listing is halved": {"listing_fraction": 0.5},
    "listing has duplicates": {"duplicate_entries": 2},
    "listing lags": {"listing_lag_s": 20.0},
    "listing fails": {"list_500_rate": 0.7},
    "listing hangs": {"list_hang_rate": 0.5},
    "listing is no JSON": {"list_garbage": "truncated_json"},
    "listing has broken entries": {"list_garbage": "wrong_types"},
}
STORE: dict[str, dict[str, Any]] = {
    "store throttles": {"throttle_rate": 0.2},
    "store throttles in reasons": {"throttle_in_reasons_rate": 0.2},
    "store conflicts": {"conflict_rate": 0.25},
    "store loses answers": {"lose_answer_rate": 0.15},
    "store resets": {"reset_rate": 0.15},
    "store answers 500": {"internal_error_rate": 0.15},
    "store is slow": {"latency_ms": 150, "jitter_ms": 300},
    "store indexes lag": {"index_lag_s": 2},
    "store is down": {"down": True},
}
BACK_AFTER_S = (0.2, 3.0)


@dataclass
class Weather:
    """Several fronts at once, each by its own seeded dice; `clear` ends it all, but for the other provider's."""

    fleet: Fleet
    seed: int
    courses: list[Course]
    done: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    async def rage(self) -> None:
        await asyncio.gather(
            self._front("processes", self._hit_a_process, 2, 6),
            self._front("provider", self._spoil_the_provider, 1, 5),
            self._front("store", self._spoil_the_store, 3, 8),
            self._front("operators", self._operate, 0.5, 3),
            self._front("the other provider", self._spoil_the_other_provider, 1, 6),
            self._front("keys", self._change_keys, 0.5, 3),
            self._front("limits", self._change_a_limit, 3, 9),
        )

    async def _front(
        self, name: str, strike: Callable[[random.Random], Awaitable[None]], low_s: float, high_s: float
    ) -> None:
        dice = random.Random(f"{self.seed}-{name}")
        while not self.stopping:
            await asyncio.sleep(dice.uniform(low_s, high_s))
            if not self.stopping:
                await strike(dice)

    async def clear(self) -> None:
        """Everything is well again, and the broker is open."""
        self.stopping = True
        for member in self.fleet.all():
            member.send(signal.SIGCONT)
            if member.child is None:
                await self.fleet.start(member)
        self.fleet.proxy.faults.change(_off(StoreFaults().as_json(), STORE))
        provider = ProviderFaults().shown()
        await self.fleet.simulate(
            "PATCH", "faults", _off(provider, DELETIONS | LISTINGS) | {"hidden_accounts": []}
        )
        await self.fleet.simulate("POST", "storm", {"seconds": 0, "kind": "500"})
        for member in self.fleet.all():
            await self.fleet.ready(member)
        await self._open()
        for course in self.courses:
            await self._open_pool(course)

    async def hang_the_other_provider(self, seconds: float) -> None:
        """0: it is well again."""
        storm = {"seconds": seconds, "kind": "hang", "calls": ["delete", "list"]}
        await self.fleet.simulate("POST", "storm", storm, at=self.fleet.other_simulator)

    async def _spoil_the_other_provider(self, dice: random.Random) -> None:
        """For longer than anybody would wait for it."""
        kind, seconds = dice.choice(["hang", "hang", "reset", "500"]), dice.uniform(3, 20)
        self.done[f"the other provider: {kind}"] += 1
        storm = {"seconds": seconds, "kind": kind, "calls": ["delete", "list"]}
        await self.fleet.simulate("POST", "storm", storm, at=self.fleet.other_simulator)
        await asyncio.sleep(seconds)

    async def _change_keys(self, dice: random.Random) -> None:
        course = dice.choice(self.courses)
        await new_key(course, self.order)
        if (done := await end_a_key(course, self.order, dice)) is not None:
            self.done[f"keys {done}"] += 1

    async def _change_a_limit(self, dice: random.Random) -> None:
        course, most = next(course for course in self.courses if course.limits), dice.randint(1, 5)
        course.limited(most)
        answer = await self.order("PATCH", f"/tenants/{course.name}", {"max_live": most, "reason": "soak"})
        self.done["limits changed"] += answer is not None
        course.limited(most)  # what was so until now is the former one from now on

    async def _hit_a_process(self, dice: random.Random) -> None:
        """A worker or an API is killed, told to end, or sleeps. Of the APIs one is always left."""
        fleet = self.fleet
        if dice.random() < 0.6:
            victim, kind = dice.choice(fleet.workers), "worker"
        else:
            victim, kind = dice.choice(fleet.apis), "API"
        match dice.choice(["SIGKILL", "SIGKILL", "SIGSTOP", "SIGTERM"]):
            case "SIGSTOP":
                self.done[f"{kind} paused"] += 1
                victim.send(signal.SIGSTOP)
                await asyncio.sleep(dice.uniform(0.5, 6))
                victim.send(signal.SIGCONT)
            case name:
                self.done[f"{kind} {'killed' if name == 'SIGKILL' else 'told to end'}"] += 1
                await self._replace(victim, signal.Signals[name], dice)

    async def _replace(self, member: Member, number: signal.Signals, dice: random.Random) -> None:
        code = await self.fleet.end(member, number)
        if number is signal.SIGTERM and code:
            self.fleet.fell[f"{member.name[:-1]} ended with {code} on SIGTERM"] += 1
        await asyncio.sleep(dice.uniform(*BACK_AFTER_S))
        await self.fleet.start(member)

    async def _spoil_the_provider(self, dice: random.Random) -> None:
        what = dice.choice([*DELETIONS, *LISTINGS, "storm", "accounts are hidden"])
        self.done[what] += 1
        if what == "storm":
            calls = dice.choice([["delete"], ["list"], ["delete", "list"]])
            kind = dice.choice(["500", "429", "html", "reset", "hang"])
            storm = {"seconds": dice.uniform(2, 10), "kind": kind, "calls": calls}
            await self.fleet.simulate("POST", "storm", storm)
            return
        faults = ProviderFaults().shown()
        switches = DELETIONS | LISTINGS
        changes: dict[str, Any] = dict(switches.get(what, {}))
        if what == "accounts are hidden":
            accounts = (await self.fleet.simulate("GET", "accounts"))["results"]
            changes["hidden_accounts"] = [a["csp_id"] for a in dice.sample(accounts, min(5, len(accounts)))]
        await self.fleet.simulate("PATCH", "faults", changes)
        await asyncio.sleep(dice.uniform(2, 9))
        await self.fleet.simulate("PATCH", "faults", _off(faults, switches) | {"hidden_accounts": []})

    async def _spoil_the_store(self, dice: random.Random) -> None:
        what = dice.choice(list(STORE))
        self.done[what] += 1
        self.fleet.proxy.faults.change(STORE[what])
        await asyncio.sleep(dice.uniform(1, 4 if what == "store is down" else 7))
        self.fleet.proxy.faults.change(_off(StoreFaults().as_json(), STORE))

    async def _operate(self, dice: random.Random) -> None:
        jobs: list[tuple[str, Any]] = [
            ("/sync?wait=0", {"confirm": dice.random() < 0.3}),
            ("/cleanup?wait=0", None),
            ("/bulk-delete?status=stale&wait=0", None),
            ("/bulk/retry?wait=0", {"status": "deletion_failed", "reason": "soak"}),
            ("/mode", {"mode": dice.choice(["drained", "maintenance"]), "reason": "soak"}),
        ]
        moves = [("available", "quarantine"), ("quarantined", "reinstate"), ("quarantined", "discard")]
        moves += [("allocated", "force-release"), ("deletion_failed", "retry")]
        course = dice.choice(self.courses)
        if dice.random() < 0.1:
            self.done["drained a pool"] += 1
            body = {"prefix": dice.choice(["", "lab-adventure-000"]), "state": "drained", "reason": "soak"}
            await self.order("POST", "/pools", body, course)
            await asyncio.sleep(dice.uniform(0.5, 4))
            await self._open_pool(course)
            return
        if dice.random() < 0.4:
            path, body = dice.choice(jobs)
            by = None if path == "/mode" else course
            self.done[f"ordered {path.partition('?')[0]}"] += bool(await self.order("POST", path, body, by))
            if path == "/mode":
                await asyncio.sleep(dice.uniform(0.5, 4))
                await self._open()
            return
        status, move = dice.choice(moves)
        listed = await self.order("GET", f"/sandboxes?status={status}&limit=20", None, course)
        if listed and (rows := listed["sandboxes"]):
            path = f"/sandboxes/{dice.choice(rows)['sandbox_id']}/{move}"
            self.done[f"ordered {move}"] += bool(await self.order("POST", path, {"reason": "soak"}, course))

    async def _open(self) -> None:
        while await self.order("POST", "/mode", {"mode": "open", "reason": "soak"}) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.3)

    async def _open_pool(self, course: Course) -> None:
        for prefix in ("", "lab-adventure-000"):
            body = {"prefix": prefix, "state": "open", "reason": "soak"}
            while await self.order("POST", "/pools", body, course) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.3)

    async def order(self, method: str, path: str, body: Any = None, course: Course | None = None) -> Any:
        """The answer, where any API gave one that is a success. By the installation's admin, or a tenant's own."""
        headers = bearer(course.admin if course else ADMIN_TOKEN)
        for api in self.fleet.apis:
            with suppress(httpx.HTTPError):
                answer = await self.fleet.http.request(
                    method, f"{api.url}/v1/admin{path}", headers=headers, json=body, timeout=5
                )
                if answer.is_success:
                    return answer.json()
        return None


def _off(healthy: dict[str, Any], switches: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The healthy values of everything that these switches touch."""
    healthy = healthy | {"delete_latency_s": 0.2} if "delete_latency_s" in healthy else healthy
    return {name: healthy[name] for changes in switches.values() for name in changes}
