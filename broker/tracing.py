"""Spans: what took how long in a request, a duty or a deletion, and what belongs together (ADR 15).

Where tracing is off, `tracer` is None, and so is every `current`: each door of this process asks no more than
that. What knows OpenTelemetry is broker/otlp.py, which is imported where TRACING=otlp and nowhere else.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Fact = str | int | float | bool | None
"""An attribute's value; None is left out. Secrets are masked before anything leaves the process."""
Kind = Literal["server", "client", "internal"]


class Span(Protocol):
    """Something that began, and is recorded."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, as in `traceparent`."""

    def begin(self, name: str, kind: Kind, facts: Mapping[str, Fact]) -> "Span":
        """A part of this."""

    def rename(self, name: str) -> None: ...

    def note(self, facts: Mapping[str, Fact]) -> None: ...

    def mark(self, what: str) -> None:
        """It came so far at this moment."""

    def fail(self, kind: str) -> None:
        """It did not succeed, for a reason of this kind."""

    def link(self, other: "Span") -> None:
        """The other one, of whatever trace, has to do with this."""

    def keep(self) -> None:
        """Worth telling, even where it began as something that is usually not."""

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Life:
    """All that happens to one sandbox, or one job, is one trace: who knows its name knows the trace's id."""

    of: Literal["sandbox", "job"]
    tenant: str
    id: str


class Tracer(Protocol):
    """Begins what is part of nothing here. None where the sampler wants to know nothing of it."""

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
        """Begin a span.

        Args:
            caller: `traceparent` and `tracestate` as they were sent; what is malformed is as if it was not.
            life: which trace it belongs to; one of its own where that is None.
            because_of: the span, of another trace, that it is linked to.
            seldom_worth_it: with all of its parts it is forgotten, unless it fails, lasts, or is kept.
        """


tracer: Tracer | None = None
"""This process's, which is one as its log is; None: tracing is off."""

current: Final[ContextVar[Span | None]] = ContextVar("span", default=None)
"""What everything here is part of just now; None: nobody records it."""


@contextmanager
def root(
    name: str, facts: Mapping[str, Fact], *, life: Life | None = None, seldom_worth_it: bool = False
) -> Iterator[Span | None]:
    """Around what nobody waits for: a duty's run, a job, a deletion. What it raises is noted."""
    span = None
    if tracer is not None:
        span = tracer.begin(name, "internal", facts, life=life, seldom_worth_it=seldom_worth_it)
    with _running(span, expected=()):
        yield span


@contextmanager
def call(
    within: Span | None, name: str, facts: Mapping[str, Fact], *, expected: tuple[type[Exception], ...] = ()
) -> Iterator[Span | None]:
    """Around one call of another system; nothing is recorded of it where `within` is not.

    What is `expected` is an answer too: a lost race is no failure.
    """
    span = None if within is None else within.begin(name, "client", facts)
    with _running(span, expected=expected):
        yield span


@contextmanager
def _running(span: Span | None, *, expected: tuple[type[Exception], ...]) -> Iterator[None]:
    token = current.set(span)
    try:
        yield
    except expected as error:
        if span is not None:
            span.note({"broker.outcome": f"{type(error).__name__}: {error}"})
        raise
    except BaseException as error:
        if span is not None:
            span.fail(_kind_of(error))
        raise
    finally:
        current.reset(token)
        if span is not None:
            span.end()


def _kind_of(error: BaseException) -> str:
    """The stable word that errors of ours have for themselves, or what they are."""
    return str(getattr(error, "code", None) or getattr(error, "kind", None) or type(error).__name__)


def mark(what: str) -> None:
    """Whatever is recorded just now came so far."""
    if (span := current.get()) is not None:
        span.mark(what)


def tell(life: Life, what: str) -> None:
    """Something happened to it, just now and here: its trace and the one here name each other."""
    if tracer is None:
        return
    here = current.get()
    told = tracer.begin(what, "internal", {f"broker.{life.of}_id": life.id, "broker.tenant": life.tenant},
                        life=life, because_of=here)  # fmt: skip
    if told is None:
        return
    if here is not None:
        here.link(told)
    told.end()
