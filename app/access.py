"""Who may call what: one table of every route and its role. What is not in it is closed to everybody."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from app.auth import Credential
from broker.errors import BrokerError, InvalidInput, PlatformOnly, RoleMissing, Unauthenticated
from broker.role import IMPLIED, Role


@dataclass(frozen=True, slots=True)
class Access:
    """Whom a route lets in: a role, or anybody. `platform`: only those of the default tenant.

    `any_tenant`: operators and admins of the default tenant may name another one by `?tenant=`. Where it is not
    written down, nobody may.
    """

    role: Role | None
    platform: bool = False
    any_tenant: bool = False


PUBLIC: Final = Access(None)
TRACK: Final = Access(Role.TRACK)
VIEWER: Final = Access(Role.VIEWER)
OPERATOR: Final = Access(Role.OPERATOR)
ADMIN: Final = Access(Role.ADMIN)
VIEWER_OF_ANY: Final = Access(Role.VIEWER, any_tenant=True)
ADMIN_OF_ANY: Final = Access(Role.ADMIN, any_tenant=True)
PLATFORM_OPERATOR: Final = Access(Role.OPERATOR, platform=True)
PLATFORM_ADMIN: Final = Access(Role.ADMIN, platform=True)

ROUTES: Final[Mapping[tuple[str, str], Access]] = {
    ("POST", "/v1/allocate"): TRACK,
    ("GET", "/v1/sandboxes/{sandbox_id}"): TRACK,
    ("POST", "/v1/sandboxes/{sandbox_id}/mark-for-deletion"): TRACK,
    ("POST", "/v1/sandboxes/{sandbox_id}/extend"): TRACK,
    ("POST", "/v1/sandboxes/{sandbox_id}/heartbeat"): TRACK,
    ("GET", "/v1/admin/sandboxes"): VIEWER_OF_ANY,
    ("GET", "/v1/admin/stats"): VIEWER_OF_ANY,
    ("GET", "/v1/admin/reconciliation"): VIEWER_OF_ANY,
    ("GET", "/v1/admin/worker"): VIEWER_OF_ANY,
    ("POST", "/v1/admin/sync"): OPERATOR,
    ("POST", "/v1/admin/cleanup"): OPERATOR,
    ("POST", "/v1/admin/bulk-delete"): OPERATOR,
    ("POST", "/v1/admin/bulk/{move}"): OPERATOR,
    ("GET", "/v1/admin/jobs"): VIEWER_OF_ANY,
    ("GET", "/v1/admin/jobs/{job_id}"): VIEWER_OF_ANY,
    ("POST", "/v1/admin/jobs/{job_id}/cancel"): OPERATOR,
    ("POST", "/v1/admin/jobs/{job_id}/requeue"): OPERATOR,
    ("GET", "/v1/admin/dead-letters"): VIEWER_OF_ANY,
    ("GET", "/v1/admin/events"): VIEWER_OF_ANY,
    ("GET", "/v1/admin/sandboxes/{sandbox_id}"): VIEWER_OF_ANY,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/quarantine"): OPERATOR,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/reinstate"): OPERATOR,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/discard"): OPERATOR,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/force-release"): OPERATOR,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/retry"): OPERATOR,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/abandon"): OPERATOR,
    ("GET", "/v1/admin/mode"): VIEWER,
    ("POST", "/v1/admin/mode"): PLATFORM_OPERATOR,
    ("GET", "/v1/admin/tenants"): PLATFORM_OPERATOR,
    ("POST", "/v1/admin/tenants"): PLATFORM_ADMIN,
    ("GET", "/v1/admin/tenants/{tenant}"): VIEWER,
    ("PATCH", "/v1/admin/tenants/{tenant}"): PLATFORM_ADMIN,
    ("POST", "/v1/admin/tenants/{tenant}/drain"): PLATFORM_OPERATOR,
    ("POST", "/v1/admin/tenants/{tenant}/resume"): PLATFORM_OPERATOR,
    ("GET", "/v1/admin/pools"): VIEWER_OF_ANY,
    ("POST", "/v1/admin/pools"): OPERATOR,
    ("GET", "/v1/admin/keys"): ADMIN_OF_ANY,
    ("POST", "/v1/admin/keys"): ADMIN_OF_ANY,
    ("GET", "/v1/admin/keys/{key_id}"): ADMIN_OF_ANY,
    ("POST", "/v1/admin/keys/{key_id}/rotate"): ADMIN_OF_ANY,
    ("POST", "/v1/admin/keys/{key_id}/revoke"): ADMIN_OF_ANY,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/v1/meta"): PUBLIC,
    ("GET", "/v1/openapi.json"): PUBLIC,
    ("HEAD", "/v1/openapi.json"): PUBLIC,
    ("GET", "/v1/docs"): PUBLIC,
    ("GET", "/v1/docs/start.js"): PUBLIC,
    ("GET", "/v1/docs/{name}"): PUBLIC,
}

TENANT: Final = "tenant"
"""The parameter by which another tenant is named."""


async def admitted(request: Request) -> None:
    """The one check, before anything else of a route: a dependency of the whole app.

    Raises:
        Unauthenticated: no token, or an unknown one.
        StoreUnavailable: an API key that cannot be looked up.
        RoleMissing: a token of another role; or nobody wrote down who may call it, and nobody may.
        PlatformOnly: of that role, in another tenant; or it names another one, whether there is such a one or not.
        InvalidInput: it names a tenant, or anything else, that the route does not take; or one thing twice.
    """
    access = ROUTES.get((request.method, request.scope["route"].path))
    if access is not None and access.role is None:
        return
    state = request.scope["state"]
    failure: BrokerError | None = state.get("credential_failure")
    if failure is not None:
        raise failure
    credential: Credential | None = state.get("credential")
    if credential is None:
        raise Unauthenticated
    if access is None or access.role is None:
        raise RoleMissing(needed="nobody", held=credential.role)
    if access.role not in IMPLIED[credential.role]:
        raise RoleMissing(needed=access.role, held=credential.role)
    if access.platform and not credential.platform:
        raise PlatformOnly
    if access.role is not Role.TRACK:
        _knows_its_query(request)
    if access.any_tenant and not credential.platform:
        _names_its_own(request, credential)
    if access.role is not Role.TRACK:
        _says_each_once(request)


def _knows_its_query(request: Request) -> None:
    """An operator's misspelled filter, or another tenant's name where none is taken, must not seem to have worked.

    Scripts of tracks in the field may send what they like.

    Raises:
        InvalidInput: the route takes no such parameter.
    """
    known = set(_query_of(request.scope["route"].dependant))
    if unknown := sorted(set(request.query_params) - known):
        takes = ", ".join(sorted(known)) or "none"
        raise InvalidInput(f"query.{unknown[0]}", f"is not a parameter of this route; it takes {takes}")


def _says_each_once(request: Request) -> None:
    """Of two, one would be taken and the other seem to have worked. No route takes a list.

    Raises:
        InvalidInput: a parameter comes twice.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInput(f"query.{twice[0]}", "comes more than once; say it once")


def _names_its_own(request: Request, credential: Credential) -> None:
    """Before anything is read, so that no answer tells which tenants there are.

    Raises:
        PlatformOnly: it names another tenant.
    """
    if set(request.query_params.getlist(TENANT)) - {credential.tenant}:
        raise PlatformOnly("What is another tenant's is")


def _query_of(dependant: Dependant) -> Iterator[str]:
    """The names of what a route takes in its query, those of its dependencies included."""
    for parameter in dependant.query_params:
        yield parameter.alias
    for inner in dependant.dependencies:
        yield from _query_of(inner)


async def caller_of(request: Request) -> Credential:
    """Hands the credential over; `admitted` has let it in.

    Raises:
        Unauthenticated: on a route that is open to everybody, nobody is known.
    """
    credential: Credential | None = request.scope["state"].get("credential")
    if credential is None:
        raise Unauthenticated
    return credential


def routes_of(app: FastAPI) -> dict[tuple[str, str], bool]:
    """Every method and path that the app answers, however added, and whether `admitted` stands before it."""
    found: dict[tuple[str, str], bool] = {}
    for context in iter_route_contexts(app.routes):
        for method in context.methods or {"ANY"}:
            route = (method, context.path or "?")
            found[route] = found.get(route, True) and _is_guarded(context)
    return found


def _names_tenants(context: RouteContext) -> bool:
    """Whether the route takes the name of a tenant in its query."""
    return isinstance(context.original_route, APIRoute) and TENANT in _query_of(context.dependant)


def _is_guarded(context: RouteContext) -> bool:
    if not isinstance(context.original_route, APIRoute):
        return False  # a plain route or a mounted app has no dependencies
    return any(dependency.call is admitted for dependency in context.dependant.dependencies)


def must_be_complete(app: FastAPI) -> None:
    """Refuse to start with a route that nobody may call, or that nobody guards; or that takes a tenant's name
    though the table does not say so, or does not take it though it does.

    Raises:
        LookupError: names them.
    """
    routes = routes_of(app)
    if nameless := [" ".join(route) for route in routes if route not in ROUTES]:
        raise LookupError(f"no role is written down in app/access.py for: {', '.join(sorted(nameless))}")
    open_ = [" ".join(route) for route, guarded in routes.items() if not guarded and ROUTES[route] != PUBLIC]
    if open_:
        raise LookupError(f"added in a way that no check stands before them: {', '.join(sorted(open_))}")
    for context in iter_route_contexts(app.routes):
        for method in context.methods or ():
            if ROUTES[method, context.path or "?"].any_tenant != _names_tenants(context):
                raise LookupError(f"`tenant`: app/access.py and the code differ for {method} {context.path}")
