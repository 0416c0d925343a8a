"""Keeps secrets out of logs: by the names they go under, by their shapes, and by their exact values."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

MASK: Final = "***"
_MAX_DEPTH = 8

_SECRET_NAME = re.compile(
    r"authorization|cookie|passw(or)?d|passwd|secret|token(?!s?_?(count|left))|api[_-]?key|private[_-]?key"
    r"|credential|signature|jwt|session[_-]?id",
    re.IGNORECASE,
)
_NOT_SECRET = frozenset({"idempotency_key", "claim_key"})

# What stands between a name and its value in a header, a query string, JSON, a dict's repr, also escaped.
_SEP = r"""\\?["']?\s*[:=]\s*\\?["']?"""
_VALUE = r"""[^\s"'\\,;&}\])]+"""

_SHAPES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # private keys in PEM
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), MASK),
    # cookies, whole header
    (re.compile(rf"(?i)\b((?:set-)?cookie{_SEP})[^\"'\r\n}}]+"), rf"\1{MASK}"),
    # Authorization: Bearer, Token, Basic, and AWS SigV4
    (re.compile(r"(?i)\b((?:bearer|token|basic|digest)\s+)[A-Za-z0-9._~+/=:-]{8,}"), rf"\1{MASK}"),
    (
        re.compile(r"(?i)\b(signature=|x-amz-signature=|x-amz-security-token=)[A-Za-z0-9%/+=_-]+"),
        rf"\1{MASK}",
    ),
    # our own API keys
    (re.compile(r"\bsbk_[A-Za-z0-9_-]{8,}"), f"sbk_{MASK}"),
    # AWS access key ids
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), MASK),
    # JSON web tokens
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"), MASK),
    # GitHub, Slack and Stripe-like tokens
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|xox[abprs]-|sk_live_|rk_live_)[A-Za-z0-9_-]{8,}"), MASK),
    # user:password@host
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@\"']*):[^\s/@\"']+@"), rf"\1:{MASK}@"),
    # AWS secret keys and session tokens, passwords, secrets, API keys, tokens by name
    (
        re.compile(
            r"(?i)\b((?:aws_?)?(?:secret_?access_?key|session_?token)|[\w-]*passw(?:or)?d|passwd"
            r"|[\w-]*secret(?:_?key)?|[\w-]*api[_-]?key|x-api-key|[\w-]*token|jwt|private_?key)"
            rf"({_SEP})(?!(?:bearer|token|basic)\s|\*\*\*)({_VALUE})"
        ),
        rf"\1\2{MASK}",
    ),
)


class Masker:
    """Masks text and nested values. Knows the process's own secrets by their exact value."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= 6}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """The text with every secret that it shows replaced by `***`."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
        return text

    def value(self, value: Any, *, depth: int = 0) -> Any:
        """A JSON-able copy: strings masked, values under secret names masked whole, whatever their type."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth >= _MAX_DEPTH:
            return self.text(repr(value))
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): MASK if is_secret_name(str(name)) else self.value(inner, depth=depth + 1)
                for name, inner in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(inner, depth=depth + 1) for inner in value]
        return self.text(str(value))


def is_secret_name(name: str) -> bool:
    """Whether what goes under this name is never shown."""
    return name.lower() not in _NOT_SECRET and _SECRET_NAME.search(name) is not None
