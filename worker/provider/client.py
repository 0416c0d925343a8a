"""The provider's HTTP API: typed answers, named errors, a deadline on every call."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from broker.metrics import Metrics
from broker.policy import Account
from worker.provider.accounts import InvalidAccount, account_from

log = logging.getLogger("worker")

READ_TRIES: Final = 3
READ_PAUSE_S: Final = 0.5
MAX_ENTRIES: Final = 2_000_000
MAX_LISTINGS: Final = 3
"""How often a listing that shifts under the reader is begun anew."""


class ProviderError(Exception):
    """A call that failed; `kind` is a stable word for metrics and for people."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class ListingShifted(ProviderError):
    """Entries moved while the listing was read: something may have been passed over."""

    def __init__(self) -> None:
        super().__init__("LISTING_SHIFTED")


@dataclass(slots=True)
class Page:
    """One page of the listing: what is usable, and how many entries were not."""

    accounts: list[Account]
    invalid: int


class ProviderClient:
    """Speaks to the provider over one pooled connection set."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        token: SecretStr,
        page_size: int,
        read_timeout_s: float,
        delete_timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self._http = http
        self._token = token
        self._page_size = page_size
        self._read_timeout_s = read_timeout_s
        self._delete_timeout_s = delete_timeout_s
        self._metrics = metrics

    async def pages(self) -> AsyncGenerator[Page, None]:
        """The whole listing, page by page; a page may be shorter than asked for, the last brings nothing new.

        Each page begins at the last entry of the page before. Where that is another entry now, the
        listing has shifted, by a deletion say, and someone may have slipped through the gap.

        Raises:
            ListingShifted: begin anew, and take nobody for missing.
            ProviderError: the listing is void; ENDLESS_LISTING where it makes no progress.
        """
        offset, total = 0, 0
        entries = await self._entries(0)
        fresh = entries
        while fresh:
            total += len(fresh)
            if total > MAX_ENTRIES:
                raise ProviderError("ENDLESS_LISTING", f"over {MAX_ENTRIES} entries")
            yield _page(fresh)
            last = entries[-1]
            offset += len(entries) - 1
            entries = await self._entries(offset)
            if not entries or entries[0] != last:
                raise ListingShifted
            fresh = entries[1:]
            if fresh and all(entry == last for entry in fresh):
                raise ProviderError("ENDLESS_LISTING", "the same entry again and again")

    async def _entries(self, offset: int) -> list[Any]:
        params = {"_limit": self._page_size, "_offset": offset}
        for attempt in range(1, READ_TRIES + 1):
            try:
                answer = await self._call("list", "GET", "/current_user/accounts", params=params)
                return _results(answer)
            except ProviderError as error:
                self._metrics.provider_errors.labels("list", error.kind).inc()
                if attempt == READ_TRIES:
                    raise
                pause_s = READ_PAUSE_S * 2 ** (attempt - 1)
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311  jitter
        raise AssertionError("unreachable")

    async def delete(self, external_id: str) -> None:
        """Delete an account; one that is gone already counts as deleted. One try: the caller's queue repeats.

        Raises:
            ProviderError: it is not known to be gone.
        """
        uuid = quote(external_id.rpartition("/")[2], safe="")
        try:
            _expect(await self._call("delete", "DELETE", f"/sandbox/accounts/{uuid}"), 200, 202, 204, 404)
        except ProviderError as error:
            self._metrics.provider_errors.labels("delete", error.kind).inc()
            raise

    async def _call(self, call: str, method: str, path: str, **arguments: Any) -> httpx.Response:
        deadline_s = self._delete_timeout_s if call == "delete" else self._read_timeout_s
        began = time.perf_counter()
        headers = {"Authorization": f"Token {self._token.get_secret_value()}"}
        try:
            async with asyncio.timeout(deadline_s):
                return await self._http.request(method, path, headers=headers, **arguments)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ProviderError("TIMEOUT") from error
        except httpx.HTTPError as error:
            raise ProviderError("UNREACHABLE", type(error).__name__) from error
        finally:
            self._metrics.provider_s.labels(call).observe(time.perf_counter() - began)


def _expect(answer: httpx.Response, *statuses: int) -> None:
    """Refuse another status, and a page for people where an answer for programs belongs."""
    if answer.status_code not in statuses:
        raise ProviderError(f"HTTP_{answer.status_code}")
    if "html" in answer.headers.get("content-type", ""):
        raise ProviderError("HTML_ANSWER")


def _results(answer: httpx.Response) -> list[Any]:
    _expect(answer, 200)
    try:
        body = answer.json()
    except (ValueError, RecursionError) as error:
        raise ProviderError("NOT_JSON") from error
    results = body.get("results") if isinstance(body, dict) else None
    if not isinstance(results, list):
        raise ProviderError("WRONG_SHAPE", "no list of results")
    return results


def _page(entries: list[Any]) -> Page:
    accounts = []
    problems: list[str] = []
    for entry in entries:
        try:
            account = account_from(entry)
        except InvalidAccount as error:
            problems.append(str(error))
        else:
            if account is not None:
                accounts.append(account)
    if problems:
        facts = {"code": InvalidAccount.code, "count": len(problems), "why": problems[:3]}
        log.warning("invalid accounts in the listing", extra=facts)
    return Page(accounts, len(problems))
