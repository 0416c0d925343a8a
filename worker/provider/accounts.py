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
    """An entry that may be a sandbox and cannot be used as one.

    Attributes:
        why: a stable word for metrics.
        sandbox_id: which sandbox it would be, where at least that can be told: it is listed, then, and not
            missing, however broken its other facts are.
    """

    code: ClassVar[str] = "INVALID_ACCOUNT"

    def __init__(self, why: str, detail: str, *, sandbox_id: str | None = None) -> None:
        super().__init__(detail)
        self.why = why
        self.sandbox_id = sandbox_id


def account_from(entry: Any) -> Account | None:
    """The account of an active sandbox entry; None for entries that are no active sandbox.

    Raises:
        InvalidAccount: it lacks what a sandbox needs.
    """
    if not isinstance(entry, dict):
        raise InvalidAccount("NO_OBJECT", "the entry is no object")
    number, external_id, name = entry.get("csp_id"), entry.get("id"), entry.get("name")
    id_ = str(number) if isinstance(number, int | str) and not isinstance(number, bool) else ""
    known = id_ if _ID.fullmatch(id_) else None
    if not isinstance(entry.get("account_type"), str) or not isinstance(entry.get("state"), str):
        raise InvalidAccount("BAD_KIND", f"{known}: account_type or state is missing", sandbox_id=known)
    if entry["account_type"] != "sandbox" or entry["state"] != "active":
        return None
    if known is None:
        raise InvalidAccount("BAD_CSP_ID", "csp_id is no id")
    if not isinstance(external_id, str) or not _EXTERNAL_ID.fullmatch(external_id):
        raise InvalidAccount("BAD_ID", f"{known}: id is missing or odd", sandbox_id=known)
    if not isinstance(name, str) or not _usable(name, MAX_NAME_BYTES):
        raise InvalidAccount("BAD_NAME", f"{known}: name is missing, too long or not printable", sandbox_id=known)
    kept = {key: value for key in _KEPT if isinstance(value := entry.get(key), str) and _usable(value, 255)}
    return Account(id=known, name=name, external_id=external_id, attributes=kept)


def _usable(text: str, max_bytes: int) -> bool:
    return text.isprintable() and text.strip() != "" and len(text.encode(errors="replace")) <= max_bytes
