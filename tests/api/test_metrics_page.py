"""A page of metrics is written once for all who ask at one moment, after the crowd, never before the question."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from app import metrics_page
from app.metrics_page import CROWD, MetricsPage, Waiting
from local.store_proxy import StoreProxy
from tests.api.service import Api


class Written(Collector):
    """Counts how often the page was written, on the page itself."""

    def __init__(self) -> None:
        self.times = 0

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        self.times += 1
        yield CounterMetricFamily("written", "How often.", value=self.times)


def a_page() -> tuple[MetricsPage, Written]:
    registry, written = CollectorRegistry(), Written()
    registry.register(written)
    return MetricsPage(registry, Waiting()), written


def a_crowded_page() -> tuple[MetricsPage, Waiting]:
    waiting = Waiting(CROWD + 1)
    registry = CollectorRegistry()
    registry.register(Written())
    return MetricsPage(registry, waiting), waiting


async def test_who_asks_at_one_moment_gets_one_page() -> None:
    page, written = a_page()
    texts = await asyncio.gather(*(page.text() for _ in range(100)))
    assert written.times == 1
    assert set(texts) == {texts[0]}
    assert b"written_total 1.0" in texts[0]


async def test_a_page_is_not_older_than_the_question() -> None:
    page, _ = a_page()
    for times in (1, 2, 3):
        assert f"written_total {times}.0".encode() in await page.text()


async def test_who_hangs_up_takes_nobodys_page_away() -> None:
    page, _ = a_page()
    first = asyncio.create_task(page.text())
    second = asyncio.create_task(page.text())
    await asyncio.sleep(0)
    first.cancel()
    assert b"written_total 1.0" in await second


async def test_a_scrape_gives_way_to_a_crowd_until_it_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "GIVE_WAY_S", 600.0)
    page, waiting = a_crowded_page()
    asked = asyncio.create_task(page.text())
    done, _ = await asyncio.wait([asked], timeout=0.3)
    assert not done
    waiting.count = CROWD
    assert b"written_total 1.0" in await asyncio.wait_for(asked, 60)


async def test_a_crowd_that_does_not_end_holds_up_no_scrape_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "GIVE_WAY_S", 0.1)
    page, _ = a_crowded_page()
    assert b"written_total 1.0" in await asyncio.wait_for(page.text(), 60)


async def test_a_loop_whose_turns_are_long_holds_up_no_scrape_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock: a second counted in sleeps of 20 ms was half a minute where each took 600."""
    monkeypatch.setattr(metrics_page, "GIVE_WAY_S", 0.2)
    page, _ = a_crowded_page()
    asked, turns = asyncio.create_task(page.text()), 0
    while not asked.done():
        time.sleep(0.1)  # noqa: ASYNC251  what the loop is busy with
        await asyncio.sleep(0)
        turns += 1
    assert turns < 8


async def test_who_reads_slowly_waits_no_more(api: Api) -> None:
    """Nine of them would hold up every scrape for as long as they like."""
    waiting: Waiting = api.app.state.metrics_page._waiting
    seen: list[int] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/meta",
        "headers": [],
        "query_string": b"",
        "scheme": "http",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        seen.append(waiting.count)

    await api.app(scope, receive, send)
    assert (seen, waiting.count) == ([0, 0], 0)


async def test_who_was_answered_waits_no_more_and_probes_never_did(proxied: Api, proxy: StoreProxy) -> None:
    waiting: Waiting = proxied.app.state.metrics_page._waiting
    seen: set[int] = set()

    async def look(_: object) -> None:
        scrape = asyncio.create_task(proxied.http.get("/metrics"))
        while not scrape.done():
            seen.add(waiting.count)
            await asyncio.sleep(0)

    await proxied.fill(1)
    with proxy.before("TransactWriteItems", look):
        statuses = [(await proxied.allocate("s-1")).status_code, (await proxied.http.get("/nowhere")).status_code]
    assert (statuses, seen, waiting.count) == ([201, 404], {1}, 0)
