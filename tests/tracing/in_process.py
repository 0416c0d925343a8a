"""Tracing switched on for this very process, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker import tracing
from broker.metrics import Metrics
from broker.otlp import Otlp
from broker.settings import CoreSettings
from tests.tracing.collector import Collector

LAST_S = 20.0


@contextmanager
def traced(settings: CoreSettings, metrics: Metrics) -> Iterator[Otlp]:
    """As process.start_tracing() does it; what was told has left when this ends."""
    tracer = Otlp(settings, metrics)
    tracing.tracer = tracer
    try:
        yield tracer
    finally:
        tracing.tracer = None
        tracer.close(LAST_S)


def collected(collector: Collector, **more: Any) -> CoreSettings:
    """What sends to this collector."""
    values = {"BROKER_ENV": "development", "TRACING": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    return CoreSettings(**(values | more))
