"""AWS Signature Version 4 of a DynamoDB request: the whole head of it, in a few microseconds.

The steps and their names are AWS's:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hmac
import time
from hashlib import sha256
from typing import Final

from botocore.credentials import ReadOnlyCredentials

from broker.version import VERSION

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_CONTENT: Final = "application/x-amz-json-1.0"
_VERSION: Final = "DynamoDB_20120810"
_WHO: Final = f"sandbox-broker/{VERSION}"
"""For who reads CloudTrail; not signed, as the SDK's is not."""


class CredentialsUseless(OSError):
    """They have ended, or cannot be sent: a line's end in them would end a header, too."""


class Signer:
    """Signs for one host and region. Keeps the day's signing key, which is four of the five hashes."""

    def __init__(self, *, region: str, host: str) -> None:
        self._region = region
        self._host = host
        self._second = -1
        self._moment = ""
        self._derived_for: tuple[str, str] = ("", "")
        self._signing_key = b""

    def head(self, operation: str, body: bytes, keys: ReadOnlyCredentials, *, at: float) -> bytes:
        """The head of a request for `operation` at `at` (Unix seconds), up to and with the empty line.

        Raises:
            CredentialsUseless: there are control characters in them.
        """
        if not f"{keys.access_key}{keys.token or ''}".isprintable():
            raise CredentialsUseless("control characters in the access key's id or the session token")
        moment = self._moment_of(int(at))
        target = f"{_VERSION}.{operation}"
        token, names = "", "content-type;host;x-amz-date;x-amz-target"
        if keys.token:
            token = f"x-amz-security-token:{keys.token}\n"
            names = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
        canonical = (
            f"POST\n/\n\ncontent-type:{_CONTENT}\nhost:{self._host}\nx-amz-date:{moment}\n{token}"
            f"x-amz-target:{target}\n\n{names}\n{sha256(body).hexdigest()}"
        )
        scope = f"{moment[:8]}/{self._region}/dynamodb/aws4_request"
        to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key_of(keys.secret_key or "", moment[:8]), to_sign.encode(), "sha256").hex()
        return (
            f"POST / HTTP/1.1\r\nhost:{self._host}\r\ncontent-type:{_CONTENT}\r\ncontent-length:{len(body)}\r\n"
            f"user-agent:{_WHO}\r\n"
            f"x-amz-date:{moment}\r\nx-amz-target:{target}\r\n{token.replace(chr(10), chr(13) + chr(10))}"
            f"authorization:{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, "
            f"Signature={signature}\r\n\r\n"
        ).encode()

    def _moment_of(self, second: int) -> str:
        if second != self._second:
            self._second, self._moment = second, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._moment

    def _key_of(self, secret_key: str, day: str) -> bytes:
        if self._derived_for != (secret_key, day):
            key = f"AWS4{secret_key}".encode()
            for part in (day, self._region, "dynamodb", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._derived_for, self._signing_key = (secret_key, day), key
        return self._signing_key
