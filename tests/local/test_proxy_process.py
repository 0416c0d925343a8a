"""The proxy as a process, and its control routes."""

import asyncio
import signal
import subprocess
import sys

import aiohttp
import pytest
from proxied import REPOSITORY, an_item, code, connect, key, refusal

COMMAND = [sys.executable, "-m", "local.store_proxy"]


@pytest.fixture
async def control(proxy):
    async with aiohttp.ClientSession(proxy.url) as session:
        yield session


def run(*arguments):
    return subprocess.run(
        [*COMMAND, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def process(engine_url):
    """The proxy as a process: latency 1 ms, the next PutItem throttled, no conflicts."""
    faults = [
        "--latency-ms",
        "1",
        "--throttle-next",
        "1",
        "--throttle-ops",
        '["PutItem"]',
        "--no-real-conflicts",
    ]
    command = [*COMMAND, "--upstream", engine_url, *faults]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


async def test_the_process_serves_with_its_options_and_ends_cleanly_on_sigterm(process, engine_url, table):
    line = process.stdout.readline()
    assert line.endswith(f" -> {engine_url}\n")
    url = line.split()[3]
    async with connect(url) as client, aiohttp.ClientSession(url) as control:
        faults = await (await control.get("/_proxy/faults")).json()
        assert (faults["latency_ms"], faults["real_conflicts"]) == (1, False)
        error = await refusal(client.put_item(TableName=table, Item=an_item()))
        assert code(error) == "ProvisionedThroughputExceededException"
        await client.put_item(TableName=table, Item=an_item())
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0


def test_help_explains_every_fault_and_the_control_routes():
    shown = run("--help")
    assert shown.returncode == 0
    for text in ("--index-lag-s", "--lose-answer-next", "PATCH /_proxy/faults", "example:"):
        assert text in shown.stdout


def test_a_bad_option_is_refused_by_name():
    refused = run("--upstream", "http://127.0.0.1:1", "--throttle-rate", "2")
    assert refused.returncode == 2
    assert "throttle_rate: must be a number from 0 to 1" in refused.stderr


def test_a_port_that_is_taken_is_said_in_one_line(engine_url):
    port = engine_url.rpartition(":")[2]
    refused = run("--upstream", engine_url, "--port", port)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"store proxy: cannot listen on http://127.0.0.1:{port}: ")
    assert "Traceback" not in refused.stderr


async def test_faults_are_read_and_changed_over_http(client, control, proxy, table):
    async with control.patch(
        "/_proxy/faults", json={"internal_error_next": 1, "conflict_next": {"1": 3}}
    ) as answer:
        assert answer.status == 200
        assert (await answer.json())["conflict_next"] == {"1": 3}
    assert proxy.faults.conflict_next == {1: 3}
    assert code(await refusal(client.get_item(TableName=table, Key=key()))) == "InternalServerError"
    async with control.get("/_proxy/faults") as answer:
        assert (await answer.json())["internal_error_next"] == 0


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"latency_ms": 5, "throttle_rate": 2}', "throttle_rate: must be"),
        ('{"latency_ms": 5, "no_such": 1}', "no_such: there is no such fault"),
        ("[1]", "JSON object"),
        ("{", "JSON object"),
    ],
)
async def test_a_bad_change_is_a_400_that_names_the_field_and_changes_nothing(control, proxy, body, named):
    async with control.patch("/_proxy/faults", data=body) as answer:
        assert answer.status == 400
        assert named in (await answer.json())["error"]
    assert proxy.faults.latency_ms == 0


async def test_counts_are_read_and_reset_over_http(client, control, proxy, table):
    proxy.faults.throttle_next = 1
    await refusal(client.get_item(TableName=table, Key=key()))
    async with control.get("/_proxy/counts") as answer:
        assert await answer.json() == {
            "calls": {"GetItem": 1},
            "faults": {"throttle": 1},
            "transaction_items": 0,
        }
    async with control.post("/_proxy/counts/reset") as answer:
        assert (await answer.json())["calls"] == {}
    assert proxy.calls == []


async def test_control_answers_while_the_store_is_down_and_refuses_unknown_routes(control, proxy):
    proxy.faults.down = True
    async with control.get("/_proxy/faults") as answer:
        assert (await answer.json())["down"] is True
    async with control.get("/_proxy/nope") as answer:
        assert answer.status == 404
        assert "PATCH /_proxy/faults" in (await answer.json())["error"]
