"""A page of metrics is written once for all who ask at one moment, and is never older than the question."""

import asyncio
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from app.metrics_page import MetricsPage


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
    return MetricsPage(registry), written


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
