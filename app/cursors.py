"""Cursors of lists: where the next page begins, signed for one tenant and one filter."""

import base64
import binascii
import hmac
import json
from hashlib import sha256
from typing import Any, Final

from broker.errors import InvalidCursor

_MAC_BYTES: Final = 16
MAX_CHARS: Final = 2048


class Cursors:
    """Signs and checks. The key follows from a secret that all API processes share."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"sandbox-broker cursor v1", sha256)

    def encode(self, position: dict[str, Any], *, scope: tuple[str, ...]) -> str:
        """An opaque text for `position`, good for lists of this scope (tenant and filter) alone."""
        raw = json.dumps(position, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._mac(raw, scope) + raw).decode().rstrip("=")

    def decode(self, cursor: str, *, scope: tuple[str, ...]) -> dict[str, Any]:
        """The position.

        Raises:
            InvalidCursor: tampered with, or of another tenant or filter.
        """
        try:
            blob = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidCursor from None
        if base64.urlsafe_b64encode(blob).decode().rstrip("=") != cursor:
            raise InvalidCursor  # the same bytes, spelled otherwise
        mac, raw = blob[:_MAC_BYTES], blob[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(raw, scope)):
            raise InvalidCursor
        position: dict[str, Any] = json.loads(raw)
        return position

    def _mac(self, raw: bytes, scope: tuple[str, ...]) -> bytes:
        bound = json.dumps(scope).encode() + b"\0" + raw
        return hmac.digest(self._key, bound, sha256)[:_MAC_BYTES]
