"""The store tests run on every engine: two local ones, and real AWS where an environment variable asks for it.

BROKER_TEST_AWS_TABLE_PREFIX names tables on the account of the ambient credentials; they are removed after.
"""

import os
from collections.abc import AsyncIterator, Callable

import aioboto3
import pytest

from broker.wiring import Broker
from tests.builders import NOW
from tests.conftest import a_broker

AWS_PREFIX = os.environ.get("BROKER_TEST_AWS_TABLE_PREFIX")


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


ENGINES = ["ministack", "moto", *(["aws"] if AWS_PREFIX else [])]


@pytest.fixture(params=ENGINES, name="engine_name")
def _engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def broker(
    engine_name: str,
    request: pytest.FixtureRequest,
    table_name: str,
    clock: Clock,
) -> AsyncIterator[Broker]:
    """The core on each engine, by a clock that the test moves."""
    if engine_name == "aws":
        name = f"{AWS_PREFIX}{table_name}"
        async with a_broker(None, name, clock=clock) as core:
            yield core
        async with aioboto3.Session().client("dynamodb") as dynamodb:
            await dynamodb.delete_table(TableName=name)
        return
    url: Callable[[], str] | str = request.getfixturevalue(engine_name)
    async with a_broker(str(url), table_name, clock=clock, STORE_TIMEOUT_SEC="20") as core:
        yield core
