"""`python -m tests.chaos.soak`: an hour of chaos over real processes; exit code 1 where an invariant broke."""

import argparse
import asyncio
import os
import random
import re
import secrets
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from local.engine import EngineFailed
from tests.audit import items_of
from tests.chaos.invariants import Look
from tests.chaos.soak.classroom import Classroom, Violation
from tests.chaos.soak.courses import courses_of, enrol
from tests.chaos.soak.fleet import TABLE, Fleet, a_fleet
from tests.chaos.soak.inspector import Inspector
from tests.chaos.soak.weather import Weather
from tests.conftest import a_broker

SANDBOXES = 60
LOOK_EVERY_S = 15.0
TELL_EVERY_S = 5.0
LAST_EVENTS = 15
MOST_CRASHES = 3
"""Of requests and jobs, that are told in full: the invariants held all the same, but nobody foresaw them."""


@dataclass
class Soak:
    """One run: who takes part, and what is known of it at the end."""

    args: argparse.Namespace
    fleet: Fleet
    classrooms: list[Classroom]
    weather: Weather
    inspector: Inspector
    began: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)

    async def run(self, stop: asyncio.Event) -> None:
        """Raises Violation."""
        for member in self.fleet.all():
            await self.fleet.start(member)
        for member in self.fleet.all():
            await self.fleet.ready(member)
        print(f"{len(self.fleet.all())} processes are up, seed {self.args.seed}", flush=True)
        await enrol(self.weather.courses, self.fleet, self.weather.order)
        self.began = time.monotonic()
        watching = asyncio.create_task(self.inspector.watch())
        try:
            await self._with(watching, self._chaos(stop))
            if not stop.is_set():
                await self._with(watching, self._rest())
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _with(self, watching: "asyncio.Task[None]", work: Any) -> None:
        """Do the work; what the watch finds meanwhile ends it."""
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({watching, working}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _chaos(self, stop: asyncio.Event) -> None:
        parts = [self.weather.rage(), self._restock(), self._look(), self._tell()]
        rooms = self.classrooms
        parts += [rooms[n % len(rooms)].attend(n // len(rooms)) for n in range(self.args.students)]
        tasks = [asyncio.create_task(part) for part in parts]
        ending = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                {ending, *tasks}, timeout=self.args.minutes * 60, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {ending}:
                await task
                raise Violation(f"a part of the soak ended: {task}")
        finally:
            for task in (ending, *tasks):
                task.cancel()
            await asyncio.gather(ending, *tasks, return_exceptions=True)

    async def _rest(self) -> None:
        """First while one tenant's provider still answers nobody: that is nothing to the others."""
        print("chaos is over: all is well again but one provider, and the rest is cleaned up", flush=True)
        await self.weather.hang_the_other_provider(3600)
        await self.weather.clear()
        *others, last = self.classrooms
        await self.inspector.comes_to_rest(others)
        print("that provider answers again", flush=True)
        await self.weather.hang_the_other_provider(0)
        look = await self.inspector.comes_to_rest([*others, last])
        await self.inspector.check_quiet(look)
        self._count(look)

    def _count(self, look: Look) -> None:
        self.counts = Counter(sandbox.state.value for sandbox in look.sandboxes())

    async def _restock(self) -> None:
        """What is taken, the providers replace."""
        while True:
            for room in self.classrooms:
                await self._fill_up(room)
            await asyncio.sleep(1)

    async def _fill_up(self, room: Classroom) -> None:
        course, named = room.course, room.course.prefix or "lab-"
        rows = (await self.fleet.simulate("GET", "accounts", at=course.simulator))["results"]
        free = (a for a in rows if a["deleted_at"] is None and a["name"].startswith(named))
        missing = course.stock - sum(str(a["csp_id"]) not in room.records for a in free)
        if missing > 0 and not course.prefix:
            await self.fleet.simulate("POST", "accounts", {"count": missing}, at=course.simulator)
        for n in range(missing if course.prefix else 0):
            await self.fleet.simulate("POST", "accounts", {"name": f"{named}{n:04d}"}, at=course.simulator)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(max(LOOK_EVERY_S, 15 * self.inspector.took_s))
            self._count(await self.inspector.look())

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            done, minutes = self._met(), (time.monotonic() - self.began) / 60
            told = {room.course.name: len(room.records) for room in self.classrooms}
            print(
                f"{minutes:6.1f} min  told {told}  released {done['released']}  unanswered {done['had no answer']}"
                f"  blows {self.weather.done.total()}  looks {self.inspector.looks}  {dict(self.counts)}",
                flush=True,
            )

    def _met(self) -> Counter[str]:
        """What all students met."""
        return sum((room.done for room in self.classrooms), Counter[str]())

    def report(self) -> None:
        """What was done to it, and what came of it."""
        inspector = self.inspector
        led = 100 * inspector.leaders_seen / max(1, inspector.samples)
        parts: list[tuple[str, dict[str, Any]]] = [
            ("what was done to it", dict(sorted(self.weather.done.items()))),
            ("what the students met", dict(sorted(self._met().items()))),
            ("processes", dict(self.fleet.fell)),
            ("what the logs tell as errors", dict(_errors(self.fleet).most_common(12))),
            ("most memory, MB", {kind: round(mb) for kind, mb in inspector.resident_mb.items()}),
            ("sandboxes told", {room.course.name: len(room.records) for room in self.classrooms}),
            ("sandboxes at the last look", dict(self.counts)),
        ]
        for title, rows in parts:
            print(f"\n{title}")
            for name, value in rows.items():
                print(f"  {value:>8}  {name}")
        for line in [line for line in self.fleet.lines if "crashed" in line][-MOST_CRASHES:]:
            print(f"\nthis must not be: {line}")
        print(
            f"\n{(time.monotonic() - self.began) / 60:.1f} minutes, seed {self.args.seed}: {inspector.looks} looks"
            f" at all items, {inspector.samples} samples of the processes, somebody led in {led:.0f} %"
        )


def _errors(fleet: Fleet) -> Counter[str]:
    """Events at level ERROR, of the last lines that were kept."""
    found: Counter[str] = Counter()
    for line in fleet.lines:
        if re.search(r'"level": ?"(error|critical)"', line):
            event = re.search(r'"event": ?"((?:[^"\\]|\\.)*)"', line)
            found[f"{line.split()[0][:-1]}: {event.group(1) if event else line[:80]}"] += 1
        elif "Traceback" in line:
            found[f"{line.split()[0][:-1]}: a traceback"] += 1
    return found


async def _last_events(soak: Soak, violation: Violation) -> None:
    """The history of the sandbox that the violation names, as the store has it."""
    named = re.search(r"\b\d{7}\b", str(violation))
    if named is None:
        return
    look = Look.of(await items_of(soak.inspector.core))
    for tenant, stored in look.tenants.items():
        print(f"last events of {named.group()} of {tenant}, and the item:")
        for event in stored.history.get(named.group(), [])[-LAST_EVENTS:]:
            facts = ("at", "version", "before", "after", "actor", "action", "holder", "request_id", "error")
            print("  ", {name: event[name] for name in facts if event.get(name) is not None})
        print("  ", stored.sandboxes.get(named.group()))
    print("what the processes said of it:")
    for line in [line for line in soak.fleet.lines if named.group() in line][-LAST_EVENTS:]:
        print("  ", line)


async def soak(args: argparse.Namespace) -> int:
    """0: every invariant held. 1: one did not. 130: stopped by hand before the end."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        a_fleet(seed=args.seed, sandboxes=SANDBOXES, workers=args.workers, apis=args.apis) as fleet,
        a_broker(fleet.store_url, TABLE, STORE_TIMEOUT_SEC="30") as core,
    ):
        courses = courses_of(fleet)
        rooms = [Classroom(fleet, random.Random(f"{args.seed}-{course.name}"), course) for course in courses]
        rooms[0].namesakes, rooms[1].namesakes = rooms[1], rooms[0]
        running = Soak(args, fleet, rooms, Weather(fleet, args.seed, courses), Inspector(fleet, core, rooms))
        try:
            await running.run(stop)
        except Violation as violation:
            print(f"\nVIOLATED, seed {args.seed}: {violation}", flush=True)
            with suppress(Exception):
                await _last_events(running, violation)
            running.report()
            return 1
        running.report()
    if stop.is_set():
        print("stopped by hand: every look so far was fine")
        return 130
    print("every invariant held")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser("make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long the chaos lasts (60)")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(10**6), help="of all dice; not of the timing"
    )
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--apis", type=int, default=2)
    parser.add_argument("--students", type=int, default=16, help="how many at once")
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "local")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "local")
    try:
        return asyncio.run(soak(parser.parse_args()))
    except EngineFailed as error:
        sys.stderr.write(f"make soak: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
