"""The services inside the accounts. Pure: takes `now`. What nobody touched is not stored."""

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from simulator.accounts import SANDBOX, Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    csp_id: int  # of its account
    id: str
    name: str
    deleted_at: float | None = None  # Unix seconds, UTC

    def listed(self) -> dict[str, Any]:
        """The entry in the provider's listing."""
        return {"id": self.id, "name": self.name}


class Services:
    """Every sandbox starts with some, one to be deleted and one to be kept by turns; ids follow from the seed."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._added: defaultdict[int, list[Service]] = defaultdict(list)
        self._deleted_at: dict[str, float] = {}

    def of(self, account: Account, *, from_start: int) -> list[Service]:
        """All services of an account, deleted ones included."""
        first = self._first(account.csp_id, from_start) if account.account_type == SANDBOX else ()
        return [
            replace(service, deleted_at=self._deleted_at.get(service.id))
            for service in (*first, *self._added.get(account.csp_id, ()))
        ]

    def add(self, account: Account, *, name: str) -> Service:
        added = self._added[account.csp_id]
        service = Service(csp_id=account.csp_id, id=self._id(account.csp_id, f"added-{len(added)}"), name=name)
        added.append(service)
        return service

    def delete(self, account: Account, service_id: str, *, from_start: int, now: float) -> bool:
        """Delete, once: False when this account has no such service, or no longer."""
        live = {s.id for s in self.of(account, from_start=from_start) if s.deleted_at is None}
        if service_id not in live:
            return False
        self._deleted_at[service_id] = now
        return True

    def _first(self, csp_id: int, count: int) -> Iterator[Service]:
        for number in range(1, count + 1):
            name = f"{'lab-vpn' if number % 2 else 'keep-me'}-{csp_id}-{number}"
            yield Service(csp_id=csp_id, id=self._id(csp_id, str(number)), name=name)

    def _id(self, csp_id: int, part: str) -> str:
        digest = hashlib.blake2b(f"{self._seed}:{csp_id}:{part}".encode(), digest_size=16).digest()
        return str(uuid.UUID(bytes=digest, version=4))
