"""How fast one process allocates, as a share of what a bare route does in the same run."""

import math
from collections.abc import Sequence

from bench.arrivals import evenly
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table, tell
from bench.lane import Block, Lane
from bench.rig import Rig, open_rig
from bench.samples import median

ROUTES = ("bare", "broker")
CONNECTIONS = 32
OPEN_CONNECTIONS = 256
DELAYS_MS = (0, 5)
SHARES = (0.5, 0.8, 1.0)
ROUNDS = 8
BLOCK_S = 3.0


async def run(options: Options) -> Result:
    """Blocks of both routes in turn (A B A B ...), so that what else the machine does meets both."""
    result = Result(tables=[_closed_table(), _ratio_table(), _open_table()])
    curves: list[Series] = []
    for delay_ms in DELAYS_MS[-1:] if options.quick else DELAYS_MS:
        async with open_rig() as rig:
            curves += await _at(rig, delay_ms, options, result)
    result.plots = [_rates_plot(result.tables[0]), _latency_plot(curves)]
    return result


async def _at(rig: Rig, delay_ms: float, options: Options, result: Result) -> list[Series]:
    """Everything with the store so far away; returns the latencies of the open loop as curves."""
    closed_table, ratio_table, open_table = result.tables
    store = await rig.delayed(delay_ms)
    lanes = {route: await Lane.open(rig, route, store=store) for route in ROUTES}
    if options.profile:
        pids = {route: lane.working_pid for route, lane in lanes.items()}
        tell(f"process ids: engine {rig.engine.pid}, {', '.join(f'{r} {pid}' for r, pid in pids.items())}")
    seconds, rounds = options.choose(BLOCK_S, 0.3), 1 if options.quick else ROUNDS
    for lane in lanes.values():  # to be thrown away: connections open, code is loaded, the rate becomes known
        await lane.closed(seconds=min(seconds, 2.0), connections=CONNECTIONS)
    blocks: dict[str, list[Block]] = {route: [] for route in ROUTES}
    for number in range(rounds):
        for route, lane in lanes.items():
            blocks[route].append(await lane.closed(seconds=seconds, connections=CONNECTIONS))
        rates = ", ".join(f"{route} {blocks[route][-1].per_s:.0f}/s" for route in ROUTES)
        tell(f"store at {delay_ms:g} ms, closed loop, round {number + 1} of {rounds}: {rates}")
    for route in ROUTES:
        _add_closed(closed_table, delay_ms, route, blocks[route])
    _add_ratio(ratio_table, delay_ms, blocks["broker"], blocks["bare"])

    bare_per_s = median([block.per_s for block in blocks["bare"]])
    curves = []
    for share in SHARES:
        arrivals = evenly(max(1, round(bare_per_s * share * seconds)), seconds)
        for route, lane in lanes.items():
            block = await lane.open_loop(arrivals, connections=OPEN_CONNECTIONS)
            _add_open(open_table, delay_ms, share, bare_per_s * share, route, block)
            if share == 0.5:
                curves.append(_curve(f"{route}, store at {delay_ms:g} ms", block))
        tell(f"store at {delay_ms:g} ms, open loop at {share:.0%} of the bare route's rate: done")
    result.wrong += [problem for lane in lanes.values() for problem in lane.wrong]
    return curves


def _closed_table() -> Table:
    return Table(
        f"Closed loop, {CONNECTIONS} connections, a new student each time (medians of the blocks)",
        [
            Column("store", ",.0f"),
            Column("route"),
            Column("allocations/s"),
            Column("p50 ms", ".1f"),
            Column("p90 ms", ".1f"),
            Column("p99 ms", ".1f"),
            Column("CPU ms each", ".2f"),
            Column("engine busy", ".0%"),
            Column("load busy", ".0%"),
        ],
        notes=["CPU: of the API's process for one allocation, user and system. busy: share of one core."],
    )


def _add_closed(table: Table, delay_ms: float, route: str, blocks: Sequence[Block]) -> None:
    table.add(
        f"{delay_ms:g} ms",
        route,
        median([block.per_s for block in blocks]),
        *(median([block.percentile_ms(percent) for block in blocks]) for percent in (50, 90, 99)),
        median([block.cpu_ms for block in blocks]),
        median([block.engine_busy for block in blocks]),
        median([block.outcome.busy for block in blocks]),
    )


def _ratio_table() -> Table:
    return Table(
        "Broker / bare route (median of the pairs of neighbouring blocks; lowest and highest pair)",
        [
            Column("store"),
            Column("allocations/s", ".2f"),
            Column("lowest", ".2f"),
            Column("highest", ".2f"),
            Column("CPU each", ".2f"),
            Column("lowest ", ".2f"),
            Column("highest ", ".2f"),
        ],
    )


def _add_ratio(table: Table, delay_ms: float, broker: Sequence[Block], bare: Sequence[Block]) -> None:
    pairs = list(zip(broker, bare, strict=True))
    rates = [_ratio(ours.per_s, theirs.per_s) for ours, theirs in pairs]
    cpus = [_ratio(ours.cpu_ms, theirs.cpu_ms) for ours, theirs in pairs]
    table.add(f"{delay_ms:g} ms", median(rates), min(rates), max(rates), median(cpus), min(cpus), max(cpus))


def _ratio(ours: float, theirs: float) -> float:
    """nan where one of them did nothing: the frame finds that out."""
    return ours / theirs if ours and theirs else math.nan


def _open_table() -> Table:
    return Table(
        "Open loop: students arrive on a schedule, latency counts from when they did",
        [
            Column("store"),
            Column("of bare's rate", ".0%"),
            Column("arrivals/s"),
            Column("route"),
            Column("served/s"),
            Column("p50 ms", ".1f"),
            Column("p90 ms", ".1f"),
            Column("p99 ms", ".1f"),
            Column("CPU ms each", ".2f"),
            Column("unsent"),
            Column("lag ms", ".1f"),
        ],
        notes=["unsent: found no connection until long after. lag: the load generator's own, at its worst."],
    )


def _add_open(table: Table, delay_ms: float, share: float, per_s: float, route: str, block: Block) -> None:
    table.add(
        f"{delay_ms:g} ms",
        share,
        per_s,
        route,
        block.per_s,
        *(block.percentile_ms(percent) for percent in (50, 90, 99)),
        block.cpu_ms,
        block.outcome.unsent,
        1000 * block.outcome.lag_s,
    )


def _rates_plot(table: Table) -> Plot:
    series = [
        Series(route, [str(r[0]) for r in rows], [float(r[2] or 0) for r in rows])
        for route in ROUTES
        if (rows := [row for row in table.rows if row[1] == route])
    ]
    return Plot(
        name="throughput",
        title=f"Allocations by one process, closed loop, {CONNECTIONS} connections",
        x_label="distance of the store",
        y_label="allocations/s",
        series=series,
    )


def _curve(label: str, block: Block) -> Series:
    one_in = [10 ** (n / 20) for n in range(61)]  # from 1 in 1 to 1 in 1,000, dense where it hurts
    return Series(label, one_in, [block.percentile_ms(100 * (1 - 1 / n)) for n in one_in])


def _latency_plot(curves: list[Series]) -> Plot:
    return Plot(
        name="latency",
        title="Latency at half of the bare route's rate, open loop",
        x_label="one request in N takes so long or longer (10: p90, 100: p99)",
        y_label="ms",
        series=curves,
        log_x=True,
        log_y=True,
    )


BENCH = Bench(
    name="throughput",
    question="How many allocations a second, next to a bare route's?",
    run=run,
    takes=("seconds", "profile"),
)
