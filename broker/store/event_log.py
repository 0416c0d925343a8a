"""Reads events, newest first: one sandbox's by one query of an index, a tenant's hour by hour."""

import asyncio
import json
import math
from dataclasses import dataclass, fields
from typing import Any, Final

from broker.store import table
from broker.store.client import StoreClient
from broker.store.events import EVENT_TTL_S
from broker.store.table import Item

_HOUR_S: Final = 3600
_BATCH: Final = 100
"""Keys that one BatchGetItem takes."""
_LEAST_ROWS: Final = 25
_SEARCHED_ROWS: Final = 500
"""What one query looks at where a filter may leave little of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was changed, by whom, and why. Of a sandbox, or of a subject: never of both."""

    event_id: str  # sorts by time
    at: int  # Unix seconds, UTC
    actor: str
    action: str
    request_id: str
    sandbox_id: str | None = None
    subject: str | None = None  # "tenant", "mode", "job:<id>"
    before: str | dict[str, Any] | None = None  # a sandbox's state, else facts; None: it was not there
    after: str | dict[str, Any] | None = None
    version: int | None = None
    holder: str | None = None
    track: str | None = None
    expires_at: int | None = None  # of an allocation: when it ends, after the change
    expires_at_before: int | None = None  # when it was to end, where the change moved that
    reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which events. `since` and `until` are Unix seconds, both included; None leaves a fact open."""

    sandbox_id: str | None = None
    actor: str | None = None
    action: str | None = None
    request_id: str | None = None
    since: int | None = None
    until: int | None = None

    @property
    def filters(self) -> dict[str, str]:
        """What is compared with each event; the rest says where to look."""
        by_name = {"actor": self.actor, "action": self.action, "request_id": self.request_id}
        return {name: value for name, value in by_name.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Part:
    """Some events, and where to go on: a place in the order of event ids. None: there are no older ones."""

    events: list[Event]
    before: str | None
    queries: int


def place(at: int) -> str:
    """The place of an instant among event ids: after all of the seconds before it."""
    return f"{at * 1000:013d}"


class EventLog:
    """What is past its TTL is not there, whether DynamoDB removed it or not."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def part(self, tenant: str, sought: Sought, *, before: str, now: int, shards: int, limit: int) -> Part:
        """Up to `limit` events that are older than the place `before`, newest first; maybe none of many.

        Without a sandbox no further than one hour back. Two parts, one behind the other, share no event and
        leave none out, whatever is written between them and however many shards there are by then.

        Raises:
            StoreThrottled, StoreUnavailable: repeat.
        """
        oldest = max(sought.since or 0, now - EVENT_TTL_S + 1)
        if sought.sandbox_id is not None:
            return await self._of_sandbox(tenant, sought, before=before, oldest=oldest, limit=limit)
        return await self._of_hour(tenant, sought, before=before, oldest=oldest, shards=shards, limit=limit)

    async def _of_sandbox(self, tenant: str, sought: Sought, *, before: str, oldest: int, limit: int) -> Part:
        """By the index, which carries few facts and may lag: it says which, the table says what."""
        partition = table.history_partition(tenant, sought.sandbox_id or "")
        index = {"IndexName": self._client.table.track_index}
        rows = max(limit + 1, _SEARCHED_ROWS if sought.filters else 0)
        items, end = await self._query("gsi2", partition, sought, before, oldest, rows, **index)
        found = items[:limit]
        if len(items) > limit:
            end = found[-1]["gsi2sk"]["S"]
        keys = [{name: item[name] for name in ("pk", "sk")} for item in found]
        batches = [keys[first : first + _BATCH] for first in range(0, len(keys), _BATCH)]
        whole = [item for batch in await asyncio.gather(*map(self._client.batch_get, batches)) for item in batch]
        return Part(_newest_first(whole), end, 1)

    async def _of_hour(
        self, tenant: str, sought: Sought, *, before: str, oldest: int, shards: int, limit: int
    ) -> Part:
        """All shards of one hour at once. Below where the first of them stopped, some may not have told all."""
        hour = _hour_below(before)
        begins_at = hour * _HOUR_S
        rows = _SEARCHED_ROWS if sought.filters else max(_LEAST_ROWS, math.ceil(2 * limit / shards))
        partitions = [table.event_partition(tenant, hour, shard) for shard in range(shards)]
        answers = await asyncio.gather(
            *(self._query("", pk, sought, before, oldest, rows, ConsistentRead=True) for pk in partitions)
        )
        told_down_to = max((end for _, end in answers if end is not None), default="")
        items = [item for found, _ in answers for item in found if item["sk"]["S"] >= told_down_to]
        events = _newest_first(items)
        if len(events) > limit:
            return Part(events[:limit], events[limit - 1].event_id, shards)
        if told_down_to:
            return Part(events, told_down_to, shards)
        return Part(events, place(begins_at) if begins_at > oldest else None, shards)

    async def _query(
        self, prefix: str, partition: str, sought: Sought, before: str, oldest: int, rows: int, **how: Any
    ) -> tuple[list[Item], str | None]:
        """One page of one partition: what matches, and how far it looked; None: to the end.

        BETWEEN includes both its ends, and `before` itself was told already.
        """
        filters = sought.filters
        if filters:
            how["FilterExpression"] = " AND ".join(f"#{name} = :{name}" for name in filters)
            how["ExpressionAttributeNames"] = {f"#{name}": name for name in filters}
        values = {f":{name}": value for name, value in filters.items()}
        values |= {":partition": partition, ":oldest": place(oldest), ":before": max(before, place(oldest))}
        answer = await self._client.read(
            "query",
            TableName=self._client.table.name,
            KeyConditionExpression=f"{prefix}pk = :partition AND {prefix}sk BETWEEN :oldest AND :before",
            ExpressionAttributeValues=table.encode(values),
            ScanIndexForward=False,
            Limit=rows + 1,
            **how,
        )
        last = answer.get("LastEvaluatedKey")
        items = [item for item in answer["Items"] if item[f"{prefix}sk"]["S"] != before]
        return items, None if last is None else last[f"{prefix}sk"]["S"]


def _hour_below(before: str) -> int:
    """The hour of the ids right below a place: that of an instant is below its own hour where it begins one."""
    at_ms, is_id = int(before[:13]), len(before) > len(place(0))
    return (at_ms if is_id else at_ms - 1) // (_HOUR_S * 1000)


def _newest_first(items: list[Item]) -> list[Event]:
    return sorted(map(event_from, items), key=lambda event: event.event_id, reverse=True)


_FIELDS: Final = tuple(f.name for f in fields(Event))


def event_from(item: Item) -> Event:
    """The event of an item. What a newer release wrote beside it is left out."""
    values = table.decode(item)
    known = {name: values[name] for name in _FIELDS if name in values}
    if "subject" in known:
        known |= {name: _facts(known[name]) for name in ("before", "after") if name in known}
    return Event(**known)


def _facts(text: str) -> dict[str, Any]:
    """What was noted of a subject. The mode's first events said it in a word, without a name."""
    try:
        facts = json.loads(text)
    except ValueError:
        facts = text
    return facts if isinstance(facts, dict) else {"state": facts}
