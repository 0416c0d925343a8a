"""What a process of ours does once in its life, and a run of tests would do for each of its thousands of apps.

All of it is other people's code, and pure: AWS's models as read from disk, the certificates that TLS trusts, what
FastAPI finds out about a route. Each app and each client is still its own.
"""

import os
from collections.abc import Callable, Hashable, Sequence
from functools import cache, wraps
from typing import Any

import aiobotocore.httpsession
import botocore.loaders
import botocore.session
import fastapi.routing
import httpx._transports.default
from fastapi import params


def share(*, aws: bool) -> None:
    """From now on in this process. Where no client is to reach AWS itself, none reads whom to trust."""
    botocore.session.create_loader = cache(botocore.loaders.create_loader)
    if not aws:
        aiobotocore.httpsession.get_cert_path = lambda _: None
    httpx._transports.default.create_ssl_context = _of_one_trust(httpx._transports.default.create_ssl_context)
    fastapi.routing.create_model_field = _remembered(fastapi.routing.create_model_field)
    fastapi.routing._build_dependant_with_parameterless_dependencies = _of_one_endpoint(
        fastapi.routing._build_dependant_with_parameterless_dependencies
    )


def _remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, called once for the same named arguments, where they can be compared."""
    made: dict[Hashable, Any] = {}

    @wraps(make)
    def remembered(**arguments: Any) -> Any:
        key = tuple(arguments.items())
        try:
            if key not in made:
                made[key] = make(**arguments)
        except TypeError:  # not hashable
            return make(**arguments)
        return made[key]

    return remembered


def _of_one_trust(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, called once for the same arguments and the same certificates named by the environment."""

    @cache
    def made(_: tuple[str | None, ...], arguments: tuple[tuple[str, Any], ...]) -> Any:
        return make(**dict(arguments))

    @wraps(make)
    def remembered(**arguments: Any) -> Any:
        named = tuple(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
        return made(named, tuple(arguments.items()))

    return remembered


def _of_one_endpoint(build: Callable[..., Any]) -> Callable[..., Any]:
    """`build`, called once for the same path, endpoint and dependencies of the router."""
    built: dict[Hashable, Any] = {}

    @wraps(build)
    def remembered(*, path: str, call: Callable[..., Any], dependencies: Sequence[params.Depends]) -> Any:
        asked = tuple((one.dependency, one.use_cache, one.scope, one.max_concurrency) for one in dependencies)
        key = (path, call, asked)
        if key not in built:
            built[key] = build(path=path, call=call, dependencies=dependencies)
        return built[key]

    return remembered
