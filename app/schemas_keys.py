"""The bodies of requests and answers about API keys. Their names are public API."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.key_desk import Made
from app.schemas import Name
from broker.key import MAX_OVERLAP_S, Key, KeyState
from broker.role import Role

_DAY_S = 24 * 3600
MAX_DAYS = 3650


class KeyIn(BaseModel):
    """What a new key is to be."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: Name
    role: Role = Field(description="track: allocate and release. viewer < operator < admin: look, act, keys.")
    expires_in_days: int | None = Field(
        None,
        ge=1,
        le=MAX_DAYS,
        strict=True,
        description="It ends by itself after so many days; never, if left out.",
        examples=[90],
    )

    @property
    def lasts_s(self) -> int | None:
        return None if self.expires_in_days is None else self.expires_in_days * _DAY_S


class RotateIn(BaseModel):
    """How long both the old and the new token are good."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: int = Field(
        3600,
        ge=0,
        le=MAX_OVERLAP_S,
        strict=True,
        description="Seconds until the old one ends: 0 to 7 days.",
        examples=[3600],
    )


def _instant(what: str) -> Any:
    return Field(None, description=f"{what} Unix seconds, UTC.")


class KeyOut(BaseModel):
    """An API key. Its secret is not here: it was told once, and is not kept."""

    id: str = Field(description="Public: it stands in logs and events as `key:<id>`.", examples=["k7m2x9q4w1zb"])
    tenant: str
    name: str
    role: Role
    state: KeyState = Field(
        description="live: it lets in. expired, revoked: it does not, and is forgotten in 30 days."
    )
    created_by: str = Field(description="The credential that made it.")
    created_at: int = Field(description="Unix seconds, UTC.")
    expires_at: int | None = _instant("When it ends by itself; null: never.")
    last_used_at: int | None = _instant("When it was last used, to about a minute; null: never.")
    revoked_at: int | None = _instant("When it was revoked.")
    revoked_by: str | None = None
    revoked_reason: str | None = None
    replaces: str | None = Field(None, description="The key that it was rotated from.")
    replaced_by: str | None = Field(None, description="The key that it was rotated to.")
    pepper: str = Field(description="Which pepper of API_KEY_PEPPER it needs: a fingerprint.")

    @classmethod
    def of(cls, key: Key, *, now: float, **more: object) -> Self:
        same = set(KeyOut.model_fields) - {"state"}
        return cls.model_validate({name: getattr(key, name) for name in same} | {"state": key.state(now)} | more)


_WARNINGS = Field(description="It was done; but look whether this is meant: the tenant's last admin key.")


class KeyShownOut(KeyOut):
    """An API key, and what hangs on it."""

    last_admin: bool = Field(
        description="Nobody else of the tenant may make keys. False for the default tenant, which has its token."
    )


class KeyRevokedOut(KeyOut):
    """A key that has ended."""

    warnings: list[str] = _WARNINGS


class KeyMadeOut(KeyOut):
    """A new key, with its token."""

    warnings: list[str] = _WARNINGS

    token: str = Field(
        description="Send it as `Authorization: Bearer <token>`. It is told this once: keep it now.",
        examples=["sbk_k7m2x9q4w1zb_<43 characters>"],
    )

    @classmethod
    def made(cls, made: Made, warnings: list[str], *, now: float) -> Self:
        return cls.of(made.key, now=now, token=made.token, warnings=warnings)


class KeyListOut(BaseModel):
    """One page. `cursor` asks for the next one; null after the last."""

    keys: list[KeyOut]
    count: int = Field(description="Rows on this page. A page may be short, or empty, before the last.")
    cursor: str | None
