"""The provider's own routes, as its clients see them."""

import asyncio
import hmac
from collections.abc import Callable
from functools import partial

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.accounts import Account
from simulator.answers import ERROR_HANDLERS, refusal, whole_parameter
from simulator.faults import Fault
from simulator.inventory import Inventory
from simulator.journal import Journaling
from simulator.simulation import Simulation

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_OFFSET = 10**9

BAD_GATEWAY_PAGE = """<html><head><title>502 Bad Gateway</title></head>
<body><center><h1>502 Bad Gateway</h1></center><hr><center>nginx</center></body></html>
"""
ANSWERS: dict[Fault, Callable[[], Response]] = {
    Fault.SERVER_ERROR: partial(refusal, 500, "Internal server error."),
    Fault.HTML: partial(HTMLResponse, BAD_GATEWAY_PAGE, status_code=502),
}


class TokenGate:
    """ASGI middleware: 401 without `Authorization: Token <token>`."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._expected = f"Token {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
        else:
            answer = refusal(401, "Invalid token.", headers={"WWW-Authenticate": "Token"})
            await answer(scope, receive, send)


class Provider:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._deletions: set[asyncio.Task[Response]] = set()

    async def list_accounts(self, request: Request) -> Response:
        """One page, as of the end of the listing's latency."""
        limit = whole_parameter(request, "_limit", default=DEFAULT_LIMIT, low=1, high=MAX_LIMIT)
        offset = whole_parameter(request, "_offset", default=0, low=0, high=MAX_OFFSET)
        simulation = self._simulation
        latency_s, fault = simulation.plan_list()
        await simulation.pause(latency_s)
        if fault is not None:
            return ANSWERS[fault]()
        page = simulation.inventory.page(
            offset=offset,
            limit=limit,
            now=simulation.clock(),
            lag_s=simulation.faults.listing_lag_s,
            hidden=simulation.faults.hidden_accounts,
        )
        return JSONResponse({"results": [account.listed() for account in page]})

    async def delete_account(self, request: Request) -> Response:
        """Delete in a task of its own: as at the real provider, it happens also when the caller hangs up."""
        inventory = self._simulation.inventory
        account = inventory.request_delete(request.path_params["uuid"])
        latency_s, fault = self._simulation.plan_delete(account)
        deletion = asyncio.create_task(self._delete(inventory, account, latency_s, fault))
        self._deletions.add(deletion)
        deletion.add_done_callback(self._deletions.discard)
        return await asyncio.shield(deletion)

    async def _delete(
        self, inventory: Inventory, account: Account | None, latency_s: float, fault: Fault | None
    ) -> Response:
        """Wait, then decide: of two deletions of one account, the one that ends first did it."""
        if account is not None and account.deletable:
            await self._simulation.pause(latency_s)
        if fault is not None:
            return ANSWERS[fault]()
        if account is None or not inventory.delete(account.csp_id, now=self._simulation.clock()):
            return refusal(404, "Account not found.")
        return Response(status_code=204)


def create_provider(simulation: Simulation) -> Starlette:
    provider = Provider(simulation)
    app = Starlette(
        routes=[
            Route("/current_user/accounts", provider.list_accounts, methods=["GET"]),
            Route("/sandbox/accounts/{uuid}", provider.delete_account, methods=["DELETE"]),
        ],
        middleware=[
            Middleware(Journaling, journal=lambda: simulation.journal, clock=simulation.clock),
            Middleware(TokenGate, token=simulation.settings.token),
        ],
        exception_handlers=ERROR_HANDLERS,
    )
    app.router.redirect_slashes = False
    return app
