"""Sessions at the in-sandbox services: signed tokens that look like the provider's, and what they say."""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Session:
    csp_id: int | None  # of the account that it was switched to


class Sessions:
    """Nothing is stored: a token carries its session, and a key that only this object has signs it."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def begin(self, session: Session) -> str:
        """A new JWT."""
        header = _part({"alg": "HS256", "typ": "JWT"})
        claims = _part({"csp_id": session.csp_id, "jti": secrets.token_hex(8)})
        return f"{header}.{claims}.{self._signature(f'{header}.{claims}')}"

    def read(self, jwt: str) -> Session | None:
        """None for a token that is not of these sessions."""
        signed, _, signature = jwt.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return None
        claims = signed.partition(".")[2]
        return Session(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["csp_id"])

    def _signature(self, signed: str) -> str:
        return _base64(hmac.digest(self._key, signed.encode(), hashlib.sha256))


def _part(document: object) -> str:
    return _base64(json.dumps(document).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
