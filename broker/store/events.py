"""The event of every transition: audit log and history in one, written in the transition's transaction."""

import itertools
import secrets
from dataclasses import dataclass
from typing import Any

from broker.sandbox import Sandbox
from broker.store import table
from broker.store.client import StoreClient

EVENT_TTL_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Who did it, what they call it, and in which request."""

    actor: str
    action: str
    request_id: str


class Events:
    """Makes event items. Ids sort by time and are unique over processes without asking anyone."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._process = secrets.token_hex(5)
        self._count = itertools.count()

    def of(
        self,
        cause: Cause,
        after: Sandbox,
        *,
        before: Sandbox | None,
        now: float,
        shards: int,
        removed: bool = False,
    ) -> dict[str, Any]:
        """The transaction item that records `before -> after`, or that the item itself goes."""
        at = int(now)
        event_id = f"{int(now * 1000):013d}-{self._process}-{next(self._count):06d}"
        values: dict[str, Any] = {
            "v": table.ITEM_VERSION,
            "tenant": after.tenant,
            "sandbox_id": after.id,
            "event_id": event_id,
            "at": at,
            "actor": cause.actor,
            "action": cause.action,
            "request_id": cause.request_id,
            "before": None if before is None else before.state.value,
            "after": "removed" if removed else after.state.value,
            "version": after.version + removed,
            "holder": after.holder,
            "track": after.track,
            "error": after.last_error,
            "ttl": at + EVENT_TTL_S,
            "gsi2pk": table.history_partition(after.tenant, after.id),
            "gsi2sk": event_id,
        }
        key = table.event_key(after.tenant, at=at, event_id=event_id, shards=shards)
        return self._client.put(table.encode(values) | key, "attribute_not_exists(pk)")
