"""Where the broker is, and with which token: from the environment and a few options."""

import os
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import httpx

from cli.errors import Misused

TOKEN: Final = "BROKER_ADMIN_TOKEN"  # noqa: S105  its name
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What a client needs to know. Its token shows in no repr."""

    url: str
    token: str = field(repr=False)
    timeout_s: float

    @property
    def loopback(self) -> bool:
        host = httpx.URL(self.url).host
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def connection_of(*, url: str, token_file: Path | None, timeout_s: float) -> Connection:
    """The connection that these options and the environment describe.

    Raises:
        Misused: no token, or a token or an address that cannot be one. The text repeats neither.
    """
    _check(url)
    return Connection(url=url.rstrip("/"), token=_token(token_file), timeout_s=timeout_s)


def _check(url: str) -> None:
    wanted = "BROKER_URL (or --url) must be http://host:port or https://host"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise Misused(f"{wanted}.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or not url.isprintable() or " " in url:
        raise Misused(f"{wanted}.")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise Misused(f"{wanted}, with no user, password, query or fragment.")


def _token(file: Path | None) -> str:
    if file is None:
        where, token = TOKEN, os.environ.get(TOKEN, "").strip()
        if not token:
            raise Misused(f"{TOKEN} is not set. export it (`make run` prints it), or name a --token-file.")
    else:
        where = f"--token-file {file}"
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise Misused(f"{where} cannot be read: {why}.") from None
    if not _TOKEN.fullmatch(token):
        raise Misused(f"{where} holds no token: one word of ASCII characters is expected.")
    return token
