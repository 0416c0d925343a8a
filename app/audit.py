"""Lists of events for viewers: who changed what, newest first, page by page."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Final

from app.cursors import Cursors
from broker.key import key_id_of
from broker.store.event_log import Event, EventLog, Sought, place
from broker.store.keys import Keys
from broker.store.tenants import Tenants

_MAX_QUERIES: Final = 80
"""Per page: see Inventory. With four shards that is twenty hours in which nothing happened."""
_CLOCKS_APART_S: Final = 60
"""So far in the future may the events of a process be whose clock is ahead."""


@dataclass(frozen=True, slots=True)
class EventPage:
    events: list[Event]
    cursor: str | None


class Audit:
    """Pages through one tenant's events of the last 30 days."""

    def __init__(
        self,
        log: EventLog,
        tenants: Tenants,
        keys: Keys,
        cursors: Cursors,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._keys = keys
        self._tenants = tenants
        self._cursors = cursors
        self._clock = clock

    async def page(self, tenant: str, sought: Sought, *, limit: int, cursor: str | None) -> EventPage:
        """Up to `limit` events, and the cursor of the next page; None after the last.

        Every event that was there when the first page was asked for is on one page; no event is on two.

        Raises:
            InvalidCursor: not one of this tenant's for these filters.
        """
        scope = (tenant, "events", *("" if fact is None else str(fact) for fact in astuple(sought)))
        now = int(self._clock())
        latest = now + _CLOCKS_APART_S
        newest = latest if sought.until is None else min(sought.until, latest)
        before: str | None = self._cursors.decode(cursor, scope=scope)["before"] if cursor else place(newest + 1)
        shards = await self._tenants.shards(tenant, now=True)  # one that was added holds events at once
        events: list[Event] = []
        queries = 0
        while before is not None and len(events) < limit and queries < _MAX_QUERIES:
            part = await self._log.part(
                tenant, sought, before=before, now=now, shards=shards, limit=limit - len(events)
            )
            events += part.events
            before = part.before
            queries += part.queries
        return EventPage(events, None if before is None else self._cursors.encode({"before": before}, scope=scope))

    async def names(self, events: Iterable[Event], *, tenant: str | None) -> dict[str, str]:
        """What the keys are called that did it, or that it was done to, by credential. None: whosever they are.

        A key of another tenant goes without: what the platform's people call theirs is nobody else's business.
        """
        credentials = (credential for event in events for credential in (event.actor, event.subject or ""))
        ids = {key_id for credential in credentials if (key_id := key_id_of(credential)) is not None}
        found = await self._keys.find(ids)
        return {key.credential: key.name for key in found if tenant in (None, key.tenant)}

    async def for_tenant(self, events: list[Event], tenant: str) -> list[Event]:
        """As people see them who are not the platform's: what was done to another tenant's things has no facts.

        Such an event is among those of who did it, and says what of the tenant or of the key was changed, and how.
        """
        ids = {key_id for event in events if (key_id := key_id_of(event.subject or "")) is not None}
        owners = {key.credential: key.tenant for key in await self._keys.find(ids)} if ids else {}
        return [
            replace(event, before=None, after=None) if _whose(event, tenant, owners) != tenant else event
            for event in events
        ]


def _whose(event: Event, tenant: str, owners: Mapping[str, str]) -> str | None:
    """Which tenant an event among those of `tenant` is about; None where nobody knows any more."""
    subject = event.subject or ""
    kind, _, named = subject.partition(":")
    if kind == "tenant" and named:
        return named
    if key_id_of(subject) is None:
        return tenant
    made_for = event.after.get("tenant") if isinstance(event.after, dict) else None
    return owners.get(subject) or made_for
