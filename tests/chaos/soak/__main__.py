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
from tests.chaos.invariants import Stored
from tests.chaos.soak.classroom import Classroom, Violation
from tests.chaos.soak.fleet import TABLE, Fleet, a_fleet
from tests.chaos.soak.inspector import Inspector
from tests.chaos.soak.weather import Weather
from tests.conftest import a_broker

SANDBOXES = 60
STOCK = 40
"""Sandboxes that the provider keeps ready: what is taken, it replaces."""
LOOK_EVERY_S = 15.0
TELL_EVERY_S = 5.0
LAST_EVENTS = 15


@dataclass
class Soak:
    """One run: who takes part, and what is known of it at the end."""

    args: argparse.Namespace
    fleet: Fleet
    classroom: Classroom
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
        parts += [self.classroom.attend(seat) for seat in range(self.args.students)]
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
        print("chaos is over: all is well again, and the rest is cleaned up", flush=True)
        await self.weather.clear()
        stored = await self.inspector.comes_to_rest()
        self.counts = Counter(state.value for state in stored.counts().elements())

    async def _restock(self) -> None:
        while True:
            await asyncio.sleep(1)
            accounts = await self.inspector.accounts()
            told = set(self.classroom.records)
            ready = sum(not account.gone and account.id not in told for account in accounts)
            if ready < STOCK:
                await self.fleet.simulate("POST", "accounts", {"count": STOCK - ready})

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(max(LOOK_EVERY_S, 15 * self.inspector.took_s))
            stored = await self.inspector.look()
            self.counts = Counter(state.value for state in stored.counts().elements())

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            done, minutes = self.classroom.done, (time.monotonic() - self.began) / 60
            told = len(self.classroom.records)
            print(
                f"{minutes:6.1f} min  told {told}  released {done['released']}  unanswered {done['had no answer']}"
                f"  blows {self.weather.done.total()}  looks {self.inspector.looks}  {dict(self.counts)}",
                flush=True,
            )

    def report(self) -> None:
        """What was done to it, and what came of it."""
        inspector = self.inspector
        led = 100 * inspector.leaders_seen / max(1, inspector.samples)
        parts: list[tuple[str, dict[str, Any]]] = [
            ("what was done to it", dict(sorted(self.weather.done.items()))),
            ("what the students met", dict(sorted(self.classroom.done.items()))),
            ("processes", dict(self.fleet.fell)),
            ("what the logs tell as errors", dict(_errors(self.fleet).most_common(12))),
            ("most memory, MB", {kind: round(mb) for kind, mb in inspector.resident_mb.items()}),
            ("sandboxes at the last look", dict(self.counts)),
        ]
        for title, rows in parts:
            print(f"\n{title}")
            for name, value in rows.items():
                print(f"  {value:>8}  {name}")
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
    stored = Stored.of(await items_of(soak.inspector.core))
    print(f"last events of {named.group()}, and the item:")
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
        classroom = Classroom(fleet, random.Random(f"{args.seed}-students"))
        weather = Weather(fleet, args.seed)
        running = Soak(args, fleet, classroom, weather, Inspector(fleet, core, classroom))
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
