"""The control routes under /_simulator: for whoever runs the simulator, from the same machine only."""

import ipaddress
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.accounts import Account
from simulator.answers import ERROR_HANDLERS, json_body, refusal, whole_parameter
from simulator.faults import CSP_ID, NAME
from simulator.fields import InvalidInput, read, text, whole
from simulator.simulation import Simulation
from simulator.storm import Storm

MOST_ADDED = 100_000
WORD = text(50)


class LoopbackOnly:
    """ASGI middleware: 403 for a caller on another machine; these routes ask for no token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_loopback((scope.get("client") or ("",))[0]):
            await self._app(scope, receive, send)
        else:
            await refusal(403, "The control routes answer on loopback only.")(scope, receive, send)


def is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


class Control:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    async def show_faults(self, _: Request) -> Response:
        return JSONResponse(self._simulation.shown_faults())

    async def change_faults(self, request: Request) -> Response:
        changes = await json_body(request)
        self._simulation.faults = self._simulation.faults.changed(changes)
        return JSONResponse(self._simulation.shown_faults())

    async def begin_storm(self, request: Request) -> Response:
        """In place of any other; 0 seconds end it."""
        self._simulation.storm = Storm.read(await json_body(request), now=self._simulation.clock())
        return JSONResponse(self._simulation.shown_faults())

    async def show_accounts(self, _: Request) -> Response:
        return _accounts(list(self._simulation.inventory))

    async def add_accounts(self, request: Request) -> Response:
        """`{"count": n}` more sandboxes, or one account by `name`; csp_id, account_type, state if given."""
        document = await json_body(request)
        inventory, now = self._simulation.inventory, self._simulation.clock()
        if isinstance(document, dict) and "count" in document:
            wanted = read(document, {"count": whole(1, MOST_ADDED)})
            return _accounts([inventory.add(now=now) for _ in range(wanted["count"])], status=201)
        wish = read(document, {"name": NAME, "csp_id": CSP_ID, "account_type": WORD, "state": WORD})
        if "name" not in wish:
            raise InvalidInput(["one of count and name is required"])
        return _accounts([inventory.add(now=now, **wish)], status=201)

    async def change_account(self, request: Request) -> Response:
        changes = read(await json_body(request), {"name": NAME, "state": WORD})
        if not changes:
            raise InvalidInput(["one of name and state is required"])
        account = self._simulation.inventory.change(request.path_params["csp_id"], **changes)
        if account is None:
            return refusal(404, "Account not found.")
        return JSONResponse(account.inspected())

    async def show_services(self, request: Request) -> Response:
        """Of one account by `csp_id`, else of all: deleted ones included."""
        inventory = self._simulation.inventory
        accounts: Iterable[Account | None] = inventory
        if "csp_id" in request.query_params:
            accounts = [inventory.account(whole_parameter(request, "csp_id", default=0, low=1, high=2**53))]
        results = []
        for account in accounts:
            if account is None:
                return refusal(404, "Account not found.")
            results += [asdict(service) for service in self._simulation.services_of(account)]
        return JSONResponse({"results": results})

    async def add_service(self, request: Request) -> Response:
        wish = read(await json_body(request), {"csp_id": CSP_ID, "name": NAME})
        missing = [f"{name} is required" for name in ("csp_id", "name") if name not in wish]
        if missing:
            raise InvalidInput(missing)
        account = self._simulation.inventory.account(wish["csp_id"])
        if account is None:
            return refusal(404, "Account not found.")
        service = self._simulation.services.add(account, name=wish["name"])
        return JSONResponse({"results": [asdict(service)]}, status_code=201)

    async def show_journal(self, request: Request) -> Response:
        journal = self._simulation.journal
        seq = whole_parameter(request, "since", default=0, low=0, high=2**53)
        return JSONResponse(
            {"results": [asdict(call) for call in journal.since(seq)], "last_seq": journal.last_seq}
        )

    async def reset(self, _: Request) -> Response:
        self._simulation.reset()
        return Response(status_code=204)


def _accounts(accounts: list[Account], *, status: int = 200) -> Response:
    results: list[dict[str, Any]] = [account.inspected() for account in accounts]
    return JSONResponse({"results": results}, status_code=status)


def create_control(simulation: Simulation) -> Starlette:
    control = Control(simulation)
    app = Starlette(
        routes=[
            Route("/faults", control.show_faults, methods=["GET"]),
            Route("/faults", control.change_faults, methods=["PATCH"]),
            Route("/storm", control.begin_storm, methods=["POST"]),
            Route("/accounts", control.show_accounts, methods=["GET"]),
            Route("/accounts", control.add_accounts, methods=["POST"]),
            Route("/accounts/{csp_id:int}", control.change_account, methods=["PATCH"]),
            Route("/services", control.show_services, methods=["GET"]),
            Route("/services", control.add_service, methods=["POST"]),
            Route("/journal", control.show_journal, methods=["GET"]),
            Route("/reset", control.reset, methods=["POST"]),
        ],
        middleware=[Middleware(LoopbackOnly)],
        exception_handlers=ERROR_HANDLERS,
    )
    app.router.redirect_slashes = False
    return app
