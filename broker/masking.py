"""Keeps secrets out of logs: by the names they go under, by their shapes, and by their exact values."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

MASK: Final = "***"
MIN_KNOWN_CHARS: Final = 6
"""A shorter secret is not masked by its value: it would be found in half of all words."""
_MAX_KNOWN: Final = 1000
"""Rotations are remembered up to this number: an old value is still worth hiding."""
_MAX_DEPTH = 8

_SECRET_NAME = re.compile(
    r"authorization|cookie|passw(or)?d|passwd|secret|token(?!s?_?(count|left))|api[_-]?key|private[_-]?key"
    r"|credential|signature|jwt|session[_-]?id",
    re.IGNORECASE,
)
_NOT_SECRET = frozenset({"idempotency_key", "claim_key"})

# Between a name and its value: in a header, a query string, JSON, a dict's repr, a pair of a list; also escaped.
_SEP = r"""(?:\\*["']?\s*[:=]\s*|\\*["']\s*,\s*(?=b?\\*["']))"""
# A value is all that its quotes hold, or the next word. Quotes may be escaped, as JSON within JSON is.
_QUOTED = r"""b?(?P<quote>\\*["'])(?!\*\*\*)[^\n]*?(?:(?<!\\)(?P=quote)|(?=\n)|\Z)"""
_WORD = r"""(?!\*\*\*)[^\s"'\\,;&}\])]+"""
# A name begins where no name went before: else a long line of dashes would be tried from each of them.
_NAME = r"(?<![\w-])[\w-]*"


def _kept(found: re.Match[str]) -> str:
    """What stays of a named secret: its name, the quotes, the scheme."""
    parts = found.groupdict()
    quote = parts["quote"] or ""
    return f"{parts['name']}{parts.get('scheme') or ''}{quote}{MASK}{quote}"


def _joined(first: str, second: str) -> tuple[str, ...]:
    """The ways in which two words are one name."""
    return tuple(first + mark + second for mark in ("", "_", "-"))


_Replacement = str | Callable[[re.Match[str]], str]

_SHAPES: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], _Replacement], ...]] = (
    # private keys in PEM
    (
        ("-----begin",),
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
        MASK,
    ),
    # our own API keys: the id is public and stays, what only resembles a key goes whole
    (("sbk_",), re.compile(r"sbk_([a-z0-9]{12})_[A-Za-z0-9_-]+"), rf"sbk_\1_{MASK}"),
    (("sbk_",), re.compile(r"sbk_(?![a-z0-9]{12}_\*\*\*)[A-Za-z0-9_-]{8,}"), f"sbk_{MASK}"),
    # Authorization: Bearer, Token, Basic, and AWS SigV4
    (
        ("bearer", "token", "basic", "digest"),
        re.compile(r"(?i)\b((?:bearer|token|basic|digest)\s+)(?!sbk_[a-z0-9]{12}_\*\*\*)[A-Za-z0-9._~+/=:-]{8,}"),
        rf"\1{MASK}",
    ),
    (
        ("signature=", "x-amz-security-token="),
        re.compile(r"(?i)\b(signature=|x-amz-signature=|x-amz-security-token=)[A-Za-z0-9%/+=_-]+"),
        rf"\1{MASK}",
    ),
    # AWS access key ids
    (("akia", "asia", "aroa", "aida"), re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), MASK),
    # JSON web tokens
    (
        ("eyj",),
        re.compile(r"(?<![\w-])eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"),
        MASK,
    ),
    # GitHub, Slack and Stripe-like tokens
    (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox", "k_live_"),
        re.compile(r"\b(?:gh[pousr]_|github_pat_|xox[abprs]-|sk_live_|rk_live_)[A-Za-z0-9_-]{8,}"),
        MASK,
    ),
    # user:password@host
    (
        ("://",),
        re.compile(r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]*://[^\s:/@\"']*):[^\s/@\"']+@"),
        rf"\1:{MASK}@",
    ),
    # cookies, whole header
    (
        ("cookie",),
        re.compile(rf"(?i)(?P<name>{_NAME}cookie{_SEP})(?:{_QUOTED}|(?!\*\*\*)[^\"'\r\n}}]+)"),
        _kept,
    ),
    # AWS secret keys and session tokens, passwords, secrets, API keys, tokens by name
    (
        ("secret", "passw", "token", "jwt", "authorization", *_joined("api", "key"), *_joined("private", "key")),
        re.compile(
            rf"(?i)(?P<name>{_NAME}(?:secret_?access_?key|session_?token|passw(?:or)?d|passwd|secret(?:_?key)?"
            rf"|api[_-]?key|token|jwt|private_?key|authorization){_SEP})"
            rf"(?:{_QUOTED}|(?P<scheme>(?:bearer|token|basic|digest)\s+)?{_WORD})"
        ),
        _kept,
    ),
)
"""Words without one of which the shape cannot be there, the shape, what stands in its place.

Most lines hold no such word, and to look for words is a hundred times cheaper.
"""
_HINTS: Final = tuple(
    sorted(
        {word for words, _, _ in _SHAPES for word in words}
        | {"credential", "signature", *_joined("session", "id")}  # the rest of what makes a name secret
    )
)
"""Words without one of which there is neither a secret's shape nor a secret's name."""


class Masker:
    """Masks text and nested values. Knows the process's own secrets by their exact value."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: dict[str, None] = {}
        self._known: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these too, from now on; a thread that is masking meanwhile sees the old set or the new one."""
        self._secrets |= dict.fromkeys(s for s in secrets if len(s) >= MIN_KNOWN_CHARS)
        self._secrets = dict.fromkeys(list(self._secrets)[-_MAX_KNOWN:])
        known = sorted(self._secrets, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """The text with every secret that it shows replaced by `***`."""
        if (known := self._known) is not None:
            text = known.sub(MASK, text)
        low = text.lower()
        odd = not text.isascii()  # where a shape's letters may be spelled otherwise than its words' are
        for words, shape, replacement in _SHAPES:
            if odd or any(word in low for word in words):
                text = shape.sub(replacement, text)
        return text

    def facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        """value() of an event's facts: at once, and the very same, where no word hints at a secret in any of them.

        That is nearly every line of a log, and to look through all its texts as one is ten times cheaper.
        """
        texts = [value for value in facts.values() if isinstance(value, str)]
        plain = sum(value is None or isinstance(value, bool | int | float) for value in facts.values())
        if len(texts) + plain == len(facts):
            text = "\n".join([*facts, *texts])
            low = text.lower()
            known = self._known
            hinted = not text.isascii() or any(hint in low for hint in _HINTS)
            if not hinted and (known is None or known.search(text) is None):
                return facts
        masked: dict[str, Any] = self.value(facts)
        return masked

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
            if _is_secret_pair(value):
                return [self.text(_name(next(iter(value)))), MASK]
            return [self.value(inner, depth=depth + 1) for inner in value]
        return self.text(str(value))


def _is_secret_pair(value: Collection[Any]) -> bool:
    """A header as ASGI and HTTP clients keep it: (name, value)."""
    if not isinstance(value, list | tuple) or len(value) != 2 or not isinstance(value[0], str | bytes):
        return False
    return is_secret_name(_name(value[0]))


def _name(name: str | bytes) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else name


def is_secret_name(name: str) -> bool:
    """Whether what goes under this name is never shown."""
    return name.lower() not in _NOT_SECRET and _SECRET_NAME.search(name) is not None
