"""The event of every transition: audit log and history in one, written in the transition's transaction."""

import itertools
import secrets
from dataclasses import dataclass
from typing import Any

from broker.action import Action
from broker.sandbox import Sandbox, State
from broker.store import table
from broker.store.client import StoreClient

EVENT_TTL_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Who did it, what they call it, in which request, and why where a person said so."""

    actor: str
    action: Action
    request_id: str
    reason: str | None = None
    tenant: str | None = None  # the actor's own, where that is known: what it does to another's is told there, too


def told_to(cause: Cause, tenant: str) -> list[str]:
    """Among whose events a change of something of `tenant` is told: its own, and those of who did it."""
    return list(dict.fromkeys([tenant, cause.tenant or tenant]))


def _ended_otherwise(before: Sandbox | None, after: Sandbox) -> int | None:
    """When an allocation was to end that now ends at another time; None where that is as it was."""
    if before is None or not before.state is after.state is State.ALLOCATED:
        return None
    return before.expires_at if before.expires_at != after.expires_at else None


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
        event_id = self._next_id(now)
        facts: dict[str, str | int | None] = {
            "sandbox_id": after.id,
            "before": None if before is None else before.state.value,
            "after": "removed" if removed else after.state.value,
            "version": after.version + removed,
            "holder": after.holder,
            "track": after.track,
            "expires_at": after.expires_at,
            "expires_at_before": _ended_otherwise(before, after),
            "error": after.last_error,
            "gsi2pk": table.history_partition(after.tenant, after.id),
            "gsi2sk": event_id,
        }
        return self._put(event_id, cause, facts, tenant=after.tenant, now=now, shards=shards)

    def note(
        self,
        cause: Cause,
        *,
        subject: str,
        before: str | None,
        after: str | None,
        version: int,
        tenant: str,
        now: float,
        shards: int,
        error: str | None = None,
    ) -> dict[str, Any]:
        """The transaction item that records a change of something else than a sandbox: of `subject`.

        `before` and `after` are JSON objects, as text.
        """
        facts: dict[str, str | int | None] = {
            "subject": subject,
            "before": before,
            "after": after,
            "version": version,
            "error": error,
        }
        return self._put(self._next_id(now), cause, facts, tenant=tenant, now=now, shards=shards)

    def _next_id(self, now: float) -> str:
        return f"{int(now * 1000):013d}-{self._process}-{next(self._count):06d}"

    def _put(
        self,
        event_id: str,
        cause: Cause,
        facts: dict[str, str | int | None],
        *,
        tenant: str,
        now: float,
        shards: int,
    ) -> dict[str, Any]:
        at = int(now)
        values: dict[str, Any] = {
            "v": table.ITEM_VERSION,
            "tenant": tenant,
            "event_id": event_id,
            "at": at,
            "actor": cause.actor,
            "action": cause.action,
            "reason": cause.reason,
            "request_id": cause.request_id,
            "ttl": at + EVENT_TTL_S,
            **facts,
        }
        key = table.event_key(tenant, at=at, event_id=event_id, shards=shards)
        return self._client.put(table.encode(values) | key, "attribute_not_exists(pk)")
