"""The switches: what they are, what they accept, and which fault they make of a request. Pure.

A new fault is a switch in `Faults`, a member of `Fault`, a line in `on_delete` or `on_list`, and its answer
in `mishaps.py`; one that changes what a listing says belongs into `lies.py` or `garbage.py` instead.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from simulator.accounts import Account, AccountRef
from simulator.fields import Check, flag, list_of, member_of, number, one_of, read, text, whole
from simulator.kinds import DeleteGarbage, Fault, ListGarbage

LONGEST_WAIT_S = 600.0
LONGEST_LAG_S = 86_400.0 * 60  # beyond the broker's 30 days of tombstones
MOST_REFS = 100_000
MOST_SERVICES = 100

CSP_ID = whole(1, 2**53)
NAME = text(200)
WAIT_S = number(0, LONGEST_WAIT_S)
LAG_S = number(0, LONGEST_LAG_S)
RATE = number(0, 1)
COUNT = whole(0, 1_000_000)
FAULT = member_of(Fault)
LIST_GARBAGE = member_of(ListGarbage)
DELETE_GARBAGE = member_of(DeleteGarbage)
SERVICES = whole(0, MOST_SERVICES)
ACCOUNT_REFS = list_of(MOST_REFS, "a csp_id or a name", CSP_ID, NAME)


def _switch(default: Any, check: Check, meaning: str) -> Any:
    """`field`, which RUF009 knows by that name alone."""
    return field(default=default, metadata={"check": check, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Every switch with its present value. Rates are shares of all requests; times are seconds.

    The rates of one call share one roll, so that each is hit as often as it says while they sum up to 1 or less.
    """

    delete_latency_s: float = _switch(0.2, WAIT_S, "how long a deletion takes")
    delete_latency_jitter_s: float = _switch(0.0, WAIT_S, "added to it: 0 to this, evenly")
    delete_slow_rate: float = _switch(0.0, RATE, "this share takes delete_slow_s instead")
    delete_slow_s: float = _switch(30.0, WAIT_S, "the heavy tail of deletions")
    list_latency_s: float = _switch(0.0, WAIT_S, "how long a page of the listing takes")
    list_latency_jitter_s: float = _switch(0.0, WAIT_S, "added to it: 0 to this, evenly")
    list_slow_rate: float = _switch(0.0, RATE, "this share takes list_slow_s instead")
    list_slow_s: float = _switch(30.0, WAIT_S, "the heavy tail of pages")

    delete_500_rate: float = _switch(0.0, RATE, "share of deletions answered 500")
    delete_429_rate: float = _switch(0.0, RATE, "share of deletions answered 429, at once")
    delete_html_rate: float = _switch(0.0, RATE, "share of deletions answered in HTML")
    delete_hang_rate: float = _switch(0.0, RATE, "share of deletions that never answer")
    delete_reset_rate: float = _switch(0.0, RATE, "share of deletions whose connection is reset")
    list_500_rate: float = _switch(0.0, RATE, "share of pages answered 500")
    list_429_rate: float = _switch(0.0, RATE, "share of pages answered 429, at once")
    list_html_rate: float = _switch(0.0, RATE, "share of pages answered in HTML")
    list_hang_rate: float = _switch(0.0, RATE, "share of pages that never answer")
    list_reset_rate: float = _switch(0.0, RATE, "share of pages whose connection is reset")

    fail_next_deletes: int = _switch(0, COUNT, "so many more deletions fail; counted down as they arrive")
    fail_next_lists: int = _switch(0, COUNT, "so many more pages fail; counted down as they arrive")
    fail_list_page: int = _switch(0, COUNT, "this page of every listing fails, the first is 1; 0: none")
    fail_with: Fault = _switch(Fault.SERVER_ERROR, FAULT, "how the three above fail")  # noqa: RUF009

    failing_accounts: tuple[AccountRef, ...] = _switch(
        (), ACCOUNT_REFS, "csp_ids or names whose DELETE answers 500"
    )
    html_accounts: tuple[AccountRef, ...] = _switch((), ACCOUNT_REFS, "... answers in HTML")
    hanging_accounts: tuple[AccountRef, ...] = _switch((), ACCOUNT_REFS, "... never answers")
    resetting_accounts: tuple[AccountRef, ...] = _switch((), ACCOUNT_REFS, "... ends in a reset connection")
    hang_deletes: bool = _switch(False, flag, "behind a hanging DELETE the account is deleted")
    reset_deletes: bool = _switch(False, flag, "behind a reset DELETE the account is deleted")

    html_status: int = _switch(502, one_of(200, 404, 500, 502, 503, 504), "the status of answers in HTML")
    retry_after_s: int = _switch(0, whole(0, 86_400), "the Retry-After of every 429; 0: no such header")
    max_deletes_per_s: float = _switch(0.0, number(0, 10_000), "beyond it a DELETE answers 429; 0: no limit")
    max_concurrent_deletes: int = _switch(0, whole(0, 10_000), "beyond it a DELETE answers 500; 0: no limit")
    delete_garbage: DeleteGarbage = _switch(  # noqa: RUF009
        DeleteGarbage.NONE, DELETE_GARBAGE, "a proxy answers every DELETE, and nothing is deleted"
    )

    listing_lag_s: float = _switch(0.0, LAG_S, "how long a deleted account is still listed")
    hidden_accounts: tuple[AccountRef, ...] = _switch((), ACCOUNT_REFS, "csp_ids or names left out of the listing")
    empty_listing: bool = _switch(False, flag, "no account is listed")
    listing_fraction: float = _switch(1.0, RATE, "only the first share of the accounts is listed")
    duplicate_entries: int = _switch(
        0, COUNT, "each entry of this rank comes twice: 3 doubles the 3rd, 6th, ...; 0: none"
    )
    shuffled_listing: bool = _switch(False, flag, "no rising csp_ids; the order holds until the number changes")
    page_cap: int = _switch(0, whole(0, 1000), "pages are no longer than this, whatever was asked; 0: no cap")
    ignore_offset: bool = _switch(False, flag, "every page is the first: a listing without end")
    list_garbage: ListGarbage = _switch(  # noqa: RUF009
        ListGarbage.NONE, LIST_GARBAGE, "a page is no such JSON"
    )
    garbage_every: int = _switch(
        2, whole(1, 1_000_000), "missing_fields and wrong_types spoil the csp_ids that this divides"
    )
    huge_body_mb: int = _switch(12, whole(1, 1000), "the size of huge_body")

    services_per_account: int = _switch(0, SERVICES, "services that every sandbox has from the start")
    services_500_rate: float = _switch(0.0, RATE, "share of in-sandbox service calls answered 500")
    services_hang_rate: float = _switch(0.0, RATE, "share of them that never answer")
    services_html: bool = _switch(False, flag, "all of them are answered in HTML")
    sign_in_rejects: bool = _switch(False, flag, "the right password is refused too")

    def changed(self, changes: object) -> Self:
        """These switches with some of them changed: all of `changes` or nothing.

        Raises:
            InvalidInput: an unknown switch or a value it does not accept; names each.
        """
        return replace(self, **read(changes, CHECKS))

    def shown(self) -> dict[str, Any]:
        return asdict(self)

    def delete_wait_s(self, *, roll: float, slow_roll: float) -> float:
        """How long a DELETE takes. Rolls are random in [0, 1), here and below."""
        if slow_roll < self.delete_slow_rate:
            return self.delete_slow_s
        return self.delete_latency_s + roll * self.delete_latency_jitter_s

    def list_wait_s(self, *, roll: float, slow_roll: float) -> float:
        if slow_roll < self.list_slow_rate:
            return self.list_slow_s
        return self.list_latency_s + roll * self.list_latency_jitter_s

    def on_delete(self, account: Account | None, *, roll: float) -> tuple[Fault | None, Self]:
        """The fault of a DELETE that arrives now, and the switches after it."""
        if self.fail_next_deletes:
            return self.fail_with, replace(self, fail_next_deletes=self.fail_next_deletes - 1)
        for refs, fault in (
            (self.html_accounts, Fault.HTML),
            (self.failing_accounts, Fault.SERVER_ERROR),
            (self.hanging_accounts, Fault.HANG),
            (self.resetting_accounts, Fault.RESET),
        ):
            if account is not None and account.is_in(refs):
                return fault, self
        rates = (
            (self.delete_500_rate, Fault.SERVER_ERROR),
            (self.delete_429_rate, Fault.TOO_MANY),
            (self.delete_html_rate, Fault.HTML),
            (self.delete_hang_rate, Fault.HANG),
            (self.delete_reset_rate, Fault.RESET),
        )
        return _hit(rates, roll), self

    def on_list(self, *, page: int, roll: float) -> tuple[Fault | None, Self]:
        """The fault of a listing request that arrives now, and the switches after it. Pages count from 1."""
        if self.fail_next_lists:
            return self.fail_with, replace(self, fail_next_lists=self.fail_next_lists - 1)
        if page == self.fail_list_page:
            return self.fail_with, self
        rates = (
            (self.list_500_rate, Fault.SERVER_ERROR),
            (self.list_429_rate, Fault.TOO_MANY),
            (self.list_html_rate, Fault.HTML),
            (self.list_hang_rate, Fault.HANG),
            (self.list_reset_rate, Fault.RESET),
        )
        return _hit(rates, roll), self

    def on_services(self, *, roll: float) -> Fault | None:
        """The fault of an in-sandbox service call."""
        if self.services_html:
            return Fault.HTML
        return _hit(((self.services_500_rate, Fault.SERVER_ERROR), (self.services_hang_rate, Fault.HANG)), roll)

    def deletes_behind(self, fault: Fault) -> bool:
        """Whether the account is deleted although the DELETE ends in this fault."""
        return (fault is Fault.HANG and self.hang_deletes) or (fault is Fault.RESET and self.reset_deletes)


def _hit(rates: Iterable[tuple[float, Fault]], roll: float) -> Fault | None:
    """The fault in whose share of [0, 1) the roll falls; the shares lie side by side, in order."""
    for rate, fault in rates:
        if roll < rate:
            return fault
        roll -= rate
    return None


CHECKS: dict[str, Check] = {switch.name: switch.metadata["check"] for switch in fields(Faults)}
MEANINGS: dict[str, str] = {switch.name: switch.metadata["meaning"] for switch in fields(Faults)}
