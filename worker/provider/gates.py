"""What stands between the worker and the provider: a breaker for each endpoint, and the pace of deletions."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.metrics import Metrics
from broker.settings import WorkerSettings
from worker.provider.breaker import Breaker
from worker.provider.pacing import Pacing, Span
from worker.provider.permits import Admission

PERMIT_MARGIN_S = 60.0
"""For the writes between a permit and its call, slow ones included."""


@dataclass(frozen=True, slots=True)
class Gates:
    """One tenant's; their state is this process's alone."""

    listing: Breaker
    services: Breaker
    deletions: Admission

    def describe(self) -> dict[str, str]:
        """For people, by endpoint."""
        return {
            "list": self.listing.describe(),
            "services": self.services.describe(),
            **self.deletions.describe(),
        }


def gates_of(settings: WorkerSettings, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> Gates:
    def breaker(endpoint: str) -> Breaker:
        open_s = settings.breaker_open_s
        return Breaker(endpoint, tenant=settings.tenant, metrics=metrics, open_s=open_s, clock=clock)

    pacing = Pacing(
        tenant=settings.tenant,
        concurrency=Span(settings.clean_concurrency_floor, settings.clean_concurrency),
        rate=Span(settings.deletes_per_s_floor, settings.deletes_per_s),
        metrics=metrics,
        clock=clock,
    )
    deletions = Admission(
        breaker("delete"),
        pacing,
        tenant=settings.tenant,
        lapse_after_s=settings.delete_timeout_s + settings.services_timeout_s + PERMIT_MARGIN_S,
        metrics=metrics,
        clock=clock,
    )
    return Gates(breaker("list"), breaker("services"), deletions)
