"""What tracing costs: processor time of the API per allocation with TRACING=otlp, over that without it.

    python -m bench.tracing             # some two minutes
    python -m bench.tracing --rounds 40

Two APIs on one store, one with tracing and one without, take turns within one run: what else the machine does
hits both. Processor times, not waits. The collector takes everything and keeps nothing. Prints the medians, by
the share of requests that is recorded; `off/off` is a second process without tracing: the noise.
"""

import argparse
import asyncio
import os
import random
import secrets
import statistics
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aioboto3
import httpx

from broker.action import Action
from broker.metrics import Metrics
from broker.sandbox import Sandbox, State
from broker.settings import CoreSettings
from broker.store.client import StoreClient
from broker.store.door import SdkDoor, client_config
from broker.store.events import Cause
from broker.store.schema import claim_table, create_table
from broker.wiring import build, table_of
from local.engine import ROOT, engine, free_port

ALLOCATIONS: Final = 60
"""In one turn of one API."""
AT_ONCE: Final = 8
TOKEN: Final = f"bench-{secrets.token_hex(16)}"
KINDS: Final[dict[str, dict[str, str]]] = {
    "off": {"TRACING": "off"},
    "off/off": {"TRACING": "off"},
    "all": {"TRACING": "otlp"},
    "1 %": {
        "TRACING": "otlp",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    },
}
TICKS: Final = os.sysconf("SC_CLK_TCK")


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A collector that says yes to whatever comes."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
    except asyncio.IncompleteReadError:
        writer.close()


@asynccontextmanager
async def an_api(environment: Mapping[str, str]) -> AsyncIterator[tuple[Process, str]]:
    """A bare process, without its supervisor: its times are its own."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "app.main"),
        cwd=ROOT,
        env={**os.environ, **environment, "API_PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            for _ in range(600):
                try:
                    if (await http.get(f"{url}/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        yield process, url
    finally:
        process.terminate()
        await process.wait()


def spent_s(process: Process) -> float:
    """User and system time of a process, all of its threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def turn(process: Process, url: str, http: httpx.AsyncClient) -> float:
    """Processor time of one allocation, in ms, over a turn of them."""
    before, students = spent_s(process), iter(range(ALLOCATIONS))

    async def some() -> None:
        for _ in students:
            headers = {"Authorization": f"Bearer {TOKEN}", "X-Instruqt-Sandbox-ID": secrets.token_hex(8)}
            (await http.post(f"{url}/v1/allocate", headers=headers)).raise_for_status()

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    await asyncio.sleep(0.5)  # what was told is on its way: its cost is this turn's
    return 1000 * (spent_s(process) - before) / ALLOCATIONS


async def fill(settings: CoreSettings, count: int) -> None:
    """So many sandboxes to allocate."""
    async with aioboto3.Session().client(
        "dynamodb", region_name=settings.region, endpoint_url=settings.endpoint_url, config=client_config(settings)
    ) as dynamodb:
        table, metrics = table_of(settings), Metrics()
        await create_table(dynamodb, table)
        client = StoreClient(SdkDoor(dynamodb), table, timeout_s=10, connections=16, metrics=metrics)
        await claim_table(client, now=0)
        core = build(client, metrics, settings, lease_s=3600, max_per_holder=1)
        cause = Cause(actor="bench", action=Action.ALLOCATE, request_id="bench")
        for first in range(0, count, 50):
            rows = [
                Sandbox(
                    tenant=settings.tenant,
                    id=str(number),
                    state=State.AVAILABLE,
                    version=1,
                    name=f"lab-{number:06d}",
                    external_id=f"identity/accounts/{number}",
                    since=0,
                )
                for number in range(first, min(count, first + 50))
            ]
            await asyncio.gather(*(core.sandboxes.add(row, cause, now=0) for row in rows))


async def measure(rounds: int) -> None:
    collector = await asyncio.start_server(swallow, "127.0.0.1", 0)
    with engine("ministack") as url:
        environment = {
            "BROKER_ENV": "development",
            "BROKER_API_TOKEN": TOKEN,
            "BROKER_ADMIN_TOKEN": f"admin-{secrets.token_hex(16)}",
            "DDB_ENDPOINT_URL": url,
            "DDB_TABLE_NAME": "bench-tracing",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.sockets[0].getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "RATE_LIMIT_PER_CREDENTIAL": "1000000/second",
            "BOOT_TIMEOUT_SEC": "60",
        }
        os.environ.update({name: environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")})
        settings = CoreSettings(BROKER_ENV="development", DDB_ENDPOINT_URL=url, DDB_TABLE_NAME="bench-tracing")
        await fill(settings, (rounds + 1) * len(KINDS) * ALLOCATIONS)
        took: dict[str, list[float]] = {kind: [] for kind in KINDS}
        async with AsyncExitStack() as stack, httpx.AsyncClient(trust_env=False, timeout=30) as http:
            apis = {
                kind: await stack.enter_async_context(an_api(environment | more)) for kind, more in KINDS.items()
            }
            for number in range(rounds + 1):
                for kind in random.sample(list(KINDS), len(KINDS)):  # who comes first is no better off
                    process, address = apis[kind]
                    spent_ms = await turn(process, address, http)
                    if number:  # the first turn warms up
                        took[kind].append(spent_ms)
    print(f"{'recorded':10} {'ms an allocation':>17} {'over off':>9}")
    for kind, spent in took.items():
        ratios = [with_it / without for with_it, without in zip(spent, took["off"], strict=True)]
        print(f"{kind:10} {statistics.median(spent):17.2f} {statistics.median(ratios):9.2f}")
    collector.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m bench.tracing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="turns of each API (12)")
    asyncio.run(measure(parser.parse_args().rounds))
