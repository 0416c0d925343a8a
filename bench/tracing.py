"""What tracing costs: processor time of the API for an allocation with TRACING=otlp, over that without it.

APIs with tracing and without take turns within one run: what else the machine does meets all. A second one
without tracing shows the noise. The collector takes everything and keeps nothing.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from bench.frame import Bench, Column, Options, Plot, Result, Table, tell
from bench.lane import Block, Lane
from bench.rig import Rig, open_rig
from bench.samples import median

CONNECTIONS: Final = 8
BLOCK_S: Final = 2.0
ROUNDS: Final = 8
SETTLE_S: Final = 0.5
"""Spans are on their way a fifth of a second after their request: what that costs is the block's."""
OFF: Final = "off"
ALL: Final = "all"
KINDS: Final[dict[str, dict[str, str]]] = {
    OFF: {},
    "off, another process": {},
    ALL: {"TRACING": "otlp"},
    "1 in 100": {
        "TRACING": "otlp",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    },
}
"""The settings of an API, by which requests it records."""


class Collector:
    """Says yes to whatever comes, and counts how much that is."""

    def __init__(self) -> None:
        self.received = 0  # bytes of spans
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Collector"]:
        server = await asyncio.start_server(self._swallow, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                self.received += len(await reader.readexactly(int(length.partition(b":")[2])))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def run(options: Options) -> Result:
    seconds, rounds = options.choose(BLOCK_S, 0.2), 1 if options.quick else ROUNDS
    kinds = (OFF, ALL) if options.quick else tuple(KINDS)
    blocks: dict[str, list[Block]] = {kind: [] for kind in kinds}
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(open_rig())
        collectors = {kind: await stack.enter_async_context(Collector().running()) for kind in kinds}
        opened = await asyncio.gather(*(_lane(rig, kind, collectors[kind]) for kind in kinds))
        lanes = dict(zip(kinds, opened, strict=True))
        for lane in lanes.values():  # to be thrown away: code is loaded, the rate becomes known
            await lane.closed(seconds=seconds, connections=CONNECTIONS)
        for number in range(rounds):
            for kind in random.sample(kinds, len(kinds)):  # who comes first is no better off
                blocks[kind].append(await lanes[kind].closed(seconds=seconds, connections=CONNECTIONS))
            costs = ", ".join(f"{kind} {of[-1].cpu_ms:.2f} ms" for kind, of in blocks.items())
            tell(f"round {number + 1} of {rounds}: {costs}")
    received = {kind: collector.received for kind, collector in collectors.items()}
    found = _table(blocks, received, seconds)
    wrong = [problem for lane in lanes.values() for problem in lane.wrong] + unlike(received)
    return Result([found], [_plot(found)], wrong)


async def _lane(rig: Rig, kind: str, collector: Collector) -> Lane:
    reporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    return await Lane.of_broker(rig, KINDS[kind] | reporting, settle_s=SETTLE_S)


def unlike(received: dict[str, int]) -> list[str]:
    """Where a collector got what its API was not to send, or nothing of what it was."""
    problems = [
        f"tracing {kind}: {size} bytes of spans were sent"
        for kind, size in received.items()
        if size and not KINDS[kind]
    ]
    if not received[ALL]:
        problems.append(f"tracing {ALL}: no span was sent")
    return problems


def _table(blocks: dict[str, list[Block]], received: dict[str, int], seconds: float) -> Table:
    found = Table(
        f"Processor time of an allocation, by what is recorded (closed loop, {CONNECTIONS} connections, "
        f"{len(blocks[OFF])} x {seconds:g} s each)",
        [
            Column("recorded"),
            Column("CPU ms each", ".2f"),
            Column("lowest", ".2f", "CPU ms each, lowest"),
            Column("highest", ".2f", "CPU ms each, highest"),
            Column("over off", ".2f"),
            Column("lowest", ".2f", "over off, lowest"),
            Column("highest", ".2f", "over off, highest"),
            Column("spans sent MB", ".2f"),
        ],
        notes=["Medians over the rounds; over off: of the pairs within a round. Sending the spans is part of it."],
    )
    for kind, of in blocks.items():
        ratios = [block.cpu_ms / off.cpu_ms for block, off in zip(of, blocks[OFF], strict=True) if off.cpu_ms]
        costs = [block.cpu_ms for block in of]
        found.samples[f"{kind}: CPU ms each"] = costs
        found.add(
            kind, median(costs), min(costs), max(costs), median(ratios),
            min(ratios, default=0.0), max(ratios, default=0.0), received[kind] / 1e6,
        )  # fmt: skip
    return found


def _plot(found: Table) -> Plot:
    return Plot(
        name="tracing",
        title="Processor time of an allocation, by the share of requests that is traced (lowest, median, highest)",
        x_label="requests of which spans are recorded",
        y_label="processor time of an allocation, ms",
        series=[
            found.bars("CPU", "recorded", "CPU ms each", low="CPU ms each, lowest", high="CPU ms each, highest")
        ],
    )


BENCH = Bench(name="tracing", question="What does tracing cost for an allocation?", run=run, takes=("seconds",))
