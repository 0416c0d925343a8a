"""Who is calling: a credential with a tenant and a role. Roles are checked per route, deny by default."""

import hmac
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from broker.errors import PlatformOnly, RoleMissing, Unauthenticated


class Role(StrEnum):
    TRACK = "track"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


IMPLIED: dict[Role, frozenset[Role]] = {
    Role.TRACK: frozenset({Role.TRACK}),
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.OPERATOR, Role.VIEWER}),
    Role.ADMIN: frozenset({Role.ADMIN, Role.OPERATOR, Role.VIEWER}),
}
"""What each role may do besides its own. An admin holds no lab: `track` is nobody's but the tracks'."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A known caller. `name` is for logs, limits and audit; it is no secret.

    `platform`: of the default tenant, whose operators and admins run the installation for all others.
    """

    name: str
    tenant: str
    role: Role
    platform: bool = False


class Authenticator:
    """Recognises tokens. Keeps their hashes only, and compares with every one, each in constant time."""

    def __init__(self, tokens: Iterable[tuple[str, Credential]]) -> None:
        self._known = [(sha256(token.encode()).digest(), credential) for token, credential in tokens]

    def identify(self, authorization: bytes | None) -> Credential | None:
        """The credential of an Authorization header, None where there is none or it is unknown."""
        scheme, _, token = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        digest = sha256(token.strip()).digest()
        found = None
        for known, credential in self._known:
            if hmac.compare_digest(known, digest):
                found = credential
        return found


bearer = HTTPBearer(auto_error=False, description="BROKER_API_TOKEN for tracks, BROKER_ADMIN_TOKEN for /v1/admin.")


def require(role: Role, *, platform: bool = False) -> Callable[..., Awaitable[Credential]]:
    """A dependency: the caller's credential, where it has the role; `platform`: in the default tenant.

    Raises:
        Unauthenticated: no token, or an unknown one.
        RoleMissing: a token of another role.
        PlatformOnly: of that role, in another tenant.
    """

    async def caller(request: Request, _: Annotated[object, Depends(bearer)]) -> Credential:
        credential: Credential | None = request.scope["state"].get("credential")
        if credential is None:
            raise Unauthenticated
        if role not in IMPLIED[credential.role]:
            raise RoleMissing(needed=role, held=credential.role)
        if platform and not credential.platform:
            raise PlatformOnly
        return credential

    return caller
