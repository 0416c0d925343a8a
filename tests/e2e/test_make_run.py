"""`make run`, as a newcomer meets it."""

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.conftest import ADMIN_TOKEN, API_TOKEN, ROOT, Running, a_run, start


async def test_the_table_says_where_everything_is_and_its_curl_line_holds_a_sandbox() -> None:
    async with a_run(BROKER_API_TOKEN="", BROKER_ADMIN_TOKEN="", SIM_SANDBOXES="12") as run:
        table = run.output
        curl = re.search(r"curl -X POST .*?student-1'", table, re.DOTALL)
        assert curl is not None
        pasted = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", curl[0]], capture_output=True, text=True, check=True
        )
        await run.line(r"POST /v1/allocate +outcome=allocated")

    assert '"sandbox_id"' in pasted.stdout
    for name in ("API", "API docs", "API metrics", "Worker metrics", "Provider (simulated)", "Store (DynamoDB)"):
        assert re.search(rf"^  {re.escape(name)} +http://127\.0\.0\.1:\d+", table, re.MULTILINE), name
    assert re.search(r"Track token +track-[0-9a-f]{32}", table)
    assert re.search(r"Admin token +admin-[0-9a-f]{32}", table)
    assert "Ctrl-C stops everything" in table


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def given() -> AsyncIterator[Running]:
    """One with tokens of ours, for the tests that follow, up to the one that ends it.

    The sweep is an hour away, so that a release itself starts the deletion (E5).
    """
    async with a_run(SIM_SANDBOXES="5", CLEANUP_INTERVAL_SEC="3600", LEADER_LEASE_SEC="1") as run:
        yield run


@pytest.mark.asyncio(loop_scope="module")
async def test_a_token_that_was_given_is_not_printed_in_the_table(given: Running) -> None:
    assert "as set in BROKER_ADMIN_TOKEN" in given.output
    assert ADMIN_TOKEN not in given.output
    assert API_TOKEN not in given.output
    assert '"Authorization: Bearer $BROKER_API_TOKEN"' in given.output


@pytest.mark.asyncio(loop_scope="module")
async def test_an_allocated_and_released_sandbox_is_deleted_at_the_provider(given: Running) -> None:
    """The main job, end to end."""
    held = (await given.allocate("student-1")).json()
    released = await given.release("student-1", held["sandbox_id"])
    await given.line(rf"deleted at the provider.*sandbox_id={held['sandbox_id']}")
    accounts = {str(a["csp_id"]): a for a in await given.provider_accounts()}
    stats = await given.stats()

    assert released.json()["status"] == "pending_deletion"
    assert accounts[held["sandbox_id"]]["deletes_done"] == 1
    assert sum(a["deletes_done"] for a in accounts.values()) == 1
    assert {name: count for name, count in stats.items() if count} == {"total": 5, "available": 4, "deleted": 1}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_that_is_killed_is_taken_over_from_and_replaced(given: Running) -> None:
    """What a newcomer tries first: kill the worker. The other one leads, and deletes what is released."""
    os.kill(await leader_of(given), signal.SIGKILL)
    await given.line(r"The worker\S* process was killed \(SIGKILL\)\. The other takes over")
    await given.line(r"leading .*fence=2")
    held = (await given.allocate("student-2")).json()
    await given.release("student-2", held["sandbox_id"])
    await given.line(rf"deleted at the provider.*sandbox_id={held['sandbox_id']}")
    workers = [pid for pid, command in given.children().items() if command.endswith("-m worker.main")]

    assert len(workers) == 2


@pytest.mark.asyncio(loop_scope="module")
async def test_a_child_that_falls_ends_the_run_with_one_sentence(given: Running) -> None:
    api = next(pid for pid, command in given.children().items() if command.endswith("-m app"))
    os.kill(api, signal.SIGKILL)
    code = await asyncio.wait_for(given.process.wait(), 30)
    await given.line(r"^make run: The api process was killed \(SIGKILL\)")

    assert code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_signal_stops_everything_and_leaves_no_child(number: signal.Signals) -> None:
    async with a_run(SIM_SANDBOXES="2", API_PROCESSES="2") as run:
        children = run.children()
        code = await run.stop(number)

    assert code == 0
    assert len(children) >= 5  # store, provider, worker, two APIs
    assert [pid for pid in children if _alive(pid)] == []
    assert "Stopped." in run.output


async def test_children_do_not_outlive_a_parent_that_is_killed() -> None:
    async with a_run(SIM_SANDBOXES="2") as run:
        children = run.children()
        run.process.kill()
        await run.process.wait()
        for _ in range(100):
            if not any(map(_alive, children)):
                break
            await asyncio.sleep(0.05)

        assert [pid for pid in children if _alive(pid)] == []


async def leader_of(run: Running) -> int:
    """The process id of the worker that leads (Linux)."""
    for pid, command in run.children().items():
        if command.endswith("-m worker"):  # what newcomers find first: each has its real process behind it
            environ = Path(f"/proc/{pid}/environ").read_bytes()  # noqa: ASYNC240  no disk is behind it
            port = re.search(rb"WORKER_PORT=(\d+)", environ)
            assert port is not None
            ready = await run.http.get(f"http://127.0.0.1:{port[1].decode()}/readyz")
            if ready.json()["status"] == "leading":
                return pid
    pytest.fail("no worker leads")


async def test_a_port_in_use_is_told_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, output = await outcome(SIM_PORT=str(port))

    assert code == 1
    assert output == f"make run: Port {port} is in use: stop what holds it, or set SIM_PORT to another.\n"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"API_PORT": "http"}, "API_PORT must be a number from 1 to 65535, not 'http'."),
        ({"API_PROCESSES": "0"}, "API_PROCESSES must be a number from 1 to 16, not '0'."),
        ({"SIM_PORT": "8123", "WORKER_PORT": "8123"}, "Two processes were given port 8123"),
        (
            {"BROKER_API_TOKEN": "short", "LOG_LEVEL": "loud", "SYNC_INTERVAL_SEC": "x"},
            "make run: LOG_LEVEL: must be DEBUG, INFO, WARNING or ERROR; BROKER_API_TOKEN: is shorter than 20 "
            "characters; SYNC_INTERVAL_SEC: must be a number\n",
        ),
        ({"BROKER_ENGINE_PYTHON": "/nowhere/python"}, "The local DynamoDB engine is not installed"),
        ({"DDB_ENDPOINT_URL": "http://127.0.0.1:1"}, "the table sandbox-broker was not created"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
async def test_what_cannot_start_is_told_in_one_sentence(changes: dict[str, str], sentence: str) -> None:
    code, output = await outcome(**changes)

    assert code == 1
    assert output.startswith("make run: ")
    assert sentence in output
    assert output.count("\n") == 1
    assert "Traceback" not in output


async def outcome(**changes: str) -> tuple[int, str]:
    process, _ = await start(**changes)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_a_store_of_ones_own_is_used_and_kept(ministack: str, table_name: str) -> None:
    """DDB_ENDPOINT_URL: the second start finds what the first one left."""
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name, "SIM_SANDBOXES": "4"}
    async with a_run(**store) as run:
        first = (await run.allocate("student-1")).json()
    async with a_run(**store) as run:
        again = await run.allocate("student-1")

    assert again.status_code == 200
    assert again.json() == first


def test_make_help_lists_the_targets() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    for target in ("run", "test", "check", "help"):
        assert f"make {target} " in listed


def test_a_missing_python_is_told_in_one_sentence(tmp_path: Path) -> None:
    for name in ("Makefile",):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "requirements").symlink_to(ROOT / "requirements")

    done = subprocess.run(["make", "run", "PYTHON="], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("make: Python 3.11 or newer is needed")


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
