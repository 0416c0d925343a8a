"""A real engine behind, a real SDK in front, the proxy between."""

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from proxied import REPOSITORY, connect, table_definition

from local.store_proxy import StoreProxy

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient


_numbers = count()


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    python = Path(os.environ.get("BROKER_ENGINE_PYTHON") or REPOSITORY / ".engine/bin/python")
    assert python.exists(), f"no engine at {python}: install requirements/engine.txt into a venv at .engine"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "uvicorn", "ministack.app:app", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--no-access-log", "--log-level", "warning"],
        env=os.environ | {"SERVICES": "dynamodb"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "the engine ended at its start"
            assert time.monotonic() < deadline, "the engine did not start within 30 s"
            time.sleep(0.05)
        else:
            return


@pytest.fixture
async def engine(engine_url: str) -> "AsyncIterator[DynamoDBClient]":
    """A client that goes past the proxy."""
    async with connect(engine_url) as client:
        yield client


@pytest.fixture
async def table(engine: "DynamoDBClient") -> str:
    """A fresh table with keys pk and sk and a StatusIndex over state and name."""
    name = f"proxied-{os.getpid()}-{next(_numbers)}"
    await engine.create_table(**table_definition(name))
    return name


@pytest.fixture
async def proxy(engine_url: str) -> AsyncIterator[StoreProxy]:
    async with StoreProxy(upstream_url=engine_url, seed=1) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: StoreProxy) -> "AsyncIterator[DynamoDBClient]":
    """A client that goes through the proxy and never repeats a call."""
    async with connect(proxy.url) as client:
        yield client
