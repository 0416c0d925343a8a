"""API keys as this process knows them: recognised from memory, confirmed in the background.

A request costs no read in the usual case. A record that is older than REFRESH_S is confirmed beside the requests
that use it; past WAIT_S they wait for that; what was last confirmed TRUST_S ago is believed no longer. So a
revocation holds everywhere within TRUST_S, and an expiry, which the record itself tells, at once.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from app.auth import Credential
from broker.errors import BrokerError, NotReady, StoreThrottled, StoreUnavailable
from broker.key import Key, KeyState, Peppers, Token
from broker.role import Role
from broker.store.keys import Keys

log = logging.getLogger("app")

REFRESH_S: Final = 3.0
WAIT_S: Final = 8.0
TRUST_S: Final = 10.0
PAUSE_S: Final = 0.5
"""Between reads of one key while the store is in trouble."""
READ_S: Final = 5.0
"""How long a request waits for a key: the store's own deadlines are for those who can do nothing else."""
UNKNOWN_S: Final = 5.0
"""How long an id that was not found is not asked for again."""
USED_EVERY_S: Final = 60
MAX_KNOWN: Final = 10_000
MAX_UNKNOWN: Final = 10_000
_PLATFORM: Final = frozenset({Role.OPERATOR, Role.ADMIN})


class Refusal(StrEnum):
    """Why a key lets nobody in: for the log. Whoever presents it is told nothing of it."""

    UNKNOWN = "unknown"
    WRONG_SECRET = "wrong_secret"  # noqa: S105  a word
    EXPIRED = "expired"
    REVOKED = "revoked"


_REFUSED: Final = {KeyState.EXPIRED: Refusal.EXPIRED, KeyState.REVOKED: Refusal.REVOKED}


@dataclass(slots=True)
class _Entry:
    """A key as a read found it that began at `confirmed_at`, by the monotonic clock."""

    key: Key
    credential: Credential
    confirmed_at: float
    tried_at: float  # when the last read began, whatever came of it
    used_at: int  # last noted in the table, Unix seconds


class KeyRing:
    """Recognises API keys. `open` gives it the table; until then nobody can be recognised."""

    def __init__(
        self,
        peppers: Peppers | None,
        *,
        tenant: str,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._peppers = peppers
        self._tenant = tenant
        self._clock = clock
        self._monotonic = monotonic
        self._keys: Keys | None = None
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()  # until when
        self._reads: dict[str, asyncio.Task[_Entry | None]] = {}
        self._notes: set[asyncio.Task[None]] = set()

    def open(self, keys: Keys) -> None:
        """From now on keys can be asked for."""
        self._keys = keys

    async def close(self) -> None:
        """Let go of what still runs in the background."""
        running = [*self._reads.values(), *self._notes]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def look(self, token: Token) -> Credential | Refusal | None:
        """What is known of a token, at no cost. None: it has to be asked for."""
        if self._peppers is None:
            return Refusal.UNKNOWN
        entry = self._known.get(token.id)
        if entry is None:
            return Refusal.UNKNOWN if self._unknown.get(token.id, 0.0) > self._monotonic() else None
        self._known.move_to_end(token.id)
        answer = self._judged(entry, token)
        if isinstance(answer, Credential):
            age_s = self._monotonic() - entry.confirmed_at
            if age_s >= WAIT_S:
                return None
            if age_s >= REFRESH_S and self._may_read(entry):
                self._begin(token.id)
        return answer

    def is_stranger(self, token: Token) -> bool:
        """Whether asking for it costs a read that nobody has shown a right to."""
        return token.id not in self._known and token.id not in self._reads

    async def ask(self, token: Token) -> Credential | Refusal:
        """Read the key, or join who reads it. Of use where look() says None.

        Raises:
            NotReady: the process is booting.
            StoreThrottled, StoreUnavailable: it cannot be read, and was last confirmed too long ago.
        """
        entry = self._known.get(token.id)
        try:
            found = await self._confirmed(token.id, entry)
        except (StoreThrottled, StoreUnavailable):
            if entry is None or self._monotonic() - entry.confirmed_at >= TRUST_S:
                raise
            found = entry
        return Refusal.UNKNOWN if found is None else self._judged(found, token)

    async def _confirmed(self, key_id: str, entry: _Entry | None) -> _Entry | None:
        """What the read says that is under way, or a new one; none is begun right after one that failed."""
        read = self._reads.get(key_id)
        if read is None:
            if entry is not None and not self._may_read(entry):
                raise StoreUnavailable("a key could not be read a moment ago")
            read = self._begin(key_id)
        try:
            async with asyncio.timeout(READ_S):
                return await asyncio.shield(read)
        except TimeoutError:
            raise StoreUnavailable("Timeout") from None

    def forget(self, key_id: str) -> None:
        """It was changed here: what was read before, or is being read, is history."""
        for remembered in (self._known, self._unknown, self._reads):
            remembered.pop(key_id, None)

    def _judged(self, entry: _Entry, token: Token) -> Credential | Refusal:
        if self._peppers is None or not self._peppers.verifies(entry.key, token):
            return Refusal.WRONG_SECRET
        now = self._clock()
        if refusal := _REFUSED.get(entry.key.state(now)):
            return refusal
        if now - entry.used_at >= USED_EVERY_S:
            self._note_use(entry, int(now))
        return entry.credential

    def _may_read(self, entry: _Entry) -> bool:
        return entry.key.id not in self._reads and self._monotonic() - entry.tried_at >= PAUSE_S

    def _begin(self, key_id: str) -> asyncio.Task[_Entry | None]:
        if self._keys is None:
            raise NotReady("booting")
        if (entry := self._known.get(key_id)) is not None:
            entry.tried_at = self._monotonic()
        read = self._reads[key_id] = asyncio.create_task(self._read(self._keys, key_id))
        read.add_done_callback(lambda done: self._landed(key_id, done))
        return read

    async def _read(self, keys: Keys, key_id: str) -> _Entry | None:
        began_at = self._monotonic()
        key = await keys.get(key_id, now=self._clock())
        if key is None:
            return None
        platform = key.tenant == self._tenant and key.role in _PLATFORM
        credential = Credential(key.credential, key.tenant, key.role, platform)
        known = self._known.get(key_id)
        used_at = max(key.last_used_at or 0, 0 if known is None else known.used_at)
        return _Entry(key, credential, began_at, began_at, used_at)

    def _landed(self, key_id: str, read: asyncio.Task[_Entry | None]) -> None:
        failed = read.cancelled() or read.exception() is not None
        if self._reads.get(key_id) is not read:
            return  # forgotten meanwhile
        del self._reads[key_id]
        if failed:
            return
        if (entry := read.result()) is None:
            self._known.pop(key_id, None)
            _remember(self._unknown, key_id, self._monotonic() + UNKNOWN_S, MAX_UNKNOWN)
        else:
            _remember(self._known, key_id, entry, MAX_KNOWN)

    def _note_use(self, entry: _Entry, now: int) -> None:
        """In the background, once a minute: a request neither waits for it nor fails with it."""
        if self._keys is None:
            return
        entry.used_at = now
        note = asyncio.create_task(self._noted(self._keys, entry.key.id, now))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _noted(self, keys: Keys, key_id: str, now: int) -> None:
        with suppress(BrokerError):  # the next minute's is as good
            await keys.used(key_id, at=now)


def _remember(cache: "OrderedDict[str, Any]", key_id: str, value: object, most: int) -> None:
    cache[key_id] = value
    cache.move_to_end(key_id)
    if len(cache) > most:
        cache.popitem(last=False)
