"""The broker's mode: what operators let it do. One item for all tenants, which every process asks."""

import asyncio
import json
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.errors import StoreThrottled, StoreUnavailable
from broker.metrics import Metrics
from broker.store import table
from broker.store.client import StoreClient, TransactionRefused
from broker.store.events import Cause, Events
from broker.store.known import Known
from broker.store.table import Item
from broker.store.tenants import Tenants

MAX_TRIES: Final = 6
_PAUSE_S: Final = 0.02


class ModeName(StrEnum):
    OPEN = "open"
    DRAINED = "drained"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What the broker may do, who said so, and why. A broker that nobody told anything is open."""

    name: ModeName = ModeName.OPEN
    reason: str | None = None
    by: str | None = None
    at: int | None = None  # Unix seconds, UTC
    version: int = 0  # +1 per change; every change is conditional on it

    @property
    def allocates(self) -> bool:
        return self.name is ModeName.OPEN

    @property
    def works(self) -> bool:
        """Whether the worker may begin anything: jobs, syncs, deletions."""
        return self.name is not ModeName.MAINTENANCE


class Modes:
    """Reads the mode at most once a second, and changes it."""

    def __init__(
        self, client: StoreClient, known: Known, tenants: Tenants, events: Events, metrics: Metrics
    ) -> None:
        self._client = client
        self._known = known
        self._tenants = tenants
        self._events = events
        self._metrics = metrics
        self._read: tuple[Item | None, Mode] | None = None  # what the last read found, and what it means
        self.last: Mode | None = None
        """As it was last read; None until it was."""

    async def current(self) -> Mode:
        """The mode as it was a second ago at the most; while the store does not answer, the last one known.

        Raises:
            StoreThrottled, StoreUnavailable: the store does not answer, and never has.
        """
        try:
            item = await self._known.get(table.mode_key())
        except (StoreThrottled, StoreUnavailable):
            if self.last is None:
                raise
            return self.last
        if self._read is None or self._read[0] is not item:
            self._read = (item, self._learn(_mode_from(item)))
        return self._read[1]

    async def change(self, to: ModeName, cause: Cause, *, tenant: str, now: float) -> Mode:
        """Set the mode for every process, with its event. Idempotent for the same mode and reason.

        Raises:
            StoreThrottled, StoreUnavailable: repeat.
        """
        for number in range(MAX_TRIES):
            before = _mode_from(await self._client.get(table.mode_key()))
            if (before.name, before.reason) == (to, cause.reason):
                return self._changed(before)
            version = before.version + 1
            after = Mode(name=to, reason=cause.reason, by=cause.actor, at=int(now), version=version)
            try:
                await self._write(before, after, cause, tenant=tenant, now=now)
            except TransactionRefused as refused:
                if failure := refused.failure():
                    raise failure from refused
                await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
            except StoreUnavailable:
                if number:  # a lost answer is looked into once
                    raise
            else:
                return self._changed(after)
        raise StoreUnavailable("contention")

    async def _write(self, before: Mode, after: Mode, cause: Cause, *, tenant: str, now: float) -> None:
        change = table.update_of(_facts(before) if before.version else {}, _facts(after))
        condition = "version = :version" if before.version else "attribute_not_exists(pk)"
        seen = {":version": table.encode_value(before.version)} if before.version else None
        await self._client.transact(
            self._client.update(table.mode_key(), change, condition, seen),
            self._events.note(
                cause,
                subject="mode",
                before=json.dumps({"mode": before.name}),
                after=json.dumps({"mode": after.name}),
                version=after.version,
                tenant=tenant,
                now=now,
                shards=await self._tenants.shards(tenant),
            ),
        )

    def _changed(self, mode: Mode) -> Mode:
        """What this process does next goes by it at once; the others read it within the second."""
        self._known.forget(table.mode_key())
        return self._learn(mode)

    def _learn(self, mode: Mode) -> Mode:
        self.last = mode
        for name in ModeName:
            self._metrics.mode.labels(name.value).set(name is mode.name)
        return mode


def _facts(mode: Mode) -> Item:
    return table.encode(
        {
            "v": table.ITEM_VERSION,
            "mode": mode.name.value,
            "reason": mode.reason,
            "actor": mode.by,
            "at": mode.at,
            "version": mode.version,
        }
    )


def _mode_from(item: Item | None) -> Mode:
    if item is None:
        return Mode()
    values = table.decode(item)
    known = values["mode"] in set(ModeName)
    return Mode(
        name=ModeName(values["mode"]) if known else ModeName.MAINTENANCE,  # a newer release's: the careful reading
        reason=values.get("reason"),
        by=values.get("actor"),
        at=values.get("at"),
        version=values["version"],
    )
