"""H3, H4 with real processes: the order in which an API leaves, and a rolling restart that nobody notices."""

import asyncio
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from app.server import REFUSAL_S
from local.engine import free_port
from local.store_proxy import StoreProxy
from tests.api.process import Process, a_process, make_table
from tests.api.service import TRACK, an_api

PATIENCE_S = 60.0


def allocate(process: Process, student: str) -> httpx.Response:
    headers = TRACK | {"X-Track-ID": student}
    return httpx.post(process.url + "/v1/allocate", headers=headers, timeout=PATIENCE_S, trust_env=False)


async def test_it_leaves_in_order_and_what_is_in_flight_is_finished(proxy: StoreProxy, table_name: str) -> None:
    """One allocation is held up in the store from before SIGTERM until after the doors would have closed."""
    held_up, let_go = asyncio.Event(), asyncio.Event()

    async def hold(body: dict[str, Any]) -> None:
        if "student-slow" in str(body):
            held_up.set()
            await let_go.wait()

    async with an_api(proxy.url, table_name) as seeding:
        await seeding.fill(3)
    store = {"DDB_ENDPOINT_URL": proxy.url, "DDB_TABLE_NAME": table_name, "STORE_TIMEOUT_SEC": "30"}
    with ExitStack() as stack, proxy.before("TransactWriteItems", hold):
        process = await asyncio.to_thread(
            stack.enter_context,
            a_process(
                **store, DRAIN_NOTICE_SEC="3", REQUEST_TIMEOUT_SEC="100", GRACEFUL_SHUTDOWN_TIMEOUT_SEC="90"
            ),
        )
        slow = asyncio.create_task(asyncio.to_thread(allocate, process, "student-slow"))
        await held_up.wait()
        process.terminate()
        await asyncio.to_thread(process.wait_for_status, "/readyz", 503)
        process.terminate()  # a platform's second one changes nothing
        noticed = await asyncio.to_thread(allocate, process, "student-1")
        await asyncio.to_thread(process.wait_for_event, "draining: what is new is refused")
        refused = await asyncio.to_thread(allocate, process, "student-2")
        await asyncio.sleep(REFUSAL_S + 1)  # the doors stay open for as long as something is in flight
        refused_later = await asyncio.to_thread(allocate, process, "student-3")
        probed = await asyncio.to_thread(process.get, "/healthz")
        let_go.set()
        answer = await slow
        code = await asyncio.to_thread(process.popen.wait, PATIENCE_S)
        await asyncio.sleep(0.2)
        order = [e["event"] for e in process.events() if e["event"].startswith(("draining", "stopped"))]

    assert (noticed.status_code, noticed.headers["connection"]) == (201, "close")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "NOT_READY")
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
    assert (refused_later.status_code, probed.status_code) == (503, 200)
    assert (answer.status_code, answer.headers["connection"]) == (201, "close")
    assert code == 0
    assert order == ["draining", "draining: what is new is refused", "draining: doors closed", "stopped"]


def test_ctrl_c_in_development_has_no_notice(ministack: str, table_name: str) -> None:
    """Both ways to send it: to the supervisor alone, which hands it on, and to both as a terminal does."""
    make_table(ministack, table_name)
    for to_both in (False, True):
        with a_process(DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=table_name, DRAIN_NOTICE_SEC="25") as process:
            if to_both:
                os.killpg(process.popen.pid, signal.SIGINT)
            else:
                process.popen.send_signal(signal.SIGINT)
            assert process.popen.wait(20) == 0
            assert process.wait_for_event("draining")["notice_s"] == 0
            process.wait_for_event("stopped")


class Balancer:
    """Sends each request to the next process that was ready when last asked, a moment ago at the most."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self._turn = itertools.count()
        self._asked_at = dict.fromkeys(ports, 0.0)
        self._ready = dict.fromkeys(ports, False)
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self.answers: Counter[Any] = Counter()

    def _next(self) -> int:
        while True:
            port = self.ports[next(self._turn) % len(self.ports)]
            with self._lock:
                if time.monotonic() - self._asked_at[port] > 0.2:
                    self._ready[port] = self._is_ready(port)
                    self._asked_at[port] = time.monotonic()
                if self._ready[port]:
                    return port

    def _is_ready(self, port: int) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def load(self, student: str, *, keeps_connections: bool) -> None:
        """A student's script, again and again until told to stop; on connections it keeps, or one a request."""
        limits = httpx.Limits(max_keepalive_connections=10 if keeps_connections else 0)
        headers = TRACK | {"X-Track-ID": student}
        with httpx.Client(limits=limits, timeout=30, trust_env=False) as http:
            while not self.stopping.is_set():
                port = self._next()
                try:
                    status: Any = http.post(f"http://127.0.0.1:{port}/v1/allocate", headers=headers).status_code
                except httpx.TransportError as error:
                    status = repr(error)
                self.answers[status] += 1
                self.answers[port] += 1


@pytest.fixture
def under_load() -> Iterator[Balancer]:
    """Two places for processes, and four students who never stop asking."""
    balancer = Balancer([free_port(), free_port()])
    students = [
        threading.Thread(
            target=balancer.load, args=(f"student-{n}",), kwargs={"keeps_connections": n % 2 == 0}, daemon=True
        )
        for n in range(4)
    ]
    for student in students:
        student.start()
    yield balancer
    balancer.stopping.set()
    for student in students:
        student.join(30)


async def test_a_rolling_restart_under_load_fails_no_request(
    ministack: str, table_name: str, under_load: Balancer
) -> None:
    async with an_api(ministack, table_name) as seeding:
        await seeding.fill(4)
    await asyncio.to_thread(_restart_both, ministack, table_name, under_load)
    under_load.stopping.set()
    statuses = {what: count for what, count in under_load.answers.items() if what not in under_load.ports}

    assert set(statuses) == {200, 201}, statuses
    assert statuses[201] == 4
    assert statuses[200] > 50


def _restart_both(url: str, table_name: str, balancer: Balancer) -> None:
    """Each leaves, and is back, before the other leaves."""
    settings = {
        "DDB_ENDPOINT_URL": url, "DDB_TABLE_NAME": table_name, "DRAIN_NOTICE_SEC": "2",
        **{f"RATE_LIMIT_PER_{name}": "1000000/second" for name in ("STUDENT", "CREDENTIAL", "ADDRESS")},
    }  # fmt: skip
    with ExitStack() as stack:
        running = {port: stack.enter_context(a_process(**settings, API_PORT=str(port))) for port in balancer.ports}
        for port, before in running.items():
            before.terminate()
            assert before.popen.wait(PATIENCE_S) == 0
            served = balancer.answers[port]
            stack.enter_context(a_process(**settings, API_PORT=str(port)))
            ends_at = time.monotonic() + PATIENCE_S
            while balancer.answers[port] < served + 10:
                assert time.monotonic() < ends_at, "nobody goes to the new process"
                time.sleep(0.05)
        balancer.stopping.set()
        time.sleep(1)  # what they have asked is answered before the processes are killed
