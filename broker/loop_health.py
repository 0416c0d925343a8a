"""Watches the event loop: how late it wakes up is how long everybody waits."""

import asyncio
import logging
import time
from typing import Final

from broker.metrics import Metrics

log = logging.getLogger("broker")

SAMPLE_S: Final = 0.25
STALL_S: Final = 1.0


async def watch_loop(metrics: Metrics) -> None:
    """Measure the lag four times a second; count and log stalls of more than a second. Never returns."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(SAMPLE_S)
        lag_s = max(0.0, time.monotonic() - began - SAMPLE_S)
        metrics.loop_lag_s.set(lag_s)
        if lag_s > STALL_S:
            metrics.loop_stalls.inc()
            log.warning("event loop stalled", extra={"lag_s": round(lag_s, 3)})
