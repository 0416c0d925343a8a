"""The process around the app: ports, proxies, signals, exit codes, log lines."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import aioboto3
import httpx
import pytest

from local.engine import free_port
from local.store_proxy import StoreProxy
from local.store_proxy.answers import Refused, error
from tests.api.process import ROOT, Process, a_process, environment, make_table, run_to_the_end
from tests.api.service import ADMIN_TOKEN, API_TOKEN, TRACK, a_table, an_api

STUDENT = TRACK | {"X-Track-ID": "student-1"}
NOBODY = "http://127.0.0.1:1"


def ended(process: Process, *, within_s: float = 20) -> int:
    code = process.popen.wait(within_s)
    time.sleep(0.1)
    return code


def test_the_port_and_host_are_as_set_and_the_exit_code_after_sigterm_is_0(
    ministack: str, table_name: str
) -> None:
    make_table(ministack, table_name)
    with a_process(DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=table_name) as process:
        assert process.get("/v1/meta").json()["configuration"]["API_PORT"] == process.port
        process.terminate()
        assert ended(process) == 0
        assert not any("Traceback" in line for line in process.lines)


def test_a_port_that_is_taken_ends_the_process_with_a_reason(ministack: str, table_name: str) -> None:
    make_table(ministack, table_name)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
        result = run_to_the_end("app", environment(API_PORT=port, **store))
    assert result.returncode not in (0, 78)
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
    assert "set API_PORT to another port" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("what", ["missing", "foreign"])
def test_a_table_that_is_not_the_brokers_ends_the_process_with_78(
    ministack: str, table_name: str, what: str
) -> None:
    if what == "foreign":
        asyncio.run(_fill_foreign(ministack, table_name))
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
    result = run_to_the_end("app", environment(API_PORT=str(free_port()), DRAIN_NOTICE_SEC="5", **store))
    assert result.returncode == 78, result.stdout + result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    (why,) = [line["why"] for line in lines if line["event"] == "this table is not the broker's"]
    assert table_name in why or "not found" in why.lower() or "non-existent" in why.lower()
    assert "Traceback" not in result.stdout + result.stderr


async def _fill_foreign(url: str, table_name: str) -> None:
    item = {"pk": {"S": "someone"}, "sk": {"S": "else"}}
    async with (
        a_table(url, table_name),
        aioboto3.Session().client("dynamodb", region_name="us-east-1", endpoint_url=url) as dynamodb,
    ):
        await dynamodb.put_item(TableName=table_name, Item=item)


async def test_a_boot_that_cannot_succeed_ends_the_process_and_says_why(
    proxy: StoreProxy, table_name: str
) -> None:
    """Here: the store takes a write of ours for malformed, which waiting does not mend."""

    async def malformed(_: object) -> None:
        raise Refused(error("ValidationException", "one or more parameter values are not valid"))

    async with a_table(proxy.url, table_name):
        proxy.before("UpdateItem", malformed)
        variables = environment(API_PORT=str(free_port()), DDB_ENDPOINT_URL=proxy.url, DDB_TABLE_NAME=table_name)
        result = await asyncio.to_thread(run_to_the_end, "app", variables)
    assert result.returncode == 1, result.stdout + result.stderr
    failed = next(line for line in map(json.loads, result.stdout.splitlines()) if line["event"] == "boot failed")
    assert "ValidationException" in failed["traceback"]


def test_sigterm_while_the_store_cannot_be_reached_ends_the_process_at_once() -> None:
    store = {"DDB_ENDPOINT_URL": NOBODY, "DDB_TABLE_NAME": "nowhere", "DRAIN_NOTICE_SEC": "20"}
    with a_process(ready=503, **store) as process:
        assert process.get("/healthz").status_code == 200
        process.terminate()
        assert ended(process, within_s=10) == 0


def test_on_sigterm_ready_turns_503_at_once_while_allocations_are_served_for_the_notice(
    ministack: str, table_name: str
) -> None:
    make_table(ministack, table_name)
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
    with a_process(**store, DRAIN_NOTICE_SEC="3") as process:
        began = time.monotonic()
        process.terminate()
        assert process.wait_for_status("/readyz", 503, within_s=2).json() == {"status": "draining"}
        assert process.get("/healthz").status_code == 200
        assert httpx.post(process.url + "/v1/allocate", headers=STUDENT, trust_env=False).status_code == 409
        assert time.monotonic() - began < 3, "the machine is too slow for this test"
        assert ended(process) == 0
        assert time.monotonic() - began >= 3
        events = [line["event"] for line in process.events()]
        assert "draining" in events
    with pytest.raises(httpx.TransportError):
        process.get("/healthz")


def test_a_second_signal_ends_the_notice(ministack: str, table_name: str) -> None:
    make_table(ministack, table_name)
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
    with a_process(**store, DRAIN_NOTICE_SEC="25") as process:
        process.terminate()
        process.wait_for_status("/readyz", 503, within_s=5)
        process.popen.send_signal(signal.SIGINT)
        assert ended(process, within_s=15) == 0


async def test_a_request_in_flight_is_answered_before_the_process_ends(proxy: StoreProxy, table_name: str) -> None:
    async with an_api(proxy.url, table_name) as seeding:
        await seeding.fill(1)
    store = {"DDB_ENDPOINT_URL": proxy.url, "DDB_TABLE_NAME": table_name}

    def allocate_over_a_sigterm() -> tuple[httpx.Response, int]:
        with a_process(**store) as process:
            proxy.faults.latency_ms = 800
            answers: list[httpx.Response] = []
            caller = threading.Thread(
                target=lambda: answers.append(
                    httpx.post(process.url + "/v1/allocate", headers=STUDENT, timeout=20, trust_env=False)
                )
            )
            caller.start()
            time.sleep(0.4)
            process.terminate()
            caller.join()
            return answers[0], ended(process)

    answer, exit_code = await asyncio.to_thread(allocate_over_a_sigterm)
    assert (answer.status_code, exit_code) == (201, 0)


def test_the_drain_ends_by_its_deadline_even_when_a_request_does_not(ministack: str, table_name: str) -> None:
    """A body that never comes is cut off: notice and drain together take GRACEFUL_SHUTDOWN_TIMEOUT_SEC."""
    make_table(ministack, table_name)
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
    times = {"GRACEFUL_SHUTDOWN_TIMEOUT_SEC": "4", "DRAIN_NOTICE_SEC": "2"}
    with (
        a_process(**store, **times) as process,
        socket.create_connection(("127.0.0.1", process.port)) as stuck,
    ):
        token = f"Authorization: Bearer {API_TOKEN}\r\n"
        stuck.sendall(
            f"POST /v1/allocate HTTP/1.1\r\nHost: x\r\n{token}Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        time.sleep(0.2)
        began = time.monotonic()
        process.terminate()
        assert ended(process, within_s=20) == 0
        assert time.monotonic() - began < 7, "4 s, and a little for the process's end"


FORWARDED = "X-Forwarded-For"


def strangers(process: Process, addresses: list[str]) -> list[int]:
    return [process.get("/v1/meta", **{FORWARDED: address}).status_code for address in addresses]


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [
        (None, [200, 429, 429]),
        ("10.0.0.0/8", [200, 429, 429]),
        ("127.0.0.1", [200, 200, 429]),
        ("10.0.0.0/8, 127.0.0.0/8", [200, 200, 429]),
    ],
)
def test_a_forwarded_address_is_believed_from_trusted_proxies_alone(
    ministack: str, table_name: str, trusted: str | None, expected: list[int]
) -> None:
    make_table(ministack, table_name)
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
    with a_process(**store, TRUSTED_PROXIES=trusted, RATE_LIMIT_PER_ADDRESS="1/hour") as process:
        # The last one claims to be yet another; the balancer appends whom it really saw.
        seen = strangers(process, ["198.51.100.1", "198.51.100.2", "192.0.2.99, 198.51.100.2"])
    assert seen == expected


@pytest.fixture
def logged(ministack: str, table_name: str) -> list[str]:
    """All that a process says over its life and some requests, good and bad."""
    make_table(ministack, table_name)
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
    with a_process(**store, LOG_LEVEL="DEBUG") as process:
        headers = STUDENT | {
            "X-Request-ID": "req-4711",
            "Idempotency-Key": "k",
            "Cookie": "session=hunter2-hunter2",
        }
        httpx.post(process.url + "/v1/allocate", headers=headers, trust_env=False)
        process.get("/v1/admin/stats", Authorization=f"Bearer {ADMIN_TOKEN}")
        process.get(f"/v1/sandboxes/{API_TOKEN}", Authorization=f"Bearer {API_TOKEN}")
        process.get("/v1/meta?token=hunter2-hunter2", Authorization="Bearer hunter2-hunter2")
        process.raw(
            f"GET /{ADMIN_TOKEN} HTTP/1.1\r\nAuthorization: Bearer {API_TOKEN}\r\nno colon\r\n\r\n".encode()
        )
        process.wait_for_event("Invalid HTTP request received.")
        process.terminate()
        ended(process)
    return process.lines


def test_every_line_of_the_process_is_json_and_none_shows_a_secret(logged: list[str]) -> None:
    assert len(logged) > 5
    for line in logged:
        event = json.loads(line)
        assert {"at", "level", "process", "event"} <= set(event)
        assert event["process"] == "api"
    text = "\n".join(logged)
    for secret in (API_TOKEN, ADMIN_TOKEN, "hunter2"):
        assert secret not in text


def test_a_requests_line_names_id_tenant_outcome_and_latency(logged: list[str]) -> None:
    lines = [json.loads(line) for line in logged]
    (line,) = [line for line in lines if line["event"] == "request" and line.get("request_id") == "req-4711"]
    assert line["tenant"] == "acme"
    assert line["outcome"] == "NO_SANDBOXES_AVAILABLE"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/allocate", 409)
    assert line["ms"] > 0
    assert line["caller"] == "bootstrap-track"
    assert line["level"] == "info"
    (ready,) = [line for line in lines if line["event"] == "ready"]
    assert ready["tenant"] == "acme"


def test_a_reader_of_the_log_that_stalls_stalls_no_request(ministack: str, table_name: str) -> None:
    """Nobody reads the pipe: it fills after 64 KB, and the process serves on."""
    make_table(ministack, table_name)
    port = free_port()
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name, "API_PORT": str(port)}
    limits = {f"RATE_LIMIT_PER_{name}": "1000000/second" for name in ("STUDENT", "CREDENTIAL", "ADDRESS")}
    command = [sys.executable, "-m", "app"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(**store, **limits), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as popen:
        process = Process(popen, port)  # type: ignore[arg-type]
        try:
            process.wait_for_status("/readyz", 200)
            with httpx.Client(base_url=process.url, trust_env=False, timeout=10) as http:
                answers = {http.get("/v1/meta").status_code for _ in range(700)}
            assert answers == {200}
        finally:
            popen.kill()
