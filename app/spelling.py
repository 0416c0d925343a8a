"""How names and the like are spelled: the forms that bodies, queries and paths are held to, and each in words."""

from collections.abc import Mapping
from typing import Final

from broker.settings import RATE_LIMIT, TENANT_PATTERN

ID_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,128}$"
POOL_PATTERN: Final = r"^[A-Za-z0-9._:-]{0,128}$"
NEW_TENANT_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
URL_PATTERN: Final = r"^https?://[^/]+"
SECRET_PATTERN: Final = r"^(env:CSP_API_TOKEN_[A-Z0-9_]{1,100}|[A-Za-z0-9/_+=.@-]{1,512}(#[A-Za-z0-9_-]{1,100})?)$"  # noqa: S105  a form

IN_WORDS: Final[Mapping[str, str]] = {
    ID_PATTERN: "1 to 128 of the characters A-Z a-z 0-9 . _ : -",
    POOL_PATTERN: "at most 128 of the characters A-Z a-z 0-9 . _ : -",
    TENANT_PATTERN: "1 to 64 of the characters A-Z a-z 0-9 . _ : -",
    NEW_TENANT_PATTERN: "1 to 63 of the characters a-z 0-9 -, a letter or digit first",
    URL_PATTERN: "a URL that begins with https:// (or http://, in development)",
    SECRET_PATTERN: "a secret's name in Secrets Manager, name#key for one text of a JSON secret, or env: and a "
    "variable of the worker that begins with CSP_API_TOKEN_",
    RATE_LIMIT: "a number of requests, a / and a time of 9 days at the most",
}
"""Nobody should have to read the form itself."""
