"""Sandboxes that come from elsewhere: each with its owner, claim and event in one transaction."""

from enum import StrEnum

from broker.sandbox import Sandbox, State
from broker.store.claims import Claim, Claims
from broker.store.client import StoreClient, TransactionRefused
from broker.store.events import Cause
from broker.store.sandboxes import Sandboxes

_WISH = "imported"
"""Of an imported claim, whose wish nobody knows: a plain claim is answered whatever the wish."""


class Adopted(StrEnum):
    """What became of one."""

    YES = "brought"
    EXISTS = "there already"
    OWNED = "its account is another sandbox's"
    CLAIMED = "its student holds another one"


class Adoptions:
    """Adds what the old broker had. What is there already stays as it is."""

    def __init__(self, client: StoreClient, sandboxes: Sandboxes, claims: Claims) -> None:
        self._client = client
        self._sandboxes = sandboxes
        self._claims = claims

    async def adopt(self, sandbox: Sandbox, cause: Cause, *, now: float) -> Adopted:
        """Put the sandbox, its owner, its event and, where it is allocated, its claim: all or nothing.

        Raises:
            StoreThrottled, StoreUnavailable: repeat; where it was written after all, that says EXISTS.
        """
        items, owned = await self._sandboxes.parts(None, sandbox, cause, now=now)
        claim = len(items)
        if sandbox.state is State.ALLOCATED:
            begun = Claim.on(sandbox, wish=_WISH, attempt_id=cause.request_id)
            items.append(self._claims.begin(begun, now=int(now)))
        try:
            await self._client.transact(*items)
        except TransactionRefused as refused:
            failed = {n for n, reason in enumerate(refused.reasons) if reason.condition_failed}
            if 0 in failed:
                return Adopted.EXISTS
            if failed & owned:
                return Adopted.OWNED
            if claim in failed:
                return Adopted.CLAIMED
            raise (refused.failure() or refused) from refused
        return Adopted.YES
