"""API keys in the table: one item each, under its public id; every change leaves its event."""

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, Final

from broker.errors import KeyNotFound, StoreUnavailable, TenantNotFound, WriteConflict
from broker.key import Key, KeyState
from broker.role import Role
from broker.store import table
from broker.store.client import StoreClient, TransactionRefused
from broker.store.events import Cause, Events, told_to
from broker.store.table import Item
from broker.store.tenants import Tenants

MAX_TRIES: Final = 6
_PAUSE_S: Final = 0.02
_BATCH: Final = 100
"""Keys that one BatchGetItem takes."""
_FIELDS: Final = tuple(f.name for f in fields(Key))
_TOLD: Final = ("tenant", "role", "name", "expires_at", "revoked_at", "revoked_reason", "replaces", "replaced_by")
"""What an event says of a key. Never its digest."""


class Keys:
    """Reads and changes keys. What is past its time is not there, whether DynamoDB removed it or not."""

    def __init__(self, client: StoreClient, tenants: Tenants, events: Events) -> None:
        self._client = client
        self._tenants = tenants
        self._events = events

    async def get(self, key_id: str, *, now: float) -> Key | None:
        """One consistent read."""
        item = await self._client.get(table.api_key_key(key_id))
        key = None if item is None else key_from(item)
        return None if key is None or (key.ttl is not None and key.ttl <= now) else key

    async def of(self, tenant: str | None, key_id: str, *, now: float) -> Key:
        """One consistent read of a tenant's own key; None: whosever it is.

        Raises:
            KeyNotFound: unknown, or another tenant's.
        """
        key = await self.get(key_id, now=now)
        if key is None or tenant not in (None, key.tenant):
            raise KeyNotFound
        return key

    async def find(self, ids: Iterable[str]) -> list[Key]:
        """Those of any number of ids that there are, whosever, 100 to a read."""
        wanted = [table.api_key_key(key_id) for key_id in sorted(set(ids))]
        batches = [wanted[first : first + _BATCH] for first in range(0, len(wanted), _BATCH)]
        items = [item for batch in batches for item in await self._client.batch_get(batch)]
        return [key for key in map(key_from, items) if key is not None]

    async def page(
        self, tenant: str, *, limit: int, now: float, after: Item | None = None
    ) -> tuple[list[Key], Item | None]:
        """One page of a tenant's keys, the newest first, as the index sees them; and where the next one begins."""
        answer = await self._client.read(
            "query",
            **self._all(tenant, now),
            TableName=self._client.table.name,
            Limit=limit,
            ScanIndexForward=False,
            **({"ExclusiveStartKey": after} if after else {}),
        )
        rows = [key for key in map(key_from, answer["Items"]) if key is not None]
        return rows, answer.get("LastEvaluatedKey")

    async def live(self, tenant: str, *, now: float) -> list[Key]:
        """A tenant's keys that are good now, as the index sees them: the newest may be missing."""
        found: list[Key] = []
        async for page in self._client.pages(**self._all(tenant, now)):
            keys = (key_from(item) for item in page["Items"])
            found += [key for key in keys if key is not None and key.state(now) is KeyState.LIVE]
        return found

    async def create(self, key: Key, cause: Cause, *, now: float) -> None:
        """Add a key, with its event.

        Raises:
            TenantNotFound: there is none of this name.
            StoreThrottled, StoreUnavailable: repeat; a key that was written after all is one that nobody knows.
        """
        await self._add(key, await self._events_of(None, key, cause, now=now), now=now)

    async def rotate(self, before: Key, key: Key, cause: Cause, *, ends_at: int, now: float) -> Key:
        """Add `key` in the place of `before`, which ends at `ends_at`, with both events. Returns the old one.

        Raises:
            WriteConflict: someone else changed `before` meanwhile.
            StoreThrottled, StoreUnavailable: repeat.
        """
        after = before.give_way(key.id, at=ends_at)
        made = await self._events_of(None, key, cause, now=now)
        events = made + await self._events_of(before, after, cause, now=now)
        await self._add(key, [*events, self._update(before, after)], now=now)
        return after

    async def change(
        self, tenant: str | None, key_id: str, edit: Callable[[Key], Key], cause: Cause, *, now: float
    ) -> Key:
        """Write what `edit` makes of the key, with its event; nothing where it changes nothing. Whose: as of().

        Raises:
            KeyNotFound: unknown, or another tenant's.
            StoreThrottled, StoreUnavailable: repeat.
        """
        for number in range(MAX_TRIES):
            before = await self.of(tenant, key_id, now=now)
            if (after := edit(before)) is before:
                return before
            try:
                told = await self._events_of(before, after, cause, now=now)
                await self._client.transact(self._update(before, after), *told)
            except TransactionRefused as refused:
                if failure := refused.failure():
                    raise failure from refused
                await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
            except StoreUnavailable:
                if number:  # a lost answer is looked into once
                    raise
            else:
                return after
        raise StoreUnavailable("contention")

    async def used(self, key_id: str, *, at: int) -> None:
        """Note that it was used. No event, no new version; of two who do, the later one stands."""
        change = {
            "UpdateExpression": "SET last_used_at = :at",
            "ExpressionAttributeValues": table.encode({":at": at}),
        }
        condition = "attribute_exists(pk) AND (attribute_not_exists(last_used_at) OR last_used_at < :at)"
        update = self._client.update(table.api_key_key(key_id), change, condition)["Update"]
        try:
            await self._client.call("update_item", **update)
        except WriteConflict:
            return

    async def _add(self, key: Key, others: list[dict[str, Any]], *, now: float) -> None:
        tenant = self._client.check(table.tenant_key(key.tenant), "attribute_exists(pk)", {})
        put = self._client.put(_item(key), "attribute_not_exists(pk)")
        for number in range(MAX_TRIES):
            try:
                await self._client.transact(tenant, put, *others)
            except TransactionRefused as refused:
                if failure := refused.failure():
                    raise failure from refused
                if refused.reasons[0].condition_failed:
                    raise TenantNotFound from refused
                if any(reason.condition_failed for reason in refused.reasons):
                    if await self._written(key, now=now):
                        return  # by the try before, whose answer was lost
                    raise WriteConflict from refused
                await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
            except StoreUnavailable:
                if await self._written(key, now=now):
                    return
                raise
            else:
                return
        raise StoreUnavailable("contention")

    async def _written(self, key: Key, *, now: float) -> bool:
        return (present := await self.get(key.id, now=now)) is not None and present.digest == key.digest

    def _update(self, before: Key, after: Key) -> dict[str, Any]:
        change = table.update_of(_item(before), _item(after))
        version = {":version": table.encode_value(before.version)}
        return self._client.update(table.api_key_key(after.id), change, "version = :version", version)

    async def _events_of(
        self, before: Key | None, after: Key, cause: Cause, *, now: float
    ) -> list[dict[str, Any]]:
        """Its event; and another among those of who did it, where that is another tenant's."""
        told_before, told_after = ({} if before is None else _told(before)), _told(after)
        differ = [name for name in _TOLD if told_before.get(name) != told_after.get(name)]
        return [
            self._events.note(
                cause,
                subject=f"key:{after.id}",
                before=None if before is None else json.dumps({name: told_before[name] for name in differ}),
                after=json.dumps({name: told_after[name] for name in differ}),
                version=after.version,
                tenant=tenant,
                now=now,
                shards=await self._tenants.shards(tenant),
            )
            for tenant in told_to(cause, after.tenant)
        ]

    def _all(self, tenant: str, now: float) -> dict[str, Any]:
        """The arguments of a query for a tenant's keys."""
        return {
            "IndexName": self._client.table.status_index,
            "KeyConditionExpression": "gsi1pk = :partition",
            "FilterExpression": "attribute_not_exists(#ttl) OR #ttl > :now",
            "ExpressionAttributeNames": {"#ttl": "ttl"},
            "ExpressionAttributeValues": table.encode(
                {":partition": table.api_keys_partition(tenant), ":now": int(now)}
            ),
        }


def _told(key: Key) -> dict[str, Any]:
    return {name: getattr(key, name) for name in _TOLD}


def _item(key: Key) -> Item:
    values: dict[str, Any] = {name: getattr(key, name) for name in _FIELDS}
    values["key_id"] = values.pop("id")
    values["gsi1pk"] = table.api_keys_partition(key.tenant)
    values["gsi1sk"] = table.api_key_sort_key(key.created_at, key.id)
    return table.encode({"v": table.ITEM_VERSION, **values}) | table.api_key_key(key.id)


def key_from(item: Item) -> Key | None:
    """The key of an item, None where its role is one that only a newer release knows: it is good for nothing."""
    values = table.decode(item)
    values["id"] = values["key_id"]
    known = {name: values[name] for name in _FIELDS if name in values}
    try:
        known["role"] = Role(known["role"])
    except ValueError:
        return None
    return Key(**known)
