"""Where the platform looks at tenants: page by page, and at what one of them shares with another."""

from dataclasses import dataclass

from app.cursors import Cursors
from broker.store.tenants import Tenants
from broker.tenant import Tenant

_SCOPE = ("", "tenants")
"""Of no tenant: the list is the platform's."""


@dataclass(frozen=True, slots=True)
class TenantPage:
    tenants: list[Tenant]
    cursor: str | None


class TenantDesk:
    def __init__(self, tenants: Tenants, cursors: Cursors) -> None:
        self._tenants = tenants
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
        return tenant.doubts([other async for other in self._tenants.all()])
