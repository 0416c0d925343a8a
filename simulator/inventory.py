"""Which accounts exist, which of them are listed, and what a deletion does. Pure: takes `now`."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from simulator.accounts import ACTIVE, SANDBOX, Account, AccountRef, first_accounts, new_account, sandbox_name


class DuplicateAccount(Exception):
    """An account with this csp_id exists, or existed: the provider never reuses one."""

    def __init__(self, csp_id: int) -> None:
        super().__init__(f"csp_id {csp_id} is taken")
        self.csp_id = csp_id


class Listing:
    """The accounts that are listed, by position from 0, in the order of their csp_ids."""

    def __init__(self, accounts: Mapping[int, Account], csp_ids: list[int], *, skipped: list[int]) -> None:
        """`skipped`: rising places of `csp_ids` that have no position."""
        self._accounts = accounts
        self._csp_ids = csp_ids
        self._skipped_before = [place - rank for rank, place in enumerate(skipped)]

    def __len__(self) -> int:
        return len(self._csp_ids) - len(self._skipped_before)

    def __getitem__(self, position: int) -> Account:
        place = position + bisect_right(self._skipped_before, position)
        return self._accounts[self._csp_ids[place]]


class Inventory:
    """All accounts, deleted ones included. A page costs its own length, not the inventory's."""

    def __init__(self, accounts: Iterable[Account], *, seed: int) -> None:
        self._seed = seed
        self._accounts: dict[int, Account] = {}
        self._by_uuid: dict[str, int] = {}
        self._by_name: dict[str, tuple[int, ...]] = {}  # names need not be unique
        self._listed: list[int] = []  # csp_ids, rising: the live ones and those that the lag still shows
        self._deleted: list[int] = []  # csp_ids in the order of their deletion
        self._unlisted = 0  # how many of `_deleted`, from its start, have left `_listed`
        self._highest = 0
        self._last_number = 0  # of the sandbox names
        for account in accounts:
            self._add(account)

    @classmethod
    def start(cls, *, seed: int, sandboxes: int, noise: int) -> "Inventory":
        inventory = cls(first_accounts(seed=seed, sandboxes=sandboxes, noise=noise), seed=seed)
        inventory._last_number = sandboxes
        return inventory

    def __iter__(self) -> Iterator[Account]:
        """Every account by rising csp_id, deleted ones included."""
        return (self._accounts[csp_id] for csp_id in sorted(self._accounts))

    def listing(self, *, now: float, lag_s: float, hidden: tuple[AccountRef, ...] = ()) -> "Listing":
        """What is listed, as of now: valid until the next change of the inventory.

        A deleted account is listed while `now < deleted_at + lag_s`, by the lag of this call. Accounts named
        by `hidden` are left out.
        """
        self._settle(cutoff=now - lag_s)
        left_out = {csp_id for ref in hidden for csp_id in self._named(ref)}
        places = ((bisect_left(self._listed, csp_id), csp_id) for csp_id in sorted(left_out))
        return Listing(
            self._accounts, self._listed, skipped=[place for place, csp_id in places if self._holds(place, csp_id)]
        )

    def account(self, csp_id: int) -> Account | None:
        return self._accounts.get(csp_id)

    def account_of(self, uuid: str) -> Account | None:
        csp_id = self._by_uuid.get(uuid)
        return None if csp_id is None else self._accounts[csp_id]

    def request_delete(self, uuid: str) -> Account | None:
        """Count a DELETE. None when the provider never had such an account."""
        account = self.account_of(uuid)
        if account is None:
            return None
        counted = replace(account, delete_requests=account.delete_requests + 1)
        self._accounts[account.csp_id] = counted
        return counted

    def delete(self, csp_id: int, *, now: float) -> bool:
        """Delete, once: False when it is already deleted, or is no sandbox."""
        account = self._accounts[csp_id]
        if not account.deletable:
            return False
        self._accounts[csp_id] = replace(account, deleted_at=now, deletes_done=account.deletes_done + 1)
        self._deleted.append(csp_id)
        return True

    def add(
        self,
        *,
        now: float,
        name: str | None = None,
        csp_id: int | None = None,
        account_type: str = SANDBOX,
        state: str = ACTIVE,
    ) -> Account:
        """Add an account; without a name or a csp_id it gets the next ones.

        Raises:
            DuplicateAccount: the csp_id is taken; nothing was added.
        """
        if csp_id is None:
            csp_id = self._highest + 1
        elif csp_id in self._accounts:
            raise DuplicateAccount(csp_id)
        account = new_account(
            seed=self._seed,
            csp_id=csp_id,
            name=name or self._next_name(),
            created_at=now,
            account_type=account_type,
            state=state,
        )
        self._add(account)
        return account

    def change(self, csp_id: int, *, name: str | None = None, state: str | None = None) -> Account | None:
        """Change what the provider says of an account, also of a deleted one. None when there is none."""
        before = self._accounts.get(csp_id)
        if before is None:
            return None
        after = replace(before, name=name or before.name, state=state or before.state)
        self._by_name[before.name] = tuple(other for other in self._by_name[before.name] if other != csp_id)
        self._by_name[after.name] = (*self._by_name.get(after.name, ()), csp_id)
        self._accounts[csp_id] = after
        return after

    def _add(self, account: Account) -> None:
        self._accounts[account.csp_id] = account
        self._highest = max(self._highest, account.csp_id)
        self._by_uuid[account.uuid] = account.csp_id
        self._by_name[account.name] = (*self._by_name.get(account.name, ()), account.csp_id)
        insort(self._listed, account.csp_id)

    def _settle(self, *, cutoff: float) -> None:
        """Take from the listing what was deleted by `cutoff`; put back what a longer lag shows again."""
        while self._unlisted < len(self._deleted) and self._deleted_at(self._unlisted) <= cutoff:
            self._listed.pop(bisect_left(self._listed, self._deleted[self._unlisted]))
            self._unlisted += 1
        while self._unlisted > 0 and self._deleted_at(self._unlisted - 1) > cutoff:
            self._unlisted -= 1
            insort(self._listed, self._deleted[self._unlisted])

    def _deleted_at(self, index: int) -> float:
        return self._accounts[self._deleted[index]].deleted_at or 0.0

    def _holds(self, position: int, csp_id: int) -> bool:
        return position < len(self._listed) and self._listed[position] == csp_id

    def _named(self, ref: AccountRef) -> tuple[int, ...]:
        return (ref,) if isinstance(ref, int) else self._by_name.get(ref, ())

    def _next_name(self) -> str:
        self._last_number += 1
        while self._by_name.get(sandbox_name(self._last_number)):
            self._last_number += 1
        return sandbox_name(self._last_number)
