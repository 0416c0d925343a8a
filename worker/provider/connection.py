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
from broker.tenant import OWN_SETTINGS, SETTING_NAMED, Provider, is_host, origin_of
from worker.provider.errors import is_refused_credential
from worker.provider.secrets import FileSource, GivenSource, ManagedSource, NoSource, Source

ENVIRONMENT: Final = "env:"
VARIABLES: Final = "CSP_API_TOKEN_"
_VARIABLE: Final = re.compile(rf"{VARIABLES}[A-Z0-9_]{{1,100}}")
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
    rotate: str = ""  # what to do where the provider refuses the token

    def todo(self, kind: str, tenant: str) -> str:
        """What somebody has to do about an error of this kind."""
        if kind in ("HTTP_401", "HTTP_403"):
            return self.rotate
        if not self.own:
            return "see docs/runbooks/provider-down.md; it is tried again by itself"
        mend = f"sandbox-broker tenants show {tenant}, then tenants set {tenant}"
        if is_refused_credential(kind):
            return f"mend the tenant's own connection: {mend}"
        return f"is its address right? {mend}; it is tried again by itself"


def environments_own(settings: WorkerSettings, *, session: aioboto3.Session | None = None) -> Connection:
    """The settings have made sure that one of the three places of the token is set."""
    source: Source = GivenSource(settings.provider_token.get_secret_value())
    rotate = _given("CSP_API_TOKEN")
    if settings.provider_token_file is not None:
        source = FileSource(settings.provider_token_file)
        rotate = "rotate what lies in the file that CSP_API_TOKEN_FILE names"
    elif settings.provider_token_managed is not None:
        source = ManagedSource(settings.provider_token_managed, region=settings.region, session=session)
        rotate = "rotate what CSP_API_TOKEN_SECRET names in Secrets Manager"
    host = origin_of(settings.provider_url)
    return Connection(settings.provider_url, source, "CSP_API_TOKEN", host, None, rotate=rotate)


def _given(variable: str) -> str:
    return f"rotate {variable} in the workers' environment, and restart them"


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
    # Only said after the provider had a token, so that what is named is a name: see _source_of().
    kept = provider.secret
    rotate = f"rotate {kept} in Secrets Manager"
    if kept.startswith(ENVIRONMENT):
        rotate = _given(kept.removeprefix(ENVIRONMENT))
    own = "the tenant's secret"
    return Connection(provider.base_url, source, own, host, origin, own=True, usable=usable, rotate=rotate)


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
    if not _PLAIN_URL.fullmatch(base_url):
        return "must be a plain URL such as https://host/path"
    return None if is_host(url.hostname or "") else "names no host that can be called"


def _source_of(
    reference: str, environment: Mapping[str, str], *, region: str, session: aioboto3.Session | None
) -> Source:
    """Errors name no reference but a variable that may be named: somebody may have put the secret itself there."""
    if not reference.startswith(ENVIRONMENT):
        return ManagedSource(reference, region=region, session=session)
    name = reference.removeprefix(ENVIRONMENT)
    if name in OWN_SETTINGS:
        return NoSource("SECRET_REFUSED", f"env:{name} {SETTING_NAMED}")
    if not _VARIABLE.fullmatch(name):
        return NoSource("SECRET_REFUSED", f"env: may name a variable that begins with {VARIABLES} and no other")
    if not (value := environment.get(name)):
        return NoSource("SECRET_UNREADABLE", f"{name} is not set in the worker's environment")
    return GivenSource(value, place=reference)
