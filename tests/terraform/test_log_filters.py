"""Every metric filter of logs.tf counts the lines that it is there for, as the code writes them, and no others."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from app.errors import on_broker_error
from app.metrics_page import Waiting
from app.middleware import Crashes, RequestContext
from app.readiness import Readiness
from broker.errors import StoreUnavailable
from broker.logs import JsonFormatter
from broker.masking import Masker
from broker.metrics import Metrics
from local.engine import ROOT
from tests.terraform.log_pattern import matches
from worker.alerts import Alerts

SOURCE = (ROOT / "terraform" / "logs.tf").read_text()
FILTERS: dict[str, str] = {
    name: json.loads(f'"{pattern}"')
    for name, pattern in re.findall(r'^    (\w+) = \{[^}]*?pattern\s+= "((?:[^"\\]|\\.)*)"', SOURCE, re.MULTILINE)
}
PROCESSES = {
    name: re.findall(r"\w+", listed)
    for name, listed in re.findall(r"^    (\w+) = \{[^\[]*\[([^\]]*)\]", SOURCE, re.M)
}
PACKAGES = {"api": "app", "worker": "worker"}
LOGGING = {"log", "debug", "info", "warning", "error", "exception", "critical", "_say"}


class Written(logging.Handler):
    """The lines that a process would have written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._formatter = JsonFormatter(Masker(), process="test")

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self._formatter.format(record))


@contextmanager
def written(logger: str) -> Iterator[list[str]]:
    handler, log = Written(), logging.getLogger(logger)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)  # as LOG_LEVEL is unless somebody sets it
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


async def _asked(path: str, status: int, *, crash: bool = False) -> list[str]:
    """The lines of one request, through the API's own middleware."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = type("Route", (), {"path": path})
        if crash:
            raise RuntimeError("a bug")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        return None

    app = RequestContext(Crashes(answer), metrics=Metrics(), readiness=Readiness(), waiting=Waiting())
    with written("app") as lines:
        await app({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    return lines


async def _denied() -> list[str]:
    with written("app") as lines:
        await on_broker_error(_request(), StoreUnavailable("AccessDeniedException"))
    return lines


def _request() -> Any:
    return type("Request", (), {"state": type("State", (), {})(), "scope": {"state": {}}, "headers": {}})()


async def _fired() -> list[str]:
    with written("worker") as lines:
        Alerts(Metrics(), tenant="acme").evaluate(depth=101, oldest_pending_s=0)
    return lines


def _line(event: str, **facts: Any) -> str:
    return json.dumps({"level": "info", "event": event, **facts})


async def test_a_probe_that_fails_is_counted_and_one_that_succeeds_writes_nothing():
    [failed] = await _asked("/readyz", 503)

    assert matches(FILTERS["HealthFailures"], failed)
    assert await _asked("/readyz", 200) == []


async def test_other_routes_that_fail_are_no_failed_probes():
    [line] = await _asked("/v1/allocate", 503)

    assert not matches(FILTERS["HealthFailures"], line)


async def test_a_crash_is_counted_as_one_and_as_an_error():
    crashed, request = await _asked("/v1/allocate", 500, crash=True)

    assert matches(FILTERS["Crashes"], crashed)
    assert matches(FILTERS["Errors"], crashed)
    assert not matches(FILTERS["Crashes"], request)


async def test_a_wrong_token_is_counted_as_refused():
    [refused] = await _asked("/v1/allocate", 401)
    [allowed] = await _asked("/v1/allocate", 403)

    assert matches(FILTERS["CredentialsRefused"], refused)
    assert not matches(FILTERS["CredentialsRefused"], allowed)


async def test_a_call_that_aws_denies_is_counted():
    [line] = await _denied()

    assert matches(FILTERS["AccessDenied"], line)
    assert not matches(FILTERS["AccessDenied"], _line("store unavailable", why="InternalServerError"))


async def test_an_alert_of_the_worker_is_counted_when_it_fires():
    [line] = await _fired()

    assert matches(FILTERS["AlertsFired"], line)
    assert matches(FILTERS["Errors"], line)


@pytest.mark.parametrize("metric", ["PoolCounts", "PoolAvailable"])
def test_a_count_of_the_pool_is_read_from_its_line(metric: str):
    """tests/worker/test_pool_line.py has the worker write it."""
    assert matches(FILTERS[metric], _line("pool counted", tenant="acme", available=0))
    assert not matches(FILTERS[metric], _line("job done", tenant="acme"))


def test_a_boot_is_measured_by_the_line_of_a_process_that_is_ready():
    assert matches(FILTERS["BootMs"], _line("ready", boot_ms=812))
    assert not matches(FILTERS["BootMs"], _line("draining", boot_ms=812))


@pytest.mark.parametrize(
    "event", ["boot failed", "boot failed: the store was not reached in time", "boot hung: killed"]
)
def test_a_boot_that_fails_is_counted(event: str):
    assert matches(FILTERS["BootFailures"], _line(event))
    assert not matches(FILTERS["BootFailures"], _line("ready", boot_ms=812))


@pytest.mark.parametrize("metric", sorted(FILTERS))
def test_every_event_that_a_filter_names_is_one_that_its_processes_log(metric: str):
    packages = {"broker", *(PACKAGES[process] for process in PROCESSES[metric])}
    logged = {event for package in packages for event in _events(package)}
    named = re.findall(r'\$\.event = "([^"]*)"', FILTERS[metric])
    assert not named or any(re.fullmatch(event.replace("*", ".*"), one) for event in named for one in logged)


def test_every_filter_is_read_here():
    assert len(FILTERS) == SOURCE.count("pattern   =")
    assert set(PROCESSES) == set(FILTERS)


@cache
def _events(package: str) -> frozenset[str]:
    """The literal messages that a package logs."""
    calls = (
        node
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOGGING
    )
    literals = (argument.value for call in calls for argument in call.args if isinstance(argument, ast.Constant))
    return frozenset(value for value in literals if isinstance(value, str))
