"""Tenants in the table: one item each, which every process knows to the second."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any, Final

from broker.errors import StoreUnavailable, TenantExists, TenantNotFound, WriteConflict
from broker.store import table
from broker.store.client import StoreClient, TransactionRefused
from broker.store.events import Cause, Events, told_to
from broker.store.known import Known
from broker.store.table import Item
from broker.tenant import Drain, Limits, Provider, Tenant

MAX_TRIES: Final = 6
_PAUSE_S: Final = 0.02


class Tenants:
    """Reads a tenant's item at most once a second, and changes it."""

    def __init__(self, client: StoreClient, known: Known, events: Events, *, default_shards: int) -> None:
        self._client = client
        self._known = known
        self._events = events
        self._default_shards = default_shards
        self._read: dict[str, tuple[Item, Tenant]] = {}  # what the last read found, and what it means

    async def ensure(self, name: str, *, shards: int, now: int) -> None:
        """Create the tenant, or raise its shard count. It never falls: items stay where they are.

        One that a release made which listed no tenants is listed from now on.
        """
        change = {
            "UpdateExpression": "SET shards = :shards, v = :v, tenant = :tenant, gsi1pk = :all, gsi1sk = :tenant, "
            "created_at = if_not_exists(created_at, :now)",
            "ExpressionAttributeValues": table.encode(
                {
                    ":shards": shards,
                    ":v": table.ITEM_VERSION,
                    ":tenant": name,
                    ":now": now,
                    ":all": table.tenants_partition(),
                }
            ),
        }
        condition = "attribute_not_exists(shards) OR shards < :shards"
        update = self._client.update(table.tenant_key(name), change, condition)["Update"]
        try:
            await self._client.call("update_item", **update)
        except WriteConflict as conflict:  # it has as many already, or more
            if conflict.item is not None and "gsi1pk" not in conflict.item:
                await self._list(name)
        self._known.forget(table.tenant_key(name))

    async def _list(self, name: str) -> None:
        keys = table.encode({"gsi1pk": table.tenants_partition(), "gsi1sk": name})
        update = self._client.update(table.tenant_key(name), table.update_of({}, keys), "attribute_exists(pk)")
        await self._client.call("update_item", **update["Update"])

    async def shards(self, name: str, *, now: bool = False) -> int:
        """How many shards to ask. A tenant without an item has the default.

        It is as it was a second ago at the most; `now`: not older than this call.

        Raises:
            StoreThrottled, StoreUnavailable: it could not be read, said at once to everyone who waited.
        """
        if now:
            self._known.forget(table.tenant_key(name))
        item = await self._known.get(table.tenant_key(name))
        return self._default_shards if item is None else int(item["shards"]["N"])

    async def get(self, name: str) -> Tenant:
        """The tenant as it was a second ago at the most; one without an item has no limits.

        Raises:
            StoreThrottled, StoreUnavailable: as for shards().
        """
        item = await self._known.get(table.tenant_key(name))
        if item is None:
            return Tenant(name=name)
        read = self._read.get(name)
        if read is None or read[0] is not item:
            read = self._read[name] = (item, tenant_from(item))
        return read[1]

    async def present(self, name: str) -> Tenant:
        """The tenant as the table holds it now.

        Raises:
            TenantNotFound: there is none of this name.
        """
        item = await self._client.get(table.tenant_key(name))
        if item is None:
            raise TenantNotFound
        return tenant_from(item)

    async def all(self) -> AsyncIterator[Tenant]:
        """Every tenant by name, as the index sees them: seconds old at the most."""
        async for page in self._client.pages(**self._all()):
            for item in page["Items"]:
                yield tenant_from(item)

    async def page(self, *, limit: int, after: Item | None = None) -> tuple[list[Tenant], Item | None]:
        """One page of all tenants by name, as for all(); and where the next one begins."""
        answer = await self._client.read(
            "query",
            **self._all(),
            TableName=self._client.table.name,
            Limit=limit,
            **({"ExclusiveStartKey": after} if after else {}),
        )
        return [tenant_from(item) for item in answer["Items"]], answer.get("LastEvaluatedKey")

    async def create(self, tenant: Tenant, cause: Cause, *, now: float) -> Tenant:
        """Add a tenant, with its event. The shard count is the installation's.

        Raises:
            TenantExists: there is one of this name.
            StoreThrottled, StoreUnavailable: repeat; where it was written after all, that says TenantExists.
        """
        created = tenant.created(now=int(now))
        keys = {"gsi1pk": {"S": table.tenants_partition()}, "gsi1sk": {"S": tenant.name}}
        item = _facts(created) | table.encode({"shards": self._default_shards}) | keys
        put = self._client.put(item | table.tenant_key(tenant.name), "attribute_not_exists(pk)")
        for number in range(MAX_TRIES):
            try:
                await self._client.transact(put, *await self._events_of(None, created, cause, now=now))
            except TransactionRefused as refused:
                if refused.reasons and refused.reasons[0].condition_failed:
                    raise TenantExists(tenant.name) from refused
                if failure := refused.failure():
                    raise failure from refused
                await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
            else:
                self._known.forget(table.tenant_key(tenant.name))
                return created
        raise StoreUnavailable("contention")

    async def change(self, name: str, edit: Callable[[Tenant], Tenant], cause: Cause, *, now: float) -> Tenant:
        """Write what `edit` makes of the tenant, with its event; nothing where it changes nothing.

        Raises:
            TenantNotFound: there is none of this name.
            StoreThrottled, StoreUnavailable: repeat.
        """
        for number in range(MAX_TRIES):
            before = await self.present(name)
            after = edit(before)
            if _told(before) == _told(after):
                return before
            try:
                await self._write(before, after, cause, now=now)
            except TransactionRefused as refused:
                if failure := refused.failure():
                    raise failure from refused
                await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
            except StoreUnavailable:
                if number:  # a lost answer is looked into once
                    raise
            else:
                self._known.forget(table.tenant_key(name))
                return after
        raise StoreUnavailable("contention")

    def _all(self) -> dict[str, Any]:
        """The arguments of a query for every tenant."""
        return {
            "IndexName": self._client.table.status_index,
            "KeyConditionExpression": "gsi1pk = :all",
            "ExpressionAttributeValues": {":all": {"S": table.tenants_partition()}},
        }

    async def _write(self, before: Tenant, after: Tenant, cause: Cause, *, now: float) -> None:
        change = table.update_of(_facts(before), _facts(after))
        condition = (
            "version = :version" if before.version else "attribute_exists(pk) AND attribute_not_exists(version)"
        )
        seen = {":version": table.encode_value(before.version)} if before.version else None
        update = self._client.update(table.tenant_key(after.name), change, condition, seen)
        await self._client.transact(update, *await self._events_of(before, after, cause, now=now))

    async def _events_of(
        self, before: Tenant | None, after: Tenant, cause: Cause, *, now: float
    ) -> list[dict[str, Any]]:
        """Its event; and another among those of who did it, where that is another tenant's."""
        told_before, told_after = {} if before is None else _told(before), _told(after)
        differ = {name for name, value in told_after.items() if told_before.get(name) != value}
        return [
            self._events.note(
                cause,
                subject="tenant" if tenant == after.name else f"tenant:{after.name}",
                before=None
                if before is None
                else json.dumps({name: told_before[name] for name in sorted(differ)}),
                after=json.dumps({name: told_after[name] for name in sorted(differ)}),
                version=after.version,
                tenant=tenant,
                now=now,
                shards=await self.shards(tenant),
            )
            for tenant in told_to(cause, after.name)
        ]


def _told(tenant: Tenant) -> dict[str, Any]:
    """What a change of it may change, in plain words."""
    return {
        **asdict(tenant.limits),
        "provider": None if tenant.provider is None else asdict(tenant.provider),
        "prefixes": list(tenant.prefixes),
        "drained": {prefix: drain.reason for prefix, drain in tenant.drained.items()},
        "drained_by_platform": any(drain.platform for drain in tenant.drained.values()) or None,
    }


def _facts(tenant: Tenant) -> Item:
    drained = {prefix: asdict(drain) for prefix, drain in tenant.drained.items()}
    return table.encode(
        {
            "v": table.ITEM_VERSION,
            "tenant": tenant.name,
            "version": tenant.version or None,
            "created_at": tenant.created_at,
            **asdict(tenant.limits),
            "provider_url": tenant.provider.base_url if tenant.provider else None,
            "provider_secret": tenant.provider.secret if tenant.provider else None,
            "prefixes": " ".join(tenant.prefixes) or None,
            "drained": json.dumps(drained) if drained else None,
        }
    )


def tenant_from(item: Item) -> Tenant:
    """Decode it. What a newer release wrote beside it is left out, and stays in the table."""
    values = table.decode(item)
    drained = json.loads(values.get("drained", "{}"))
    provider = None
    if "provider_url" in values:
        provider = Provider(base_url=values["provider_url"], secret=values["provider_secret"])
    return Tenant(
        name=values["tenant"],
        version=values.get("version", 0),
        created_at=values["created_at"],
        limits=Limits(
            max_live=values.get("max_live"),
            lease_s=values.get("lease_s"),
            max_extension_s=values.get("max_extension_s"),
            requests=values.get("requests"),
        ),
        provider=provider,
        prefixes=tuple(values.get("prefixes", "").split()),
        drained={
            prefix: Drain(
                reason=drain["reason"], by=drain["by"], at=drain["at"], platform=drain.get("platform", False)
            )
            for prefix, drain in drained.items()
        },
    )
