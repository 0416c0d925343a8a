"""Allocation: one student gets one sandbox, decided by one write transaction.

Why two students can never hold one sandbox: the transaction moves the sandbox only if it is still at
the version at which it was seen available. DynamoDB serialises transactions on an item, the first one
raises the version, and every other is refused as a whole.

Why one student can never hold two: the same transaction puts the student's claim, only if there is
none. A second attempt, on whatever process, is refused by the claim, and the refusal carries the claim
itself: that is the replay.

Why a tenant can never hold more than it may: the same transaction fills one of the tenant's slots, only
if it is empty, and there are as many slots as it may hold sandboxes (see broker/quota.py).

Everything else here is about speed (candidates) and honesty (never "none left" by guess, never an
outage sold as an empty pool).
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Self, TypeVar

from broker.candidates import Candidates
from broker.errors import (
    AllocationEnded,
    AllocationInProgress,
    BrokerDrained,
    BrokerError,
    HolderLimitReached,
    IdempotencyKeyReused,
    NoSandboxAvailable,
    PoolDrained,
    QuotaExceeded,
    StoreThrottled,
    StoreUnavailable,
)
from broker.lent import Lent
from broker.metrics import Metrics
from broker.pool import Pool
from broker.quota import Quota
from broker.sandbox import Sandbox
from broker.store.claims import Claim, Claims, claim_from
from broker.store.client import TransactionRefused
from broker.store.events import Cause
from broker.store.modes import Modes
from broker.store.sandboxes import Sandboxes
from broker.store.tenants import Tenants
from broker.tenant import Tenant

MAX_TRANSACTIONS: Final = 8
"""Per request. Past it the answer is 503: contention is never sold as an empty pool."""
MAX_TROUBLES: Final = 1
"""Throttled, unreachable or conflicting claim: tried once more, then said."""
LOOK_AFTER_S: Final = (0.02, 0.05, 0.1)
"""Pauses before looking whether a claim has come to be; each jittered by +-50 %."""
DEADLINE_S: Final = 12.0
EMPTY_RETRY_AFTER_S: Final = 10
Taken = TypeVar("Taken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one student asks for."""

    holder: str
    key: str | None = None  # Idempotency-Key: a further claim of the same student
    prefix: str = ""
    track: str | None = None

    def digest(self) -> str:
        """Tells two wishes under one key apart."""
        return blake2b(f"{self.prefix}\0{self.track or ''}".encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What the student is told. `created` is False for a replay."""

    sandbox_id: str
    name: str
    external_id: str
    allocated_at: int
    expires_at: int
    track: str | None
    generation: int | None
    created: bool

    @classmethod
    def of(cls, claim: Claim, *, created: bool) -> Self:
        return cls(
            sandbox_id=claim.sandbox_id,
            name=claim.name,
            external_id=claim.external_id,
            allocated_at=claim.allocated_at,
            expires_at=claim.expires_at,
            track=claim.track,
            generation=claim.generation,
            created=created,
        )


class Allocator:
    """Allocates, and replays what was allocated. Safe on any number of processes."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        claims: Claims,
        candidates: Candidates,
        tenants: Tenants,
        quota: Quota,
        modes: Modes,
        metrics: Metrics,
        *,
        lease_s: int,
        max_per_holder: int,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sandboxes = sandboxes
        self._claims = claims
        self._candidates = candidates
        self._tenants = tenants
        self._quota = quota
        self._modes = modes
        self._metrics = metrics
        self._lease_s = lease_s
        self._max_per_holder = max_per_holder
        self._deadline_s = deadline_s
        self._clock = clock
        self._under_way: dict[tuple[str, Wish], asyncio.Task[tuple[Claim, bool]]] = {}

    async def allocate(self, tenant: str, wish: Wish, cause: Cause) -> Allocation:
        """Give this student a sandbox, or the one already held. Idempotent per (tenant, holder, key).

        Raises:
            NoSandboxAvailable: proved, with one consistent look at the caller's own claim.
            QuotaExceeded: proved likewise: the tenant holds as many as it may.
            BrokerDrained, PoolDrained: operators stopped it; whoever holds a sandbox gets it all the same.
            IdempotencyKeyReused, AllocationEnded, HolderLimitReached: see DESIGN's table of claim cases.
            AllocationInProgress, StoreThrottled, StoreUnavailable: repeat; a repeat never gets a second one.
        """
        try:
            allocation = await self._shared(tenant, wish, cause)
        except BrokerError as error:
            self._metrics.allocations.labels(tenant, error.code.lower()).inc()
            raise
        self._metrics.allocations.labels(tenant, "created" if allocation.created else "replayed").inc()
        return allocation

    async def _shared(self, tenant: str, wish: Wish, cause: Cause) -> Allocation:
        """Repeats of one wish that meet in this process share one attempt; who hangs up stops nobody."""
        key = (tenant, wish)  # the whole wish: "none left" for one prefix says nothing of another
        attempt = self._under_way.get(key)
        if attempt is not None:
            return await self._joined(attempt, tenant, wish, cause)
        attempt = asyncio.create_task(self._attempt(tenant, wish, cause))
        self._under_way[key] = attempt
        attempt.add_done_callback(lambda done: self._landed(key, done))
        claim, created = await asyncio.shield(attempt)
        return Allocation.of(claim, created=created)

    async def _joined(
        self, attempt: asyncio.Task[tuple[Claim, bool]], tenant: str, wish: Wish, cause: Cause
    ) -> Allocation:
        """Share an attempt that was under way, unless its claim has ended before the answer came."""
        claim, _ = await asyncio.shield(attempt)
        present = await self._claims.get(tenant, wish.holder, wish.key)
        if present is not None and present.sandbox_id == claim.sandbox_id and present.ended_at is None:
            return Allocation.of(present, created=False)
        return await self._shared(tenant, wish, cause)

    def _landed(self, key: tuple[str, Wish], attempt: asyncio.Task[tuple[Claim, bool]]) -> None:
        del self._under_way[key]
        if not attempt.cancelled():
            attempt.exception()  # whoever asked may have hung up: then nobody else looks at it

    async def _attempt(self, tenant: str, wish: Wish, cause: Cause) -> tuple[Claim, bool]:
        try:
            async with asyncio.timeout(self._deadline_s):
                mode = await self._modes.current()
                if not mode.allocates:
                    drained = BrokerDrained(mode.name, reason=mode.reason or "")
                    return await self._held_or_refuse(tenant, wish, drained), False
                present = await self._tenants.get(tenant)
                if closed := present.drain_of(wish.prefix):
                    refusal = PoolDrained(closed[0], reason=closed[1].reason)
                    return await self._held_or_refuse(tenant, wish, refusal), False
                if wish.key is not None and (held := await self._held_by_key(tenant, wish)):
                    return held, False
                pool = Pool.of(wish.prefix, present.drained)
                return await self._claim_one(present, pool, wish, cause)
        except TimeoutError:
            raise AllocationInProgress from None

    async def _held_by_key(self, tenant: str, wish: Wish) -> Claim | None:
        """A further claim of one student: look at the claims there are before adding one."""
        now = int(self._clock())
        claims = await self._claims.of_holder(tenant, wish.holder)
        for claim in claims:
            if claim.key == wish.key and claim.blocks(now=now):
                return _replay(claim, wish)
        if sum(claim.ended_at is None for claim in claims) >= self._max_per_holder:
            raise HolderLimitReached(self._max_per_holder)
        return None

    async def _claim_one(self, tenant: Tenant, pool: Pool, wish: Wish, cause: Cause) -> tuple[Claim, bool]:
        """Try candidates until a transaction answers. Returns the claim, and whether it was made just now."""
        attempt_id = secrets.token_hex(8)
        lent = Lent(tenant.name, pool, self._candidates, self._quota)
        troubles = 0
        try:
            for _ in range(MAX_TRANSACTIONS):
                if (refusal := await self._lend(lent, tenant, wish)) is not None or lent.sandbox is None:
                    return await self._held_or_refuse(tenant.name, wish, refusal or AllocationInProgress()), False
                answer = await self._transact(lent.sandbox, lent.slot, tenant, wish, cause, attempt_id)
                if isinstance(answer, Claim):
                    lent.took()
                    return answer, True
                claim = _blocking(answer)
                if claim is None and _is_open(answer):
                    troubles += 1
                    claim = await self._look(tenant.name, wish, trouble=answer)
                    if claim is None and troubles <= MAX_TROUBLES:
                        continue  # the same once more: had the lost answer been a yes, its claim will say so
                lent.learn(answer)
                if claim is not None:
                    return _replay(claim, wish), claim.attempt_id == attempt_id
                if troubles > MAX_TROUBLES:
                    raise _failure(answer) or AllocationInProgress
            raise AllocationInProgress
        finally:
            lent.cut_short()

    async def _lend(self, lent: Lent, tenant: Tenant, wish: Wish) -> BrokerError | None:
        """Put into these hands what is to be tried: a slot under a quota, then a sandbox. Returns the refusal.

        In this order: who waited for a slot with a sandbox in hand would wait for one who waits for the sandbox.
        """
        limit = tenant.limits.max_live
        if limit is not None and lent.slot is None:
            lent.slot = await self._or_claim(self._quota.take(tenant.name, limit), tenant.name, wish)
            if lent.slot is None:
                return QuotaExceeded(limit)
        if lent.sandbox is None:
            lent.sandbox = await self._or_claim(self._candidates.take(tenant.name, lent.pool), tenant.name, wish)
            if lent.sandbox is None:
                lent.unused()
                drained = lent.pool.without
                return NoSandboxAvailable(wish.prefix, retry_after_s=EMPTY_RETRY_AFTER_S, drained=drained)
        return None

    async def _or_claim(self, taking: Awaitable[Taken | None], tenant: str, wish: Wish) -> Taken | None:
        """What is taken to try. Where the store does not tell, whoever holds a sandbox is served all the same."""
        try:
            return await taking
        except BrokerError:
            if (claim := await self._claims.get(tenant, wish.holder, wish.key)) is None:
                raise
            if not claim.blocks(now=int(self._clock())):
                raise
            return None  # which is looked into by reading the claim

    async def _transact(
        self, candidate: Sandbox, slot: int | None, tenant: Tenant, wish: Wish, cause: Cause, attempt_id: str
    ) -> Claim | TransactionRefused | BrokerError:
        """The one write of an allocation: the claim if there is none, the sandbox if it is still as seen."""
        now = self._clock()
        after = candidate.allocate(
            holder=wish.holder,
            claim_key=wish.key,
            track=wish.track,
            now=int(now),
            lease_s=tenant.limits.lease_s or self._lease_s,
            slot=slot,
        )
        claim = Claim.on(after, wish=wish.digest(), attempt_id=attempt_id)
        try:
            await self._sandboxes.allocate(candidate, after, claim, cause, now=now)
        except TransactionRefused as refused:
            self._metrics.allocation_transactions.labels(_kind(refused)).inc()
            return refused
        except (StoreThrottled, StoreUnavailable) as error:
            self._metrics.allocation_transactions.labels(error.code.lower()).inc()
            return error
        self._metrics.allocation_transactions.labels("won").inc()
        return claim

    async def _look(self, tenant: str, wish: Wish, *, trouble: TransactionRefused | BrokerError) -> Claim | None:
        """After an open outcome: the claim, if one has come to be; waits a little for one on its way."""
        for wait_s in LOOK_AFTER_S:
            await asyncio.sleep(wait_s * (0.5 + random.random()))  # noqa: S311  jitter
            try:
                claim = await self._claims.get(tenant, wish.holder, wish.key)
            except (StoreThrottled, StoreUnavailable) as error:
                raise (_failure(trouble) or error) from error
            if claim is not None and claim.blocks(now=int(self._clock())):
                return claim
            if not isinstance(trouble, TransactionRefused):
                return None
        return None

    async def _held_or_refuse(self, tenant: str, wish: Wish, refusal: BrokerError) -> Claim:
        """There is nothing new to be had. Whoever holds a sandbox gets it all the same."""
        claim = await self._claims.get(tenant, wish.holder, wish.key)
        if claim is not None and claim.blocks(now=int(self._clock())):
            return _replay(claim, wish)
        raise refusal


def _replay(claim: Claim, wish: Wish) -> Claim:
    """The claim as an answer to this wish, or why it is none."""
    if wish.key is not None and claim.wish != wish.digest():
        raise IdempotencyKeyReused
    if claim.ended_at is not None:
        raise AllocationEnded(ended_by=str(claim.ended_by), ended_at=claim.ended_at)
    return claim


def _blocking(answer: TransactionRefused | BrokerError) -> Claim | None:
    """The claim that refused the transaction, as the refusal carries it."""
    if not isinstance(answer, TransactionRefused) or not answer.reasons:
        return None
    slot = answer.reasons[0]
    return claim_from(slot.item) if slot.condition_failed and slot.item else None


def _is_open(answer: TransactionRefused | BrokerError) -> bool:
    """Whether this student may hold a sandbox by now, by another attempt or by an answer that was lost."""
    if not isinstance(answer, TransactionRefused):
        return True
    return answer.failure() is not None or answer.reasons[0].code != "None"


def _failure(answer: TransactionRefused | BrokerError) -> Exception | None:
    return answer.failure() if isinstance(answer, TransactionRefused) else answer


def _kind(refused: TransactionRefused) -> str:
    if refused.failure():
        return "store_throttled"
    slot = next(n for n, reason in enumerate(refused.reasons) if reason.code != "None")
    reason = "conflict" if refused.reasons[slot].conflict else "taken"
    return f"{('claim', 'sandbox', 'event', 'quota')[min(slot, 3)]}_{reason}"
