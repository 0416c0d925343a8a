"""Whether somebody else's lease has lapsed: by the observer's own monotonic clock, never by a written time."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

MAX_WATCHED: Final = 10_000


class Lapses:
    """Watches the stamps of leases. A holder that lives moves its stamp; one that does not for `lapse_s` is gone.

    Two clocks are never compared, so a clock that is wrong by any amount steals nothing. The price: a lease
    is watched for its whole length after it was first seen, however old it was by then.
    """

    def __init__(self, *, lapse_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lapse_s = lapse_s
        self._monotonic = monotonic
        self._seen: OrderedDict[Hashable, tuple[Hashable, float]] = OrderedDict()

    def lapsed(self, key: Hashable, stamp: Hashable, *, at_least_s: float = 0) -> bool:
        """Whether `key` has shown this very stamp for `lapse_s` seconds, or longer. Call it again and again."""
        now = self._monotonic()
        seen, since = self._seen.get(key, (None, now))
        if seen != stamp or key not in self._seen:
            self._seen[key] = (stamp, now)
            self._seen.move_to_end(key)
            if len(self._seen) > MAX_WATCHED:
                self._seen.popitem(last=False)
            return False
        return now - since >= max(self._lapse_s, at_least_s)

    def forget(self, key: Hashable) -> None:
        """The lease of `key` was taken or is over."""
        self._seen.pop(key, None)
