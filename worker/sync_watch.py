"""How a tenant's syncs end: what is wrong with the last ones, since when, and who has to do what about it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from broker.errors import BrokerError, LeadershipLost
from broker.store.reports import SyncFailure
from worker.provider.connection import Connection
from worker.provider.errors import ProviderError, is_refused_credential

log = logging.getLogger("worker")

INTERVALS: Final = 3
"""Syncs that fail for longer than so many intervals are an alert; a refused credential is one at once."""


class SyncWatch:
    """Told how each sync of a tenant ends. What it knows is of this process, since the tenant was taken up."""

    def __init__(
        self, connection: Connection, *, tenant: str, interval_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._interval_s = interval_s
        self._clock = clock
        self._succeeded = False
        self.failure: SyncFailure | None = None  # None: the last one succeeded, or none has ended yet

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Sync once inside."""
        try:
            yield
        except LeadershipLost:
            raise  # says nothing of the provider: it is another's to sync
        except ProviderError as error:
            self._failed(str(error), kind=error.kind)
            raise
        except BrokerError as error:
            self._failed(f"{error.code}: {error}", kind=error.code)
            raise
        except Exception as error:
            self._failed(f"CRASHED: {type(error).__name__}", kind="CRASHED")
            raise
        else:
            self._succeeded, self.failure = True, None

    def _failed(self, why: str, *, kind: str) -> None:
        now, before = int(self._clock()), self.failure
        if kind == "BREAKER_OPEN" and before is not None:  # nobody was asked: the reason is the one before
            self.failure = replace(before, at=now, times=before.times + 1)
            return
        todo = self._connection.todo(kind, self._tenant)
        since, times = (now, 1) if before is None else (before.since, before.times + 1)
        self.failure = SyncFailure(kind=kind, why=why, todo=todo, at=now, since=since, times=times)
        if is_refused_credential(kind):
            facts = {"tenant": self._tenant, "why": why, "times": times, "todo": todo}
            log.error("not listed: our credential is refused, or there is none", extra=facts)

    def alerts(self) -> dict[str, str]:
        """The alert that is on, under the name of its rule, and what to do."""
        failure = self.failure
        if failure is None:
            return {}
        long_s = INTERVALS * self._interval_s
        if not is_refused_credential(failure.kind) and self._clock() - failure.since <= long_s:
            return {}
        name = "SyncOverdue" if self._succeeded else "SyncNeverSucceeded"
        return {name: f"{failure.why}: {failure.todo}"}
