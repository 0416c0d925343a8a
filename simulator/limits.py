"""What the provider's own limits count: how fast deletions arrive, and how many are in hand."""

from simulator.faults import Faults
from simulator.kinds import Fault

ONE_TOKEN = 0.999  # a caller that keeps exactly to the limit is not refused for the clock's rounding


class Load:
    """One provider's load of deletions."""

    def __init__(self) -> None:
        self._in_hand = 0
        self._tokens = 0.0
        self._filled_at: float | None = None

    def enter(self, faults: Faults, *, now: float) -> Fault | None:
        """Count a DELETE in; the fault that it meets, where it is one too many. What is refused is in hand too."""
        self._in_hand += 1
        if faults.max_deletes_per_s and not self._takes_token(faults.max_deletes_per_s, now):
            return Fault.TOO_MANY
        if faults.max_concurrent_deletes and self._in_hand > faults.max_concurrent_deletes:
            return Fault.SERVER_ERROR
        return None

    def leave(self) -> None:
        self._in_hand -= 1

    def _takes_token(self, per_s: float, now: float) -> bool:
        """A token bucket that holds one second's worth, at least 1; a refusal takes nothing."""
        most = max(1.0, per_s)
        if self._filled_at is None:
            self._tokens = most
        else:
            self._tokens = min(most, self._tokens + max(0.0, now - self._filled_at) * per_s)
        self._filled_at = now
        if self._tokens < ONE_TOKEN:
            return False
        self._tokens -= 1
        return True
