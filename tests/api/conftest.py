"""The app under test: real middleware, real store."""

from collections.abc import AsyncIterator

import pytest

from local.store_proxy import StoreProxy
from tests.api.service import Api, an_api


@pytest.fixture
async def api(ministack: str, table_name: str) -> AsyncIterator[Api]:
    """The app of tenant `acme` over its own table."""
    async with an_api(ministack, table_name) as running:
        yield running


@pytest.fixture
async def proxied(proxy: StoreProxy, table_name: str) -> AsyncIterator[Api]:
    """The same, with the `proxy` between it and its store."""
    async with an_api(proxy.url, table_name) as running:
        yield running
