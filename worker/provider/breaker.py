"""A circuit breaker: after failures in a row no call is made for a while, then exactly one tries.

Written here because no library lets exactly one probe through: docs/adr/0007-breaker-and-retries.md.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final

from broker.metrics import Metrics
from worker.provider.errors import ProviderError, is_outage

log = logging.getLogger("worker")

OPENS_AFTER: Final = 3
PROBE_AFTER_S: Final = 15.0
PROBE_TAKEN_S: Final = 1.0
"""When to ask again while another call is the probe: it may end at any moment."""


class Phase(Enum):
    """The values are those of the gauge."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Try:
    """One call that the breaker let through. Whoever makes it says how it ended; the first word counts."""

    def __init__(self, breaker: "Breaker", turn: int) -> None:
        self._breaker: Breaker | None = breaker
        self.turn = turn

    def ended(self, kind: str | None, *, account: str | None = None) -> None:
        """It was made: `kind` of its failure, None for success; `account` where failures count once for each."""
        if (breaker := self._breaker) is not None:
            self._breaker = None
            breaker._took(self, kind, account)

    def give_back(self) -> None:
        """It was not made, or nobody will know how it ended: that says nothing, and frees the probe."""
        if (breaker := self._breaker) is not None:
            self._breaker = None
            breaker._let_go(self)


class Breaker:
    """Guards one endpoint for one tenant. Not for threads; all of it runs between two awaits."""

    def __init__(
        self,
        endpoint: str,
        *,
        tenant: str,
        metrics: Metrics,
        open_s: float = PROBE_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_s = open_s
        self._endpoint = endpoint
        self._tenant = tenant
        self._metrics = metrics
        self._clock = clock
        self._phase = Phase.CLOSED
        self._turn = 0  # +1 a transition: how a call ends that began before the last one says nothing of now
        self._failing: dict[object, str] = {}
        self._probe: Try | None = None
        self._probe_at = 0.0
        self._failing_since = 0.0
        metrics.breaker_state.labels(tenant, endpoint).set(Phase.CLOSED.value)

    @property
    def phase(self) -> Phase:
        return self._phase

    def wait_s(self) -> float:
        """Seconds until it is worth asking; 0 where a call would be let through now."""
        if self._phase is Phase.OPEN:
            return max(0.0, self._probe_at - self._clock())
        return PROBE_TAKEN_S if self._probe is not None else 0.0

    def admit(self) -> Try | None:
        """Let a call through, or not. What is let through must be ended or given back."""
        if self.wait_s() > 0:
            return None
        if self._phase is Phase.OPEN:
            self._to(Phase.HALF_OPEN)
        admitted = Try(self, self._turn)
        if self._phase is Phase.HALF_OPEN:
            self._probe = admitted
        return admitted

    @contextmanager
    def guarding(self, *, account: str | None = None) -> Iterator[None]:
        """Make one call inside.

        Raises:
            ProviderError: BREAKER_OPEN, and the call is not to be made; or what the call raises.
        """
        admitted = self.admit()
        if admitted is None:
            self._metrics.provider_refusals.labels(self._tenant, self._endpoint, "BREAKER_OPEN").inc()
            raise ProviderError("BREAKER_OPEN", f"ask again in {self.wait_s():.0f} s")
        try:
            yield
        except ProviderError as error:
            admitted.ended(error.kind, account=account)
            raise
        else:
            admitted.ended(None, account=account)
        finally:
            admitted.give_back()  # a cancelled call: nobody knows how it would have ended

    def describe(self) -> str:
        """For people: `closed`, `open, probe in 9 s`, `half-open, probe under way`."""
        match self._phase:
            case Phase.CLOSED:
                return "closed"
            case Phase.HALF_OPEN:
                return "half-open, probe under way" if self._probe is not None else "half-open, probe due"
            case Phase.OPEN:
                wait_s = self.wait_s()
                return f"open, probe in {wait_s:.0f} s" if wait_s else "open, probe due"

    def _let_go(self, one: Try) -> None:
        if self._probe is one:
            self._probe = None

    def _took(self, one: Try, kind: str | None, account: str | None) -> None:
        self._let_go(one)
        if one.turn != self._turn:
            return
        if kind is None:
            self._failing.clear()
            if self._phase is Phase.HALF_OPEN:
                self._to(Phase.CLOSED)
        elif is_outage(kind):
            self._failing[object() if account is None else account] = kind
            if self._phase is Phase.HALF_OPEN or len(self._failing) >= OPENS_AFTER:
                self._open(kind)

    def _open(self, kind: str) -> None:
        now = self._clock()
        if self._phase is Phase.CLOSED:
            self._failing_since = now
            facts = {"why": list(self._failing.values())}
            event = "the provider fails: no more of these calls, one tries again soon"
        else:
            facts = {"why": [kind]}
            event = "the provider still fails: no calls, one tries again soon"
        self._probe_at = now + self._open_s
        self._to(Phase.OPEN)
        log.warning(event, extra=self._facts() | facts | {"next_try_s": self._open_s})

    def _to(self, phase: Phase) -> None:
        self._phase = phase
        self._turn += 1
        self._probe = None
        self._failing.clear()
        self._metrics.breaker_state.labels(self._tenant, self._endpoint).set(phase.value)
        self._metrics.breaker_turns.labels(self._tenant, self._endpoint, phase.name.lower()).inc()
        if phase is Phase.HALF_OPEN:
            log.info("one call tries whether the provider is back", extra=self._facts())
        if phase is Phase.CLOSED:
            failed_s = round(self._clock() - self._failing_since, 1)
            log.info("the provider is back: calls go on", extra=self._facts() | {"failed_for_s": failed_s})

    def _facts(self) -> dict[str, object]:
        return {"endpoint": self._endpoint, "tenant": self._tenant}
