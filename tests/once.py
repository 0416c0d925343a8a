"""What a process of ours does once in its life, and a run of tests would do for each of its thousands of apps.

All of it is other people's code, and pure: AWS's models as read from disk, the certificates that TLS trusts, what
FastAPI finds out about a route. Each app and each client is still its own.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cache, wraps
from typing import Any

import aiobotocore.httpsession
import botocore.loaders
import botocore.session
import fastapi.routing
from fastapi import params


def share(*, aws: bool) -> None:
    """From now on in this process. Where no client is to reach AWS itself, none reads whom to trust."""
    botocore.session.create_loader = cache(botocore.loaders.create_loader)
    if not aws:
        aiobotocore.httpsession.get_cert_path = lambda _: None
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
