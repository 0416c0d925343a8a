"""H1, H2 with the real processes: a boot is timed, fails, hangs, is counted, and gets ready in the end."""

import asyncio
import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.boot import Boot
from broker.errors import WriteConflict
from broker.supervisor import FORGET_S
from broker.wiring import Broker
from local.engine import free_port
from local.store_proxy import StoreProxy
from local.store_proxy.answers import Refused, error
from tests.api.service import an_api
from tests.boot.conftest import Supervised, is_gone, supervised
from tests.builders import NOW
from tests.conftest import a_broker, settings_for

NOBODY = "http://127.0.0.1:1"
PROVIDER = {"CSP_BASE_URL": NOBODY, "CSP_API_TOKEN": "provider-token-value", "WORKER_HOST": "127.0.0.1"}


def ports() -> dict[str, str]:
    return {"API_PORT": str(free_port()), "WORKER_PORT": str(free_port())}


async def test_an_api_shows_how_long_each_phase_of_its_boot_took(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name) as api:
        shown = await api.metrics()
    phases = {name: took_s for name, took_s in shown.items() if name.startswith("broker_boot_phase_seconds")}
    assert set(phases) == {
        f'broker_boot_phase_seconds{{phase="{name}"}}' for name in ("start", "client", "table", "reads", "parts")
    }
    assert sum(phases.values()) == pytest.approx(shown["broker_boot_seconds"])
    assert shown["broker_boot_failures"] == 0


async def test_a_phase_that_comes_again_adds_up(broker: Broker) -> None:
    now = 100.0
    boot = Boot(monotonic=lambda: now)
    for name, now in (("client", 101.0), ("table", 103.0), ("client", 106.0), ("table", 110.0)):  # noqa: B007
        boot.phase(name)
    now = 115.0
    await boot.ready(settings_for(None, "any"), broker.metrics, broker.boots)
    value = broker.metrics.registry.get_sample_value
    took = {n: value("broker_boot_phase_seconds", {"phase": n}) for n in ("start", "client", "table")}
    assert took == {"start": 1, "client": 2 + 4, "table": 3 + 5}
    assert value("broker_boot_seconds") == 15


async def test_failures_in_the_store_add_up_are_forgotten_in_an_hour_and_cleared_by_a_ready_process(
    broker: Broker,
) -> None:
    boots = broker.boots
    assert await boots.failures("api", now=NOW) == 0
    assert [await boots.failed("api", now=NOW + n) for n in range(3)] == [1, 2, 3]
    assert await boots.failures("worker", now=NOW) == 0, "each kind of process has its own"
    assert await boots.failures("api", now=NOW + 2 + FORGET_S - 1) == 3
    assert await boots.failures("api", now=NOW + 2 + FORGET_S) == 0
    assert await boots.failed("api", now=NOW + 2 + FORGET_S) == 1
    with pytest.raises(WriteConflict):
        await boots.clear("api", seen=3)
    await boots.clear("api", seen=1)
    assert await boots.failures("api", now=NOW) == 0


async def test_a_failing_boot_is_counted_in_the_store_for_the_process_that_comes_after(
    proxy: StoreProxy, table_name: str
) -> None:
    """No file: each process is a new container's. The third one boots, says so, and clears the count."""

    async def malformed(_: object) -> None:
        raise Refused(error("ValidationException", "one or more parameter values are not valid"))

    def boot() -> Supervised:
        with supervised("app", **store, **ports()) as process:
            process.code()
        return process

    async with a_broker(proxy.url, table_name) as core:
        store = {"DDB_ENDPOINT_URL": proxy.url, "DDB_TABLE_NAME": table_name, "BOOT_BUDGET_MS": "1"}
        with proxy.before("BatchGetItem", malformed):
            first = await asyncio.to_thread(boot)
            second = await asyncio.to_thread(boot)
        counted = await core.boots.failures("api", now=int(time.time()))
        with supervised("app", **store, **ports()) as third:
            ready = await asyncio.to_thread(third.event, "ready")
            warned = third.event("boot is over its budget")
            async with asyncio.timeout(30):
                while await core.boots.failures("api", now=int(time.time())):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    told = [[(e["exit_code"], e["failures"], e["wait_s"]) for e in p.events if e["event"] == "boot failed"
             and "exit_code" in e] for p in (first, second)]  # fmt: skip
    assert told == [[(1, 1, 0)], [(1, 2, 2)]]
    assert counted == 2
    assert (ready["failed_before"], ready["level"], warned["level"]) == (2, "warning", "warning")
    assert {"start", "settings", "app", "client", "table", "reads", "parts"} == set(ready["phases_ms"])
    assert ready["over_budget_ms"] > 0


def test_a_store_that_stays_away_ends_the_boot_which_is_counted_in_the_file(tmp_path: Path) -> None:
    """Both processes at once, as each takes some ten seconds."""
    store = {"DDB_ENDPOINT_URL": NOBODY, "DDB_TABLE_NAME": "nowhere", "BOOT_STATE_DIR": str(tmp_path)}
    with ExitStack() as stack:
        both = [
            stack.enter_context(supervised(module, **store, **ports(), **PROVIDER, BOOT_TIMEOUT_SEC="15"))
            for module in ("app", "worker")
        ]
        codes = [process.code() for process in both]
        failed = [process.event("boot failed: the store was not reached in time") for process in both]
    assert codes == [69, 69]
    assert all("STORE_UNAVAILABLE" in event["why"] and "store-throttled.md" in event["todo"] for event in failed)
    counts = {path.name: json.loads(path.read_bytes())["failures"] for path in tmp_path.iterdir()}
    assert counts == {"boot-failures-app": 1, "boot-failures-worker": 1}


def test_a_boot_that_stands_still_is_killed_whatever_its_event_loop_does(tmp_path: Path) -> None:
    store = {"DDB_ENDPOINT_URL": NOBODY, "DDB_TABLE_NAME": "nowhere", "BOOT_STATE_DIR": str(tmp_path)}
    with supervised("app", **store, **ports(), BOOT_TIMEOUT_SEC="12") as process:
        process.event("store not reachable yet, boot waits")
        child = process.child()
        os.kill(child, signal.SIGSTOP)
        assert process.code() == 124
        assert is_gone(child)
        hung, failed = process.event("boot hung: killed"), process.event("boot failed")
    assert hung["phase"] in ("client", "table")
    assert (failed["exit_code"], failed["failures"]) == (124, 1)


def test_a_supervisor_that_is_killed_leaves_no_process_behind() -> None:
    with supervised("app", DDB_ENDPOINT_URL=NOBODY, DDB_TABLE_NAME="nowhere", **ports()) as process:
        process.event("store not reachable yet, boot waits")
        child = process.child()
        process.popen.kill()
        ends_at = time.monotonic() + 30
        while not is_gone(child):
            assert time.monotonic() < ends_at, "it goes on without anybody to stop it"
            time.sleep(0.02)


def test_a_wrong_configuration_ends_with_78_at_once_and_leaves_no_count(tmp_path: Path) -> None:
    with supervised("app", BROKER_API_TOKEN=None, BOOT_STATE_DIR=str(tmp_path)) as process:
        assert process.code() == 78
    assert list(tmp_path.iterdir()) == []
    assert process.events == []
