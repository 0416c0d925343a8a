"""Whose sandboxes are asked for: names that begin with a prefix, without the pools that are drained. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

_FIRST: Final = "\x01"
_LAST: Final = "\U0010ffff"
"""Sorts after whatever a name goes on with: keys sort by their UTF-8 bytes, which is by code points."""


@dataclass(frozen=True, slots=True)
class Span:
    """Names from `first` to `last`, both included."""

    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Pool:
    """Names that begin with `prefix`, and with none of `without`, each of which begins with `prefix`."""

    prefix: str = ""
    without: tuple[str, ...] = ()  # sorted, none within another

    @classmethod
    def of(cls, prefix: str, drained: Iterable[str]) -> Self:
        """The pool of this prefix, without what is drained of it."""
        without: list[str] = []
        for closed in sorted(drained):
            if closed.startswith(prefix) and not closed.startswith(tuple(without)):
                without.append(closed)
        return cls(prefix, tuple(without))

    def holds(self, name: str) -> bool:
        return name.startswith(self.prefix) and not name.startswith(self.without)

    def spans(self) -> list[Span | None]:
        """The names of it, as the index is to be asked for them. [None] is every name there is.

        >>> Pool("a", ("ab",)).spans() == [Span("a", "ab"), Span("ab\\U0010ffff", "a\\U0010ffff")]
        True
        """
        if not self.prefix and not self.without:
            return [None]
        firsts = [self.prefix or _FIRST, *(closed + _LAST for closed in self.without)]
        lasts = [*self.without, self.prefix + _LAST]
        return [Span(first, last) for first, last in zip(firsts, lasts, strict=True)]
