"""The provider's door: builds everything that speaks to the provider, and closes it."""

import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import httpx

from broker.metrics import Metrics
from broker.settings import WorkerSettings
from worker.provider.calls import Calls, http_client
from worker.provider.client import ProviderClient, ProviderLimits
from worker.provider.connection import Connection, environments_own
from worker.provider.gates import Gates, gates_of
from worker.provider.secrets import FileSource, GivenSource, ManagedSource, Secret, Source
from worker.provider.services import Services

SPARE_CONNECTIONS: Final = 4
"""Beyond the deletions: for listings, and for one that is being closed."""


@dataclass(frozen=True, slots=True)
class Door:
    """What a tenant's jobs call. `services` is None where NIOSXAAS_ENABLED is not set, or the provider another."""

    client: ProviderClient
    services: Services | None
    connection: Connection

    def leads_to(self, provider: str | None) -> bool:
        """Whether accounts of this provider may be deleted here. Where no call can be made each says so itself."""
        return provider in (self.connection.origin, self.connection.host) or not self.connection.usable


@asynccontextmanager
async def open_provider(
    settings: WorkerSettings,
    metrics: Metrics,
    *,
    connection: Connection | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    verify: ssl.SSLContext | bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Door]:
    """The door for one tenant, `settings.tenant`. Makes no call by itself.

    Args:
        connection: another provider than the installation's own.
        transport: another way out than the network.
        verify: the certificates to believe, where several doors share them: each set is a megabyte.
    """
    connection = connection or environments_own(settings)
    gates = gates_of(settings, metrics, clock=clock)
    most = settings.clean_concurrency + SPARE_CONNECTIONS
    async with AsyncExitStack() as stack:

        async def connected(url: str) -> httpx.AsyncClient:
            http = http_client(url, connections=most, transport=transport, verify=verify)
            return await stack.enter_async_context(http)

        client = client_of(settings, metrics, await connected(connection.base_url), gates, connection)
        services = None
        if settings.services_enabled and not connection.own:
            services_http = await connected(settings.services_url or settings.provider_url)
            services = services_of(settings, metrics, services_http, gates)
        yield Door(client, services, connection)


def client_of(
    settings: WorkerSettings, metrics: Metrics, http: httpx.AsyncClient, gates: Gates, connection: Connection
) -> ProviderClient:
    return ProviderClient(
        Calls(http, metrics, tenant=settings.tenant),
        token=Secret(
            connection.source,
            variable=connection.variable,
            for_header=True,
            metrics=metrics,
            tenant=settings.tenant if connection.own else None,
        ),
        limits=ProviderLimits(
            page_size=settings.page_size,
            read_timeout_s=settings.read_timeout_s,
            read_attempts=settings.read_attempts,
            delete_timeout_s=settings.delete_timeout_s,
            max_body_bytes=settings.max_body_bytes,
        ),
        gates=gates,
        metrics=metrics,
        connection=_name_of(connection),
    )


def _name_of(connection: Connection) -> str:
    """The same for as long as address and place of the secret are: a new value in that place changes nothing.

    A digest, as somebody may have put the secret itself where its name belongs.
    """
    told = f"{connection.base_url.rstrip('/')} {connection.source.place}"
    return blake2b(told.encode(), digest_size=8).hexdigest()


def services_of(settings: WorkerSettings, metrics: Metrics, http: httpx.AsyncClient, gates: Gates) -> Services:
    return Services(
        Calls(http, metrics, tenant=settings.tenant),
        email=settings.services_email,
        password=Secret(_password_of(settings), variable="NIOSXAAS_PASSWORD", for_header=False, metrics=metrics),
        prefix=settings.services_prefix,
        shadow=settings.services_shadow,
        timeout_s=settings.services_timeout_s,
        max_body_bytes=settings.max_body_bytes,
        breaker=gates.services,
        metrics=metrics,
    )


def _password_of(settings: WorkerSettings) -> Source:
    """The settings have made sure that one of the three is set."""
    if settings.services_password_file is not None:
        return FileSource(settings.services_password_file)
    if settings.services_password_managed is not None:
        return ManagedSource(settings.services_password_managed, region=settings.region)
    return GivenSource(settings.services_password.get_secret_value())
