"""One account at the provider, and the deterministic set of them that a run starts with."""

import hashlib
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SANDBOX = "sandbox"
STANDARD = "standard"
ACTIVE = "active"
DISABLED = "disabled"

FIRST_CSP_ID = 2_009_000
FIRST_CREATED_AT = 1743094427.605459  # 2025-03-27T16:53:47.605459Z

AccountRef = int | str
"""A csp_id or a name: how a fault names the accounts that it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the provider knows of an account, and what the simulator counts about it."""

    csp_id: int
    uuid: str
    name: str
    sfdc_account_id: str
    created_at: float  # Unix seconds, UTC
    account_type: str = SANDBOX
    state: str = ACTIVE
    delete_requests: int = 0  # every DELETE with a good token, whatever became of it
    deletes_done: int = 0
    deleted_at: float | None = None  # Unix seconds, UTC

    @property
    def deletable(self) -> bool:
        """Only sandboxes live under the provider's /sandbox/accounts."""
        return self.account_type == SANDBOX and self.deleted_at is None

    def is_in(self, refs: tuple[AccountRef, ...]) -> bool:
        return self.csp_id in refs or self.name in refs

    def listed(self) -> dict[str, Any]:
        """The entry in the provider's listing."""
        created = datetime.fromtimestamp(self.created_at, UTC).isoformat(timespec="microseconds")
        return {
            "id": f"identity/accounts/{self.uuid}",
            "csp_id": self.csp_id,
            "name": self.name,
            "account_type": self.account_type,
            "state": self.state,
            "created_at": created.replace("+00:00", "Z"),
            "sfdc_account_id": self.sfdc_account_id,
        }

    def inspected(self) -> dict[str, Any]:
        """The entry in the control plane's listing."""
        return self.listed() | {
            "deleted_at": self.deleted_at,
            "delete_requests": self.delete_requests,
            "deletes_done": self.deletes_done,
        }


def new_account(
    *, seed: int, csp_id: int, name: str, created_at: float, account_type: str = SANDBOX, state: str = ACTIVE
) -> Account:
    """An account whose uuid and sfdc_account_id follow from the seed and the csp_id alone."""
    digest = hashlib.blake2b(f"{seed}:{csp_id}".encode(), digest_size=24).digest()
    return Account(
        csp_id=csp_id,
        uuid=str(uuid.UUID(bytes=digest[:16], version=4)),
        name=name,
        sfdc_account_id=f"001{digest[16:].hex()[:15].upper()}",
        created_at=created_at,
        account_type=account_type,
        state=state,
    )


def sandbox_name(number: int) -> str:
    return f"lab-adventure-{number:04d}"


def first_accounts(*, seed: int, sandboxes: int, noise: int) -> Iterator[Account]:
    """By rising csp_id: `sandboxes` usable ones and, scattered among them, `noise` that no client may use.

    The noise alternates between standard accounts and disabled sandboxes.
    """
    rng = random.Random(seed)
    noisy = set(rng.sample(range(sandboxes + noise), noise))
    csp_id, sandbox_number, noise_number = FIRST_CSP_ID, 0, 0
    for position in range(sandboxes + noise):
        csp_id += rng.randint(1, 9)
        created_at = FIRST_CREATED_AT + position * 1.618
        if position not in noisy:
            sandbox_number += 1
            yield new_account(seed=seed, csp_id=csp_id, name=sandbox_name(sandbox_number), created_at=created_at)
            continue
        noise_number += 1
        standard = noise_number % 2 == 1
        yield new_account(
            seed=seed,
            csp_id=csp_id,
            name=f"lab-{'office' if standard else 'retired'}-{noise_number:04d}",
            created_at=created_at,
            account_type=STANDARD if standard else SANDBOX,
            state=ACTIVE if standard else DISABLED,
        )
