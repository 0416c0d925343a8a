"""I4: a real Prometheus scrapes a real API and a real worker; dashboard and alerts work on what it gets.

One installation for all of these tests: a store, a provider, a worker that leads, an API, a Prometheus.
"""

import asyncio
import functools
import io
import itertools
import os
import shlex
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field

import httpx
import pytest
import pytest_asyncio

from cli.main import main
from local.engine import free_port
from tests.api.process import Process as ApiProcess
from tests.api.process import a_process
from tests.api.service import ADMIN_TOKEN, API_TOKEN, PEPPER
from tests.cli.shell import Done
from tests.conftest import a_broker
from tests.monitoring.prometheus import Prometheus, a_prometheus, needs_prometheus
from tests.monitoring.promtool import needs_promtool, promtool
from tests.monitoring.test_alert_rules import rules
from tests.monitoring.test_dashboard import expressions, filled, panels
from tests.monitoring.test_runbooks import BOOKS, everything_to_type, reads
from tests.worker.conftest import Provider, a_provider
from tests.worker.test_process import Process as WorkerProcess
from tests.worker.test_process import a_worker_process

pytestmark = [needs_prometheus, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

FAST = {
    "LEADER_LEASE_SEC": "2",
    "SYNC_INTERVAL_SEC": "1",
    "AUTO_EXPIRY_INTERVAL_SEC": "1",
    "CLEANUP_POLL_SEC": "0.2",
}
SEEN_S = 90.0


@dataclass
class Installation:
    """What runs. The worker may be ended and started again at its address."""

    store_url: str
    table_name: str
    provider: Provider
    api: ApiProcess
    worker_port: int
    prometheus: Prometheus
    workers: AsyncExitStack = field(default_factory=AsyncExitStack)
    worker: WorkerProcess | None = None

    async def start_worker(self) -> None:
        self.worker = await self.workers.enter_async_context(
            a_worker_process(
                self.store_url, self.table_name, self.provider, WORKER_PORT=str(self.worker_port), **FAST
            )
        )
        await self.worker.event("job done", job="sync")

    async def kill_the_worker(self) -> None:
        assert self.worker is not None
        self.worker.process.kill()
        await self.worker.process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(ministack: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder, table_name, worker_port = tmp_path_factory.mktemp("prometheus"), "observed", free_port()
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(a_provider(sandboxes=400))
        await stack.enter_async_context(a_broker(ministack, table_name))
        process = a_process(DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=table_name, API_KEY_PEPPER=PEPPER)
        api = await asyncio.to_thread(process.__enter__)
        stack.push_async_callback(asyncio.to_thread, process.__exit__, None, None, None)
        targets = {"broker-api": f"127.0.0.1:{api.port}", "broker-worker": f"127.0.0.1:{worker_port}"}
        prometheus = await stack.enter_async_context(a_prometheus(folder, targets=targets))
        installation = Installation(ministack, table_name, provider, api, worker_port, prometheus)
        await stack.enter_async_context(installation.workers)
        await installation.start_worker()
        yield installation


async def until(fact: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SEEN_S):
        while not await fact():  # noqa: ASYNC110  another process has no event for us
            await asyncio.sleep(0.2)


async def a_lab(api: ApiProcess, student: str, *, ends: bool = True) -> str:
    """A student's lab, begun and ended over HTTP; the sandbox's id."""
    headers = {"Authorization": f"Bearer {API_TOKEN}", "X-Instruqt-Sandbox-ID": student}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30, trust_env=False) as http:
        held = await http.post("/v1/allocate", headers={"X-Instruqt-Track-ID": "lab-1"})
        assert held.status_code == 201, held.text
        sandbox_id = str(held.json()["sandbox_id"])
        if ends:
            ended = await http.post(f"/v1/sandboxes/{sandbox_id}/mark-for-deletion")
            assert ended.status_code == 200, ended.text
        return sandbox_id


def as_asked(title: str) -> str:
    """The first query of a panel, as Grafana sends it."""
    [panel] = [panel for panel in panels() if panel["title"] == title]
    return filled(panel["targets"][0]["expr"])


@needs_promtool
async def test_the_committed_configuration_is_valid() -> None:
    done = promtool("check", "config", "monitoring/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


async def test_both_targets_are_up_and_all_rules_are_loaded_and_evaluated(running: Installation) -> None:
    async def both_up() -> bool:
        return await running.prometheus.targets() == {"broker-api": "up", "broker-worker": "up"}

    async def evaluated() -> bool:
        groups = (await running.prometheus.api("rules"))["groups"]
        return all(rule["health"] != "unknown" for group in groups for rule in group["rules"])

    await until(both_up)
    await until(evaluated)
    loaded = [r for group in (await running.prometheus.api("rules"))["groups"] for r in group["rules"]]

    assert {rule["name"] for rule in loaded} == set(rules())
    assert {rule["name"]: rule.get("lastError") for rule in loaded if rule["health"] != "ok"} == {}


async def test_no_label_of_ours_is_renamed_by_the_scrape(running: Installation) -> None:
    async def synced() -> bool:
        return bool(await running.prometheus.query("worker_job_last_success_timestamp_seconds"))

    await until(synced)
    labels = await running.prometheus.api("labels")

    assert [label for label in labels if label.startswith("exported_")] == []


CORE = (
    "Left in the pool",
    "Allocations a second, by outcome",
    "Time of an allocation",
    "Releases, extensions, heartbeats, operations a second",
    "Time of a store call",
    "Sandboxes by state",
    "Sandboxes a second, by what a duty did",
    "Calls and errors a second",
    "Time of a duty, p99",
    "Leader",
    "Memory",
    "Processor, share of one",
    "Open files, of what it may open",
)


async def test_after_labs_the_panels_that_matter_show_them(running: Installation) -> None:
    """Labs come until all of them show something: a rate needs two scrapes around a count."""
    shown: set[str] = set()
    students = itertools.count()

    async def all_shown() -> bool:
        await a_lab(running.api, f"student-{next(students)}")
        for title in set(CORE) - shown:
            if any(value > 0 for _, value in await running.prometheus.query(as_asked(title))):
                shown.add(title)
        return shown == set(CORE)

    try:
        await until(all_shown)
    except TimeoutError:
        assert shown == set(CORE)
        raise


async def test_every_query_of_the_dashboard_is_answered(running: Installation) -> None:
    for place, expression in expressions().items():
        try:
            await running.prometheus.query(expression)
        except AssertionError as error:
            raise AssertionError(place) from error


async def test_the_numbers_of_a_process_are_told_for_both_of_them(running: Installation) -> None:
    async def told() -> bool:
        series = await running.prometheus.query(as_asked("Memory"))
        return {labels["job"] for labels, _ in series} == {"broker-api", "broker-worker"}

    await until(told)


def typed(command: str) -> Done:
    """A line as somebody types it; the CLI without the second that its start takes."""
    program, *words = shlex.split(os.path.expandvars(command))
    if program == "curl":
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
        return Done(done.returncode, done.stdout, done.stderr)
    assert program == "sandbox-broker"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(words)
    return Done(code, out.getvalue(), err.getvalue())


async def test_what_the_runbooks_look_at_can_be_looked_at_as_it_is_written(
    running: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of theirs that changes nothing; the others are parsed by test_runbooks.py."""
    monkeypatch.setenv("BROKER_URL", running.api.url)
    monkeypatch.setenv("BROKER_ADMIN_TOKEN", ADMIN_TOKEN)
    held = await a_lab(running.api, "a-student-who-stays", ends=False)
    made = await asyncio.to_thread(typed, "sandbox-broker keys create setup-scripts --role track --json")
    there_is = {
        "<id>": held,
        "<key>": made.json["id"],
        "<lab>": "lab-1",
        "<tenant>": "acme",
        "<worker>:9090": f"127.0.0.1:{running.worker_port}",
    }
    lines = sorted({line for book in BOOKS for line in everything_to_type(book) if reads(line)})
    said: dict[str, Done] = {}

    for line in lines:
        as_typed = functools.reduce(lambda words, name: words.replace(name, there_is[name]), there_is, line)
        said[line] = await asyncio.to_thread(typed, as_typed)

    assert {line: (done.out, done.err) for line, done in said.items() if done.code != 0} == {}
    assert len(lines) >= 15
    assert held in said["sandbox-broker list --track <lab> --status allocated"].out
    assert '"status":"leading"' in said["curl -sS http://<worker>:9090/readyz"].out


async def test_no_leader_fires_when_the_worker_is_killed_and_resolves_with_the_next(running: Installation) -> None:
    async def fires() -> bool:
        return "NoLeader" in await running.prometheus.firing()

    async def led() -> bool:
        return not await fires()

    async def shown() -> bool:
        rows = [labels for labels, _ in await running.prometheus.query(as_asked("Alerts that fire"))]
        return {"alertname": "NoLeader", "severity": "critical"} in rows

    await until(led)
    await running.kill_the_worker()
    await until(fires)
    await until(shown)

    await running.start_worker()
    await until(led)
