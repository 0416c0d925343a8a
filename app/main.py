"""The API process: build the app, boot, serve, drain."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException

from app import collector
from app.access import admitted, must_be_complete
from app.audit import Audit
from app.auth import Authenticator, Credential
from app.ceilings import TenantCeilings
from app.cors import Cors
from app.cursors import Cursors
from app.dead_letters import DeadLetters
from app.deps import Parts
from app.errors import on_broker_error, on_http_error, on_invalid_request
from app.inventory import Inventory
from app.job_desk import JobDesk
from app.key_desk import KeyDesk
from app.key_ring import KeyRing
from app.limits import RateLimitMiddleware, RateLimits
from app.metrics_page import MetricsPage, Waiting
from app.middleware import AdminAlias, Crashes, Deadlines, InputLimits, RequestContext
from app.openapi import DocumentedApi
from app.pool_gauges import PoolGauges
from app.readiness import Readiness
from app.routes import admin, events, holders, jobs, keys, operations, ops, sandboxes, tenants
from app.server import DrainingServer, config_of
from app.tenant_desk import TenantDesk
from app.traces import Traces
from broker import exits, logs
from broker.boot import Boot
from broker.errors import BrokerError, ForeignTable, StoreThrottled, StoreUnavailable
from broker.key import Peppers
from broker.loop_health import watch_loop
from broker.metrics import Metrics
from broker.process import begin, port_is_free, start_tracing
from broker.role import Role
from broker.selection import Selector
from broker.settings import ApiSettings
from broker.store.allowed import Guard
from broker.version import VERSION
from broker.wiring import Broker, open_broker

log = logging.getLogger("app")

RETRY_BOOT_S: Final = 1.0
NO_TELEMETRY: Final[TelemetryConfig] = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own, which an environment variable can turn on: it tells queries and tracebacks as they are."""


def create_app(
    settings: ApiSettings,
    boot: Boot | None = None,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The whole application. Its store is opened by the lifespan. The clocks tell how old is what it knows."""
    metrics = Metrics(of_worker=False)
    boot = boot or Boot()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            booting = asyncio.create_task(_boot(app, settings, boot, metrics, stack))
            watch = asyncio.create_task(watch_loop(metrics))
            try:
                yield
            finally:
                for task in (booting, watch):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                await app.state.key_ring.close()
                await app.state.ceilings.close()

    app = DocumentedApi(
        title="Sandbox Broker",
        version=VERSION,
        description="Hands pre-created cloud sandboxes to workshop students: exactly one each, at once.",
        lifespan=lifespan,
        dependencies=[Depends(admitted)],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a balancer it would name plain http, and the token would follow
        openapi_url="/v1/openapi.json" if settings.docs else None,
        telemetry=NO_TELEMETRY,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    waiting = Waiting()
    app.state.metrics_page = MetricsPage(metrics.registry, waiting)
    app.state.readiness = Readiness()
    app.state.guard = Guard(settings.process, table_name=settings.table_name)
    app.state.parts = None
    app.state.exit_code = 0
    app.state.peppers = Peppers(settings.peppers) if settings.peppers else None
    app.state.key_ring = KeyRing(app.state.peppers, tenant=settings.tenant, clock=clock, monotonic=monotonic)
    app.state.ceilings = TenantCeilings(monotonic=monotonic)
    _add_routes(app, settings)
    must_be_complete(app)
    _add_middleware(app, settings, metrics, waiting)
    app.add_exception_handler(BrokerError, on_broker_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_error)
    return app


def _add_routes(app: FastAPI, settings: ApiSettings) -> None:
    """They are looked through one after the other: first what classrooms ask, then what machines ask."""
    app.include_router(sandboxes.router)
    app.include_router(ops.router)
    app.include_router(holders.router)
    app.include_router(admin.router)
    app.include_router(jobs.router)
    app.include_router(operations.router)
    app.include_router(tenants.router)
    app.include_router(events.router)
    app.include_router(keys.router)
    if settings.meta:
        app.include_router(ops.meta)
    if settings.docs:
        app.include_router(ops.docs)


def _add_middleware(app: FastAPI, settings: ApiSettings, metrics: Metrics, waiting: Waiting) -> None:
    """The last one added is the outermost."""
    limits = RateLimits(
        per_student=settings.limit_per_student,
        per_credential=settings.limit_per_credential,
        per_address=settings.limit_per_address,
    )
    tokens = [
        (settings.api_token, Credential("bootstrap-track", settings.tenant, Role.TRACK)),
        (settings.admin_token, Credential("bootstrap-admin", settings.tenant, Role.ADMIN, platform=True)),
    ]
    authenticator = Authenticator((secret.get_secret_value(), credential) for secret, credential in tokens)
    app.add_middleware(Deadlines, timeout_s=settings.request_timeout_s)
    app.add_middleware(
        RateLimitMiddleware,
        authenticator=authenticator,
        key_ring=app.state.key_ring,
        limits=limits,
        ceilings=app.state.ceilings,
        metrics=metrics,
    )
    app.add_middleware(AdminAlias)
    app.add_middleware(InputLimits)
    app.add_middleware(Crashes)
    app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(RequestContext, metrics=metrics, readiness=app.state.readiness, waiting=waiting)
    if settings.traced:
        app.add_middleware(Traces)


async def _boot(app: FastAPI, settings: ApiSettings, boot: Boot, metrics: Metrics, stack: AsyncExitStack) -> None:
    """Open the store and build what stands on it; what cannot get better by waiting ends the process."""
    try:
        async with asyncio.timeout(boot.left_s(settings)) as limit:
            broker = await _opened(settings, boot, metrics, stack, app.state.guard)
    except ForeignTable as error:
        log.error("this table is not the broker's", extra={"why": str(error)})  # noqa: TRY400
        _give_up(app, exits.CONFIG)
        return
    except Exception:
        if limit.expired():
            boot.gave_up()
            _give_up(app, exits.UNAVAILABLE)
        else:
            log.exception("boot failed")
            _give_up(app, exits.CRASH)
        return
    boot.phase("parts")
    app.state.parts = parts_of(app, broker, metrics)
    app.state.key_ring.open(broker.keys)
    app.state.ceilings.open(broker.tenants)
    app.state.readiness.booted(broker.client, broker.modes)
    await stack.enter_async_context(broker.peers.beating())
    await boot.ready(settings, metrics, broker.boots)


def parts_of(app: FastAPI, broker: Broker, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> Parts:
    """What stands on the core, for the routes."""
    settings: ApiSettings = app.state.settings
    cursors = Cursors(settings.admin_token.get_secret_value())
    return Parts(
        broker=broker,
        inventory=Inventory(broker.sandboxes, broker.tenants, cursors),
        gauges=PoolGauges(broker.gauges, broker.tenants, metrics, tenant=settings.tenant),
        desk=JobDesk(broker.jobs, cursors, leaving=lambda: bool(app.state.readiness.draining)),
        key_desk=_key_desk(app, broker, cursors, clock),
        selector=Selector(broker.sandboxes, broker.tenants),
        dead_letters=DeadLetters(broker.jobs, broker.sandboxes),
        audit=Audit(broker.event_log, broker.tenants, broker.keys, cursors),
        tenant_desk=TenantDesk(broker.tenants, broker.sandboxes, cursors),
    )


def _key_desk(app: FastAPI, broker: Broker, cursors: Cursors, clock: Callable[[], float]) -> KeyDesk | None:
    if (peppers := app.state.peppers) is None:
        return None
    return KeyDesk(
        broker.keys,
        cursors,
        peppers,
        changed=app.state.key_ring.forget,
        default_tenant=app.state.settings.tenant,
        clock=clock,
    )


async def _opened(
    settings: ApiSettings, boot: Boot, metrics: Metrics, stack: AsyncExitStack, guard: Guard
) -> Broker:
    """The core over its store. An outage is waited out, for as long as a boot may take."""
    while True:
        try:
            return await stack.enter_async_context(
                open_broker(
                    settings,
                    metrics=metrics,
                    boot=boot,
                    lease_s=settings.lease_s,
                    max_extension_s=settings.max_extension_s,
                    max_per_holder=settings.max_per_holder,
                    guard=guard,
                )
            )
        except (StoreUnavailable, StoreThrottled) as error:
            boot.unavailable = str(error)
            log.warning("store not reachable yet, boot waits", extra={"why": str(error)})
            await asyncio.sleep(RETRY_BOOT_S)


def _give_up(app: FastAPI, exit_code: int) -> None:
    """End the process through the server's own door, so that it closes what is open."""
    app.state.exit_code = exit_code
    signal.raise_signal(signal.SIGTERM)


def main() -> int:
    """Run the API until a signal ends it; the exit code is the process's."""
    boot = Boot.of_process()
    boot.phase("settings")
    settings = begin(ApiSettings, module="app", what="The sandbox broker's HTTP API.")
    if isinstance(settings, int):
        return settings
    if not port_is_free(settings.host, settings.port, variable="API_PORT"):
        return exits.CRASH
    logs.configure("api", level=settings.log_level, secrets=settings.secrets())
    boot.phase("app")
    app = create_app(settings, boot)
    stop_tracing = start_tracing(settings, app.state.metrics)
    if isinstance(stop_tracing, int):
        return stop_tracing
    server = DrainingServer(config_of(app, settings), app.state.readiness, settings)
    collector.calm()
    server.run()
    stop_tracing(server.left_s())
    return int(app.state.exit_code)


if __name__ == "__main__":
    sys.exit(main())
