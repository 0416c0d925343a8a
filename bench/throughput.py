"""How fast one process allocates, as a share of what a bare route does in the same run."""

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from bench.arrivals import evenly
from bench.frame import Bench, Column, Options, Plot, Result, Series, Table, tell
from bench.lane import BARE, BROKER, ROUTES, SDK, Block, Lane
from bench.rig import Rig, open_rig
from bench.samples import median, percentile, tail
from bench.turns import turns

CONNECTIONS: Final = 32
OPEN_CONNECTIONS: Final = 256
DELAYS_MS: Final = (0, 5)
SHARES: Final = (0.5, 0.8)
DRAWN_SHARE: Final = 0.5
ROUNDS: Final = 8
OPEN_ROUNDS: Final = 4
BLOCK_S: Final = 3.0
RATE_GOAL: Final = 0.8
CPU_GOALS: Final = {SDK: 1.4, BROKER: 1.0}
"""Of the bare route's processor time. The first, and the rate's, were set when the broker used the bare route's
client; the second when it got its own.
"""
FULL: Final = 0.9
"""An engine that is busier than that is what is measured."""

Rounds = dict[str, list[Block]]
"""Of each route, the blocks of each round."""


async def run(options: Options) -> Result:
    """Blocks of all routes in turn, in an order drawn for each round: what else the machine does meets all."""
    rounds, open_rounds = (1, 1) if options.quick else (ROUNDS, OPEN_ROUNDS)
    result = Result(tables=[ratio_table(rounds), _closed_table(), _open_table(open_rounds)])
    curves: list[Series] = []
    for delay_ms in DELAYS_MS[-1:] if options.quick else DELAYS_MS:
        async with open_rig() as rig:
            curves += await _at(rig, delay_ms, options, result, rounds, open_rounds)
    result.plots = [ratio_plot(result.tables[0]), _latency_plot(curves)]
    return result


async def _at(
    rig: Rig, delay_ms: float, options: Options, result: Result, rounds: int, open_rounds: int
) -> list[Series]:
    """Everything with the store so far away; returns the latencies of the open loop as curves."""
    _, closed_table, open_table = result.tables
    store = await rig.delayed(delay_ms)
    opened = await asyncio.gather(*(Lane.open(rig, route, store=store) for route in ROUTES))
    lanes = dict(zip(ROUTES, opened, strict=True))
    where = f"store at {delay_ms:g} ms"
    if options.profile:
        pids = {route: lane.working_pid for route, lane in lanes.items()}
        tell(f"process ids: engine {rig.engine.pid}, {', '.join(f'{r} {pid}' for r, pid in pids.items())}")
    seconds = options.choose(BLOCK_S, 0.3)
    for lane in lanes.values():  # to be thrown away: connections open, code is loaded, the rate becomes known
        await lane.closed(seconds=min(seconds, 2.0), connections=CONNECTIONS)
    closed: Rounds = {route: [] for route in ROUTES}
    orders = turns(ROUTES, rounds)
    for number, order in enumerate(orders, 1):
        for route in order:
            closed[route].append(await lanes[route].closed(seconds=seconds, connections=CONNECTIONS))
        rates = ", ".join(f"{route} {closed[route][-1].per_s:.0f}/s" for route in order)
        tell(f"{where}, closed loop, round {number} of {len(orders)}: {rates}")
    for route in ROUTES:
        _add_closed(closed_table, delay_ms, route, closed[route])
    for route in CPU_GOALS:
        add_ratio(result, delay_ms, route, closed)

    curves = []
    bare_per_s = median([block.per_s for block in closed[BARE]])
    for share in SHARES[:1] if options.quick else SHARES:
        per_s = bare_per_s * share
        blocks = await _open_loop(lanes, per_s, seconds, open_rounds)
        for route in ROUTES:
            _add_open(open_table, delay_ms, share, per_s, route, blocks)
        if share == DRAWN_SHARE:
            curves = [_curve(f"{route}, {delay_ms:g} ms", blocks[route]) for route in ROUTES]
        tell(f"{where}, open loop at {share:.0%} of the bare route's rate: done")
    result.wrong += [problem for lane in lanes.values() for problem in lane.wrong]
    return curves


async def _open_loop(lanes: dict[str, Lane], per_s: float, seconds: float, rounds: int) -> Rounds:
    """In each round students arrive at the same moments at every route."""
    blocks: Rounds = {route: [] for route in ROUTES}
    for number, order in enumerate(turns(ROUTES, rounds, seed=2)):
        arrivals = evenly(max(1, round(per_s * seconds)), seconds, seed=number)
        for route in order:
            blocks[route].append(await lanes[route].open_loop(arrivals, connections=OPEN_CONNECTIONS))
    return blocks


def ratio_table(rounds: int) -> Table:
    return Table(
        f"Closed loop, broker / bare route ({_many(rounds)}, the routes in an order drawn for each: median of the "
        "rounds' ratios, lowest and highest)",
        [
            Column("store"),
            Column("route"),
            Column("rate ×", ".2f"),
            Column("lowest", ".2f", key="rate × lowest"),
            Column("highest", ".2f", key="rate × highest"),
            Column("goal", key="rate goal"),
            Column("CPU each ×", ".2f"),
            Column("lowest", ".2f", key="CPU each × lowest"),
            Column("highest", ".2f", key="CPU each × highest"),
            Column("goal", key="CPU goal"),
            Column("rate/s"),
            Column("engine's/s"),
            Column("engine busy", ".0%"),
        ],
        notes=[
            f"{SDK}: through aioboto3 as the bare route, so that the client is not compared. The floor (rate ≥ "
            f"{RATE_GOAL:g} ×, CPU ≤ {CPU_GOALS[SDK]:g} ×) was set for that and is judged there.",
            f"{BROKER}: as it ships, with requests of its own signing (ADR 14). The higher goal (CPU ≤ "
            f"{CPU_GOALS[BROKER]:g} ×) was set for that and is judged there.",
            "engine's/s: allocations in a second of the engine's own processor time. Where it is busy over "
            f"{FULL:.0%} the rates are the engine's, and the ratio of processor time alone compares the routes.",
        ],
    )


def add_ratio(result: Result, delay_ms: float, route: str, closed: Rounds) -> None:
    table = result.tables[0]
    ours, bare = closed[route], closed[BARE]
    rates = [_ratio(a.per_s, b.per_s) for a, b in zip(ours, bare, strict=True)]
    cpus = [_ratio(a.cpu_ms, b.cpu_ms) for a, b in zip(ours, bare, strict=True)]
    who = f"{route}, store at {delay_ms:g} ms"
    rate, cpu = median(rates), median(cpus)
    rate_said = f"≥ {RATE_GOAL:g}: "
    rate_said += result.judge(f"{who}: rate ≥ {RATE_GOAL:g} × the bare route's: {rate:.2f}", rate >= RATE_GOAL)
    limit = CPU_GOALS[route]
    cpu_said = f"≤ {limit:g}: "
    cpu_said += result.judge(f"{who}: CPU ≤ {limit:g} × the bare route's: {cpu:.2f}", cpu <= limit)
    table.add(
        f"{delay_ms:g} ms",
        route,
        rate,
        min(rates),
        max(rates),
        rate_said,
        cpu,
        min(cpus),
        max(cpus),
        cpu_said,
        median([block.per_s for block in ours]),
        median([block.engine_per_s for block in ours]),
        median([block.engine_busy for block in ours]),
    )
    table.samples |= {f"{who}: rate ×": rates, f"{who}: CPU each ×": cpus}


def _many(rounds: int) -> str:
    return "1 round" if rounds == 1 else f"{rounds} rounds"


def _ratio(ours: float, theirs: float) -> float:
    """nan where one of them did nothing: the frame finds that out."""
    return ours / theirs if ours and theirs else math.nan


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
            Column("engine's/s"),
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
        median([block.engine_per_s for block in blocks]),
        median([block.engine_busy for block in blocks]),
        median([block.outcome.busy for block in blocks]),
    )
    who = f"{route}, store at {delay_ms:g} ms"
    table.samples |= {
        f"{who}: allocations/s": [block.per_s for block in blocks],
        f"{who}: CPU ms each": [block.cpu_ms for block in blocks],
    }


def _open_table(rounds: int) -> Table:
    return Table(
        f"Open loop: students arrive on a schedule, latency counts from when they did ({_many(rounds)}, the "
        "routes in an order drawn for each)",
        [
            Column("store"),
            Column("of bare's rate", ".0%"),
            Column("arrivals/s"),
            Column("route"),
            Column("p50 ms", ".1f"),
            Column("/ bare's", ".2f", key="p50 / bare's"),
            Column("lowest", ".2f", key="p50 / bare's, lowest"),
            Column("highest", ".2f", key="p50 / bare's, highest"),
            Column("p99 ms", ".1f"),
            Column("/ bare's", ".2f", key="p99 / bare's"),
            Column("lowest", ".2f", key="p99 / bare's, lowest"),
            Column("highest", ".2f", key="p99 / bare's, highest"),
            Column("CPU ms each", ".2f"),
            Column("engine busy", ".0%"),
            Column("unsent"),
            Column("lag ms", ".1f"),
        ],
        notes=[
            "p50, p99 and their ratios to the bare route's: medians of the rounds; lowest and highest round.",
            "unsent: found no connection until long after. lag: the load generator's own, at its worst.",
        ],
    )


def _add_open(table: Table, delay_ms: float, share: float, per_s: float, route: str, rounds: Rounds) -> None:
    blocks = rounds[route]
    who = f"{route}, store at {delay_ms:g} ms, {share:.0%} of the bare route's rate"
    cells: list[float | None] = []
    for percent in (50, 99):
        latencies = [block.percentile_ms(percent) for block in blocks]
        bare = [block.percentile_ms(percent) for block in rounds[BARE]]
        ratios = [_ratio(a, b) for a, b in zip(latencies, bare, strict=True)]
        table.samples[f"{who}: p{percent} ms"] = latencies
        cells.append(median(latencies))
        cells += [None] * 3 if route == BARE else [median(ratios), min(ratios), max(ratios)]
    table.add(
        f"{delay_ms:g} ms",
        share,
        per_s,
        route,
        *cells,
        median([block.cpu_ms for block in blocks]),
        median([block.engine_busy for block in blocks]),
        sum(block.outcome.unsent for block in blocks),
        1000 * max(block.outcome.lag_s for block in blocks),
    )


def ratio_plot(table: Table) -> Plot:
    """For each route its rate and its processor time, each with the goal that is judged there."""
    kinds = [(route, kind) for kind in ("rate", "CPU each") for route in CPU_GOALS]
    rows = [dict(zip((column.name for column in table.columns), row, strict=True)) for row in table.rows]
    series = []
    for store in dict.fromkeys(str(row["store"]) for row in rows):
        its = {str(row["route"]): row for row in rows if row["store"] == store}
        low, found, high = (
            [float(its[route][f"{kind} ×{which}"] or 0) for route, kind in kinds]
            for which in (" lowest", "", " highest")
        )
        names = [f"{kind}\n{route}" for route, kind in kinds]
        series.append(Series(f"store at {store}", names, found, (low, high)))
    return Plot(
        name="throughput",
        title=f"Broker / bare route, one process each, closed loop, {CONNECTIONS} connections",
        x_label="rate: higher is better; CPU: lower is better",
        y_label="ratio (median, lowest and highest round)",
        series=series,
        goal=[RATE_GOAL if kind == "rate" else CPU_GOALS[route] for route, kind in kinds],
        goal_label="goal (rate: at least, CPU: at most)",
    )


def _curve(label: str, blocks: Sequence[Block]) -> Series:
    """Of all rounds together, as far as their number goes."""
    ordered = sorted(latency_s for block in blocks for latency_s in block.outcome.latencies_s)
    one_in = tail(len(ordered))
    return Series(label, one_in, [1000 * percentile(ordered, 100 * (1 - 1 / n)) for n in one_in])


def _latency_plot(curves: list[Series]) -> Plot:
    return Plot(
        name="latency",
        title=f"Latency at {DRAWN_SHARE:.0%} of the bare route's rate, open loop, by distance of the store",
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
