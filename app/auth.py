"""Who is calling: a credential with a tenant and a role. What each may call is written in app/access.py."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from broker.role import Role


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
    """Recognises bootstrap tokens. Keeps their hashes only, and compares with every one, each in constant time."""

    def __init__(self, tokens: Iterable[tuple[str, Credential]]) -> None:
        self._known = [(sha256(token.encode()).digest(), credential) for token, credential in tokens]

    def identify(self, token: bytes | None) -> Credential | None:
        """The credential of a token, None where there is none or it is unknown."""
        if token is None:
            return None
        digest = sha256(token).digest()
        found = None
        for known, credential in self._known:
            if hmac.compare_digest(known, digest):
                found = credential
        return found


def bearer_token(authorization: bytes | None) -> bytes | None:
    """What an Authorization header carries, None where that is nothing of ours."""
    scheme, _, token = (authorization or b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None
