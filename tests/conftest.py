"""Real engines, real connections; each test has its own table."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing
from functools import cache
from pathlib import Path
from typing import Any

import aioboto3
import pytest

from broker.metrics import Metrics
from broker.settings import CoreSettings
from broker.store.allowed import Guard
from broker.store.client import StoreClient
from broker.store.door import DirectDoor, Door, SdkDoor, client_config, connections_to, host_of
from broker.store.schema import claim_table, create_table
from broker.store.signature import Signer
from broker.wiring import Broker, build, table_of
from local.engine import engine
from local.store_proxy import StoreProxy
from tests import once
from tests.builders import NOW

LONG_FILES = (
    "terraform/test_deployed.py", "worker/test_failover.py", "api/test_schemathesis.py", "e2e/test_make_run.py",
    "chaos/test_state_machine.py", "worker/test_process.py", "terraform/test_plans.py", "chaos/test_soak.py",
    "boot/test_boot.py", "e2e/test_workshop.py", "worker/test_crash_points.py", "e2e/test_incident.py",
    "containers/test_images.py", "worker/test_clean.py", "cli/test_with_a_worker.py", "api/test_process.py",
    "e2e/test_operators.py", "worker/test_tenants.py", "monitoring/test_installation.py",
    "boot/test_supervisor.py", "bench/test_frame.py",
)  # fmt: skip
"""Files of half a minute and more, those that compute between those that wait. They come first: a file runs on one
process, and the last one to begin is the one that everybody waits for."""

TESTS = Path(__file__).parent
_numbers = itertools.count()

once.share(aws=bool(os.environ.get("BROKER_TEST_AWS_TABLE_PREFIX")))

# A run against real AWS keeps its own credentials, a profile's too.
if not os.environ.get("BROKER_TEST_AWS_TABLE_PREFIX"):
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "local")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "local")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first. `make test` tells xdist to keep the order: its own begins with the files of many tests."""
    rank = {str(TESTS / name): number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(str(item.path), len(rank)))


@pytest.fixture(scope="session")
def ministack() -> Iterator[str]:
    """URL of the engine that most tests share."""
    with engine("ministack") as url:
        yield url


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """URL of the second opinion: single-threaded moto."""
    with engine("moto") as url:
        yield url


@pytest.fixture
def table_name() -> str:
    return f"broker-test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
async def proxy(ministack: str) -> AsyncIterator[StoreProxy]:
    """The store proxy in front of ministack: the faults that local engines lack."""
    async with StoreProxy(upstream_url=ministack) as running:
        running.counts.aside = ("PRC#",)  # who is there: said by the clock, whatever a test does
        yield running


def settings_for(url: str | None, table_name: str, **changes: Any) -> CoreSettings:
    values = {
        "BROKER_ENV": "development",
        "BROKER_TENANT": "acme",
        "DDB_ENDPOINT_URL": url,
        "DDB_TABLE_NAME": table_name,
        "STORE_TIMEOUT_SEC": "10",  # machines of tests have pauses of seconds
    }
    return CoreSettings(**(values | changes))


@cache
def aws_session() -> aioboto3.Session:
    """Shared, as it reads the service's model from disk once: a tenth of a second and more."""
    return aioboto3.Session()


class Unguarded(Guard):
    """For tests, which set up and look at what no process may."""

    def check(self, service: str, operation: str, params: Mapping[str, Any]) -> None:
        pass


@asynccontextmanager
async def a_door(settings: CoreSettings, dynamodb: Any) -> AsyncIterator[Door]:
    """The processes' own way to the store; on real AWS the SDK's."""
    if settings.endpoint_url is None:
        yield SdkDoor(dynamodb)
        return
    signer = Signer(region=settings.region, host=host_of(settings.endpoint_url))
    credentials = await aws_session().get_credentials()
    async with aclosing(connections_to(settings.endpoint_url, None, connect_timeout_s=10)) as connections:
        yield DirectDoor(connections, signer, credentials, Unguarded("worker", table_name=None))


@asynccontextmanager
async def a_broker(
    url: str | None, table_name: str, *, lease_s: int = 4 * 3600, max_per_holder: int = 5, **more: Any
) -> AsyncIterator[Broker]:
    """A broker's core on a table, which is created where it is missing. Two of them are two processes.

    `clock` and `monotonic` go to build(); everything else is a setting.
    """
    clocks = {name: more.pop(name) for name in ("clock", "monotonic") if name in more}
    settings = settings_for(url, table_name, **more)
    metrics = Metrics()
    async with (
        aws_session().client(
            "dynamodb", region_name=settings.region, endpoint_url=url, config=client_config(settings)
        ) as dynamodb,
        a_door(settings, dynamodb) as door,
    ):
        table = table_of(settings)
        await create_table(dynamodb, table)
        client = StoreClient(
            door,
            table,
            timeout_s=settings.store_timeout_s,
            connections=settings.store_connections,
            metrics=metrics,
        )
        with closing(client):
            await claim_table(client, now=NOW)
            yield build(client, metrics, settings, lease_s=lease_s, max_per_holder=max_per_holder, **clocks)


@pytest.fixture
async def broker(ministack: str, table_name: str) -> AsyncIterator[Broker]:
    """The core on ministack, tenant `acme`."""
    async with a_broker(ministack, table_name) as core:
        yield core
