"""What a bench stands on: engine, delayed store, API, bare route, load, each a process; and their tables."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.request import urlopen

import aioboto3
from aiobotocore.config import AioConfig

from bench import metrics_page, pool
from bench.load import Job, Outcome
from bench.surroundings import only
from broker.store.schema import create_table
from local.children import Child, Children
from local.engine import answers, free_port, ministack_command

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

START_S: Final = 60.0
KNOWN_S: Final = 30.0
"""Until API processes know of each other."""
API_TOKEN: Final = "track-0a1b2c3d4e5f60718293a4b5"
ADMIN_TOKEN: Final = "admin-0a1b2c3d4e5f60718293a4b5"
PROVIDER_TOKEN: Final = "provider-0a1b2c3d4e5f60718293"
CONNECTIONS: Final = 64
"""To the store, of each process: the broker's default, and what the bare route is given."""
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
SETTINGS: Final = {
    "BROKER_ENV": "development",
    "BROKER_TENANT": pool.TENANT,
    "BROKER_API_TOKEN": API_TOKEN,
    "BROKER_ADMIN_TOKEN": ADMIN_TOKEN,
    "API_KEY_PEPPER": "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "API_HOST": "127.0.0.1",
    "AWS_REGION": "us-east-1",
    "DRAIN_NOTICE_SEC": "0",
    "BOOT_TIMEOUT_SEC": "60",
    "STORE_CONNECTIONS": str(CONNECTIONS),
    # On, and counted for each request, and so high that they refuse nobody.
    "RATE_LIMIT_PER_STUDENT": "1000000/second",
    "RATE_LIMIT_PER_CREDENTIAL": "1000000/second",
    "RATE_LIMIT_PER_ADDRESS": "1000000/second",
    **CREDENTIALS,
}
ALLOCATE: Final = (
    "POST /v1/allocate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n"
    f"Authorization: Bearer {API_TOKEN}\r\nX-Instruqt-Sandbox-ID: {{student}}-{{n}}\r\n\r\n"
)
"""A request of the load; `{student}` is filled in by allocate_as(), `{n}` by the load."""


def allocate_as(students: str) -> str:
    """The request in which student `<students>-<n>` allocates."""
    return ALLOCATE.replace("{student}", students)


RELEASE: Final = (
    "POST /v1/sandboxes/{sandbox}/mark-for-deletion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n"
    f"Authorization: Bearer {API_TOKEN}\r\nX-Instruqt-Sandbox-ID: {{student}}\r\n\r\n"
)
"""The load fills in which sandbox and whose, from its job's `values`."""


class RigFailed(Exception):
    """A part did not start, or ended; the text is one sentence for a person."""


@dataclass(frozen=True, slots=True)
class Served:
    """A process that listens on 127.0.0.1."""

    name: str
    port: int
    child: Child
    log: Path

    @property
    def pid(self) -> int:
        return self.child.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Rig:
    """Starts parts and ends them all. What they say goes to files, as reading it would cost time."""

    def __init__(self, directory: Path, dynamodb_of: "Callable[[str], Awaitable[DynamoDBClient]]") -> None:
        self.directory = directory
        self._children = Children(lambda _, __: None)
        self._dynamodb_of = dynamodb_of
        self._numbers = count(1)
        self.engine: Served
        self.dynamodb: DynamoDBClient

    async def open(self) -> None:
        port = free_port()
        command, environment = ministack_command(port)
        self.engine = await self._serve("engine", port, command, environment, lambda: answers(port))
        self.dynamodb = await self._dynamodb_of(self.engine.url)

    async def close(self) -> None:
        await self._children.stop()

    async def _serve(
        self, name: str, port: int, command: list[str], environment: dict[str, str], ready: Callable[[], bool]
    ) -> Served:
        """Start a process and wait until it is ready.

        Raises:
            RigFailed: it ended, or was not ready in time.
        """
        log = self.directory / f"{name}-{next(self._numbers)}.log"
        with log.open("wb") as output:
            child = await self._children.start(name, command, environment, output=output)
        began = time.monotonic()
        while not await asyncio.to_thread(ready):
            late = time.monotonic() - began > START_S
            if late or child.process.returncode is not None:
                said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
                why = "was not ready in time" if late else f"ended with {child.process.returncode}"
                raise RigFailed(f"{name} {why}; it last said: {said[0]}")
            await asyncio.sleep(0.02)
        return Served(name, port, child, log)

    async def stop(self, served: Served) -> None:
        """End one part early."""
        served.child.process.terminate()
        await served.child.process.wait()
        self._children.forget(served.child)

    async def delayed(self, delay_ms: float) -> str:
        """The URL of the engine as it is from `delay_ms` away; 0: the engine itself."""
        if not delay_ms:
            return self.engine.url
        return (await self.delay_to(self.engine.port, delay_ms)).url

    async def delay_to(self, upstream_port: int, delay_ms: float) -> Served:
        """A delay proxy in front of what listens there."""
        port = free_port()
        command = [sys.executable, "-m", "bench.delay", "--upstream", str(upstream_port)]
        command += ["--port", str(port), "--ms", str(delay_ms)]
        return await self._serve(f"delay-{delay_ms:g}ms", port, command, dict(os.environ), lambda: answers(port))

    async def fixed(self) -> Served:
        """A server that gives everybody the same answer."""
        port = free_port()
        command = [sys.executable, "-m", "bench.fixed", "--port", str(port)]
        return await self._serve("fixed", port, command, dict(os.environ), lambda: answers(port))

    async def store_proxy_to(self, upstream_port: int) -> Served:
        """The store proxy of the tests, without faults, in front of what listens there."""
        port = free_port()
        command = [sys.executable, "-m", "local.store_proxy", "--port", str(port)]
        command += ["--upstream", f"http://127.0.0.1:{upstream_port}"]
        return await self._serve("store-proxy", port, command, dict(os.environ), lambda: answers(port))

    async def table(self) -> str:
        """A new table of the broker's schema, empty."""
        name = f"bench-{next(self._numbers)}"
        await create_table(self.dynamodb, pool.names(name))
        return name

    async def fill(self, table_name: str, first: int, last: int, *, shards: int) -> None:
        """Sandboxes number first..last, without `last`. The broker must have booted on the table before."""
        await pool.fill(self.dynamodb, table_name, first, last, shards=shards)

    async def api(self, table_name: str, *, store: str, shards: int, **settings: str) -> Served:
        """`python -m app` with these settings on top, ready."""
        port = free_port()
        environment = _environment(table_name, store, shards) | {"API_PORT": str(port)} | settings
        return await self._serve("api", port, [sys.executable, "-m", "app"], environment, lambda: ready(port))

    async def apis(
        self, number: int, table_name: str, *, store: str, shards: int, **settings: str
    ) -> list[Served]:
        """So many of them, which know of each other: they share the pool out among themselves.

        The first one marks the table as the broker's; then the others start.
        """

        async def one() -> Served:
            return await self.api(table_name, store=store, shards=shards, **settings)

        apis = [await one(), *await asyncio.gather(*(one() for _ in range(number - 1)))]

        def known() -> bool:
            return all(metrics_page.value(api.port, "broker_api_processes") == number for api in apis)

        await until(known, within_s=KNOWN_S)
        return apis

    async def bare(self, table_name: str, *, store: str, shards: int, first: int = 1) -> Served:
        """The bare route, ready."""
        port = free_port()
        command = [sys.executable, "-m", "bench.bare", "--port", str(port), "--endpoint", store]
        command += ["--table", table_name, "--shards", str(shards), "--first", str(first)]
        command += ["--connections", str(CONNECTIONS)]
        return await self._serve("bare", port, command, dict(os.environ), lambda: ready(port))

    async def provider(self, sandboxes: int) -> Served:
        """The simulated provider with so many accounts."""
        port = free_port()
        environment = {**os.environ, "SIM_PORT": str(port), "SIM_SANDBOXES": str(sandboxes)}
        environment["CSP_API_TOKEN"] = PROVIDER_TOKEN
        command = [sys.executable, "-m", "simulator"]
        return await self._serve("provider", port, command, environment, lambda: answers(port))

    async def worker(
        self, table_name: str, *, store: str, provider: Served, shards: int, **settings: str
    ) -> Served:
        """`python -m worker` with these settings on top, listening."""
        port = free_port()
        environment = _environment(table_name, store, shards) | {
            "CSP_BASE_URL": provider.url,
            "CSP_API_TOKEN": PROVIDER_TOKEN,
            "WORKER_HOST": "127.0.0.1",
            "WORKER_PORT": str(port),
            **settings,
        }
        command = [sys.executable, "-m", "worker"]
        return await self._serve("worker", port, command, environment, lambda: answers(port))

    async def load(self, job: Job) -> Outcome:
        """Carry out a job in a process of its own."""
        async with self.loading(job) as go:
            return await go()

    @asynccontextmanager
    async def loading(self, job: Job) -> AsyncIterator[Callable[[], Awaitable[Outcome]]]:
        """The load, connected; it begins when what is yielded is called, so that its start is not measured."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.load"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 30,
            start_new_session=True,  # Ctrl-C is this process's to hear
        )
        if process.stdin is None or process.stdout is None:
            raise RigFailed("the load has no pipes")
        stdin, stdout = process.stdin, process.stdout

        async def go() -> Outcome:
            stdin.write(b"go\n")
            line = await stdout.readline()
            if not line:
                raise RigFailed("the load ended without a result")
            return Outcome(**json.loads(line))

        try:
            stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            if await stdout.readline() != b"ready\n":
                raise RigFailed("the load could not connect")
            yield go
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _environment(table_name: str, store: str, shards: int) -> dict[str, str]:
    """Of an API or a worker: what open_rig() has left, and the settings that all of them have."""
    return {
        **os.environ,
        **SETTINGS,
        "DDB_ENDPOINT_URL": store,
        "DDB_TABLE_NAME": table_name,
        "DDB_SHARDS": str(shards),
    }


@asynccontextmanager
async def open_rig() -> AsyncIterator[Rig]:
    """An engine that runs, and what can be put on it. Meanwhile the caller's settings are out of the environment.

    Raises:
        RigFailed, EngineFailed: in one sentence, what is wrong.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(only(CREDENTIALS))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="broker-bench-")))

        async def dynamodb_of(url: str) -> "DynamoDBClient":
            session = aioboto3.Session(aws_access_key_id="local", aws_secret_access_key="local")
            config = AioConfig(parameter_validation=False, read_timeout=60)
            client = session.client("dynamodb", region_name="us-east-1", endpoint_url=url, config=config)
            return await stack.enter_async_context(client)

        rig = Rig(directory, dynamodb_of)
        try:
            await rig.open()
            yield rig
        finally:
            await rig.close()


async def until(happened: Callable[[], bool], *, within_s: float = 3600, every_s: float = 0.1) -> None:
    """Look again and again, in a thread, until it has happened.

    Raises:
        RigFailed: it has not within that time.
    """
    ends_at = time.monotonic() + within_s
    while not await asyncio.to_thread(happened):
        if time.monotonic() > ends_at:
            raise RigFailed(f"nothing happened within {within_s:.0f} s")
        await asyncio.sleep(every_s)


async def leads(worker: Served) -> Served:
    """Wait until the worker leads."""
    await until(lambda: _phase(worker.port) == "leading", within_s=START_S, every_s=0.02)
    return worker


def _phase(port: int) -> str:
    """What a worker says that it is at."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return str(json.load(answer)["status"])
    except OSError:  # not listening, or 503 while it boots
        return ""


def ready(port: int) -> bool:
    """Whether /readyz answers 200."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
