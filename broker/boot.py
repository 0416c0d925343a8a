"""The boot of this process: its phases, how long they took, and who is told: supervisor, log, metrics."""

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Self

from broker import exits
from broker.errors import BrokerError, WriteConflict
from broker.metrics import Metrics
from broker.settings import CoreSettings
from broker.store.boots import Boots
from broker.supervisor import FAILURES, GIVING_UP, PIPE, READY, STARTED
from broker.version import VERSION

log = logging.getLogger("broker")

SHARE: Final = 0.9
"""Of BOOT_TIMEOUT_SEC, for a boot that still can end by itself; the rest is for its words."""
_PR_SET_PDEATHSIG: Final = 1


class Boot:
    """Phases from `start` (interpreter and imports) to ready(). A phase that comes again adds up."""

    def __init__(
        self,
        *,
        began_at: float | None = None,
        pipe: int | None = None,
        failures: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = failures
        """Boots in a row that failed before this one, by the best count known."""
        self.done = False
        self.unavailable: str | None = None
        """Why the store was not reached when it was last tried."""
        self._stored = 0
        self._pipe = pipe
        self._monotonic = monotonic
        self._began_at = self._phase_at = monotonic() if began_at is None else began_at
        self._phase = "start"
        self._took_s: defaultdict[str, float] = defaultdict(float)

    @classmethod
    def of_process(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """The boot that a supervisor began, or one that begins now where there is none."""
        pipe, began_at = environment.pop(PIPE, None), environment.pop(STARTED, None)
        if pipe is None or began_at is None:
            return cls()
        os.set_inheritable(int(pipe), False)
        faulthandler.enable()  # who ends a hung boot sends SIGABRT first, to learn where it hung
        _die_with_parent()
        failures = environment.get(FAILURES, "0")
        return cls(began_at=float(began_at), pipe=int(pipe), failures=int(failures) if failures.isdigit() else 0)

    def phase(self, name: str) -> None:
        """End the phase that was, begin the next."""
        if self.done:
            return
        now = self._monotonic()
        self._took_s[self._phase] += now - self._phase_at
        self._phase, self._phase_at = name, now
        self._tell(name)

    async def look_back(self, settings: CoreSettings, boots: Boots) -> None:
        """Learn from the store how many boots of this kind failed before, whoever's they were.

        Raises:
            StoreThrottled, StoreUnavailable: it could not be read.
        """
        self._stored = await boots.failures(settings.process, now=int(time.time()))
        self.failures = max(self.failures, self._stored)

    def left_s(self, settings: CoreSettings) -> float:
        """What a boot has left to end by itself, well or badly, in seconds; 0 where it is over."""
        return max(0.0, self._began_at + settings.boot_timeout_s * SHARE - self._monotonic())

    async def ready(self, settings: CoreSettings, metrics: Metrics, boots: Boots) -> None:
        """The process serves: tell everybody, once, and forget the boots that failed before."""
        if self.done:
            return
        self._tell_all(settings, metrics)
        if self._stored:
            try:
                await boots.clear(settings.process, seen=self._stored)
            except (WriteConflict, BrokerError) as error:  # another one was faster, or one has failed since
                log.warning("boots that failed were not forgotten", extra={"why": str(error)})

    def _tell_all(self, settings: CoreSettings, metrics: Metrics) -> None:
        self.phase(READY)
        self.done = True
        if self._pipe is not None:
            os.close(self._pipe)
        total_s = self._phase_at - self._began_at
        for name, took_s in self._took_s.items():
            metrics.boot_phase_s.labels(name).set(took_s)
        metrics.boot_s.set(total_s)
        metrics.boot_failures.set(self.failures)
        facts: dict[str, Any] = {
            "version": VERSION,
            "tenant": settings.tenant,
            "boot_ms": round(total_s * 1000),
            "phases_ms": {name: round(took_s * 1000) for name, took_s in self._took_s.items()},
            "failed_before": self.failures,
        }
        over = total_s * 1000 > settings.boot_budget_ms
        if over:
            facts["over_budget_ms"] = round(total_s * 1000 - settings.boot_budget_ms)
        log.log(logging.WARNING if over else logging.INFO, "ready", extra=facts)

    def gave_up(self) -> None:
        """Say that the store was not reached in the time of a boot: the process is about to end."""
        self._tell(GIVING_UP)
        log.error(
            "boot failed: the store was not reached in time",
            extra={"why": self.unavailable or "no answer", "todo": "by why: docs/runbooks/store-throttled.md"},
        )

    def _tell(self, word: str) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, f"{word}\n".encode())
        except OSError:  # the supervisor is gone, and this process is about to be
            return


def _die_with_parent() -> None:
    """Even where the supervisor is killed outright, this process does not outlive it (Linux)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(exits.CRASH)
