"""An API key: whose it is, what it may do, and how its secret is recognised without being kept. Pure."""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import Final, Self

from broker.role import Role

KEEP_S: Final = 30 * 24 * 3600
"""How long a key is remembered after it has ended."""
ID_CHARS: Final = 12
MAX_OVERLAP_S: Final = 7 * 24 * 3600
_TOKEN: Final = re.compile(rb"sbk_([a-z0-9]{12})_[A-Za-z0-9_-]{43}")
_CREDENTIAL: Final = "key:"


class KeyState(StrEnum):
    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """As its item says. Instants are Unix seconds, UTC."""

    id: str  # public
    tenant: str
    role: Role
    name: str  # what its admin calls it
    digest: str  # keyed hash of the whole token, in hex
    pepper: str  # fingerprint of the pepper that the digest was made with
    created_by: str
    created_at: int
    version: int = 1  # +1 per change; every change is conditional on it
    expires_at: int | None = None
    revoked_at: int | None = None
    revoked_by: str | None = None
    revoked_reason: str | None = None
    replaces: str | None = None  # the key that it was made from, by rotation
    replaced_by: str | None = None
    last_used_at: int | None = None  # to about a minute
    ttl: int | None = None

    @property
    def credential(self) -> str:
        """The name it goes by in logs, events and jobs."""
        return f"{_CREDENTIAL}{self.id}"

    def state(self, now: float) -> KeyState:
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return KeyState.EXPIRED
        return KeyState.LIVE

    def revoke(self, *, by: str, reason: str, now: int) -> Self:
        """Of no use from now on. One that was revoked before stays as it is."""
        if self.revoked_at is not None:
            return self
        return self._changed(revoked_at=now, revoked_by=by, revoked_reason=reason, ttl=now + KEEP_S)

    def give_way(self, to: str, *, at: int) -> Self:
        """Replaced by another key: it ends at `at`, never later than it would have."""
        ends_at = at if self.expires_at is None else min(at, self.expires_at)
        return self._changed(replaced_by=to, expires_at=ends_at, ttl=ends_at + KEEP_S)

    def _changed(self, **changes: int | str) -> Self:
        return replace(self, version=self.version + 1, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is spelled as ours are; whether it is one, only its key's digest tells."""

    id: str
    text: bytes

    @classmethod
    def parse(cls, text: bytes) -> Self | None:
        """None where it is no API key at all, or not a whole one."""
        found = _TOKEN.fullmatch(text)
        return None if found is None else cls(found[1].decode(), text)


def token_of(key_id: str, secret: str) -> str:
    """What the caller keeps. `secret`: 32 random bytes, URL-safe."""
    return f"sbk_{key_id}_{secret}"


def key_id_of(credential: str) -> str | None:
    """The id of the key that goes by this name; None where it is no key, but a bootstrap token."""
    return credential.removeprefix(_CREDENTIAL) if credential.startswith(_CREDENTIAL) else None


class Peppers:
    """The server's part of every digest: new keys get the first, and each one verifies what it made."""

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("keys need a pepper")
        self._secrets = {fingerprint(secret): secret.encode() for secret in secrets}
        self.current = fingerprint(secrets[0])

    def digest(self, token: bytes) -> str:
        """The keyed hash that is stored of a new token."""
        return hmac.digest(self._secrets[self.current], token, sha256).hex()

    def verifies(self, key: Key, token: Token) -> bool:
        """Whether it is the token of this key; in the same time whichever character differs."""
        secret = self._secrets.get(key.pepper)
        if secret is None:
            return False  # a pepper that was taken away: its keys are gone
        return hmac.compare_digest(hmac.digest(secret, token.text, sha256).hex(), key.digest)


def fingerprint(pepper: str) -> str:
    """Which pepper it is, for the key's item: says nothing of the pepper itself."""
    return hmac.digest(pepper.encode(), b"sandbox-broker pepper fingerprint v1", sha256).hex()[:8]
