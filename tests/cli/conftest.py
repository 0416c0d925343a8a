"""The CLI's broker: the real app with its real middleware, over HTTP, on a real store."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from fastapi import FastAPI

from cli.main import main
from local.engine import free_port
from local.store_proxy import StoreProxy
from tests.api.service import ADMIN_TOKEN, Api, an_api
from tests.cli.shell import Done, Shell
from worker.health import QuietServer


@asynccontextmanager
async def served(app: FastAPI, port: int | None = None) -> AsyncIterator[str]:
    """The app on a port of its own; yields its address. Its lifespan is run by an_api()."""
    port = port or free_port()
    server = QuietServer(uvicorn.Config(app, host="127.0.0.1", port=port, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not (server.started or serving.done()):  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def api(ministack: str, table_name: str) -> AsyncIterator[Api]:
    """The app of tenant `acme` over its own table."""
    async with an_api(ministack, table_name) as running:
        yield running


@pytest.fixture
async def shell(api: Api) -> AsyncIterator[Shell]:
    """A shell in which `api` is the broker."""
    async with served(api.app) as url:
        yield Shell(url)


@pytest.fixture
def misused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command in this process, for what ends before the API is called: there is none, that would be 3."""
    monkeypatch.setenv("BROKER_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BROKER_ADMIN_TOKEN", ADMIN_TOKEN)

    def run(*arguments: str) -> Done:
        code = main(list(arguments))
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
async def proxied(proxy: StoreProxy, table_name: str) -> AsyncIterator[Api]:
    """The app with the `proxy` between it and its store."""
    async with an_api(proxy.url, table_name) as running:
        yield running
