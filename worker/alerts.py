"""The alerts on deletions: each fires once, says what to do, and resolves by itself.

The thresholds are the SLA's (CAPABILITIES J5). Prometheus has the same as rules; these serve whoever reads
the log or has no Prometheus.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from broker.metrics import Metrics

log = logging.getLogger("worker")

WINDOW_S: Final = 900.0
MIN_TRIES: Final = 10
"""Below this many tries in the window a share says nothing."""
MAX_TIMEOUTS: Final = 0.10
MAX_FAILURES: Final = 0.20
MAX_DEPTH: Final = 100
MAX_PENDING_S: Final = 3600
MAX_TRIES_KEPT: Final = 100_000


class Alert(StrEnum):
    TIMEOUTS = "DeletionTimeouts"
    FAILURES = "DeletionFailures"
    DEPTH = "DeletionBacklog"
    STUCK = "DeletionStuck"


TODO: Final[dict[Alert, str]] = {
    Alert.TIMEOUTS: "the provider is slow: nothing to do but wait; the queue slows down by itself",
    Alert.FAILURES: "see why: sandbox-broker dead-letters, sandbox-broker list --status pending_deletion",
    Alert.DEPTH: "more ends than is deleted: raise CLEANUP_CONCURRENCY and CSP_DELETES_PER_SEC",
    Alert.STUCK: "see last_error: sandbox-broker list --status pending_deletion",
}


class Alerts:
    """Remembers a tenant's tries of the last 15 minutes, and which of its alerts are on."""

    def __init__(self, metrics: Metrics, *, tenant: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._tenant = tenant
        self._monotonic = monotonic
        self._tries: deque[tuple[float, str]] = deque(maxlen=MAX_TRIES_KEPT)
        self.active: set[Alert] = set()
        for alert in Alert:
            metrics.alert_active.labels(tenant, alert.value).set(0)

    def tried(self, outcome: str) -> None:
        """A DELETE ended: `ok`, or the kind of its error."""
        self._tries.append((self._monotonic(), outcome))

    def evaluate(self, *, depth: int, oldest_pending_s: float) -> None:
        """Hold the present against the thresholds; tell of changes alone."""
        while self._tries and self._tries[0][0] < self._monotonic() - WINDOW_S:
            self._tries.popleft()
        tries = len(self._tries)
        failures = sum(outcome != "ok" for _, outcome in self._tries)
        timeouts = sum(outcome == "TIMEOUT" for _, outcome in self._tries)
        shares = (timeouts / tries, failures / tries) if tries >= MIN_TRIES else (0.0, 0.0)
        self._metrics.deletion_depth.labels(self._tenant).set(depth)
        self._metrics.deletion_oldest_s.labels(self._tenant).set(oldest_pending_s)
        self._set(Alert.TIMEOUTS, on=shares[0] > MAX_TIMEOUTS, value=round(shares[0], 3))
        self._set(Alert.FAILURES, on=shares[1] > MAX_FAILURES, value=round(shares[1], 3))
        self._set(Alert.DEPTH, on=depth > MAX_DEPTH, value=depth)
        self._set(Alert.STUCK, on=oldest_pending_s > MAX_PENDING_S, value=round(oldest_pending_s))

    def clear(self) -> None:
        """Another worker leads, and tells."""
        for alert in Alert:
            self.active.discard(alert)
            self._metrics.alert_active.labels(self._tenant, alert.value).set(0)

    def _set(self, alert: Alert, *, on: bool, value: float) -> None:
        if on == (alert in self.active):
            return
        facts = {"tenant": self._tenant, "alert": alert.value, "value": value}
        self._metrics.alert_active.labels(self._tenant, alert.value).set(on)
        if on:
            self.active.add(alert)
            log.error("alert fired", extra=facts | {"todo": TODO[alert]})
        else:
            self.active.discard(alert)
            log.info("alert resolved", extra=facts)
