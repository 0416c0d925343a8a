"""How fast deletions go out: a rate and a number at once that halve under pressure and grow with success.

Additive increase, multiplicative decrease, as TCP does it. Pure but for its clock: no waiting, no tasks.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.metrics import Metrics
from worker.provider.errors import is_pressure

log = logging.getLogger("worker")

COOL_DOWN_S: Final = 1.0
"""Failures within this of a slowing down are of the same burst; so are those of calls that began before it. A
longer one, and the successes in between make up for the halving before the next is due."""
RECOVERY_STEPS: Final = 20
"""So many successes lead from the slowest to the fastest."""
BURST_S: Final = 2.0
"""What was not used is kept for this long: whoever asks every other second still gets the whole rate."""
LONGEST_REST_S: Final = 300.0
"""What a Retry-After can ask for at most."""
BUSY_S: Final = 1.0
"""When to ask again while all places are taken: one may be free at any moment."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bounds of what adapts."""

    low: float
    high: float

    def hold(self, value: float) -> float:
        return min(self.high, max(self.low, value))

    @property
    def step(self) -> float:
        return (self.high - self.low) / RECOVERY_STEPS


class Slot:
    """A place among the deletions under way. Whoever has it says how it ended; the first word counts."""

    def __init__(self, pacing: "Pacing", account: str, *, pace: int) -> None:
        self._pacing: Pacing | None = pacing
        self.account = account
        self.pace = pace

    def ended(self, kind: str | None, *, retry_after_s: float | None = None) -> None:
        """The call was made: `kind` of its failure, None for success, and what the provider asked for."""
        if (pacing := self._pacing) is not None:
            self._pacing = None
            pacing._took(self, kind, retry_after_s)

    def give_back(self) -> None:
        """No call was made: the place and the share of the rate are free again."""
        if (pacing := self._pacing) is not None:
            self._pacing = None
            pacing._let_go()


class Pacing:
    """Limits one tenant's deletions. Not for threads; all of it runs between two awaits."""

    def __init__(
        self,
        *,
        tenant: str,
        concurrency: Span,
        rate: Span,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenant = tenant
        self._concurrency_span = concurrency
        self._rate_span = rate
        self._metrics = metrics
        self._clock = clock
        self._concurrency = concurrency.high
        self._rate = rate.high
        self._running = 0
        self._saved = self._most_saved()
        self._saved_at = clock()
        self._rest_until = clock()
        self._pace = 0  # +1 a slowing down: how a call ends that began before the last one says nothing of now
        self._slowed_at: float | None = None
        self._slowed_by: str | None = None
        self._show()

    @property
    def concurrency(self) -> int:
        """How many may be under way at once, now."""
        return int(self._concurrency + 1e-9)

    @property
    def rate(self) -> float:
        """How many may start in a second, now."""
        return self._rate

    @property
    def running(self) -> int:
        return self._running

    def wait_s(self) -> float:
        """Seconds until it is worth asking; 0 where there is a slot now."""
        now = self._clock()
        if now < self._rest_until:
            return self._rest_until - now
        if self._running >= self.concurrency:
            return BUSY_S
        self._save(now)
        missing = 1 - self._saved
        return missing / self._rate if missing > 1e-9 else 0.0

    def take(self, account: str) -> Slot | None:
        """A slot, or none now. It must be ended or given back."""
        if self.wait_s() > 0:
            return None
        self._saved -= 1
        self._running += 1
        return Slot(self, account, pace=self._pace)

    def describe(self) -> str:
        """For people: `4 of 10 at once, 2.5 a second`."""
        rest_s = self._rest_until - self._clock()
        asked = f", resting for {rest_s:.0f} s as the provider asked" if rest_s > 0 else ""
        return f"{self._running} of {self.concurrency} at once, {self._rate:.1f} a second{asked}"

    def _save(self, now: float) -> None:
        self._saved = min(self._most_saved(), self._saved + (now - self._saved_at) * self._rate)
        self._saved_at = now

    def _most_saved(self) -> float:
        return max(1.0, self._rate * BURST_S)

    def _let_go(self) -> None:
        self._running -= 1
        self._saved = min(self._most_saved(), self._saved + 1)

    def _took(self, slot: Slot, kind: str | None, retry_after_s: float | None) -> None:
        self._running -= 1
        now = self._clock()
        if retry_after_s is not None:
            self._rest_until = max(self._rest_until, now + min(retry_after_s, LONGEST_REST_S))
        if slot.pace != self._pace:
            return
        if kind is None:
            self._recover(slot.account)
        elif is_pressure(kind) and not self._known(slot.account, kind, now):
            self._slow_down(slot.account, kind, now)

    def _known(self, account: str, kind: str, now: float) -> bool:
        """Whether this failure is one that slowed things down before: of the same burst, or of one bad account."""
        same_burst = self._slowed_at is not None and now - self._slowed_at < COOL_DOWN_S
        return same_burst or (account == self._slowed_by and kind != "HTTP_429")

    def _slow_down(self, account: str, kind: str, now: float) -> None:
        self._save(now)
        self._concurrency = self._concurrency_span.hold(self._concurrency / 2)
        self._rate = self._rate_span.hold(self._rate / 2)
        self._saved = min(self._saved, 0.0)
        self._pace += 1
        self._slowed_at, self._slowed_by = now, account
        self._show()
        facts = {"tenant": self._tenant, "why": kind, "at_once": self.concurrency, "per_s": round(self._rate, 2)}
        log.warning("deletions slow down: the provider has trouble", extra=facts)

    def _recover(self, account: str) -> None:
        if account == self._slowed_by:
            self._slowed_by = None
        slowed = self._rate < self._rate_span.high or self._concurrency < self._concurrency_span.high
        self._save(self._clock())
        self._concurrency = self._concurrency_span.hold(self._concurrency + self._concurrency_span.step)
        self._rate = self._rate_span.hold(self._rate + self._rate_span.step)
        self._show()
        if slowed and self._rate == self._rate_span.high and self._concurrency == self._concurrency_span.high:
            facts = {"tenant": self._tenant, "at_once": self.concurrency, "per_s": self._rate}
            log.info("deletions are at full speed again", extra=facts)

    def _show(self) -> None:
        self._metrics.pacing_concurrency.labels(self._tenant).set(self.concurrency)
        self._metrics.pacing_rate.labels(self._tenant).set(self._rate)
