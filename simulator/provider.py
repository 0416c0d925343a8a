"""The provider's own routes, as its clients see them."""

import asyncio
import hmac

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.accounts import Account
from simulator.answers import ERROR_HANDLERS, refusal, whole_parameter
from simulator.garbage import DELETIONS, LISTS, LOGIN, Sender
from simulator.inventory import Inventory
from simulator.journal import Journaling
from simulator.kinds import DeleteGarbage, Fault
from simulator.lies import page_number, positions
from simulator.mishaps import answer, page_for_people
from simulator.simulation import Simulation

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_OFFSET = 10**9


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
        page = page_number(simulation.faults, offset=offset, limit=limit)
        latency_s, fault = simulation.plan_list(page=page)
        await simulation.pause(latency_s)
        faults = simulation.faults
        if fault is not None:
            return answer(fault, faults=faults, pause=simulation.pause)
        listing = simulation.inventory.listing(
            now=simulation.clock(), lag_s=faults.listing_lag_s, hidden=faults.hidden_accounts
        )
        shown = positions(faults, total=len(listing), offset=offset, limit=limit)
        entries = [listing[position].listed() for position in shown]
        return LISTS[faults.list_garbage](Sender(entries, faults, simulation.pause))

    async def log_in(self, _: Request) -> Response:
        """Where a redirect leads: a page for people, that a client has no business with."""
        return page_for_people(200)

    async def delete_account(self, request: Request) -> Response:
        """Delete in a task of its own: as at the real provider, it happens also when the caller hangs up."""
        inventory, load = self._simulation.inventory, self._simulation.load
        account = inventory.request_delete(request.path_params["uuid"])
        latency_s, fault = self._simulation.plan_delete(account)
        deletion = asyncio.create_task(self._delete(inventory, account, latency_s, fault))
        self._deletions.add(deletion)
        deletion.add_done_callback(self._deletions.discard)
        deletion.add_done_callback(lambda _: load.leave())
        return await asyncio.shield(deletion)

    async def _delete(
        self, inventory: Inventory, account: Account | None, latency_s: float, fault: Fault | None
    ) -> Response:
        """Wait, then decide: of two deletions of one account, the one that ends first did it."""
        simulation = self._simulation
        if account is not None and account.deletable:
            await simulation.pause(latency_s)
        faults = simulation.faults
        if fault is not None and not faults.deletes_behind(fault):
            return answer(fault, faults=faults, pause=simulation.pause)
        if fault is None and faults.delete_garbage is not DeleteGarbage.NONE:
            return DELETIONS[faults.delete_garbage](Sender([], faults, simulation.pause))
        deleted = account is not None and inventory.delete(account.csp_id, now=simulation.clock())
        if fault is not None:
            return answer(fault, faults=faults, pause=simulation.pause)
        return Response(status_code=204) if deleted else refusal(404, "Account not found.")


def create_provider(simulation: Simulation) -> Starlette:
    provider = Provider(simulation)
    app = Starlette(
        routes=[
            Route("/current_user/accounts", provider.list_accounts, methods=["GET"]),
            Route(LOGIN, provider.log_in, methods=["GET"]),
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
