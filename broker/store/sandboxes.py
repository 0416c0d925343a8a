"""Sandboxes in the table: every write conditional on the version it was decided from."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from broker.errors import ProviderAccountOwned, WriteConflict
from broker.pool import Span
from broker.sandbox import Sandbox, State
from broker.store import table
from broker.store.claims import Claim, Claims
from broker.store.client import StoreClient, TransactionRefused
from broker.store.events import Cause, Events
from broker.store.slots import Slots
from broker.store.table import Item, sandbox_from
from broker.store.tenants import Tenants

_BATCH: Final = 100
"""Keys that one BatchGetItem takes."""
_AT_VERSION = "version = :version"
_NOBODY_ELSES = "attribute_not_exists(pk) OR (tenant = :tenant AND sandbox_id = :me)"
"""Of an owner item: the account is this very sandbox's, or nobody's. The tenant alone would not do: a
provider that names one account under two ids would have it handed out twice."""


class Sandboxes:
    """Reads and moves sandboxes. A state never changes without its event."""

    def __init__(
        self, client: StoreClient, tenants: Tenants, claims: Claims, slots: Slots, events: Events
    ) -> None:
        self._client = client
        self._tenants = tenants
        self._claims = claims
        self._slots = slots
        self._events = events

    async def get(self, tenant: str, sandbox_id: str) -> Sandbox | None:
        """One consistent read of the base table."""
        item = await self._client.get(table.sandbox_key(tenant, sandbox_id))
        return None if item is None else sandbox_from(item)

    async def get_many(self, sandboxes: list[Sandbox]) -> dict[str, Sandbox]:
        """The present truth about up to 100 sandboxes of one tenant, by id; one consistent batch."""
        keys = [table.sandbox_key(tenant, id_) for tenant, id_ in {(s.tenant, s.id): None for s in sandboxes}]
        return {s.id: s for s in map(sandbox_from, await self._client.batch_get(keys))}

    async def find(self, tenant: str, ids: Iterable[str]) -> dict[str, Sandbox]:
        """Those of any number of ids that there are, read consistently, 100 to a batch and batches at once."""
        keys = [table.sandbox_key(tenant, id_) for id_ in dict.fromkeys(ids)]
        batches = [keys[first : first + _BATCH] for first in range(0, len(keys), _BATCH)]
        found = await asyncio.gather(*map(self._client.batch_get, batches))
        return {s.id: s for items in found for s in map(sandbox_from, items)}

    async def owners(self, sandboxes: Iterable[Sandbox]) -> dict[str, tuple[str, str]]:
        """Who has the account of each, by its id: a tenant, and that tenant's sandbox. Only where somebody has."""
        keys = {sandbox.id: _owner_key(sandbox) for sandbox in sandboxes}
        distinct = list({key["pk"]["S"]: key for key in keys.values()}.values())
        batches = [distinct[first : first + _BATCH] for first in range(0, len(distinct), _BATCH)]
        found = await asyncio.gather(*map(self._client.batch_get, batches))
        owner = {
            item["pk"]["S"]: (item["tenant"]["S"], item["sandbox_id"]["S"]) for items in found for item in items
        }
        return {id_: owner[key["pk"]["S"]] for id_, key in keys.items() if key["pk"]["S"] in owner}

    async def add(self, sandbox: Sandbox, cause: Cause, *, now: float) -> None:
        """Put a sandbox that nobody knows yet, and take ownership of its provider account: both or neither.

        Raises:
            ProviderAccountOwned: another tenant has the account.
            WriteConflict: the sandbox exists; carries it where the store said so.
        """
        shards = await self._tenants.shards(sandbox.tenant)
        try:
            await self._client.transact(
                self._client.put(table.sandbox_item(sandbox, shards), "attribute_not_exists(pk)"),
                self._own(sandbox, ttl=None),
                self._events.of(cause, sandbox, before=None, now=now, shards=shards),
            )
        except TransactionRefused as refused:
            existing, owner, _ = refused.reasons
            if owner.condition_failed and not existing.condition_failed:
                raise ProviderAccountOwned(sandbox.external_id) from refused
            raise _lost(refused) from refused

    async def allocate(self, before: Sandbox, after: Sandbox, claim: Claim, cause: Cause, *, now: float) -> None:
        """Begin the claim, write `before -> after`, record the event: all or nothing, one round trip.

        Raises:
            TransactionRefused: slot 0 is the claim, slot 1 the sandbox, slot 2 the event, slot 3 the quota's
                where the tenant has one.
        """
        shards = await self._tenants.shards(before.tenant)
        await self._client.transact(
            self._claims.begin(claim, now=int(now)),
            self.step(before, after, shards=shards),
            self._events.of(cause, after, before=before, now=now, shards=shards),
            *([] if after.slot is None else [self._slots.fill(after)]),
        )

    async def seat(self, before: Sandbox, after: Sandbox) -> None:
        """Give a sandbox that is allocated already its slot of the quota, or another one.

        Raises:
            WriteConflict: someone else moved this sandbox first, or has the slot.
        """
        left = [] if before.slot is None else [self._slots.empty(before)]
        step = self.step(before, after, shards=await self._tenants.shards(before.tenant))
        await self._transact(step, self._slots.fill(after), *left)

    async def move(self, before: Sandbox, after: Sandbox, cause: Cause, *, now: float) -> None:
        """Write `before -> after` with its event.

        Raises:
            WriteConflict: someone else moved this sandbox first.
        """
        shards = await self._tenants.shards(before.tenant)
        items = [
            self.step(before, after, shards=shards),
            self._events.of(cause, after, before=before, now=now, shards=shards),
        ]
        if after.ttl != before.ttl:  # ownership is remembered for as long as the tombstone
            items.append(self._own(after, ttl=after.ttl))
        try:
            await self._client.transact(*items)
        except TransactionRefused as refused:
            if not _alone(refused, slot=2):
                raise _lost(refused) from refused
            await self._transact(*items[:2])  # the account is another sandbox's by now

    async def lease(self, before: Sandbox, after: Sandbox) -> None:
        """Take the lease of a deletion, if the account to delete is still this sandbox's own.

        Raises:
            WriteConflict: someone else moved this sandbox first.
            ProviderAccountOwned: the account is another sandbox's: it must not be deleted.
        """
        step = self.step(before, after, shards=await self._tenants.shards(before.tenant))
        mine = {":tenant": table.encode_value(before.tenant), ":me": table.encode_value(before.id)}
        owned = self._client.check(_owner_key(before), _NOBODY_ELSES, mine)
        try:
            await self._client.transact(step, owned)
        except TransactionRefused as refused:
            if _alone(refused, slot=1):
                raise ProviderAccountOwned(before.external_id) from refused
            raise _lost(refused) from refused

    async def _transact(self, *items: dict[str, Any]) -> None:
        try:
            await self._client.transact(*items)
        except TransactionRefused as refused:
            raise _lost(refused) from refused

    async def touch(self, before: Sandbox, after: Sandbox) -> None:
        """Write a change within one state: a lease, what the provider says. No event, no change of the account.

        Raises:
            WriteConflict: someone else moved this sandbox first.
        """
        if before.state is not after.state or (before.provider, before.external_id) != (
            after.provider,
            after.external_id,
        ):
            raise ValueError("a change of state needs its event: move(); one of the account its owner: parts()")
        step = self.step(before, after, shards=await self._tenants.shards(before.tenant))
        await self._client.call("update_item", **step["Update"])

    async def parts(
        self, before: Sandbox | None, after: Sandbox, cause: Cause | None, *, now: float
    ) -> tuple[list[dict[str, Any]], frozenset[int]]:
        """One sandbox's items of a batch, and which of them are about the ownership of its account.

        Without `before` the sandbox is new; without a cause only its facts change, and no event tells.
        """
        shards = await self._tenants.shards(after.tenant)
        owned: list[dict[str, Any]] = []
        if before is None:
            items = [self._client.put(table.sandbox_item(after, shards), "attribute_not_exists(pk)")]
            owned = [self._own(after, ttl=None)]
        else:
            items = [self.step(before, after, shards=shards)]
            if _owner_key(before) != _owner_key(after):
                owned = [self._own(after, ttl=after.ttl), self._disown(before)]
            elif before.ttl != after.ttl:  # ownership is remembered for as long as the tombstone
                owned = [self._own(after, ttl=after.ttl)]
        if cause is not None:
            items.append(self._events.of(cause, after, before=before, now=now, shards=shards))
        return items + owned, frozenset(range(len(items), len(items) + len(owned)))

    async def end(self, before: Sandbox, after: Sandbox, cause: Cause, *, now: float) -> None:
        """End an allocation: the sandbox moves on, its claim and slot end, the event is written; all or nothing.

        A missing or foreign claim or slot never stops an ending: then the sandbox ends without it.

        Raises:
            WriteConflict: someone else moved this sandbox first.
        """
        freed = [] if before.slot is None else [self._slots.empty(before)]
        await self._with(before, after, cause, self._claims.end(after), *freed, now=now)

    async def extend(self, before: Sandbox, after: Sandbox, cause: Cause, *, now: float) -> None:
        """Make an allocation last longer: the sandbox, its claim and the event, all or nothing.

        Raises:
            WriteConflict: someone else moved this sandbox first.
        """
        await self._with(before, after, cause, self._claims.extend(after), now=now)

    async def _with(
        self, before: Sandbox, after: Sandbox, cause: Cause, *beside: dict[str, Any], now: float
    ) -> None:
        """Write `before -> after`, its event, and what goes with it; without those that are gone or another's."""
        shards = await self._tenants.shards(before.tenant)
        items = [
            self.step(before, after, shards=shards),
            self._events.of(cause, after, before=before, now=now, shards=shards),
            *beside,
        ]
        try:
            await self._client.transact(*items)
        except TransactionRefused as refused:
            open_slots = {n for n, reason in enumerate(refused.reasons) if reason.code != "None"}
            gone = {n for n, reason in enumerate(refused.reasons) if reason.condition_failed}
            if not gone or min(gone) < len(items) - len(beside) or gone != open_slots:
                raise _lost(refused) from refused
            await self._transact(*(item for n, item in enumerate(items) if n not in gone))

    async def remove(self, stale: Sandbox, cause: Cause, *, now: float) -> None:
        """Remove a stale sandbox and its ownership; the event stays.

        Raises:
            WriteConflict: someone else moved this sandbox first.
        """
        shards = await self._tenants.shards(stale.tenant)
        version = {":version": table.encode_value(stale.version)}
        gone = self._client.delete(table.sandbox_key(stale.tenant, stale.id), _AT_VERSION, version)
        event = self._events.of(cause, stale, before=stale, now=now, shards=shards, removed=True)
        try:
            await self._client.transact(gone, event, self._disown(stale))
        except TransactionRefused as refused:
            if not _alone(refused, slot=2):
                raise _lost(refused) from refused
            await self._transact(gone, event)  # the account is another sandbox's: it stays owned

    def step(self, before: Sandbox, after: Sandbox, *, shards: int) -> dict[str, Any]:
        """The transaction item that writes `before -> after`, if nobody wrote in between."""
        change = table.update_of(table.sandbox_item(before, shards), table.sandbox_item(after, shards))
        version = {":version": table.encode_value(before.version)}
        return self._client.update(table.sandbox_key(before.tenant, before.id), change, _AT_VERSION, version)

    def _own(self, sandbox: Sandbox, *, ttl: int | None) -> dict[str, Any]:
        values: dict[str, Any] = {"v": table.ITEM_VERSION, "tenant": sandbox.tenant, "sandbox_id": sandbox.id}
        if ttl is not None:
            values["ttl"] = ttl
        change = table.update_of({"ttl": {}} if ttl is None else {}, table.encode(values))
        return self._client.update(
            _owner_key(sandbox),
            change,
            _NOBODY_ELSES,
            {":tenant": table.encode_value(sandbox.tenant), ":me": table.encode_value(sandbox.id)},
        )

    def _disown(self, sandbox: Sandbox) -> dict[str, Any]:
        mine = {":tenant": table.encode_value(sandbox.tenant), ":me": table.encode_value(sandbox.id)}
        return self._client.delete(_owner_key(sandbox), _NOBODY_ELSES, mine)

    async def page(
        self,
        tenant: str,
        state: State,
        shard: int,
        *,
        limit: int,
        names: Span | None = None,
        up_to: int | None = None,
        after: Item | None = None,
        backwards: bool = False,
    ) -> tuple[list[Sandbox], Item | None]:
        """One page of a state's sandboxes in the order they are taken, as the index sees them: a hint.

        Returns the rows and where the next page begins, None at the end. `names` serves AVAILABLE alone;
        `up_to` is an instant and serves the states that sort by one.
        """
        condition = "gsi1pk = :partition"
        values = {":partition": {"S": table.status_partition(tenant, state, shard)}}
        if names is not None:
            condition += " AND gsi1sk BETWEEN :first AND :last"
            values |= {":first": {"S": names.first}, ":last": {"S": names.last}}
        elif up_to is not None:
            condition += " AND gsi1sk <= :sort"
            values[":sort"] = {"S": table.instant(up_to)}
        start = {"ExclusiveStartKey": after} if after else {}
        answer = await self._client.read(
            "query",
            TableName=self._client.table.name,
            IndexName=self._client.table.status_index,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            Limit=limit,
            ScanIndexForward=not backwards,
            **start,
        )
        return [sandbox_from(item) for item in answer["Items"]], answer.get("LastEvaluatedKey")

    async def page_of_track(
        self,
        tenant: str,
        track: str,
        shard: int,
        *,
        state: State | None,
        limit: int,
        after: Item | None = None,
    ) -> tuple[list[Sandbox], Item | None]:
        """One page of the sandboxes that a track's students hold or held, oldest first; rows and next start.

        With `state` a page may hold fewer rows than `limit`, or none, before the end.
        """
        arguments: dict[str, Any] = {"ExclusiveStartKey": after} if after else {}
        values = {":partition": {"S": table.track_partition(tenant, track, shard)}}
        if state is not None:
            arguments |= {
                "FilterExpression": "#state = :state",
                "ExpressionAttributeNames": {"#state": "state"},
            }
            values[":state"] = {"S": state.value}
        answer = await self._client.read(
            "query",
            TableName=self._client.table.name,
            IndexName=self._client.table.track_index,
            KeyConditionExpression="gsi2pk = :partition",
            ExpressionAttributeValues=values,
            Limit=limit,
            **arguments,
        )
        return [sandbox_from(item) for item in answer["Items"]], answer.get("LastEvaluatedKey")

    async def walk(
        self, tenant: str, state: State, *, up_to: int | None = None, page_size: int = 250, first_shard: int = 0
    ) -> AsyncIterator[Sandbox]:
        """Every sandbox of a state, shard by shard, page by page; `up_to` as for page().

        Who stops before the end begins at another shard the next time, or the last ones starve.
        """
        shards = await self._tenants.shards(tenant)
        for shard in range(shards):
            after: Item | None = None
            while True:
                rows, after = await self.page(
                    tenant, state, (first_shard + shard) % shards, limit=page_size, up_to=up_to, after=after
                )
                for row in rows:
                    yield row
                if after is None:
                    break

    async def count(self, tenant: str, state: State) -> int:
        """How many sandboxes are in a state, over all shards and pages."""
        counts = self._counted(tenant, state)
        return sum([found async for found, _ in counts])

    async def count_missing(self, tenant: str, state: State) -> tuple[int, int]:
        """How many sandboxes are in a state, and how many of these the provider no longer lists.

        Billed as much as count() is: what a filter leaves out was read for it, and is told beside what it leaves.
        """
        counts = [each async for each in self._counted(tenant, state, only="attribute_exists(missing_since)")]
        return sum(examined for _, examined in counts), sum(found for found, _ in counts)

    async def _counted(
        self, tenant: str, state: State, *, only: str | None = None
    ) -> AsyncIterator[tuple[int, int]]:
        """Of each shard's pages: how many rows there are, by the filter `only`, and how many were read for it."""
        narrowed = {"FilterExpression": only} if only else {}
        for shard in range(await self._tenants.shards(tenant)):
            pages = self._client.pages(
                IndexName=self._client.table.status_index,
                KeyConditionExpression="gsi1pk = :partition",
                ExpressionAttributeValues={":partition": {"S": table.status_partition(tenant, state, shard)}},
                Select="COUNT",
                **narrowed,
            )
            async for page in pages:
                yield page["Count"], page["ScannedCount"]


def _owner_key(sandbox: Sandbox) -> Item:
    return table.owner_key(sandbox.external_id, sandbox.provider)


def _alone(refused: TransactionRefused, *, slot: int) -> bool:
    """Whether this slot's condition is all that refused the transaction."""
    codes = [reason.code for reason in refused.reasons]
    return [n for n, code in enumerate(codes) if code != "None"] == [slot] and refused.reasons[
        slot
    ].condition_failed


def _lost(refused: TransactionRefused) -> Exception:
    """What a refusal means to someone who wanted to move one sandbox."""
    return refused.failure() or WriteConflict(refused.reasons[0].item)
