"""The switches: what they are, what they accept, and which fault they make of a request. Pure.

A new fault is a switch in `Faults`, a member of `Fault`, a line in `on_delete` or `on_list`, and its answer
in `provider.ANSWERS`; one that changes what a listing says belongs into `Provider.list_accounts` instead.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum, auto
from typing import Any, Self

from simulator.accounts import Account, AccountRef
from simulator.fields import Check, list_of, number, read, text, whole

LONGEST_WAIT_S = 600.0
LONGEST_LAG_S = 86_400.0 * 60  # beyond the broker's 30 days of tombstones
MOST_REFS = 100_000

CSP_ID = whole(1, 2**53)
NAME = text(200)
WAIT_S = number(0, LONGEST_WAIT_S)
LAG_S = number(0, LONGEST_LAG_S)
RATE = number(0, 1)
COUNT = whole(0, 1_000_000)
ACCOUNT_REFS = list_of(MOST_REFS, "a csp_id or a name", CSP_ID, NAME)


class Fault(Enum):
    """What is answered in place of the truth."""

    SERVER_ERROR = auto()
    HTML = auto()


def _switch(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Every switch with its present value. Rates are probabilities of a request; times are seconds."""

    delete_latency_s: float = _switch(0.2, WAIT_S)
    delete_latency_jitter_s: float = _switch(0.0, WAIT_S)  # added to the latency: 0 to this, evenly
    list_latency_s: float = _switch(0.0, WAIT_S)
    listing_lag_s: float = _switch(0.0, LAG_S)
    delete_500_rate: float = _switch(0.0, RATE)
    list_500_rate: float = _switch(0.0, RATE)
    fail_next_deletes: int = _switch(0, COUNT)  # counted down as requests arrive
    fail_next_lists: int = _switch(0, COUNT)
    failing_accounts: tuple[AccountRef, ...] = _switch((), ACCOUNT_REFS)  # their DELETE answers 500
    html_accounts: tuple[AccountRef, ...] = _switch((), ACCOUNT_REFS)  # their DELETE answers 502, in HTML
    hidden_accounts: tuple[AccountRef, ...] = _switch((), ACCOUNT_REFS)  # left out of the listing

    def changed(self, changes: object) -> Self:
        """These switches with some of them changed: all of `changes` or nothing.

        Raises:
            InvalidInput: an unknown switch or a value it does not accept; names each.
        """
        return replace(self, **read(changes, CHECKS))

    def shown(self) -> dict[str, Any]:
        return asdict(self)

    def on_delete(self, account: Account | None, *, roll: float) -> tuple[Fault | None, Self]:
        """The fault of a DELETE that arrives now, and the switches after it. `roll` is random in [0, 1)."""
        if self.fail_next_deletes:
            return Fault.SERVER_ERROR, replace(self, fail_next_deletes=self.fail_next_deletes - 1)
        if account is not None and account.is_in(self.html_accounts):
            return Fault.HTML, self
        if account is not None and account.is_in(self.failing_accounts):
            return Fault.SERVER_ERROR, self
        return (Fault.SERVER_ERROR if roll < self.delete_500_rate else None), self

    def on_list(self, *, roll: float) -> tuple[Fault | None, Self]:
        """The fault of a listing request that arrives now, and the switches after it."""
        if self.fail_next_lists:
            return Fault.SERVER_ERROR, replace(self, fail_next_lists=self.fail_next_lists - 1)
        return (Fault.SERVER_ERROR if roll < self.list_500_rate else None), self


CHECKS: dict[str, Check] = {switch.name: switch.metadata["check"] for switch in fields(Faults)}
