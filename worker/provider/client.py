"""The provider's accounts: list and delete, with retries for reads, one try for deletions, and a breaker each."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from broker.metrics import Metrics
from broker.policy import Account
from worker.provider.accounts import InvalidAccount, account_from
from worker.provider.answers import parsed, results_of
from worker.provider.calls import Answer, Calls
from worker.provider.errors import ListingShifted, ProviderError, may_pass
from worker.provider.gates import Gates
from worker.provider.permits import Permit, Refusal
from worker.provider.secrets import Secret

__all__ = ["MAX_LISTINGS", "ListingShifted", "Page", "ProviderClient", "ProviderError", "ProviderLimits"]

READ_PAUSE_S: Final = 0.5
READ_PAUSE_CAP_S: Final = 30.0
MAX_ENTRIES: Final = 2_000_000
MAX_LISTINGS: Final = 3
"""How often a listing that shifts under the reader is begun anew."""
DELETE_BODY_BYTES: Final = 65_536

_backoff_s = wait_exponential_jitter(multiplier=READ_PAUSE_S, max=READ_PAUSE_CAP_S, jitter=READ_PAUSE_S)


@dataclass(slots=True)
class Page:
    """One page of the listing: what is usable, and what the other entries were."""

    accounts: list[Account]
    others: int  # no sandboxes, or none that is active
    invalid: list[InvalidAccount]  # may be sandboxes, and cannot be used as such


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLimits:
    """How long, how often and how much."""

    page_size: int
    read_timeout_s: float
    read_attempts: int
    delete_timeout_s: float
    max_body_bytes: int


class ProviderClient:
    """Speaks to the provider for one tenant, over one pooled connection set."""

    def __init__(
        self,
        calls: Calls,
        *,
        token: Secret,
        limits: ProviderLimits,
        gates: Gates,
        metrics: Metrics,
        connection: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._calls = calls
        self._token = token
        self._limits = limits
        self._gates = gates
        self._metrics = metrics
        self._sleep = sleep
        self.connection = connection
        """Which connection this is: another address or another place of the secret has another name."""

    def states(self) -> dict[str, str]:
        """For people: how each endpoint's breaker stands, the pace of deletions, what is wrong with the secret."""
        trouble = self._token.describe()
        return self._gates.describe() | ({} if trouble is None else {"secret": trouble})

    async def pages(self) -> AsyncGenerator[Page, None]:
        """The whole listing, page by page; a page may be shorter than asked for, the last brings nothing new.

        Each page begins at the last entry of the page before. Where that is another entry now, the
        listing has shifted, by a deletion say, and someone may have slipped through the gap.

        Raises:
            ListingShifted: begin anew, and take nobody for missing.
            ProviderError: the listing is void; ENDLESS_LISTING where it makes no progress, BREAKER_OPEN
                where the provider has failed so often that it was not asked.
        """
        offset, total = 0, 0
        entries = await self._entries(0)
        fresh = entries
        while fresh:
            total += len(fresh)
            if total > MAX_ENTRIES:
                raise ProviderError("ENDLESS_LISTING", f"over {MAX_ENTRIES} entries")
            yield self._page(fresh)
            last = entries[-1]
            offset += len(entries) - 1
            entries = await self._entries(offset)
            if not entries or _identity(entries[0]) != _identity(last):
                raise ListingShifted
            fresh = entries[1:]
            if fresh and all(_identity(entry) == _identity(last) for entry in fresh):
                raise ProviderError("ENDLESS_LISTING", "the same entry again and again")

    def admit_deletion(self, account: str) -> Permit | Refusal:
        """Leave to delete the account with this external id, or why there is none now. Never waits.

        To be asked before the lease is taken and the attempt counted: a refusal is no attempt.
        """
        return self._gates.deletions.admit(account)

    async def delete(self, permit: Permit) -> bool:
        """Delete the permit's account. False where the provider knows none of this name, any more or at all.

        One try: the caller's queue repeats. How it ends is told to breaker and pacing.

        Raises:
            ProviderError: it is not known to be gone.
        """
        permit.use()
        try:
            was_there = await self.delete_account(permit.account)
        except ProviderError as error:
            permit.ended(error)
            raise
        except BaseException:
            permit.abandon()
            raise
        permit.ended(None)
        return was_there

    async def delete_account(self, external_id: str) -> bool:
        """Delete an account as delete() does, without asking breaker and pacing, nor telling them.

        Raises:
            ProviderError: it is not known to be gone.
        """
        uuid = quote(external_id.rpartition("/")[2], safe="")
        with self._calls.counted("delete"):
            answer = await self._call(
                "delete",
                "DELETE",
                f"/sandbox/accounts/{uuid}",
                expected=(200, 202, 204, 404),
                deadline_s=self._limits.delete_timeout_s,
                max_bytes=DELETE_BODY_BYTES,
            )
            if answer.status == 404 and answer.body:
                parsed(answer.body)  # where it is no JSON, somebody else said so: a proxy, another server
            return answer.status != 404

    async def _entries(self, offset: int) -> list[Any]:
        """The entries from `offset` on, at most a page, after as many tries as it takes and may take."""
        tries = AsyncRetrying(
            stop=stop_after_attempt(self._limits.read_attempts),
            wait=_pause_s,
            retry=retry_if_exception(self._worth_another_try),
            sleep=self._sleep,
            reraise=True,
        )
        entries: list[Any] = await tries(self._read, offset)
        return entries

    def _worth_another_try(self, error: BaseException) -> bool:
        return isinstance(error, ProviderError) and may_pass(error.kind) and not self._gates.listing.wait_s()

    async def _read(self, offset: int) -> list[Any]:
        with self._gates.listing.guarding(), self._calls.counted("list"):
            answer = await self._call(
                "list",
                "GET",
                "/current_user/accounts",
                expected=(200,),
                deadline_s=self._limits.read_timeout_s,
                max_bytes=self._limits.max_body_bytes,
                params={"_limit": self._limits.page_size, "_offset": offset},
            )
            entries = await asyncio.to_thread(results_of, answer.body)  # megabytes of nonsense stall no loop
            if len(entries) > 2 * self._limits.page_size:
                raise ProviderError("WRONG_SHAPE", f"{len(entries)} entries on a page of {self._limits.page_size}")
            return entries

    async def _call(self, name: str, method: str, path: str, **arguments: Any) -> Answer:
        """One call with the token as it is now; where the provider refuses it, the next call reads it anew."""
        token = await self._token.get()
        try:
            return await self._calls.call(
                name, method, path, headers={"Authorization": f"Token {token}"}, **arguments
            )
        except ProviderError as error:
            if error.kind in ("HTTP_401", "HTTP_403"):
                self._token.refused(token)
            raise

    def _page(self, entries: list[Any]) -> Page:
        page = Page([], 0, [])
        for entry in entries:
            try:
                account = account_from(entry)
            except InvalidAccount as error:
                page.invalid.append(error)
                self._metrics.invalid_accounts.labels(error.why).inc()
            else:
                if account is None:
                    page.others += 1
                else:
                    page.accounts.append(account)
        return page


def _identity(entry: Any) -> object:
    """What tells an entry from its neighbours: other facts may change between two reads of it."""
    return (entry.get("id"), entry.get("csp_id")) if isinstance(entry, dict) else entry


def _pause_s(state: RetryCallState) -> float:
    """Doubling with jitter, or longer where the provider asks for it, within one cap."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked_s = error.retry_after_s if isinstance(error, ProviderError) else None
    return min(READ_PAUSE_CAP_S, max(_backoff_s(state), asked_s or 0.0))
