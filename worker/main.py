"""The worker process: boot, stand by, lead, drain."""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

from broker import exits, logs
from broker.boot import Boot
from broker.errors import ForeignTable, StoreThrottled, StoreUnavailable
from broker.leadership import FormerElection, Leadership
from broker.loop_health import watch_loop
from broker.metrics import Metrics
from broker.process import LAST_SPANS_S, begin, port_is_free, start_tracing
from broker.settings import WorkerSettings
from broker.store.leader import LEADER_SCOPE
from broker.wiring import Broker, open_broker
from worker.health import Health, health_app, health_server
from worker.names import NamesLoop
from worker.roster import Roster
from worker.schedule import Schedule

log = logging.getLogger("worker")

RETRY_BOOT_S: Final = 1.0
DRAIN_SHARE: Final = 0.8
"""Of the drain's time, for what is in hand; the rest is for handing the lead over and closing."""
HAND_BACK_S: Final = 4.0
"""Of the drain's time, for jobs to come to a checkpoint and go back to the queue, before the lead does."""
STALLED_LOOKS: Final = 20
"""Looks, a second apart, in which the scheduler did not beat: it goes by the wall clock, and stands still for an
hour where that is set back by one. Looks and not seconds, for a process that was only asleep."""


class SchedulerStalled(Exception):
    """Nothing ticks any more."""


async def run(settings: WorkerSettings, boot: Boot, metrics: Metrics) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the process's exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health()
    server = health_server(health_app(health, metrics), host=settings.host, port=settings.port)
    serving = asyncio.create_task(server.serve())
    watching = asyncio.create_task(watch_loop(metrics))
    ending = asyncio.create_task(_end_in_time(stop, settings.drain_timeout_s))
    try:
        while not stop.is_set():
            try:
                async with AsyncExitStack() as stack:
                    opening = stack.enter_async_context(open_broker(settings, metrics=metrics, boot=boot))
                    async with asyncio.timeout(None if boot.done else boot.left_s(settings)):
                        broker = await opening
                    await _work(settings, broker, boot, health, stop)
            except (StoreUnavailable, StoreThrottled) as error:
                boot.unavailable = str(error)
                log.warning("store not reachable yet, boot waits", extra={"why": str(error)})
                health.beat()
                pause_s = RETRY_BOOT_S if boot.done else min(RETRY_BOOT_S, boot.left_s(settings))
                await _before(stop, asyncio.sleep(pause_s))
            except TimeoutError:
                boot.gave_up()
                return exits.UNAVAILABLE
    except ForeignTable as error:
        log.error("this table is not the broker's", extra={"why": str(error)})  # noqa: TRY400
        return exits.CONFIG
    except SchedulerStalled:
        log.error("the scheduler stands still, was the clock set back? Gone, so that another leads")  # noqa: TRY400
        return exits.CRASH
    finally:
        watching.cancel()
        ending.cancel()
        server.should_exit = True
        await serving
    return 0


async def _end_in_time(stop: asyncio.Event, timeout_s: float) -> None:
    """Whatever hangs at the end, a thread or a connection: the process is gone when it said it would be."""
    await stop.wait()

    def end() -> None:
        log.error("the drain did not end in time: gone without it", extra={"timeout_s": timeout_s})
        os._exit(exits.CRASH)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()


async def _work(settings: WorkerSettings, broker: Broker, boot: Boot, health: Health, stop: asyncio.Event) -> None:
    """Stand by and lead, in turns, until told to stop."""
    leadership = Leadership(
        broker.leader,
        broker.metrics,
        scope=LEADER_SCOPE,
        holder=f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}",
        lease_s=settings.leader_lease_s,
    )
    former = FormerElection(broker.leader, scope=settings.tenant, lease_s=settings.leader_lease_s)
    boot.phase("parts")
    async with Roster(settings, broker, leadership) as roster:
        health.details = roster.details
        await boot.ready(settings, broker.metrics, broker.boots)
        while not stop.is_set():
            health.phase = "standby"
            if await _before(stop, _standing_by(former, leadership, health)):
                await _lead(settings, roster, leadership, health, stop, broker.metrics)
    log.info("stopped")


async def _standing_by(former: FormerElection, leadership: Leadership, health: Health) -> None:
    waiting = asyncio.create_task(_until_leading(former, leadership))
    try:
        while not waiting.done():
            health.beat()
            await asyncio.wait({waiting}, timeout=1)
        await waiting
    finally:
        waiting.cancel()


async def _until_leading(former: FormerElection, leadership: Leadership) -> None:
    await former.over()
    await leadership.stand_by()


async def _before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work until it is done or the process is to stop; whether it was done."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        await working
        return True
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return False


async def _lead(
    settings: WorkerSettings,
    roster: Roster,
    leadership: Leadership,
    health: Health,
    stop: asyncio.Event,
    metrics: Metrics,
) -> None:
    """One term: every tenant's jobs run while the lease is kept. Whatever ends it, nothing new begins after."""
    health.phase = "leading"
    schedule = Schedule(metrics, beat=health.beat)
    schedule.start()
    keeping = asyncio.create_task(_keep(leadership, health))
    serving = asyncio.create_task(roster.serve(schedule))
    try:
        if await _before(stop, _first_of(keeping, serving)):
            await _cancelled(serving)
            schedule.stop()
            await roster.stand_down()
            return
        health.phase = "draining"
        await _cancelled(serving)
        await _drain(settings, roster, schedule, leadership, keeping)
    finally:
        keeping.cancel()
        serving.cancel()


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


async def _keep(leadership: Leadership, health: Health, *, looks: int = STALLED_LOOKS) -> None:
    """Keep the lead for as long as the scheduler beats: one that stands still must not keep others from leading.

    Raises:
        SchedulerStalled: it did; the process is to end, and to be started anew.
    """
    keeping = asyncio.create_task(leadership.keep())
    try:
        beat_at, silent = health.beat_at, 0
        while not keeping.done():
            await asyncio.wait({keeping}, timeout=1)
            silent = silent + 1 if health.beat_at == beat_at else 0
            beat_at = health.beat_at
            if silent >= looks:
                raise SchedulerStalled
        await keeping
    finally:
        keeping.cancel()


async def _first_of(*tasks: "asyncio.Task[None]") -> None:
    """Wait for the first that ends, and raise what it raised; none is cancelled with the wait."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _drain(
    settings: WorkerSettings,
    roster: Roster,
    schedule: Schedule,
    leadership: Leadership,
    keeping: "asyncio.Task[None]",
) -> None:
    """Start nothing new, hand back what another can do, finish what is in hand; all within one deadline.

    Jobs go back first: the end of some is written under the leader's fence. Then the lead: a standby begins
    while this process still finishes its deletions, each of which has a lease of its own.
    """
    began, share_s = time.monotonic(), settings.drain_timeout_s * DRAIN_SHARE
    log.info("draining", extra={"timeout_s": settings.drain_timeout_s})
    schedule.pause()
    await roster.hand_back(min(HAND_BACK_S, share_s / 2))
    log.info("draining: jobs handed back", extra=_since(began))
    await _cancelled(keeping)
    await leadership.step_down()
    log.info("draining: lead handed back", extra=_since(began))
    await roster.finish(max(0.0, began + share_s - time.monotonic()))
    await schedule.until_idle(max(0.0, began + share_s - time.monotonic()))
    log.info("draining: nothing in hand", extra=_since(began))
    schedule.stop()


def _since(began: float) -> dict[str, float]:
    return {"after_s": round(time.monotonic() - began, 2)}


def main() -> int:
    """Run the worker; the exit code is the process's."""
    boot = Boot.of_process()
    boot.phase("settings")
    settings = begin(WorkerSettings, module="worker", what="The sandbox broker's worker.")
    if isinstance(settings, int):
        return settings
    if not port_is_free(settings.host, settings.port, variable="WORKER_PORT"):
        return exits.CRASH
    logs.configure("worker", level=settings.log_level, secrets=settings.secrets())
    metrics = Metrics()
    stop_tracing = start_tracing(settings, metrics)
    if isinstance(stop_tracing, int):
        return stop_tracing
    with asyncio.Runner(loop_factory=NamesLoop) as runner:
        code = runner.run(run(settings, boot, metrics))
    stop_tracing(LAST_SPANS_S)  # the drain's own shares leave more than that
    return code


if __name__ == "__main__":
    sys.exit(main())
