"""Where the platform looks at tenants: page by page, and at what one of them shares with another."""

import asyncio
from dataclasses import dataclass
from typing import Final

from app.cursors import Cursors
from broker.errors import BrokerError
from broker.pool import Pool
from broker.sandbox import State
from broker.store.sandboxes import Sandboxes
from broker.store.tenants import Tenants
from broker.tenant import Tenant

_SCOPE = ("", "tenants")
"""Of no tenant: the list is the platform's."""
_LOOK_S: Final = 2.0
"""How long what a change takes from others is looked up."""
MOST: Final = 250
"""Sandboxes of one shard that are counted; more are said to be more."""


@dataclass(frozen=True, slots=True)
class TenantPage:
    tenants: list[Tenant]
    cursor: str | None


class TenantDesk:
    def __init__(self, tenants: Tenants, sandboxes: Sandboxes, cursors: Cursors, *, most: int = MOST) -> None:
        self._most = most
        self._tenants = tenants
        self._sandboxes = sandboxes
        self._cursors = cursors

    async def page(self, *, limit: int, cursor: str | None) -> TenantPage:
        """Up to `limit` tenants by name, and the cursor of the next page; None after the last.

        Raises:
            InvalidCursor: not one of this list.
        """
        after = self._cursors.decode(cursor, scope=_SCOPE)["k"] if cursor else None
        rows, after = await self._tenants.page(limit=limit, after=after)
        return TenantPage(rows, None if after is None else self._cursors.encode({"k": after}, scope=_SCOPE))

    async def doubts(self, tenant: Tenant) -> list[str]:
        """What may not be meant so of its accounts and its token, as the index sees the others: seconds old."""
        others = [other async for other in self._tenants.all()]
        return await self._losses(tenant, others) + tenant.doubts(others)

    async def _losses(self, tenant: Tenant, others: list[Tenant]) -> list[str]:
        """What leaves the pools of others by this tenant's prefixes: a hint, for which nobody waits long."""
        found = []
        try:
            async with asyncio.timeout(_LOOK_S):
                for other, prefix in tenant.taken_from(others):
                    if leaving := await self._available(other.name, prefix):
                        found.append(f"prefix {prefix}: of tenant {other.name} {leaving}")
        except (BrokerError, TimeoutError):
            found.append(
                "whose sandboxes begin with these prefixes could not be looked up; they leave their tenant"
            )
        return found

    async def _available(self, tenant: str, prefix: str) -> str:
        """How many available sandboxes of a tenant begin so, in words; "" for none."""
        count, more = 0, False
        (names,) = Pool(prefix).spans()
        for shard in range(await self._tenants.shards(tenant)):
            rows, after = await self._sandboxes.page(tenant, State.AVAILABLE, shard, limit=self._most, names=names)
            count, more = count + len(rows), more or after is not None
        if not count:
            return ""
        if more:
            return f"at least {count} sandboxes begin so, and leave it"
        return "1 sandbox begins so, and leaves it" if count == 1 else f"{count} sandboxes begin so, and leave it"
