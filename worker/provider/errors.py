"""What goes wrong at the provider, each kind by its name, and what it means to retries, breakers and pacing."""

import re
from http import HTTPStatus
from typing import Final

_OUTAGES: Final = frozenset(
    {
        "TIMEOUT",
        "UNREACHABLE",
        "RESET",
        "TLS",
        "REDIRECT",
        "HTML_ANSWER",
        "NOT_JSON",
        "HTTP_408",
        "SIGN_IN_REFUSED",
    }
)
_SERVER_ERROR: Final = re.compile(r"HTTP_5\d\d")
_OURS: Final = frozenset(
    {"HTTP_401", "HTTP_403", "SECRET_UNREADABLE", "SECRET_REFUSED", "BASE_URL_UNUSABLE", "PERMIT_LAPSED"}
)
_PASSES: Final = frozenset({"HTTP_429", "WRONG_SHAPE"})
_STATUSES: Final = frozenset(f"HTTP_{status.value}" for status in HTTPStatus)


class ProviderError(Exception):
    """A call that failed, or was not made; `kind` is a stable word for metrics and for people."""

    def __init__(self, kind: str, detail: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.retry_after_s = retry_after_s


class ListingShifted(ProviderError):
    """Entries moved while the listing was read: something may have been passed over."""

    def __init__(self) -> None:
        super().__init__("LISTING_SHIFTED")


def is_outage(kind: str) -> bool:
    """Whether this says that the provider is not there for anybody, rather than that one request is wrong.

    A redirect and a page for people are what a proxy says in its place. A refused sign-in counts too:
    to repeat a wrong password for each of two hundred sandboxes locks the user out.
    """
    return kind in _OUTAGES or _SERVER_ERROR.fullmatch(kind) is not None


def is_pressure(kind: str) -> bool:
    """Whether it may help to ask more slowly."""
    return is_outage(kind) or kind == "HTTP_429"


def is_refused_credential(kind: str) -> bool:
    """Whether our own credential is at fault."""
    return kind in _OURS


def is_no_try(kind: str) -> bool:
    """Whether it says nothing of the account: we were turned away at the door, for our rate or our credential."""
    return kind in _OURS or kind == "HTTP_429"


def may_pass(kind: str) -> bool:
    """Whether the same read may succeed in a moment."""
    return kind in _PASSES or (is_outage(kind) and kind != "REDIRECT")


def label(kind: str) -> str:
    """The kind for a metric: a provider that invents statuses invents no time series."""
    return "HTTP_OTHER" if kind.startswith("HTTP_") and kind not in _STATUSES else kind
