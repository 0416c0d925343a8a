"""H1, H2 in the worker's own loop: its boot ends by itself while there is time, and its limit ends with it."""

import asyncio

import httpx
import pytest

from broker import exits
from broker.boot import Boot
from broker.metrics import Metrics
from broker.sandbox import State
from local.engine import free_port
from tests.allocation.students import TENANT, allocate, release
from tests.conftest import a_broker
from tests.worker.conftest import a_provider, until, worker_settings
from worker import main

PATIENCE_S = 60.0
LONG_S = 600.0


async def test_a_boot_ends_by_itself_before_it_is_killed_however_long_it_pauses_between_two_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What ended the boot after its limit would be the supervisor: 124, with a stack, for a store that is away."""
    monkeypatch.setattr(main, "RETRY_BOOT_S", LONG_S)
    settings = worker_settings(
        DDB_ENDPOINT_URL="http://127.0.0.1:1",
        DDB_TABLE_NAME="nowhere",
        CSP_BASE_URL="http://127.0.0.1:1",
        WORKER_PORT=str(free_port()),
        BOOT_TIMEOUT_SEC="60",
    )
    boots: list[Boot] = []  # whose time is all but over once the first try has failed
    boots.append(Boot(monotonic=lambda: 59.0 if boots and boots[0].unavailable else 0.0))

    async with asyncio.timeout(PATIENCE_S):
        assert await main.run(settings, boots[0], Metrics()) == exits.UNAVAILABLE


async def test_a_worker_that_is_ready_is_under_no_limit_of_its_boot(
    ministack: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's clock jumps far over it, for every deadline that is left; then the worker still works."""
    loop, port = asyncio.get_running_loop(), free_port()
    real = loop.time
    async with a_broker(ministack, table_name) as core, a_provider() as provider, httpx.AsyncClient() as http:
        settings = worker_settings(
            DDB_ENDPOINT_URL=ministack,
            DDB_TABLE_NAME=table_name,
            CSP_BASE_URL=provider.url,
            WORKER_HOST="127.0.0.1",
            WORKER_PORT=str(port),
            BOOT_TIMEOUT_SEC="60",
            CLEANUP_POLL_SEC="0.1",
        )
        running = asyncio.create_task(main.run(settings, boot := Boot(), Metrics()))

        async def filled() -> bool:
            return running.done() or await core.sandboxes.count(TENANT, State.AVAILABLE) == 10

        async def deleted() -> bool:
            return running.done() or await core.sandboxes.count(TENANT, State.DELETED) == 1

        try:
            await until(filled, within_s=PATIENCE_S)
            assert boot.done
            monkeypatch.setattr(loop, "time", lambda: real() + LONG_S)
            held = await allocate(core, "student-1")
            await release(core, held.sandbox_id, "student-1")
            await until(deleted, within_s=PATIENCE_S)
            assert not running.done()
            assert (await http.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
        finally:
            running.cancel()
            await asyncio.wait({running})
