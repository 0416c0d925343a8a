"""Where admins get, look at and take back API keys. A secret is made here, told once, and kept nowhere."""

import secrets
import string
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from app.cursors import Cursors
from broker.errors import BrokerError, KeyLimitReached, KeyNotRotatable, StoreUnavailable, WriteConflict
from broker.key import ID_CHARS, KEEP_S, Key, KeyState, Peppers, token_of
from broker.role import Role
from broker.store.events import Cause
from broker.store.keys import Keys

MAX_LIVE: Final = 1000
"""Of a tenant, as the index sees them: those that are made in the same second may pass it by a few."""
_SECRET_BYTES: Final = 32
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits
_MAX_TRIES: Final = 4
_MAX_QUERIES: Final = 20
"""Per page of a list: see Inventory."""


@dataclass(frozen=True, slots=True)
class Made:
    """A new key and its token, which nobody can be told again."""

    key: Key
    token: str


@dataclass(frozen=True, slots=True)
class KeyPage:
    keys: list[Key]
    cursor: str | None


class KeyDesk:
    """`changed` is told each key that is changed here, so that this process goes by it at once."""

    def __init__(
        self,
        keys: Keys,
        cursors: Cursors,
        peppers: Peppers,
        *,
        changed: Callable[[str], None],
        default_tenant: str,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._cursors = cursors
        self._peppers = peppers
        self._changed = changed
        self._default_tenant = default_tenant
        self._clock = clock

    async def create(self, tenant: str, role: Role, name: str, *, lasts_s: int | None, cause: Cause) -> Made:
        """Make a key. A repeat makes another one.

        Raises:
            TenantNotFound: there is no such tenant.
            KeyLimitReached: it has enough of them.
        """
        now = self._clock()
        await self._within_limit(tenant, now)
        expires_at = None if lasts_s is None else int(now) + lasts_s
        made = self._made(tenant, role, name, expires_at=expires_at, cause=cause, now=now)
        await self._keys.create(made.key, cause, now=now)
        return made

    async def rotate(self, tenant: str | None, key_id: str, *, overlap_s: int, cause: Cause) -> Made:
        """Make a key in the place of another, which ends after `overlap_s`, or before if it was to.

        It is the old one's tenant's; `tenant` None: whosever that is.

        Raises:
            KeyNotFound: unknown, or another tenant's.
            KeyNotRotatable: it has ended, or was rotated before.
            KeyLimitReached: there are enough keys, and this would be one more for the time of the overlap.
        """
        for _ in range(_MAX_TRIES):
            now = self._clock()
            old = await self._keys.of(tenant, key_id, now=now)
            if (state := old.state(now)) is not KeyState.LIVE or old.replaced_by is not None:
                raise KeyNotRotatable(state=state.value, replaced_by=old.replaced_by)
            if overlap_s:
                await self._within_limit(old.tenant, now)
            made = self._made(
                old.tenant, old.role, old.name, expires_at=old.expires_at, cause=cause, now=now, replaces=old.id
            )
            try:
                await self._keys.rotate(old, made.key, cause, ends_at=int(now) + overlap_s, now=now)
            except WriteConflict:
                continue  # revoked, or rotated by someone else: look again
            self._changed(key_id)
            return made
        raise StoreUnavailable("contention")

    async def revoke(self, tenant: str | None, key_id: str, *, cause: Cause) -> Key:
        """End a key now, whosever it is where `tenant` is None. Idempotent: the first reason stays.

        Raises:
            KeyNotFound: unknown, or another tenant's.
        """
        now = self._clock()
        reason = cause.reason or ""
        revoked = await self._keys.change(
            tenant,
            key_id,
            lambda key: key.revoke(by=cause.actor, reason=reason, now=int(now)),
            cause,
            now=now,
        )
        self._changed(key_id)
        return revoked

    async def is_last_admin(self, key: Key) -> bool:
        """Whether, but for this key, nobody of its tenant may make keys; as the index sees the others.

        One that gives way to another is on its way out. The default tenant has its bootstrap token.
        """
        if key.role is not Role.ADMIN or key.tenant == self._default_tenant:
            return False
        live = await self._keys.live(key.tenant, now=self._clock())
        others = [other for other in live if other.role is Role.ADMIN and other.replaced_by is None]
        return not {other.id for other in others} - {key.id, key.replaces}

    async def warnings(self, key: Key) -> list[str]:
        """What to know after a change of an admin's key. It was made: no answer, nothing to know."""
        last = False
        with suppress(BrokerError):
            last = await self.is_last_admin(key)
        if not last:
            return []
        if key.revoked_at is not None:
            return [f"tenant {key.tenant} has no admin key now: an admin of the default tenant can make it one"]
        return [f"tenant {key.tenant} has no other admin key: who loses this one asks the default tenant's admins"]

    async def get(self, tenant: str | None, key_id: str) -> Key:
        """One key, whosever it is where `tenant` is None. Raises KeyNotFound: unknown, or another tenant's."""
        return await self._keys.of(tenant, key_id, now=self._clock())

    async def page(self, tenant: str, *, limit: int, cursor: str | None) -> KeyPage:
        """Up to `limit` keys, the newest first, and the cursor of the next page; None after the last.

        Raises:
            InvalidCursor: not one of this tenant's keys.
        """
        scope = (tenant, "keys")
        position: dict[str, Any] = self._cursors.decode(cursor, scope=scope) if cursor else {}
        after = position.get("k")
        rows: list[Key] = []
        for _ in range(_MAX_QUERIES):
            found, after = await self._keys.page(tenant, limit=limit - len(rows), now=self._clock(), after=after)
            rows += found
            if after is None or len(rows) >= limit:
                break
        return KeyPage(rows, None if after is None else self._cursors.encode({"k": after}, scope=scope))

    async def _within_limit(self, tenant: str, now: float) -> None:
        if len(await self._keys.live(tenant, now=now)) >= MAX_LIVE:
            raise KeyLimitReached(MAX_LIVE)

    def _made(
        self,
        tenant: str,
        role: Role,
        name: str,
        *,
        expires_at: int | None,
        cause: Cause,
        now: float,
        replaces: str | None = None,
    ) -> Made:
        key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(ID_CHARS))
        token = token_of(key_id, secrets.token_urlsafe(_SECRET_BYTES))
        key = Key(
            id=key_id,
            tenant=tenant,
            role=role,
            name=name,
            digest=self._peppers.digest(token.encode()),
            pepper=self._peppers.current,
            created_by=cause.actor,
            created_at=int(now),
            expires_at=expires_at,
            replaces=replaces,
            ttl=None if expires_at is None else expires_at + KEEP_S,
        )
        return Made(key, token)
