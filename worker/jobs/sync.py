"""Sync: what the provider lists becomes the pool. Whatever happened meanwhile is never overwritten.

The inventory is read before the listing, so that whatever the listing lacks was known before it began.
Every write is conditional on the version that was read: an allocation, a release or an expiry that lands
in the middle wins, and the next sync sees it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Iterable
from contextlib import aclosing
from typing import Final

from broker.errors import ProviderAccountOwned, WriteConflict
from broker.policy import Account, Decision, on_listed, on_missing
from broker.sandbox import Sandbox, State
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes
from worker.provider.client import MAX_LISTINGS, ListingShifted, ProviderClient

log = logging.getLogger("worker")

WRITES_AT_ONCE: Final = 16


class Sync:
    """One run of the sync for one tenant. Holds the inventory for as long as the run lasts."""

    def __init__(
        self, sandboxes: Sandboxes, provider: ProviderClient, *, tenant: str, request_id: str, now: int
    ) -> None:
        self._sandboxes = sandboxes
        self._provider = provider
        self._tenant = tenant
        self._request_id = request_id
        self._now = now
        self._known: dict[str, Sandbox] = {}
        self._outcome: Counter[str] = Counter()

    async def run(self) -> Counter[str]:
        """Bring the pool in line with the listing; counts by outcome. Idempotent.

        Raises:
            ProviderError: the listing failed. What had been read of it was applied; nothing went stale.
        """
        for state in State:
            async for sandbox in self._sandboxes.walk(self._tenant, state):
                self._known[sandbox.id] = sandbox
        listed = await self._listed()
        if listed is None:
            log.warning("listing kept shifting: nothing is taken for missing", extra={"tenant": self._tenant})
            self._outcome["listing_shifted"] += 1
            return self._outcome
        missing = (sandbox for id_, sandbox in self._known.items() if id_ not in listed)
        await self._apply((sandbox, on_missing(sandbox, now=self._now)) for sandbox in missing)
        return self._outcome

    async def _listed(self) -> set[str] | None:
        """Apply the listing while it streams; the ids it holds, None where it never stood still."""
        for _ in range(MAX_LISTINGS):
            listed: set[str] = set()
            try:
                async with aclosing(self._provider.pages()) as pages:
                    async for page in pages:
                        self._outcome["invalid"] += page.invalid
                        fresh = {a.id: a for a in reversed(page.accounts) if a.id not in listed}
                        self._outcome["duplicate"] += len(page.accounts) - len(fresh)
                        listed |= fresh.keys()
                        await self._take_in(list(fresh.values()))
            except ListingShifted:
                continue
            return listed
        return None

    async def _take_in(self, accounts: list[Account]) -> None:
        new = [account for account in accounts if account.id not in self._known]
        known = [(self._known[a.id], a) for a in accounts if a.id in self._known]
        await _at_once(self._add(account) for account in new)
        await self._apply((sandbox, on_listed(sandbox, account, now=self._now)) for sandbox, account in known)

    async def _add(self, account: Account) -> None:
        sandbox = Sandbox(
            tenant=self._tenant,
            id=account.id,
            state=State.AVAILABLE,
            version=self._now,  # an id that returns after a purge never repeats a version
            name=account.name,
            external_id=account.external_id,
            attributes=account.attributes,
            since=self._now,
        )
        try:
            await self._sandboxes.add(sandbox, self._cause("added"), now=self._now)
        except WriteConflict:
            self._outcome["lost_race"] += 1
        except ProviderAccountOwned as error:
            self._owned_elsewhere(error, account.id)
        else:
            self._known[account.id] = sandbox
            self._outcome["added"] += 1

    async def _apply(self, decided: Iterable[tuple[Sandbox, Decision]]) -> None:
        await _at_once(self._write(sandbox, decision) for sandbox, decision in decided if self._matters(decision))

    def _matters(self, decision: Decision) -> bool:
        if decision.after is None:
            self._outcome[decision.action] += 1
        if decision.action == "identity_changed":
            log.warning("an id names another account now: left alone", extra={"tenant": self._tenant})
        return decision.after is not None

    async def _write(self, before: Sandbox, decision: Decision) -> None:
        after = decision.after
        if after is None:
            return
        try:
            if after.state is before.state:
                await self._sandboxes.touch(before, after)
            else:
                await self._sandboxes.move(before, after, self._cause(decision.action), now=self._now)
        except WriteConflict:
            self._outcome["lost_race"] += 1
            return
        except ProviderAccountOwned as error:
            self._owned_elsewhere(error, before.id)
            return
        self._known[before.id] = after
        self._outcome[decision.action] += 1
        if decision.action == "missing":
            facts = {"tenant": before.tenant, "sandbox_id": before.id, "state": before.state.value}
            log.warning("sandbox in use vanished at the provider", extra=facts)

    def _owned_elsewhere(self, error: ProviderAccountOwned, sandbox_id: str) -> None:
        self._outcome["owned_elsewhere"] += 1
        facts = {"code": error.code, "tenant": self._tenant, "sandbox_id": sandbox_id}
        log.warning("account belongs to another sandbox", extra=facts)

    def _cause(self, action: str) -> Cause:
        return Cause(actor="worker:sync", action=action, request_id=self._request_id)


async def _at_once(writes: Iterable[Awaitable[None]]) -> None:
    """Run the writes, a few at a time."""
    from_iter = iter(writes)

    async def lane() -> None:
        for write in from_iter:
            await write

    await asyncio.gather(*(lane() for _ in range(WRITES_AT_ONCE)))
