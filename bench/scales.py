"""How fast the scales are: load generator, delay proxy, engine. What is measured with them must be slower."""

import json
import time
from dataclasses import replace
from typing import Final

from bench import bare
from bench.frame import Bench, Column, Options, Result, Table, tell
from bench.load import Job, Outcome
from bench.processes import CpuWatch
from bench.rig import Rig, Served, allocate_as, open_rig
from bench.samples import percentile

CONNECTIONS: Final = 32
BLOCK_S: Final = 4.0
DELAY_MS: Final = 5.0
SHARDS: Final = 64
TRANSACTIONS_PER_S: Final = 2_500
"""More than the engine does: so many are prepared for each second."""
CALL: Final = (
    "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-amz-json-1.0\r\n"
    "X-Amz-Target: DynamoDB_20120810.TransactWriteItems\r\n"
    "Authorization: AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, "
    "SignedHeaders=host, Signature=0\r\nContent-Length: {length}\r\n\r\n{body}"
)
"""The engine looks at no signature."""


async def run(options: Options) -> Result:
    """The load against a fixed answer, with each proxy between, and against the engine itself."""
    seconds = options.choose(BLOCK_S, 0.3)
    found = Table(
        f"The scales by themselves, closed loop, {CONNECTIONS} connections, {seconds:g} s each",
        [
            Column("what"),
            Column("requests/s"),
            Column("p50 ms", ".2f"),
            Column("p99 ms", ".2f"),
            Column("CPU ms each", ".3f"),
            Column("busy", ".0%"),
            Column("load CPU ms each", ".3f"),
            Column("load busy", ".0%"),
        ],
        notes=[
            "CPU: of what the row names. Rates that come near to these measure the scales, and not the broker."
        ],
    )
    result = Result([found])
    async with open_rig() as rig:
        fixed = await rig.fixed()
        proxies = {
            "delay proxy, 0 ms": await rig.delay_to(fixed.port, 0),
            f"delay proxy, {DELAY_MS:g} ms": await rig.delay_to(fixed.port, DELAY_MS),
            "store proxy of the tests, 0 ms": await rig.store_proxy_to(fixed.port),
        }
        job = Job(ports=[0], connections=CONNECTIONS, request=allocate_as("s"), seconds=seconds)
        for what, served in {"a fixed answer": fixed, **proxies}.items():
            await _measure(rig, what, served, job, result)
        table_name = await rig.table()
        count = round(TRANSACTIONS_PER_S * seconds)
        await rig.fill(table_name, 1, count + 1, shards=SHARDS)
        engine_job = Job(
            ports=[0],
            connections=CONNECTIONS,
            request=CALL,
            seconds=seconds,
            values=[_transaction(table_name, number) for number in range(1, count + 1)],
        )
        await _measure(rig, "engine, 3-item transactions", rig.engine, engine_job, result)
    return result


def _transaction(table_name: str, number: int) -> dict[str, str]:
    """The bare route's, as it goes over the wire."""
    now = time.time()
    allocation = bare.allocation_of(number, now=int(now))
    items = bare.transaction(table_name, allocation, f"student-{number}", shards=SHARDS, now=now)
    body = json.dumps({"TransactItems": items, "ClientRequestToken": f"bench-{number}"})
    return {"body": body, "length": str(len(body))}


async def _measure(rig: Rig, what: str, served: Served, job: Job, result: Result) -> None:
    async with rig.loading(replace(job, ports=[served.port])) as go:
        with CpuWatch(it=[served.pid]) as cpu:
            outcome = await go()
    answered = len(outcome.statuses)
    tell(f"{what}: {answered / outcome.seconds:.0f}/s")
    if wrong := answered - outcome.count(200, 201):
        result.wrong.append(f"{what}: {wrong} answers of {answered} were refusals")
    result.tables[0].add(what, *_row(outcome, answered, cpu.used_s["it"]))


def _row(outcome: Outcome, answered: int, cpu_s: float) -> tuple[float, ...]:
    ordered = sorted(outcome.latencies_s)
    return (
        answered / outcome.seconds,
        1000 * percentile(ordered, 50),
        1000 * percentile(ordered, 99),
        1000 * cpu_s / answered,
        cpu_s / outcome.seconds,
        1000 * outcome.cpu_s / answered,
        outcome.busy,
    )


BENCH = Bench(
    name="scales",
    question="How fast are load generator, proxies and engine by themselves?",
    run=run,
    takes=("seconds",),
)
