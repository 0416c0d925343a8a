"""Leave to make one deletion, asked for before anything is written: a refusal is no attempt."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Literal, Self

from broker.metrics import Metrics
from worker.provider.breaker import Breaker, Try
from worker.provider.errors import ProviderError
from worker.provider.pacing import Pacing, Slot

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not now; ask again in `retry_in_s`. Nothing was reserved, nothing is to be counted."""

    why: Literal["BREAKER_OPEN", "PACED"]
    retry_in_s: float


class _Stage(Enum):
    HELD = auto()
    USED = auto()
    GIVEN_BACK = auto()
    LAPSED = auto()


class Permit:
    """Reserves a place, a share of the rate, and the probe where the breaker is half-open; good for one call.

    As a context manager it gives back, at the end, what was not used.
    """

    def __init__(self, account: str, *, admitted: Try, slot: Slot, lapses_at: float) -> None:
        self.account = account
        self.lapses_at = lapses_at
        self._admitted = admitted
        self._slot = slot
        self._stage = _Stage.HELD

    @property
    def held(self) -> bool:
        """Whether it still reserves what it reserved."""
        return self._stage is _Stage.HELD

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """No call was made. Idempotent; after the call it does nothing."""
        self._end(_Stage.GIVEN_BACK)

    def lapse(self) -> None:
        """Take it back from a holder who forgot it, or slept too long."""
        self._end(_Stage.LAPSED)

    def use(self) -> None:
        """The call is about to be made.

        Raises:
            ProviderError: PERMIT_LAPSED; no call is to be made.
            RuntimeError: it was used or given back before: a mistake in the program.
        """
        if self._stage is _Stage.LAPSED:
            raise ProviderError("PERMIT_LAPSED", "it was held for too long")
        if self._stage is not _Stage.HELD:
            raise RuntimeError("a permit is good for one deletion")
        self._stage = _Stage.USED

    def ended(self, error: ProviderError | None) -> None:
        """The call was made and ended so."""
        kind = error.kind if error is not None else None
        self._admitted.ended(kind, account=self.account)
        self._slot.ended(kind, retry_after_s=error.retry_after_s if error is not None else None)

    def abandon(self) -> None:
        """The call may have been made, and nobody knows how it ended: neither success nor failure."""
        self._admitted.give_back()
        self._slot.ended("UNKNOWN")

    def _end(self, stage: _Stage) -> None:
        if self._stage is _Stage.HELD:
            self._stage = stage
            self._admitted.give_back()
            self._slot.give_back()


class Admission:
    """Asks breaker and pacing for a deletion, and takes back permits that nobody uses."""

    def __init__(
        self,
        breaker: Breaker,
        pacing: Pacing,
        *,
        tenant: str,
        lapse_after_s: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._breaker = breaker
        self._pacing = pacing
        self._tenant = tenant
        self._lapse_after_s = lapse_after_s
        self._metrics = metrics
        self._clock = clock
        self._held: list[Permit] = []  # in the order in which they lapse

    def admit(self, account: str) -> Permit | Refusal:
        """A permit for one deletion of this account, or why there is none now. Never waits."""
        now = self._clock()
        self._take_back(now)
        if wait_s := self._breaker.wait_s():
            return self._refuse(Refusal("BREAKER_OPEN", wait_s))
        if wait_s := self._pacing.wait_s():  # before the probe is taken, which a refusal would waste
            return self._refuse(Refusal("PACED", wait_s))
        admitted, slot = self._breaker.admit(), self._pacing.take(account)
        if admitted is None or slot is None:
            raise AssertionError("unreachable: both said a moment ago that they would")
        permit = Permit(account, admitted=admitted, slot=slot, lapses_at=now + self._lapse_after_s)
        self._held.append(permit)
        return permit

    def describe(self) -> dict[str, str]:
        """For people: how the breaker stands, and the pace."""
        return {"delete": self._breaker.describe(), "pacing": self._pacing.describe()}

    def _refuse(self, refusal: Refusal) -> Refusal:
        self._metrics.provider_refusals.labels(self._tenant, "delete", refusal.why).inc()
        return refusal

    def _take_back(self, now: float) -> None:
        self._held = [permit for permit in self._held if permit.held]
        while self._held and self._held[0].lapses_at <= now:
            permit = self._held.pop(0)
            permit.lapse()
            log.warning("a deletion's permit was held for too long: taken back", extra={"account": permit.account})
