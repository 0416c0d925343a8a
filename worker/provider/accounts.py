"""What an entry of the provider's listing means to us: a sandbox, someone else's business, or nonsense."""

import re
from typing import Any, ClassVar, Final

from broker.policy import Account

MAX_NAME_BYTES: Final = 255
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What the API takes back in its paths."""
_EXTERNAL_ID: Final = re.compile(r"[A-Za-z0-9._/-]{0,190}[A-Za-z0-9_-]{1,64}")
"""Its last part becomes part of a path: never empty, never a dot."""
_KEPT: Final = ("account_type", "state", "created_at", "sfdc_account_id")


class InvalidAccount(Exception):
    """An entry that should be a sandbox and cannot be one."""

    code: ClassVar[str] = "INVALID_ACCOUNT"


def account_from(entry: Any) -> Account | None:
    """The account of an active sandbox entry; None for entries that are no active sandbox.

    Raises:
        InvalidAccount: it lacks what a sandbox needs.
    """
    if not isinstance(entry, dict):
        raise InvalidAccount("the entry is no object")
    if entry.get("account_type") != "sandbox" or entry.get("state") != "active":
        return None
    number, external_id, name = entry.get("csp_id"), entry.get("id"), entry.get("name")
    if isinstance(number, bool) or not isinstance(number, int | str) or not _ID.fullmatch(str(number)):
        raise InvalidAccount("csp_id is no id")
    if not isinstance(external_id, str) or not _EXTERNAL_ID.fullmatch(external_id):
        raise InvalidAccount(f"{number}: id is missing or odd")
    if not isinstance(name, str) or not _usable(name, MAX_NAME_BYTES):
        raise InvalidAccount(f"{number}: name is missing, too long or not printable")
    kept = {key: value for key in _KEPT if isinstance(value := entry.get(key), str) and _usable(value, 255)}
    return Account(id=str(number), name=name, external_id=external_id, attributes=kept)


def _usable(text: str, max_bytes: int) -> bool:
    return text.isprintable() and text.strip() != "" and len(text.encode(errors="replace")) <= max_bytes
