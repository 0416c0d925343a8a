"""What all credentials of a tenant may ask for together in this process, as the tenant's item says."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from limits import RateLimitItem, parse

from broker.errors import BrokerError
from broker.settings import RATE_LIMIT
from broker.store.tenants import Tenants

log = logging.getLogger("app")

REMEMBER_S: Final = 1.0
OLD_S: Final = 60.0
"""What is older is read before it is used: by a process that was idle, it may have been set long since."""
WAIT_S: Final = 2.0
"""How long a request waits for that."""


@dataclass(slots=True)
class _Ceiling:
    limit: RateLimitItem | None
    value: object  # what the limit was made of
    read_at: float


class TenantCeilings:
    """Known to the second and read beside the requests, or before one after a pause.

    Whatever is wrong with an item refuses nobody.

    `open` gives it the tenants; until then no tenant has a ceiling.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._tenants: Tenants | None = None
        self._ceilings: dict[str, _Ceiling] = {}
        self._reads: dict[str, asyncio.Task[None]] = {}

    def open(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def close(self) -> None:
        """Let go of what still runs in the background."""
        running = list(self._reads.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def of(self, tenant: str) -> RateLimitItem | None:
        """The tenant's ceiling, None where it has none. Where that is old it waits for a read, not for long."""
        if self._tenants is None:
            return None
        ceiling = self._ceilings.get(tenant)
        age_s = inf if ceiling is None else self._monotonic() - ceiling.read_at
        if age_s >= REMEMBER_S:
            read = self._reads.get(tenant) or self._begin(self._tenants, tenant)
            if age_s >= OLD_S:
                await asyncio.wait({read}, timeout=WAIT_S)
                ceiling = self._ceilings.get(tenant)
        return None if ceiling is None else ceiling.limit

    def _begin(self, tenants: Tenants, tenant: str) -> asyncio.Task[None]:
        read = self._reads[tenant] = asyncio.create_task(self._read(tenants, tenant))
        read.add_done_callback(lambda _: self._reads.pop(tenant, None))
        return read

    async def _read(self, tenants: Tenants, tenant: str) -> None:
        before = self._ceilings.get(tenant) or _Ceiling(None, None, 0.0)
        value, limit = before.value, before.limit
        try:
            value = (await tenants.get(tenant)).limits.requests
            if value != before.value:
                limit = limit_of(value)
        except BrokerError:
            pass  # the store is in trouble: what was known holds
        except (ValueError, TypeError, KeyError) as error:
            if value != before.value or before.value is None:
                log.warning(
                    "a tenant's request limit is not readable, it has none",
                    extra={"tenant": tenant, "why": type(error).__name__},
                )
            limit = None
        self._ceilings[tenant] = _Ceiling(limit, value, self._monotonic())


def limit_of(value: object) -> RateLimitItem | None:
    """The limit that a text such as `500/10 seconds` means; None is none.

    Raises:
        ValueError: it means nothing.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(RATE_LIMIT, value):
        raise ValueError("no rate")
    return parse(value)
