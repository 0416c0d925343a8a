"""The rates that the broker's parts must reach (row F10), each on a real store, by as many callers as the API has.

The core runs in this process: its processor time for one operation is what one core of ours could do, and the rate
that was seen is that of core and local engine together, on whatever else the machine does.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from bench import pool
from bench.core import open_core
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table, tell
from bench.processes import CpuWatch
from bench.rig import Rig, open_rig
from broker.action import Action
from broker.allocation import Wish
from broker.job import Job, JobState, Kind, Priority, Progress
from broker.logs import JsonFormatter
from broker.masking import MASK, Masker
from broker.sandbox import Sandbox
from broker.store import table
from broker.store.events import Cause
from broker.wiring import Broker

SHARDS: Final = 16
CALLERS: Final = 32
MANY: Final = 3_000
LINES: Final = 30_000
LEASE_S: Final = 600
BUSY: Final = 0.8
"""Of one core: who used more than that was the limit."""
HELD: Final = 100
JOBS: Final = 32
CAUSE: Final = Cause(actor="bootstrap-track", action=Action.QUARANTINE, request_id="0123456789abcdef")
SECRET: Final = "wJalrXUtnFEMIK7MDENGbPxRfiCYzXQ9k2Lm"


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one thing went. `goal` and the others a second; shares of one core."""

    what: str
    goal: int
    number: int
    seconds: float
    cpu_s: float
    engine_cpu_s: float
    wrong: str = ""

    @property
    def per_s(self) -> float:
        return self.number / self.seconds

    @property
    def of_one_core(self) -> float:
        """What a core could do of it that did nothing else, however fast the store answered."""
        return self.number / self.cpu_s

    @property
    def limit(self) -> str:
        """Who was busiest: where it is the engine, the rate is the engine's."""
        shares = {"our process": self.cpu_s / self.seconds, "engine": self.engine_cpu_s / self.seconds}
        busiest = max(shares, key=lambda name: shares[name])
        if shares[busiest] > BUSY:
            return busiest
        return "both, in turn" if sum(shares.values()) > BUSY else "neither: the machine was busy"

    @property
    def judged(self) -> str:
        """The goal and what became of it."""
        one_core = f"one core of ours {self.of_one_core:,.0f}/s, limit: {self.limit}"
        return f"{self.what}: {self.goal:,}/s, seen {self.per_s:,.0f}/s ({one_core})"


async def run(options: Options) -> Result:
    share = 60 if options.quick else 1
    found = Table(
        f"Rates on the local engine, {CALLERS} callers at once",
        [
            Column("what"),
            Column("goal/s"),
            Column("measured"),
            Column("seen/s"),
            Column("CPU ms each", ".3f"),
            Column("one core of ours/s"),
            Column("engine busy", ".0%"),
            Column("limited by"),
            Column("goal"),
        ],
        notes=[
            "CPU: of the broker's core for one, user and system; what follows for one core stands beside it.",
            "The goal is judged by what was seen. Where the engine is the limit, it was measured, not the broker.",
            "Masking asks no store.",
        ],
    )
    result = Result([found])
    async with open_rig() as rig:
        async for rate in _rates(rig, MANY // share, LINES // share):
            tell(f"{rate.what}: {rate.per_s:.0f}/s")
            found.add(
                rate.what, rate.goal, rate.number, rate.per_s, 1000 * rate.cpu_s / rate.number, rate.of_one_core,
                rate.engine_cpu_s / rate.seconds, rate.limit, result.judge(rate.judged, rate.per_s >= rate.goal),
            )  # fmt: skip
            if rate.wrong:
                result.wrong.append(f"{rate.what}: {rate.wrong}")
    result.plots = [_plot(found)]
    return result


async def _rates(rig: Rig, many: int, lines: int) -> AsyncIterator[Rate]:
    yield await _replays(rig, many)
    yield await _locks(rig, many)
    yield await _queue(rig, many // 3)
    yield await _progress(rig, many)
    yield await _events(rig, many)
    for what, facts in LOGGED.items():
        yield _masking(what, facts, lines)


@asynccontextmanager
async def _core(rig: Rig) -> AsyncIterator[tuple[Broker, str]]:
    table_name = await rig.table()
    async with open_core(rig.engine.url, table_name, shards=SHARDS) as broker:
        yield broker, table_name


Act = Callable[[int], Awaitable[object]]


async def _timed(rig: Rig, what: str, goal: int, number: int, act: Act) -> Rate:
    """Do it for all numbers below `number`, by so many callers at once."""
    numbers = iter(range(number))

    async def caller() -> None:
        for n in numbers:
            await act(n)

    with CpuWatch(engine=[rig.engine.pid]) as cpu:
        cpu_s, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    return Rate(what, goal, number, seconds, cpu_s, cpu.used_s["engine"])


async def _replays(rig: Rig, many: int) -> Rate:
    """Students ask again for what they hold: the same sandbox, and nothing is written."""
    async with _core(rig) as (broker, table_name):
        await rig.fill(table_name, 1, 2 * HELD + 1, shards=SHARDS)
        cause = Cause(actor=CAUSE.actor, action=Action.ALLOCATE, request_id=CAUSE.request_id)

        async def ask(n: int) -> tuple[str, bool]:
            allocation = await broker.allocator.allocate(pool.TENANT, Wish(holder=f"student-{n % HELD}"), cause)
            return allocation.sandbox_id, allocation.created

        held = [(await ask(n))[0] for n in range(HELD)]
        others = 0

        async def again(n: int) -> None:
            nonlocal others
            others += await ask(n) != (held[n % HELD], False)

        rate = await _timed(rig, "idempotency: replays of an allocation", 1_000, many, again)
        return _judged(rate, others, "were another sandbox, or a new one")


async def _locks(rig: Rig, many: int) -> Rate:
    """The lease of a deletion: taken (a transaction), then extended (an update). A second taker is refused."""
    async with _core(rig) as (broker, table_name):
        now = int(time.time())
        due = [_pending(n, now) for n in range(many // 2)]
        await pool.put(rig.dynamodb, table_name, due, shards=SHARDS)
        extended: list[Sandbox] = []

        async def take_and_extend(n: int) -> None:
            leased = due[n].lease(token=f"token-{n}", now=now, lease_s=LEASE_S)
            await broker.sandboxes.lease(due[n], leased)
            longer = leased.renew_lease(now=now + 1, lease_s=LEASE_S)
            await broker.sandboxes.touch(leased, longer)
            extended.append(longer)

        rate = await _timed(rig, "lock: a lease taken and extended, both", 500, len(due), take_and_extend)
        lost = 0
        for after in extended:
            lost += await broker.sandboxes.get(pool.TENANT, after.id) != after
        return _judged(rate, lost, "leases are not what was written")


def _pending(number: int, now: int) -> Sandbox:
    return pool.a_row(number).quarantine(reason=None, now=now).discard(reason=None, now=now)


async def _queue(rig: Rig, many: int) -> Rate:
    """A job is put into the queue with its event, and leased."""
    async with _core(rig) as (broker, _):

        async def put_and_lease(n: int) -> None:
            await broker.jobs.lease(await _enqueued(broker, n), token=f"token-{n}")

        rate = await _timed(rig, "queue: a job put and leased, both", 500, many, put_and_lease)
        running = await broker.jobs.count(pool.TENANT, JobState.RUNNING)
        return _judged(rate, abs(many - running), f"of {many} jobs are not running")


async def _enqueued(broker: Broker, number: int) -> Job:
    return await broker.jobs.enqueue(
        pool.TENANT,
        Kind.BULK_RETRY,
        params={"n": str(number)},
        priority=Priority.NORMAL,
        requested_by=CAUSE.actor,
        request_id=CAUSE.request_id,
    )


async def _progress(rig: Rig, many: int) -> Rate:
    """Beats of running jobs, each with how far the job is."""
    async with _core(rig) as (broker, _):
        leased = [await broker.jobs.lease(await _enqueued(broker, n), token=f"token-{n}") for n in range(JOBS)]
        written = [0] * JOBS

        async def beat(n: int) -> None:
            written[n % JOBS] += 1
            await broker.jobs.renew(leased[n % JOBS], Progress(done=n, total=many))

        rate = await _timed(rig, "progress: a running job's, written", 200, many, beat)
        lost = 0
        for job, beats in zip(leased, written, strict=True):
            present = await broker.jobs.get(pool.TENANT, job.id)
            lost += present is None or present.beat != beats
        return _judged(rate, lost, "jobs have another number of beats than were written")


async def _events(rig: Rig, many: int) -> Rate:
    """Events come with moves alone: each is one move of a sandbox with its event, in one transaction."""
    async with _core(rig) as (broker, table_name):
        await rig.fill(table_name, 1, many + 1, shards=SHARDS)
        now = time.time()

        async def move(n: int) -> None:
            before = pool.a_row(n + 1)
            await broker.sandboxes.move(before, before.quarantine(reason=None, now=int(now)), CAUSE, now=now)

        rate = await _timed(rig, "events: each with the move it tells", 1_000, many, move)
        there = 0
        for shard in range(SHARDS):
            partition = {":pk": {"S": table.event_partition(pool.TENANT, int(now) // 3600, shard)}}
            pages = broker.client.pages(
                KeyConditionExpression="pk = :pk", ExpressionAttributeValues=partition, Select="COUNT"
            )
            there += sum([page["Count"] async for page in pages])
        return _judged(rate, abs(many - there), f"of {many} events are missing, or too many")


LOGGED: Final[dict[str, dict[str, object]]] = {
    "masking: a request's line, nothing to hide": {
        "route": "/v1/allocate", "method": "POST", "status": 201, "ms": 12.4, "tenant": "default",
        "sandbox_id": "2009001", "holder": "student-1", "request_id": "0123456789abcdef",
    },
    "masking: a line with three secrets": {
        "headers": {"authorization": f"Bearer {SECRET}", "accept": "*/*"},
        "url": f"https://lab:{SECRET}@provider.test/v1?token={SECRET}",
        "why": f"the provider refused api_key={SECRET} of this connection",
    },
}  # fmt: skip


def _masking(what: str, facts: dict[str, object], lines: int) -> Rate:
    """Lines as the log's thread makes them: masked, and as JSON."""
    formatter = JsonFormatter(Masker([f"known-{SECRET}"]), process="api")
    record = logging.makeLogRecord({"name": "app", "msg": "request", "levelname": "INFO", **facts})
    cpu_s, began = time.process_time(), time.perf_counter()
    for _ in range(lines):
        line = formatter.format(record)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    shown = SECRET in line or (MASK in line) != (SECRET in json.dumps(facts))
    rate = Rate(what, 2_000, lines, seconds, cpu_s, 0.0)
    return _judged(rate, lines * shown, "lines show a secret, or hide what is none")


def _judged(rate: Rate, count: int, what: str) -> Rate:
    """The rate; with what the store says of it afterwards, where that is not what was asked for."""
    return replace(rate, wrong=f"{count} {what}" if count else "")


def _plot(found: Table) -> Plot:
    names = [str(row[0]).partition(":")[0] for row in found.rows]
    names[-2:] = ["masking", "masking, secrets"]

    def points(label: str, column: str) -> Series:
        return replace(found.bars(label, "what", column), x=names)

    return Plot(
        name="rates",
        title=f"Operations a second, {CALLERS} callers at once: seen here, and good for one core of ours",
        x_label="",
        y_label="operations a second",
        series=[points("seen, with the local engine", "seen/s"), points("one core of ours", "one core of ours/s")],
        goal=found.line("goal", "what", "goal/s").y,
        log_y=True,
    )


BENCH = Bench(
    name="rates", question="How many replays, locks, jobs, beats, events and masked lines a second?", run=run
)
