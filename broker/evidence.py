"""What this process knows of sandboxes beyond the index: which are being tried, and which are proved taken."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from broker.pool import Pool
from broker.sandbox import Sandbox, State
from broker.store.sandboxes import Sandboxes

MAX_PROVED: Final = 50_000


class Evidence:
    """Forgetting any of it costs a lost race, no more."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._lent: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._proved: OrderedDict[tuple[str, str], int] = OrderedDict()  # id -> version known to be past

    def lend(self, row: Sandbox) -> None:
        """A request tries it from now on, until it is settled."""
        self._lent[row.tenant, row.id] = asyncio.get_running_loop().create_future()

    def settle(self, row: Sandbox) -> None:
        lent = self._lent.pop((row.tenant, row.id), None)
        if lent is not None and not lent.done():
            lent.set_result(None)

    def prove(self, row: Sandbox, version: int) -> None:
        """The base table showed it at `version`, no longer available."""
        key = (row.tenant, row.id)
        self._proved[key] = max(version, self._proved.get(key, 0))
        self._proved.move_to_end(key)
        if len(self._proved) > MAX_PROVED:
            self._proved.popitem(last=False)

    def is_lent(self, row: Sandbox) -> bool:
        return (row.tenant, row.id) in self._lent

    def is_past(self, row: Sandbox) -> bool:
        """Whether the row shows what was, as an index that lags does."""
        return row.version <= self._proved.get((row.tenant, row.id), 0)

    def is_untried(self, row: Sandbox) -> bool:
        return not self.is_lent(row) and not self.is_past(row)

    def trials(self, tenant: str, ids: Iterable[str]) -> list[asyncio.Future[None]]:
        """Of these sandboxes, the trials that are not settled yet."""
        return [lent for id_ in ids if (lent := self._lent.get((tenant, id_)))]

    async def checked(self, rows: list[Sandbox], pool: Pool) -> list[Sandbox]:
        """Those that the base table still shows as available, as it shows them: one consistent read."""
        present = await self._sandboxes.get_many(rows)
        good = []
        for row in rows:
            now = present.get(row.id)
            if now is not None and now.state is State.AVAILABLE:
                if pool.holds(now.name):  # renamed since the index saw it, it is for others
                    good.append(now)
            else:
                self.prove(row, row.version if now is None else now.version)
        return good
