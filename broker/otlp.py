"""Spans on their way to a collector: made by OpenTelemetry's SDK, masked, counted, never waited for.

Imported where TRACING=otlp, and nowhere else.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from hashlib import blake2b
from typing import Final
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from broker.logs import shown
from broker.metrics import Metrics
from broker.settings import CoreSettings
from broker.tracing import Fact, Kind, Life, Span
from broker.version import VERSION

log = logging.getLogger("broker")

PATH: Final = "/v1/traces"
QUEUE: Final = 8192
"""Spans that wait for the collector, at the most, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise: some 16 MB."""
HELD: Final = 1000
"""Of a run that may be forgotten, so many spans are held back; one that has more is told."""
LASTS_S: Final = 1.0
"""What takes longer than this is told, whatever came of it."""

_KINDS: Final[dict[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}
_NOWHERE: Final = Context()
_propagator: Final = TraceContextTextMapPropagator()
_named_trace: ContextVar[int | None] = ContextVar("named_trace", default=None)


class _Ids(RandomIdGenerator):
    """Random, but for the traces that are named by what they tell of."""

    def generate_trace_id(self) -> int:
        return _named_trace.get() or super().generate_trace_id()


def trace_of(life: Life) -> int:
    """The same in every process: nothing has to be stored for a deletion to find the release that caused it."""
    name = "\0".join((life.of, life.tenant, life.id))
    return int.from_bytes(blake2b(name.encode(), digest_size=16).digest()) or 1


class _Recorded:
    """One span of the SDK's, as broker/tracing.py wants it."""

    __slots__ = ("_began", "_held_by", "_kept", "_span", "_tracer")

    def __init__(self, tracer: trace.Tracer, span: trace.Span, held_by: "_Outbox | None" = None) -> None:
        self._tracer = tracer
        self._span = span
        self._held_by = held_by
        self._kept = False
        self._began = time.monotonic()

    @property
    def trace_id(self) -> str:
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def context(self) -> trace.SpanContext:
        return self._span.get_span_context()

    def begin(self, name: str, kind: Kind, facts: Mapping[str, Fact]) -> "_Recorded":
        within = trace.set_span_in_context(self._span, _NOWHERE)
        span = self._tracer.start_span(name, within, _KINDS[kind], _attributes(facts))
        return _Recorded(self._tracer, span)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, facts: Mapping[str, Fact]) -> None:
        self._span.set_attributes(_attributes(facts))

    def mark(self, what: str) -> None:
        self._span.add_event(what)

    def fail(self, kind: str) -> None:
        self._kept = True
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def link(self, other: Span) -> None:
        if isinstance(other, _Recorded):
            self._span.add_link(other.context)

    def keep(self) -> None:
        self._kept = True

    def end(self) -> None:
        self._span.end()
        if self._held_by is not None:
            lasted = time.monotonic() - self._began > LASTS_S
            self._held_by.release(self.context.trace_id, keep=self._kept or lasted)


def _attributes(facts: Mapping[str, Fact]) -> dict[str, str | int | float | bool]:
    return {name: fact for name, fact in facts.items() if fact is not None}


class _Outbox(SpanProcessor):
    """What ended waits here for the SDK's thread: a bounded number, and what is over it is counted and gone."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics, *, most: int) -> None:
        self._most = most
        self._counts = metrics.spans
        for outcome in ("delivered", "undelivered", "queue_full"):
            metrics.spans.labels(outcome)  # begin at 0: a series that begins at 1 is no increase to Prometheus
        self._lock = threading.Lock()
        self._held: dict[int, list[ReadableSpan]] = {}
        self._in_trouble = False
        self.waiting = 0
        self._batches = BatchSpanProcessor(_Delivery(exporter, self), max_queue_size=most)

    def hold(self, trace_id: int) -> None:
        """Its spans stay here until it is known whether they are worth telling."""
        self._held[trace_id] = []

    def release(self, trace_id: int, *, keep: bool) -> None:
        for span in self._held.pop(trace_id, []):
            if keep:
                self._send(span)

    def on_end(self, span: ReadableSpan) -> None:
        trace_id = span.context.trace_id if span.context is not None else 0
        held = self._held.get(trace_id)
        if held is None:
            self._send(span)
            return
        held.append(span)
        if len(held) > HELD:
            self.release(trace_id, keep=True)

    def _send(self, span: ReadableSpan) -> None:
        with self._lock:
            full = self.waiting >= self._most
            self.waiting += not full
        if full:
            self._counts.labels("queue_full").inc()
        else:
            self._batches.on_end(span)

    def gone(self, count: int, *, delivered: bool) -> None:
        """So many came to the collector, or never will. A trouble is told when it begins and when it ends."""
        with self._lock:
            self.waiting -= count
        self._counts.labels("delivered" if delivered else "undelivered").inc(count)
        if delivered and self._in_trouble:
            log.info("spans reach the collector again")
        elif not delivered and not self._in_trouble:
            todo = "is OTEL_EXPORTER_OTLP_ENDPOINT right, and the collector up? Requests are served all the same"
            log.warning("spans do not reach the collector", extra={"todo": todo})
        self._in_trouble = not delivered

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class _Delivery(SpanExporter):
    """Masks each span in the SDK's thread, where no request waits for it, and hands it to the exporter."""

    def __init__(self, exporter: SpanExporter, outbox: _Outbox) -> None:
        self._exporter = exporter
        self._outbox = outbox

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export([_masked(span) for span in spans])
        finally:
            self._outbox.gone(len(spans), delivered=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _masked(span: ReadableSpan) -> ReadableSpan:
    """The same span without secrets: what is masked in the log is masked in here."""
    return ReadableSpan(
        name=shown(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=shown(dict(span.attributes or {})),
        events=[Event(shown(event.name), timestamp=event.timestamp) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class Otlp:
    """The tracer of a process whose spans go to a collector.

    Raises:
        ValueError: one of the OTEL_... variables that the SDK reads itself means nothing to it.
    """

    def __init__(self, settings: CoreSettings, metrics: Metrics) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a line a batch; ours come once a trouble
        exporter = OTLPSpanExporter(endpoint=settings.tracing_endpoint.rstrip("/") + PATH)
        most = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or QUEUE)
        self._outbox = _Outbox(exporter, metrics, most=most)
        self._provider = TracerProvider(
            resource=_resource(f"sandbox-broker-{settings.process}"), id_generator=_Ids(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(self._outbox)
        self._tracer = self._provider.get_tracer("sandbox-broker", VERSION)

    def begin(
        self,
        name: str,
        kind: Kind,
        facts: Mapping[str, Fact],
        *,
        caller: Mapping[str, str] | None = None,
        life: Life | None = None,
        because_of: Span | None = None,
        seldom_worth_it: bool = False,
    ) -> Span | None:
        within = _propagator.extract(caller, _NOWHERE) if caller else _NOWHERE
        links = [Link(because_of.context)] if isinstance(because_of, _Recorded) else []
        token = _named_trace.set(None if life is None else trace_of(life))
        try:
            span = self._tracer.start_span(name, within, _KINDS[kind], _attributes(facts), links)
        finally:
            _named_trace.reset(token)
        if not span.is_recording():
            return None
        if not seldom_worth_it:
            return _Recorded(self._tracer, span)
        self._outbox.hold(span.get_span_context().trace_id)
        return _Recorded(self._tracer, span, self._outbox)

    def close(self, within_s: float) -> None:
        """Deliver what waits, within this time; what does not arrive in it is lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(within_s)
        if self._outbox.waiting:
            log.warning("the last spans did not reach the collector", extra={"spans": self._outbox.waiting})


def _resource(name: str) -> Resource:
    """Who sends them: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, or this name."""
    ours = {"service.version": VERSION, "service.instance.id": str(uuid4())}
    said = Resource.create(ours)
    if str(said.attributes[SERVICE_NAME]).startswith("unknown_service"):
        said = said.merge(Resource({SERVICE_NAME: name}))
    return Resource(shown(dict(said.attributes)))
