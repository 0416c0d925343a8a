"""A collector for all tests of a file, and an API that sends its spans there."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.tracing.collector import Collector, a_collector
from tests.worker.conftest import Provider, a_provider

QUICK = {"TRACING": "otlp", "OTEL_BSP_SCHEDULE_DELAY": "100"}
"""Spans are sent every tenth of a second."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with a_collector() as running:
        yield running


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider() as running:
        yield running
