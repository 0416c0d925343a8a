"""One route under load, block by block: its pool is filled before each, its answers are checked after."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from bench.load import Job, Outcome
from bench.processes import CpuWatch, family
from bench.rig import Rig, Served, allocate_as
from bench.samples import percentile
from bench.verdict import wrong

SHARDS: Final = 16
"""The local engine walks a whole partition of an index for each query: four long ones, as by default, would
have it measured; very many short ones are asked all at once when one is dry. DynamoDB finds a page by its key."""
GUESS_PER_S: Final = 300
"""Of the first block, by which the pools of later ones are judged."""
MARGIN: Final = 1.5
BARE: Final = "bare"
SDK: Final = "broker, STORE_DOOR=sdk"
BROKER: Final = "broker"
DOORS: Final = {SDK: "sdk", BROKER: "direct"}
"""The broker through the bare route's client, aioboto3, and through its own, as it ships (ADR 14)."""
ROUTES: Final = (BARE, SDK, BROKER)


@dataclass(slots=True)
class Block:
    """One measured stretch of load on one route."""

    outcome: Outcome
    route_cpu_s: float
    engine_cpu_s: float
    allocated: int = 0
    _ordered: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.allocated = self.outcome.count(201)
        self._ordered = sorted(self.outcome.latencies_s)

    @property
    def per_s(self) -> float:
        return self.allocated / self.outcome.seconds if self.outcome.seconds else 0.0

    @property
    def cpu_ms(self) -> float:
        """Processor time of the route's process for one allocation."""
        return 1000 * self.route_cpu_s / self.allocated if self.allocated else 0.0

    @property
    def engine_busy(self) -> float:
        """Share of a core that the engine used: near 1 the engine is measured, and not the route."""
        return self.engine_cpu_s / self.outcome.seconds if self.outcome.seconds else 0.0

    @property
    def engine_per_s(self) -> float:
        """Allocations that the engine does in a second of its processor time: no route is faster."""
        return self.allocated / self.engine_cpu_s if self.engine_cpu_s else 0.0

    def percentile_ms(self, percent: float) -> float:
        return 1000 * percentile(self._ordered, percent)


class Lane:
    """A route with a table of its own."""

    def __init__(self, rig: Rig, served: Served, table_name: str, *, settle_s: float = 0.0) -> None:
        """`settle_s`: so long after the last answer processor time still counts, for what is done behind it."""
        self._rig = rig
        self._table = table_name
        self._settle_s = settle_s
        self._filled = 0
        self._used = 0
        self._blocks = 0
        self._taken: set[str] = set()
        self._per_s = float(GUESS_PER_S)
        self.served = served
        self.wrong: list[str] = []

    @classmethod
    async def open(cls, rig: Rig, route: str, *, store: str) -> Self:
        """Start the route, one of ROUTES, on a store."""
        table_name = await rig.table()
        if route == BARE:
            served = await rig.bare(table_name, store=store, shards=SHARDS)
        else:
            served = await rig.api(table_name, store=store, shards=SHARDS, STORE_DOOR=DOORS[route])
        return cls(rig, served, table_name)

    @classmethod
    async def of_broker(cls, rig: Rig, settings: dict[str, str], *, settle_s: float) -> Self:
        """The broker with settings of its own, on the engine itself."""
        table_name = await rig.table()
        served = await rig.api(table_name, store=rig.engine.url, shards=SHARDS, **settings)
        return cls(rig, served, table_name, settle_s=settle_s)

    @property
    def working_pid(self) -> int:
        """The process that serves; the broker's is its supervisor's child."""
        return family(self.served.pid)[-1]

    async def closed(self, *, seconds: float, connections: int) -> Block:
        """Each connection asks again as soon as it was answered, for a new student each time."""
        count = connections + int(MARGIN * self._per_s * seconds)
        block = await self._run(count, replace(self._job(connections), seconds=seconds, count=count))
        self._per_s = max(self._per_s, block.per_s)
        return block

    async def open_loop(self, arrivals: Sequence[float], *, connections: int) -> Block:
        """Students come when `arrivals` says."""
        return await self._run(len(arrivals), replace(self._job(connections), arrivals=list(arrivals)))

    def _job(self, connections: int) -> Job:
        """Students of the next block: each asks for the first time."""
        self._blocks += 1
        request = allocate_as(f"student-{self.served.name}-{self._blocks}")
        return Job(ports=[self.served.port], connections=connections, request=request, keep="sandbox_id")

    async def _run(self, count: int, job: Job) -> Block:
        first, last = self._filled + 1, max(self._filled, self._used + count) + 1
        await self._rig.fill(self._table, first, last, shards=SHARDS)
        self._filled = last - 1
        async with self._rig.loading(job) as go:
            with CpuWatch(route=[self.served.pid], engine=[self._rig.engine.pid]) as cpu:
                outcome = await go()
                await asyncio.sleep(self._settle_s)
        block = Block(outcome, cpu.used_s["route"], cpu.used_s["engine"])
        self._used += block.allocated
        self.wrong += wrong(outcome, self.served.name, self._taken)
        return block
