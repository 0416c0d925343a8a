"""The app under test: real middleware, real store."""

from collections.abc import AsyncIterator

import pytest

from app import access
from local.store_proxy import StoreProxy
from tests.api.service import Api, an_api

ADDED = (
    ("GET", "/crash"), ("GET", "/crash-in-answer"), ("GET", "/half"), ("GET", "/patient"), ("GET", "/slow"),
    ("GET", "/stream"), ("GET", "/bug"), ("POST", "/digest"),
)  # fmt: skip
"""Routes that tests add to the app."""


@pytest.fixture(autouse=True)
def _added_routes_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody wrote down is closed."""
    monkeypatch.setattr(access, "ROUTES", {**access.ROUTES, **dict.fromkeys(ADDED, access.PUBLIC)})


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
