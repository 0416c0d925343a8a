"""Where a tenant's calls go, and with which secret: as the environment says, or as the tenant's item does.

A tenant's item never holds a secret, only where one is kept. What it may name in the worker's environment is
bounded, so that nobody has the worker send its other secrets to an address of his choice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aioboto3

from broker.settings import WorkerSettings
from broker.tenant import Provider, origin_of
from worker.provider.secrets import FileSource, GivenSource, ManagedSource, NoSource, Source

ENVIRONMENT: Final = "env:"
VARIABLES: Final = "CSP_API_TOKEN_"
_VARIABLE: Final = re.compile(rf"{VARIABLES}(?!(?:FILE|SECRET)$)[A-Z0-9_]{{1,64}}")
"""Not the two that say where the installation's own token is kept."""
_PLAIN_URL: Final = re.compile(
    r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[A-Za-z0-9._~/-]*)?"
)
_NOWHERE: Final = "https://unusable.invalid"
"""Never called: there is no secret to call it with."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A provider as one tenant reaches it."""

    base_url: str
    source: Source  # of the token
    variable: str  # what the token is called in logs
    host: str  # which provider it is
    origin: str | None  # the same as in Sandbox.provider: None for the installation's own
    own: bool = False  # whether the tenant brings it
    usable: bool = True  # whether it is known to be wrong, so that no call is ever made


def environments_own(settings: WorkerSettings, *, session: aioboto3.Session | None = None) -> Connection:
    """The settings have made sure that one of the three places of the token is set."""
    source: Source = GivenSource(settings.provider_token.get_secret_value())
    if settings.provider_token_file is not None:
        source = FileSource(settings.provider_token_file)
    elif settings.provider_token_managed is not None:
        source = ManagedSource(settings.provider_token_managed, region=settings.region, session=session)
    return Connection(settings.provider_url, source, "CSP_API_TOKEN", origin_of(settings.provider_url), None)


def connection_of(
    provider: Provider | None,
    settings: WorkerSettings,
    *,
    environment: Mapping[str, str],
    session: aioboto3.Session | None = None,
) -> Connection:
    """The connection that a tenant's item asks for. Where that is wrong each call fails, and says by name why."""
    if provider is None:
        return environments_own(settings, session=session)
    if why := unusable(provider.base_url, development=settings.development):
        source: Source = NoSource("BASE_URL_UNUSABLE", f"the tenant's base_url {why}")
        return Connection(_NOWHERE, source, "the tenant's connection", "", None, own=True, usable=False)
    source = _source_of(provider.secret, environment, region=settings.region, session=session)
    host = provider.origin
    origin = None if host == origin_of(settings.provider_url) else host
    usable = not isinstance(source, NoSource)
    return Connection(provider.base_url, source, "the tenant's secret", host, origin, own=True, usable=usable)


def unusable(base_url: str, *, development: bool) -> str | None:
    """Why nobody may be called under this address; None where he may. The text never holds the address."""
    try:
        url = urlsplit(base_url)
        _ = url.port
    except ValueError:
        return "is no URL"
    if url.scheme not in ("http", "https"):
        return "must begin with https://"
    if url.scheme == "http" and not development:
        return "is plain http: use https"
    if url.username is not None or url.password is not None:
        return "must hold neither user nor password"
    if "?" in base_url or "#" in base_url:
        return "must hold neither query nor fragment"
    return None if _PLAIN_URL.fullmatch(base_url) else "must be a plain URL such as https://host/path"


def _source_of(
    reference: str, environment: Mapping[str, str], *, region: str, session: aioboto3.Session | None
) -> Source:
    """Errors name no reference but a variable that may be named: somebody may have put the secret itself there."""
    if not reference.startswith(ENVIRONMENT):
        return ManagedSource(reference, region=region, session=session)
    name = reference.removeprefix(ENVIRONMENT)
    if not _VARIABLE.fullmatch(name):
        return NoSource("SECRET_REFUSED", f"env: may name a variable that begins with {VARIABLES} and no other")
    if not (value := environment.get(name)):
        return NoSource("SECRET_UNREADABLE", f"{name} is not set in the worker's environment")
    return GivenSource(value, place=reference)
