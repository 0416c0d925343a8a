"""The provider's door on a clock that the tests move. Answers come from respx, or from real sockets."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from broker.metrics import Metrics
from broker.settings import WorkerSettings
from worker.provider.calls import Calls, http_client
from worker.provider.client import ProviderClient, ProviderLimits
from worker.provider.gates import Gates, gates_of
from worker.provider.permits import Permit, Refusal
from worker.provider.secrets import GivenSource, Secret

BASE = "https://provider.test"
LIST = f"{BASE}/current_user/accounts"
UUID = "7f9c24e5-2f36-4b1c-9d6e-0a1b2c3d4e5f"
ACCOUNT = f"identity/accounts/{UUID}"


def an_entry(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"identity/accounts/{number:08d}-0000-4000-8000-000000000000",
        "csp_id": 2_009_000 + number,
        "name": f"lab-adventure-{number:04d}",
        "account_type": "sandbox",
        "state": "active",
        "created_at": "2025-03-27T16:53:47.605459Z",
        "sfdc_account_id": "0011x",
        **changes,
    }


@dataclass
class Clock:
    """A monotonic clock that stands still but for `rest`, which is what the client sleeps by."""

    now: float = 1000.0
    rests: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


@dataclass
class Door:
    """A client and what it stands on."""

    client: ProviderClient
    gates: Gates
    metrics: Metrics
    clock: Clock

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def permit(self, account: str = ACCOUNT) -> Permit:
        admitted = self.client.admit_deletion(account)
        assert isinstance(admitted, Permit), admitted
        return admitted

    def refusal(self, account: str = ACCOUNT) -> Refusal:
        refused = self.client.admit_deletion(account)
        assert isinstance(refused, Refusal), "admitted"
        return refused


def settings_of(**changes: Any) -> WorkerSettings:
    values = {"BROKER_ENV": "development", "BROKER_TENANT": "acme", "CSP_BASE_URL": BASE, "CSP_API_TOKEN": "t0ken"}
    return WorkerSettings(**(values | changes))


def a_door(http: httpx.AsyncClient, *, clock: Clock, metrics: Metrics, **changes: Any) -> Door:
    settings = settings_of(**({"CSP_READ_TIMEOUT_SEC": "0.3", "CSP_DELETE_TIMEOUT_SEC": "0.3"} | changes))
    gates = gates_of(settings, metrics, clock=clock)
    client = ProviderClient(
        Calls(http, metrics, tenant="acme"),
        token=Secret(GivenSource("t0ken"), variable="CSP_API_TOKEN", for_header=True, metrics=metrics),
        limits=ProviderLimits(
            page_size=3,
            read_timeout_s=settings.read_timeout_s,
            read_attempts=settings.read_attempts,
            delete_timeout_s=settings.delete_timeout_s,
            max_body_bytes=settings.max_body_bytes,
        ),
        gates=gates,
        metrics=metrics,
        sleep=clock.rest,
    )
    return Door(client, gates, metrics, clock)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def door(metrics: Metrics, clock: Clock) -> AsyncIterator[Door]:
    async with http_client(BASE, connections=8, transport=None) as http:
        yield a_door(http, clock=clock, metrics=metrics)


async def listed(client: ProviderClient) -> tuple[list[str], int]:
    """Ids of the usable accounts, and how many entries were invalid."""
    ids: list[str] = []
    invalid = 0
    async for page in client.pages():
        ids += [account.id for account in page.accounts]
        invalid += len(page.invalid)
    return ids, invalid


def paged(entries: list[Any]) -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        first, limit = int(request.url.params["_offset"]), int(request.url.params["_limit"])
        return httpx.Response(200, json={"results": entries[first : first + limit]})

    return answer
