"""What one attempt at an allocation has in its hands, and how it is given back: nothing is lent for ever."""

from dataclasses import dataclass

from broker.candidates import Candidates
from broker.errors import BrokerError
from broker.pool import Pool
from broker.quota import Quota
from broker.sandbox import Sandbox, State
from broker.store.client import Reason, TransactionRefused
from broker.store.table import sandbox_from


@dataclass(slots=True)
class Lent:
    """What one attempt has in its hands: a sandbox to try, and a slot where the tenant has a quota."""

    tenant: str
    pool: Pool
    candidates: Candidates
    quota: Quota
    sandbox: Sandbox | None = None
    slot: int | None = None

    def took(self) -> None:
        """The transaction won: both are this student's."""
        if self.sandbox is not None:
            self.candidates.took(self.sandbox, self.pool)
        if self.slot is not None:
            self.quota.took(self.tenant, self.slot)
        self.sandbox = self.slot = None

    def unused(self) -> None:
        """Nothing was tried: others may have them."""
        if self.sandbox is not None:
            self.candidates.unused(self.sandbox, self.pool)
        if self.slot is not None:
            self.quota.unused(self.tenant, self.slot)
        self.sandbox = self.slot = None

    def cut_short(self) -> None:
        """Whose they are now is open."""
        if self.sandbox is not None:
            self.candidates.contested(self.sandbox, self.pool)
        if self.slot is not None:
            self.quota.lost(self.tenant, self.slot)
        self.sandbox = self.slot = None

    def learn(self, answer: TransactionRefused | BrokerError) -> None:
        """Give them back with what the answer says of each, or keep the sandbox as it is now to try it again."""
        if not isinstance(answer, TransactionRefused) or self.sandbox is None:
            self.cut_short()
            return
        claim, sandbox, _, *slot = answer.reasons
        if self.slot is not None:
            taken = slot[0].code != "None"
            (self.quota.lost if taken else self.quota.unused)(self.tenant, self.slot)
            self.slot = None
        self.sandbox = self._still_good(self.sandbox, claim, sandbox, slot)

    def _still_good(self, tried: Sandbox, claim: Reason, sandbox: Reason, slot: list[Reason]) -> Sandbox | None:
        """The sandbox, if it is worth another try; else it is given back."""
        if sandbox.condition_failed:
            present = sandbox_from(sandbox.item) if sandbox.item else None
            if present is not None and present.state is State.AVAILABLE:
                retaken = slot and slot[0].code != "None"  # nobody waits for a slot with a sandbox in hand
                if self.pool.holds(present.name) and not claim.condition_failed and not retaken:
                    return present
                self.candidates.contested(tried, self.pool)  # still to be had, by others or later
            else:
                self.candidates.lost(tried, self.pool, version=present.version if present else 0)
        elif sandbox.code != "None" or claim.conflict:
            self.candidates.contested(tried, self.pool)
        elif claim.condition_failed or (slot and slot[0].code != "None"):
            self.candidates.unused(tried, self.pool)
        else:
            self.candidates.contested(tried, self.pool)
        return None
