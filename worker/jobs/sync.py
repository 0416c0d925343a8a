"""Sync: what the provider lists becomes the pool. Whatever happened meanwhile is never overwritten.

The listing streams: each page is held against the sandboxes that it names, and only changes are written, in
batches that check the leader's fence and the versions that were read. An allocation, a release or an expiry
that lands in the middle wins, and the next sync sees it. What is kept of the listing is one number an account.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from heapq import nsmallest
from typing import Final

from broker.action import Action
from broker.metrics import Metrics
from broker.policy import (
    GUARDED,
    MISSING_MATTERS,
    SKETCH,
    Account,
    Explained,
    Missing,
    on_listed,
    on_missing,
    suspect,
)
from broker.sandbox import Sandbox, State
from broker.store.batches import Batches, Change, Written
from broker.store.events import Cause
from broker.store.leader import Fence
from broker.store.sandboxes import Sandboxes
from broker.store.sync_state import SyncState, SyncStates
from broker.tenant import Tenant
from broker.wiring import Broker
from worker.jobs.listing import Listing, fingerprint
from worker.provider.client import MAX_LISTINGS, ListingShifted, Page, ProviderClient

log = logging.getLogger("worker")

WRITE_AT: Final = 100
"""Changes that are collected before they are written: four transactions' worth."""
LISTED_STATES: Final = (State.AVAILABLE, *sorted(MISSING_MATTERS))
"""Whose absence from a listing means something."""
DELETABLE: Final = (State.PENDING_DELETION, *MISSING_MATTERS)
"""Which may meet the provider's word that there is no such account."""

Progress = Callable[[int], None]
"""Told how many accounts have been looked at."""


class Sync:
    """One run of the sync for one tenant.

    Of a listing that tenants share, each takes what its prefixes name (`Tenant.owns`), the longest prefix that
    fits first, so that who has none takes what is nobody's by name; the rest is counted as
    OTHER_TENANTS or NO_SANDBOX, and not seen. So what was known already, when a prefix is taken away or an
    account renamed, is missing from then on, and goes the way of all that is missing, under the same guard:
    available ones go stale and are purged, those in use are marked and alerted on and end as ever. Until then
    the account stays owned: the tenant that has the prefix next counts it as FOREIGN, and nobody can hand it out
    twice.
    """

    def __init__(
        self,
        broker: Broker,
        provider: ProviderClient,
        *,
        tenant: Tenant,
        origin: str | None = None,
        installation: str,
        request_id: str,
        now: int,
        fence: Fence,
        confirmed: bool = False,
        apart_s: float = 0,
        progress: Progress = lambda _: None,
    ) -> None:
        self._sandboxes: Sandboxes = broker.sandboxes
        self._batches: Batches = broker.batches
        self._states: SyncStates = broker.sync_states
        self._metrics: Metrics = broker.metrics
        self._provider = provider
        self._tenant = tenant.name
        self._owner = tenant
        self._tenants = broker.tenants
        self._rivals: frozenset[str] = frozenset()
        self._origin = origin  # of the provider, as in Sandbox.provider
        self._installation = installation  # the origin of the environment's provider
        self._request_id = request_id
        self._now = now
        self._fence = fence
        self._confirmed = confirmed
        self._apart_s = apart_s
        self._progress = progress
        self._former: str | None = None  # the connection whose listing was believed, where this is another
        self._strange: list[Change] = []  # of those under whose ids that one lists other accounts
        self._outcome: Counter[str] = Counter()

    def _is_mine(self, account_name: str) -> bool:
        return self._owner.owns(account_name, self._rivals)

    def _whose(self, account_name: str) -> Explained:
        """What an account is whose name is not this tenant's."""
        named = self._owner.is_named_by(self._rivals, account_name)
        return Explained.OTHER_TENANTS if named else Explained.NO_SANDBOX

    async def run(self) -> Counter[str]:
        """Bring the pool in line with the listing; counts by outcome. Idempotent.

        Raises:
            ProviderError: the listing failed, or never stood still. What was read was applied; nothing went stale.
            LeadershipLost: another worker leads, and syncs; what it wrote stands.
        """
        before = await self._states.read(self._tenant)
        if before is not None and before.connection != self._provider.connection:
            self._former = before.connection
        self._rivals = self._owner.rivals(
            [tenant async for tenant in self._tenants.all()], installation=self._installation
        )
        listing = await self._listed()
        state = await self._judged(listing, before)
        if state.suspicion is None:
            await self._mark_missing(listing)
        self._tell(listing, state)
        await self._states.write(self._tenant, state, after=before, fence=self._fence)
        return self._outcome

    async def _listed(self) -> Listing:
        """Apply the listing while it streams.

        Raises:
            ListingShifted: it never stood still. What was read is applied, nobody is taken for missing.
        """
        for _ in range(MAX_LISTINGS):
            listing = Listing()
            try:
                async with aclosing(self._provider.pages()) as pages:
                    async for page in pages:
                        await self._take_in(page, listing)
                        self._progress(len(listing))
            except ListingShifted:
                continue
            return listing
        raise ListingShifted

    async def _take_in(self, page: Page, listing: Listing) -> None:
        listing.explained[Explained.NO_SANDBOX] += page.others
        self._outcome["invalid"] += len(page.invalid)
        for invalid in page.invalid:
            listing.wonder(str(invalid))
            if invalid.sandbox_id is not None:  # there it is, broken as its other facts may be: not missing
                listing.see(invalid.sandbox_id)
            else:
                listing.unreadable += 1
        mine = []
        for account in page.accounts:
            if self._is_mine(account.name):
                mine.append(replace(account, provider=self._origin))
            else:
                listing.explained[self._whose(account.name)] += 1
        accounts = self._fresh(mine, listing)
        known = await self._sandboxes.find(self._tenant, (account.id for account in accounts))
        changes: list[Change] = []
        for account in accounts:
            sandbox = known.get(account.id)
            change = self._added(account) if sandbox is None else self._changed(sandbox, account, listing)
            if change is not None:
                changes.append(change)
        await self._write(changes, listing)

    def _fresh(self, accounts: list[Account], listing: Listing) -> list[Account]:
        """The accounts that were not listed before: of entries that come twice, the first counts."""
        fresh = []
        for account in accounts:
            if account.id in listing:
                self._outcome["duplicate"] += 1
            else:
                listing.see(account.id)
                fresh.append(account)
        return fresh

    def _added(self, account: Account) -> Change:
        sandbox = Sandbox(
            tenant=self._tenant,
            id=account.id,
            state=State.AVAILABLE,
            version=self._now,  # an id that returns after a purge never repeats a version
            name=account.name,
            external_id=account.external_id,
            provider=account.provider,
            attributes=account.attributes,
            since=self._now,
        )
        return Change(None, sandbox, self._cause(Action.ADDED))

    def _changed(self, sandbox: Sandbox, account: Account, listing: Listing) -> Change | None:
        """What becomes of a sandbox that is listed; None where nothing is to be written."""
        decision = on_listed(sandbox, account, now=self._now)
        if decision.after is not None:
            moves = decision.after.state is not sandbox.state
            return Change(sandbox, decision.after, self._cause(decision.action) if moves else None)
        self._outcome[decision.action] += 1
        if decision.action == "identity_changed":
            listing.wonder(f"{sandbox.id}: names another account than before")
            if self._former and sandbox.listed_by is None and sandbox.state in DELETABLE:
                self._strange.append(Change(sandbox, sandbox.left_behind(self._former), None))
        else:
            listing.explain(sandbox)
        return None

    async def _write(self, changes: list[Change], listing: Listing | None) -> None:
        """Write, and count what became of it: in the outcome by action, in the listing by what it explains."""
        became = await self._batches.write(changes, fence=self._fence, now=self._now)
        for change, written in zip(changes, became, strict=True):
            self._outcome[_action(change) if written is Written.YES else written.value] += 1
            if listing is None:
                continue
            if written is Written.OWNED_ELSEWHERE:
                listing.disown(change.after.id)
            else:
                stands = change.after if written is Written.YES or change.before is None else change.before
                listing.explain(stands)

    async def _judged(self, listing: Listing, before: SyncState | None) -> SyncState:
        """Hold what is missing against what should be there; whether it is believed."""
        missing = await self._missing_of(listing)
        suspicion = suspect(
            missing,
            before.suspicion if before else None,
            confirmed=self._confirmed,
            now=self._now,
            apart_s=self._apart_s,
        )
        known = before.unexplained if before else {}
        believed = before.connection if before else None
        if suspicion is None:
            believed = self._provider.connection
        return SyncState(
            at=self._now,
            accounts=listing.explained,
            unexplained={what: known.get(what, self._now) for what in listing.unexplained},
            expected=missing.expected,
            missing=missing.missing,
            suspicion=suspicion,
            connection=believed,
        )

    async def _missing_of(self, listing: Listing) -> Missing:
        expected, missing = 0, 0
        smallest: list[int] = []
        for state in sorted(GUARDED):
            async for sandbox in self._sandboxes.walk(self._tenant, state):
                if sandbox.missing_since is not None:
                    continue
                expected += 1
                if sandbox.id not in listing:
                    missing += 1
                    smallest = nsmallest(SKETCH, [*smallest, fingerprint(sandbox.id)])
        return Missing(
            expected=expected, missing=missing, sketch=frozenset(smallest), unreadable=listing.unreadable
        )

    async def _mark_missing(self, listing: Listing) -> None:
        """Write what it means not to be listed.

        Where this is the first believed listing of another connection, each sandbox that it lacks is marked, those
        that wait for their deletion as well. The others are known to be this connection's, and nobody writes them
        for that. What is marked is not gone because this connection knows nothing of it.
        """
        changes = self._strange
        states = LISTED_STATES
        if self._former is not None:
            states = (*LISTED_STATES, State.PENDING_DELETION)  # last: what moves there meanwhile is met again
        async for sandbox in self._not_in(listing, states):
            decision = on_missing(sandbox, now=self._now, former=self._former)
            if decision.after is None:
                continue
            moves = decision.after.state is not sandbox.state
            changes.append(Change(sandbox, decision.after, self._cause(decision.action) if moves else None))
            if decision.action == "missing":
                facts = {"tenant": self._tenant, "sandbox_id": sandbox.id, "state": sandbox.state.value}
                log.warning("sandbox in use vanished at the provider", extra=facts)
            if len(changes) >= WRITE_AT:
                await self._write(changes, None)
                changes = []
        await self._write(changes, None)

    async def _not_in(self, listing: Listing, states: tuple[State, ...]) -> AsyncIterator[Sandbox]:
        for state in states:
            async for sandbox in self._sandboxes.walk(self._tenant, state):
                if sandbox.id not in listing:
                    yield sandbox

    def _tell(self, listing: Listing, state: SyncState) -> None:
        """What an operator should know of this listing, in one line each; and the gauges."""
        facts: dict[str, object] = {"tenant": self._tenant}
        if listing.foreign:
            count = listing.explained[Explained.FOREIGN]
            told = facts | {"code": "PROVIDER_ACCOUNT_OWNED", "count": count, "which": listing.foreign[:3]}
            log.warning("accounts belong to another sandbox", extra=told)
        if listing.unexplained:
            count = listing.explained[Explained.UNKNOWN]
            told = facts | {"code": "INVALID_ACCOUNT", "count": count, "why": listing.unexplained[:3]}
            log.warning("accounts that nothing explains", extra=told)
        if state.suspicion is not None:
            self._outcome["guarded"] += state.missing
            told = facts | {
                "expected": state.expected,
                "missing": state.missing,
                "unreadable": listing.unreadable,
                "times": state.suspicion.times,
                "todo": "look at the provider; if it is right: sandbox-broker sync --confirm --reason '...'",
            }
            log.error("too much is missing from the listing: not believed", extra=told)
        self._metrics.sync_guard.labels(self._tenant).set(state.suspicion is not None)
        for kind in Explained:
            self._metrics.accounts.labels(self._tenant, kind.value).set(state.accounts.get(kind, 0))
        oldest = min(state.unexplained.values(), default=self._now)
        self._metrics.unexplained_s.labels(self._tenant).set(self._now - oldest)

    def _cause(self, action: str) -> Cause:
        return Cause(actor="worker:sync", action=Action(action), request_id=self._request_id)


def _action(change: Change) -> str:
    """What the outcome counts it as."""
    if change.cause is not None:
        return change.cause.action
    vanished = change.before is not None and change.before.missing_since is None and change.after.missing_since
    return "missing" if vanished else "updated"
