"""Decides, call by call, which of the invented faults strike."""

import asyncio
import random

from local.store_proxy.answers import CONFLICT, Dropped, Refused, cancelled, error
from local.store_proxy.call import Call
from local.store_proxy.counts import Counts
from local.store_proxy.faults import Faults

_THROTTLED = {
    "ProvisionedThroughputExceededException": "The level of configured provisioned throughput for the table "
    "was exceeded. Consider increasing your provisioning level with the UpdateTable API.",
    "ThrottlingException": "Throughput exceeds the current capacity of your table or index. DynamoDB is "
    "automatically scaling your table or index so please try again shortly.",
    "RequestLimitExceeded": "Throughput exceeds the current throughput limit for your account.",
}
_THROTTLED_SLOT = {
    "ThrottlingError": _THROTTLED["ThrottlingException"],
    "ProvisionedThroughputExceeded": _THROTTLED["ProvisionedThroughputExceededException"],
}


class Mishaps:
    def __init__(self, faults: Faults, counts: Counts, *, seed: int) -> None:
        self._faults = faults
        self._counts = counts
        self._random = random.Random(seed)

    def delay_s(self) -> float:
        faults = self._faults
        jitter_ms = self._random.uniform(0, faults.jitter_ms) if faults.jitter_ms else 0
        return (faults.latency_ms + jitter_ms) / 1000

    async def on_the_way(self, call: Call) -> None:
        """What keeps a call from arriving, or from arriving soon. Raises `Dropped`."""
        faults = self._faults
        if faults.down:
            self._counts.faults["down"] += 1
            raise Dropped(reset=False)
        if self._strikes("reset", faults.reset_next, faults.reset_rate):
            raise Dropped(reset=True)
        if self._strikes("hang", faults.hang_next, 0):
            await asyncio.sleep(faults.hang_s)

    def on_arrival(self, call: Call) -> None:
        """Refusals that have nothing to do with the call's content. Raises `Refused`."""
        faults = self._faults
        if self._strikes("internal_error", faults.internal_error_next, faults.internal_error_rate):
            raise Refused(error("InternalServerError", "Internal server error", status=500))
        if call.is_one_of(faults.throttle_ops) and self._strikes(
            "throttle", faults.throttle_next, faults.throttle_rate
        ):
            raise Refused(error(faults.throttle_code, _THROTTLED[faults.throttle_code]))
        if call.op == "TransactWriteItems":
            self._on_transaction(len(call.actions))

    def answer_is_lost(self, call: Call) -> bool:
        """To be asked once per successful call."""
        faults = self._faults
        return call.is_one_of(faults.lose_answer_ops) and self._strikes(
            "lose_answer", faults.lose_answer_next, faults.lose_answer_rate
        )

    def _on_transaction(self, size: int) -> None:
        faults = self._faults
        if conflicting := self._conflicting_slots(size):
            self._counts.faults["conflict"] += 1
            raise Refused(cancelled(size, dict.fromkeys(conflicting, CONFLICT)))
        slot = faults.throttle_in_reasons_slot
        if slot < size and self._strikes(
            "throttle_in_reasons", faults.throttle_in_reasons_next, faults.throttle_in_reasons_rate
        ):
            code = faults.throttle_in_reasons_code
            raise Refused(cancelled(size, {slot: {"Code": code, "Message": _THROTTLED_SLOT[code]}}))

    def _conflicting_slots(self, size: int) -> set[int]:
        faults = self._faults
        wanted = {slot for slot, left in faults.conflict_next.items() if left and slot < size}
        for slot in wanted:
            faults.conflict_next[slot] -= 1
        if not wanted and size and faults.conflict_rate and self._random.random() < faults.conflict_rate:
            slots = faults.conflict_slots
            wanted = {self._random.randrange(size)} if slots is None else {slot for slot in slots if slot < size}
        return wanted

    def _strikes(self, kind: str, left: int, rate: float) -> bool:
        if left:
            setattr(self._faults, f"{kind}_next", left - 1)
        elif not rate or self._random.random() >= rate:
            return False
        self._counts.faults[kind] += 1
        return True
