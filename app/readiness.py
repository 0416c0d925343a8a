"""Whether this process should get traffic. Trouble of the store is not a reason to replace it."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from broker.errors import BrokerError
from broker.store.client import StoreClient
from broker.store.modes import Modes
from broker.store.table import meta_key

log = logging.getLogger("app")

CHECK_S: Final = 5.0
WAIT_S: Final = 1.0


class Readiness:
    """booting, ready or draining; and, apart from that, how the store does."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.booting = True
        self.draining = False
        self.refusing = False
        """The notice is over: what has not begun begins elsewhere."""
        self._monotonic = monotonic
        self._client: StoreClient | None = None
        self._modes: Modes | None = None
        self._checked_at: float | None = None
        self._check: asyncio.Task[None] | None = None
        self._store = "unknown"

    def booted(self, client: StoreClient, modes: Modes) -> None:
        self._client = client
        self._modes = modes
        self.booting = False

    async def report(self) -> tuple[int, dict[str, Any]]:
        """The status code and body of /readyz."""
        if self.draining or self.booting:
            return 503, {"status": "draining" if self.draining else "booting"}
        await self._checked()
        status = "ready" if self._store == "ok" else "degraded"
        return 200, {"status": status, "details": {"store": self._store} | self._mode()}

    def _mode(self) -> dict[str, str]:
        """Told unless it is open. Drained is no reason to replace a process: it serves what there is to serve."""
        mode = None if self._modes is None else self._modes.last
        return {} if mode is None or mode.allocates else {"mode": mode.name.value}

    async def _checked(self) -> None:
        """Ask the store at most every 5 s, single-flight; a probe waits for it a second at the most."""
        now = self._monotonic()
        idle = self._check is None or self._check.done()
        if idle and (self._checked_at is None or now - self._checked_at >= CHECK_S):
            self._checked_at = now
            self._check = asyncio.create_task(self._ask())
        if self._check is not None and not self._check.done():
            _, unfinished = await asyncio.wait({self._check}, timeout=WAIT_S)
            if unfinished:
                self._store = "slow"

    async def _ask(self) -> None:
        if self._client is None or self._modes is None:
            return
        try:
            await self._client.get(meta_key(), consistent=False)
            await self._modes.current()  # an idle process asks for it nowhere else
        except BrokerError as error:
            if self._store != (now := error.code.lower()):  # once a trouble, not once a probe
                log.warning("store in trouble", extra={"why": str(error)})
            self._store = now
        else:
            self._store = "ok"
