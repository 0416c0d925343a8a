"""The real app over a real table, and the ways in which tests talk to it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from app.main import create_app
from broker.settings import ApiSettings, CoreSettings
from broker.store.door import client_config
from broker.store.schema import create_table
from broker.wiring import Broker, table_of
from local.store_proxy import StoreProxy
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import aws_session, settings_for

API_TOKEN = "track-8f14e45fceea167a5a36dedd4bea2543"
ADMIN_TOKEN = "admin-c9f0f895fb98ab9159f51fd0297e236d"
PEPPER = "3f8a1c97d2e64b05a9c17e60f4b28d53"
TRACK = {"Authorization": f"Bearer {API_TOKEN}"}
ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}

BOOT_S = 20.0


def api_settings(url: str, table_name: str, **changes: Any) -> ApiSettings:
    """Limits are out of the way unless a test sets them."""
    values: dict[str, Any] = {
        "BROKER_ENV": "development",
        "BROKER_TENANT": "acme",
        "BROKER_API_TOKEN": API_TOKEN,
        "BROKER_ADMIN_TOKEN": ADMIN_TOKEN,
        "API_KEY_PEPPER": PEPPER,
        "DDB_ENDPOINT_URL": url,
        "DDB_TABLE_NAME": table_name,
        "RATE_LIMIT_PER_STUDENT": "1000000/second",
        "RATE_LIMIT_PER_CREDENTIAL": "1000000/second",
        "RATE_LIMIT_PER_ADDRESS": "1000000/second",
    }
    return ApiSettings(**(values | changes))


@dataclass(frozen=True)
class Api:
    """A booted app and a client of it."""

    app: FastAPI
    http: httpx.AsyncClient

    @property
    def core(self) -> Broker:
        core: Broker = self.app.state.parts.broker
        return core

    async def fill(self, count: int = 1, *, first: int = 1, **changes: Any) -> None:
        """Add sandboxes number `first` and up."""
        numbers = range(first, first + count)
        tenant = {"tenant": self.app.state.settings.tenant}
        sandboxes = [a_sandbox(number=n, **(tenant | changes)) for n in numbers]
        await asyncio.gather(*(self.core.sandboxes.add(s, TEST_CAUSE, now=NOW) for s in sandboxes))

    async def allocate(self, student: str = "student-1", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = TRACK | {"X-Instruqt-Sandbox-ID": student} | named
        return await self.http.post("/v1/allocate", headers=sent)

    async def release(self, sandbox_id: str, student: str = "student-1", **body: Any) -> httpx.Response:
        return await self._as_holder("mark-for-deletion", sandbox_id, student, body or None)

    async def extend(
        self, sandbox_id: str, generation: Any, for_s: Any, student: str = "student-1"
    ) -> httpx.Response:
        return await self._as_holder("extend", sandbox_id, student, {"generation": generation, "for_s": for_s})

    async def heartbeat(self, sandbox_id: str, generation: Any, student: str = "student-1") -> httpx.Response:
        return await self._as_holder("heartbeat", sandbox_id, student, {"generation": generation})

    async def _as_holder(self, what: str, sandbox_id: str, student: str, body: Any) -> httpx.Response:
        sent = TRACK | {"X-Instruqt-Sandbox-ID": student}
        return await self.http.post(f"/v1/sandboxes/{sandbox_id}/{what}", headers=sent, json=body)

    async def view(self, sandbox_id: str, student: str = "student-1") -> httpx.Response:
        sent = TRACK | {"X-Instruqt-Sandbox-ID": student}
        return await self.http.get(f"/v1/sandboxes/{sandbox_id}", headers=sent)

    async def admin(self, path: str, **query: Any) -> httpx.Response:
        return await self.http.get(f"/v1/admin{path}", headers=ADMIN, params=query)

    async def operate(self, operation: str, sandbox_id: str, reason: str = "looked at by hand") -> httpx.Response:
        """An operator moves one sandbox."""
        path = f"/v1/admin/sandboxes/{sandbox_id}/{operation}"
        return await self.http.post(path, headers=ADMIN, json={"reason": reason})

    async def set_mode(self, mode: str, reason: str = "the provider is being repaired") -> httpx.Response:
        return await self.http.post("/v1/admin/mode", headers=ADMIN, json={"mode": mode, "reason": reason})

    async def metrics(self) -> dict[str, float]:
        """/metrics by series, labels as exposed."""
        text = (await self.http.get("/metrics")).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in lines}


@asynccontextmanager
async def a_table(url: str, table_name: str) -> AsyncIterator[str]:
    """A table as `sandbox-broker create-table` makes it; nobody has marked it yet."""
    settings = settings_for(url, table_name)
    async with aws_session().client(
        "dynamodb", region_name=settings.region, endpoint_url=url, config=client_config(settings)
    ) as dynamodb:
        await create_table(dynamodb, table_of(settings))
        yield table_name


async def drop_table(settings: CoreSettings) -> None:
    """As an operator may by mistake; the processes' own clients are not allowed to."""
    async with aws_session().client(
        "dynamodb", region_name=settings.region, endpoint_url=settings.endpoint_url
    ) as dynamodb:
        await dynamodb.delete_table(TableName=settings.table_name)


def a_client(app: FastAPI, address: str = "203.0.113.7") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(address, 50_000))
    return httpx.AsyncClient(transport=transport, base_url="http://broker.test")


@asynccontextmanager
async def an_app(settings: ApiSettings, *, booted: bool = True) -> AsyncIterator[Api]:
    """The app with its lifespan running; it waits for the boot unless told otherwise."""
    app = create_app(settings)
    async with app.router.lifespan_context(app), a_client(app) as http:
        if booted:
            async with asyncio.timeout(BOOT_S):
                while app.state.parts is None:  # noqa: ASYNC110  the app has no event for it
                    await asyncio.sleep(0.01)
        yield Api(app, http)


@asynccontextmanager
async def an_api(url: str, table_name: str, **changes: Any) -> AsyncIterator[Api]:
    """A booted app over a table, which is created where it is missing. Two of them are two processes."""
    async with a_table(url, table_name), an_app(api_settings(url, table_name, **changes)) as api:
        yield api


def asked_of(proxy: StoreProxy) -> Counter[str]:
    """The calls that reached the store, but for the tenant's item, which a process reads once a second."""
    return Counter({name: count for name, count in proxy.counts.calls.items() if name != "BatchGetItem"})


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The envelope's inside; asserts that it is the envelope and nothing else."""
    assert response.headers["content-type"] == "application/json", response.text
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert {"code", "message", "request_id"} <= set(error) <= {
        "code", "message", "request_id", "retry_after", "details",
    }  # fmt: skip
    return error


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error in the envelope."""
    return response.status_code, error_of(response)["code"]
