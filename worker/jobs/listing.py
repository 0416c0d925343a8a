"""What is kept of one walk through the provider's listing: who was seen, and what each account is to us."""

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from broker.policy import EXPLAINED, NEVER_GOES_AFTER, Explained
from broker.sandbox import Sandbox

MAX_NAMED: Final = 50
"""Accounts that are named in the report; more are counted."""


def fingerprint(sandbox_id: str) -> int:
    """64 bits of an id. That two of a million ids share them is a chance of 1 in 37 million."""
    return int.from_bytes(blake2b(sandbox_id.encode(), digest_size=8).digest())


@dataclass(slots=True)
class Listing:
    """One number an account, and a few names."""

    explained: Counter[Explained] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    unreadable: int = 0  # entries that do not even say which sandbox they may be
    _seen: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, sandbox_id: str) -> bool:
        return fingerprint(sandbox_id) in self._seen

    def see(self, sandbox_id: str) -> None:
        """It is listed, whatever else is to be said of it: it is not missing."""
        self._seen.add(fingerprint(sandbox_id))

    def wonder(self, what: str) -> None:
        """Nothing explains this account."""
        self.explained[Explained.UNKNOWN] += 1
        if len(self.unexplained) < MAX_NAMED:
            self.unexplained.append(what)

    def disown(self, sandbox_id: str) -> None:
        """The account is another sandbox's."""
        self.explained[Explained.FOREIGN] += 1
        if len(self.foreign) < MAX_NAMED:
            self.foreign.append(sandbox_id)

    def explain(self, sandbox: Sandbox) -> None:
        """It is listed, and it is ours: that explains it, but for one whose deletions never come true."""
        if sandbox.again >= NEVER_GOES_AFTER:
            self.wonder(f"{sandbox.id}: the provider confirms its deletion and goes on listing it")
        else:
            self.explained[EXPLAINED[sandbox.state]] += 1
