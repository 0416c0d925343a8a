"""The server around the app, and the order in which it leaves: notice, refusal, doors, what is in flight."""

import asyncio
import logging
import signal
import socket
import time
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from app.protocol import BoundedProtocol
from app.readiness import Readiness
from broker.settings import ApiSettings

log = logging.getLogger("app")

KEEP_ALIVE_S: Final = 75
"""Longer than a load balancer keeps its own side open (ALB: 60 s), or it would send into a closing connection."""
REFUSAL_S: Final = 2.0
"""After the notice: who still comes is told so (503, Retry-After), and not met by a closed door."""
REFUSAL_SHARE: Final = 0.25
"""Of what the notice leaves of the drain's time, at the most, for refusing."""
CLOSING_S: Final = 0.5
"""Of the drain's time, for closing the store's connections at its end."""
IDLE_LOOK_S: Final = 0.1
ONCE_S: Final = 0.3
"""One Ctrl-C reaches this process twice: from the terminal, and through its supervisor."""


def config_of(app: FastAPI, settings: ApiSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedProtocol,
        ws="none",
        loop="uvloop",
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


class DrainingServer(uvicorn.Server):
    """On SIGTERM readiness turns first and everything is served for the notice; then what is new is refused, the
    doors close, and what is in flight is finished: all within GRACEFUL_SHUTDOWN_TIMEOUT_SEC.

    SIGTERM again changes nothing: platforms and process groups send it twice. Ctrl-C again closes the doors at
    once, and once more ends it. No signal is handed on to uvicorn, which would raise it again at the end: the
    exit code is ours.
    """

    def __init__(self, config: uvicorn.Config, readiness: Readiness, settings: ApiSettings) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._settings = settings
        self._began_at = time.monotonic()
        self._interrupted_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = now - self._interrupted_at < ONCE_S
        if sig == signal.SIGINT:
            self._interrupted_at = now
        if not self._readiness.draining:
            self._begin(sig, now)
        elif sig == signal.SIGINT and not again:
            self.force_exit = self.should_exit
            self.should_exit = True

    def _begin(self, sig: int, now: float) -> None:
        self._began_at = now
        hurried = self._readiness.booting or (sig == signal.SIGINT and self._settings.development)
        notice_s = 0.0 if hurried else self._settings.drain_notice_s
        self._readiness.draining = True
        log.info("draining", extra={"notice_s": notice_s, "timeout_s": self._settings.drain_timeout_s})
        if not notice_s:
            self.should_exit = True
            return
        refusal_s = min(REFUSAL_S, REFUSAL_SHARE * (self._settings.drain_timeout_s - notice_s))
        loop = asyncio.get_running_loop()
        loop.call_later(notice_s, self._refuse)
        loop.call_later(notice_s + refusal_s, self._close_when_idle)

    def _refuse(self) -> None:
        self._readiness.refusing = True
        log.info("draining: what is new is refused", extra=self._since())

    def _close_when_idle(self) -> None:
        """The doors stay open, to refuse, for as long as something is in flight and there is time."""
        late = time.monotonic() > self._began_at + self._settings.drain_timeout_s - 2 * CLOSING_S
        if late or not self.server_state.tasks:
            self.should_exit = True
        else:
            asyncio.get_running_loop().call_later(IDLE_LOOK_S, self._close_when_idle)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the doors, then wait for what is in flight until the drain's time is over."""
        self._readiness.draining = self._readiness.refusing = True
        in_flight = len(self.server_state.tasks)
        log.info("draining: doors closed", extra=self._since() | {"in_flight": in_flight})
        ends_at = self._began_at + self._settings.drain_timeout_s - CLOSING_S
        left_s = max(CLOSING_S, ends_at - time.monotonic())
        self.config.timeout_graceful_shutdown = left_s  # type: ignore[assignment]  # a wait_for's: takes fractions
        await super().shutdown(sockets)
        log.info("stopped", extra=self._since())

    def left_s(self) -> float:
        """Of the drain's time, in seconds; 0 where it is over."""
        return max(0.0, self._began_at + self._settings.drain_timeout_s - time.monotonic())

    def _since(self) -> dict[str, float]:
        return {"after_s": round(time.monotonic() - self._began_at, 2)}
