"""The old broker's sandboxes come over: planned from the whole of its table, then written one by one."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from broker.arrival import SECOND, Unmappable, arrival_of, keyed, with_claims
from broker.errors import StoreThrottled, StoreUnavailable
from broker.sandbox import Sandbox, State, account_name
from broker.store.adoptions import Adopted, Adoptions
from broker.store.client import TransactionRefused
from broker.store.events import Cause
from broker.store.old_table import must_be_old, sandboxes_of
from broker.store.sandboxes import Sandboxes

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

MAX_TRIES: Final = 8
_PAUSE_S: Final = 0.1
_AT_ONCE: Final = 8
_NAMED: Final = 20
"""Ids that are told of each kind of trouble."""


@dataclass(slots=True)
class Trouble:
    """How many of a kind, and the first of them by name."""

    count: int = 0
    ids: list[str] = field(default_factory=list)

    def add(self, id_: str) -> None:
        self.count += 1
        if len(self.ids) < _NAMED:
            self.ids.append(id_)


@dataclass(slots=True)
class Plan:
    """What would come, and what would not."""

    arrivals: list[Sandbox] = field(default_factory=list)
    left: dict[str, Trouble] = field(default_factory=dict)  # why an item cannot come -> which
    others: int = 0  # items that are no sandboxes
    here: dict[str, Sandbox] = field(default_factory=dict)  # by id, what is in our table already

    @property
    def coming(self) -> list[Sandbox]:
        return [sandbox for sandbox in self.arrivals if sandbox.id not in self.here]

    @property
    def contradicted(self) -> list[Sandbox]:
        return [s for s in self.arrivals if s.id in self.here and contradicts(s, self.here[s.id])]

    @property
    def second(self) -> int:
        """Sandboxes of students who hold a newer one."""
        return sum((sandbox.claim_key or "").startswith(SECOND) for sandbox in self.coming)


def in_use(arrival: Sandbox) -> bool:
    """Somebody may be in it, or it is to be deleted."""
    return arrival.state not in (State.AVAILABLE, State.STALE, State.DELETED)


def contradicts(arrival: Sandbox, here: Sandbox) -> bool:
    """In use at the old broker, and here free to be handed out or somebody else's: two would be in one sandbox."""
    if not in_use(arrival):
        return False
    return here.state is State.AVAILABLE or (here.state is State.ALLOCATED and here.holder != arrival.holder)


@dataclass(slots=True)
class Brought:
    """What became of the plan."""

    outcome: Counter[Adopted] = field(default_factory=Counter)
    beside: int = 0  # allocations that came under a key, as their student holds another one here
    contradicted: list[Sandbox] = field(default_factory=list)  # see contradicts()
    left: dict[str, Trouble] = field(default_factory=dict)

    def leave(self, why: str, id_: str) -> None:
        self.left.setdefault(why, Trouble()).add(id_)


class Importer:
    """Reads the old table, writes ours. Safe beside a broker that runs, and to be run again at any point."""

    def __init__(
        self,
        source: "DynamoDBClient",
        sandboxes: Sandboxes,
        adoptions: Adoptions,
        *,
        tenant: str,
        cause: Cause,
        items_per_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._sandboxes = sandboxes
        self._adoptions = adoptions
        self._tenant = tenant
        self._cause = cause
        self._items_per_s = items_per_s
        self._clock = clock

    async def plan(self, name: str, *, mapping: Mapping[str, tuple[str, ...]], lease_s: int) -> Plan:
        """Read the whole of the old table, and what of it is here already. Writes nothing.

        Raises:
            ForeignTable: it is no table of the old broker.
            StoreThrottled, StoreUnavailable: ours does not answer.
        """
        await must_be_old(self._source, name)
        plan, now = Plan(), int(self._clock())
        async for origin in sandboxes_of(self._source, name, items_per_s=self._items_per_s):
            if origin is None:
                plan.others += 1
                continue
            try:
                arrival = arrival_of(origin, tenant=self._tenant, mapping=mapping, now=now, lease_s=lease_s)
            except Unmappable as why:
                plan.left.setdefault(str(why), Trouble()).add(origin.pk)
            else:
                plan.arrivals.append(arrival)
        plan.arrivals = with_claims(_once_each(plan))
        plan.here = await self._sandboxes.find(self._tenant, [sandbox.id for sandbox in plan.arrivals])
        return plan

    async def bring(self, plan: Plan) -> AsyncIterator[Brought]:
        """Write what is not here yet; says after every few how far it is. Nothing that is here is touched.

        Raises:
            StoreThrottled, StoreUnavailable: again and again; run it once more, it goes on where it was.
        """
        brought = Brought(contradicted=plan.contradicted)
        coming = plan.coming
        for first in range(0, len(coming), _AT_ONCE):
            began = time.monotonic()
            batch = coming[first : first + _AT_ONCE]
            for sandbox, adopted in zip(batch, await asyncio.gather(*map(self._adopt, batch)), strict=True):
                _count(brought, sandbox, adopted)
                brought.contradicted += await self._met(sandbox, adopted[0])
            yield brought
            await asyncio.sleep(max(0.0, len(batch) / self._items_per_s - (time.monotonic() - began)))

    async def _met(self, sandbox: Sandbox, adopted: Adopted) -> list[Sandbox]:
        """What is here, by a sync maybe, and contradicts it: under its id, or under another with its account."""
        if adopted is Adopted.EXISTS:
            id_: str | None = sandbox.id
        elif adopted is Adopted.OWNED:
            tenant, owner = (await self._sandboxes.owners([sandbox])).get(sandbox.id, (None, None))
            id_ = owner if tenant == self._tenant else None
        else:
            return []
        here = None if id_ is None else await self._sandboxes.get(self._tenant, id_)
        return [here] if here is not None and contradicts(sandbox, here) else []

    async def _adopt(self, sandbox: Sandbox) -> tuple[Adopted, bool]:
        """What became of it, and whether it came beside another one of its student."""
        adopted = await self._insist(sandbox)
        if adopted is Adopted.CLAIMED:
            return await self._insist(keyed(sandbox)), True
        return adopted, False

    async def _insist(self, sandbox: Sandbox) -> Adopted:
        """Trouble passes, and nothing of a refused transaction was written."""
        for number in range(1, MAX_TRIES + 1):
            try:
                return await self._adoptions.adopt(sandbox, self._cause, now=self._clock())
            except (StoreThrottled, StoreUnavailable, TransactionRefused) as error:
                if number == MAX_TRIES:
                    raise (
                        StoreUnavailable("contention") if isinstance(error, TransactionRefused) else error
                    ) from None
                await asyncio.sleep(_PAUSE_S * 2**number * (0.5 + random.random()))  # noqa: S311  jitter
        raise StoreUnavailable("contention")


def _once_each(plan: Plan) -> list[Sandbox]:
    """The arrivals, of several with one id or one account one alone: one that is in use, where any is.

    The others are told of. Were a free one to come, its account would be handed out beside the student in it.
    """
    ids, accounts = set[str](), set[str]()
    once = []
    for sandbox in sorted(plan.arrivals, key=in_use, reverse=True):
        account = account_name(sandbox.external_id)
        if sandbox.id in ids or account in accounts:
            what = "sandbox id" if sandbox.id in ids else "account"
            plan.left.setdefault(f"another item has this {what}", Trouble()).add(sandbox.id)
            continue
        ids.add(sandbox.id)
        accounts.add(account)
        once.append(sandbox)
    return once


def _count(brought: Brought, sandbox: Sandbox, adopted: tuple[Adopted, bool]) -> None:
    what, beside = adopted
    brought.outcome[what] += 1
    if what is Adopted.YES:
        brought.beside += beside
    elif what is not Adopted.EXISTS:
        brought.leave(what.value, sandbox.id)
