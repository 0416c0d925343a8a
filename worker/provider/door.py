"""The provider's door: builds everything that speaks to the provider, and closes it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import SecretStr

from broker.metrics import Metrics
from broker.settings import WorkerSettings
from worker.provider.calls import Calls, http_client
from worker.provider.client import ProviderClient, ProviderLimits
from worker.provider.gates import Gates, gates_of
from worker.provider.secrets import FileSource, GivenSource, ManagedSource, Secret, Source
from worker.provider.services import Services

SPARE_CONNECTIONS: Final = 4
"""Beyond the deletions: for listings, and for one that is being closed."""


@dataclass(frozen=True, slots=True)
class Door:
    """What the worker's jobs call. `services` is None where NIOSXAAS_ENABLED is not set."""

    client: ProviderClient
    services: Services | None


@asynccontextmanager
async def open_provider(
    settings: WorkerSettings,
    metrics: Metrics,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Door]:
    """The door for one tenant. Makes no call by itself; `transport` is another way out than the network."""
    gates = gates_of(settings, metrics, clock=clock)
    connections = settings.clean_concurrency + SPARE_CONNECTIONS
    services_url = settings.services_url or settings.provider_url
    async with (
        http_client(settings.provider_url, connections=connections, transport=transport) as http,
        http_client(services_url, connections=connections, transport=transport) as services_http,
    ):
        client = client_of(settings, metrics, http, gates)
        services = services_of(settings, metrics, services_http, gates) if settings.services_enabled else None
        yield Door(client, services)


def client_of(settings: WorkerSettings, metrics: Metrics, http: httpx.AsyncClient, gates: Gates) -> ProviderClient:
    return ProviderClient(
        Calls(http, metrics),
        token=_secret(
            "CSP_API_TOKEN",
            settings.provider_token,
            file=settings.provider_token_file,
            managed=settings.provider_token_managed,
            region=settings.region,
            for_header=True,
            metrics=metrics,
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
    )


def services_of(settings: WorkerSettings, metrics: Metrics, http: httpx.AsyncClient, gates: Gates) -> Services:
    return Services(
        Calls(http, metrics),
        email=settings.services_email,
        password=_secret(
            "NIOSXAAS_PASSWORD",
            settings.services_password,
            file=settings.services_password_file,
            managed=settings.services_password_managed,
            region=settings.region,
            for_header=False,
            metrics=metrics,
        ),
        prefix=settings.services_prefix,
        shadow=settings.services_shadow,
        timeout_s=settings.services_timeout_s,
        max_body_bytes=settings.max_body_bytes,
        breaker=gates.services,
        metrics=metrics,
    )


def _secret(
    variable: str,
    given: SecretStr,
    *,
    file: str | None,
    managed: str | None,
    region: str,
    for_header: bool,
    metrics: Metrics,
) -> Secret:
    """The settings have made sure that one of the three is set."""
    source: Source = GivenSource(given.get_secret_value())
    if file is not None:
        source = FileSource(file)
    elif managed is not None:
        source = ManagedSource(managed, region=region)
    return Secret(source, variable=variable, for_header=for_header, metrics=metrics)
