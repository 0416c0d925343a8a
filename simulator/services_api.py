"""The provider's routes for what runs inside an account: sign in, switch to it, list and delete services."""

import hmac

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.accounts import Account
from simulator.answers import ERROR_HANDLERS, json_body, refusal
from simulator.fields import read, text
from simulator.journal import Journaling
from simulator.mishaps import answer
from simulator.sessions import Session
from simulator.simulation import Simulation

CREDENTIAL = text(1000)


class Faulty:
    """ASGI middleware: the faults of service calls, before anything is read of them."""

    def __init__(self, app: ASGIApp, *, simulation: Simulation) -> None:
        self._app = app
        self._simulation = simulation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        simulation = self._simulation
        fault = simulation.plan_services()
        serve: ASGIApp = self._app
        if fault is not None:
            serve = answer(fault, faults=simulation.faults, pause=simulation.pause)
        await serve(scope, receive, send)


class InSandbox:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    async def sign_in(self, request: Request) -> Response:
        given = read(await json_body(request), {"email": CREDENTIAL, "password": CREDENTIAL})
        settings = self._simulation.settings
        right = [_same(given.get("email", ""), settings.services_email)]
        right += [_same(given.get("password", ""), settings.services_password)]
        if not all(right) or self._simulation.faults.sign_in_rejects:
            return refusal(401, "Invalid email or password.")
        return JSONResponse({"jwt": self._simulation.sessions.begin(Session(csp_id=None))})

    async def switch_account(self, request: Request) -> Response:
        """A further token, for one account: `{"id": "identity/accounts/<uuid>"}`."""
        self._session(request)
        wanted = read(await json_body(request), {"id": text(500)}).get("id", "")
        account = self._simulation.inventory.account_of(wanted.removeprefix("identity/accounts/"))
        if account is None or account.deleted_at is not None:
            return refusal(404, "Account not found.")
        return JSONResponse({"jwt": self._simulation.sessions.begin(Session(csp_id=account.csp_id))})

    async def list_services(self, request: Request) -> Response:
        services = self._simulation.services_of(self._account(request))
        return JSONResponse({"results": [s.listed() for s in services if s.deleted_at is None]})

    async def delete_service(self, request: Request) -> Response:
        simulation, account = self._simulation, self._account(request)
        deleted = simulation.services.delete(
            account,
            request.path_params["id"],
            from_start=simulation.faults.services_per_account,
            now=simulation.clock(),
        )
        return Response(status_code=204) if deleted else refusal(404, "Service not found.")

    def _session(self, request: Request) -> Session:
        """The session of the caller's token.

        Raises:
            HTTPException: 401, there is none.
        """
        scheme, _, jwt = request.headers.get("authorization", "").partition(" ")
        session = self._simulation.sessions.read(jwt) if scheme == "Bearer" else None
        if session is None:
            raise HTTPException(401, "Invalid session.", headers={"WWW-Authenticate": "Bearer"})
        return session

    def _account(self, request: Request) -> Account:
        """The live account that the caller has switched to.

        Raises:
            HTTPException: 401, no session; 403, not switched; 404, the account is deleted.
        """
        csp_id = self._session(request).csp_id
        if csp_id is None:
            raise HTTPException(403, "Switch to an account first.")
        account = self._simulation.inventory.account(csp_id)
        if account is None or account.deleted_at is not None:
            raise HTTPException(404, "Account not found.")
        return account


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def create_services(simulation: Simulation) -> list[BaseRoute]:
    """The two corners of the provider's address space where these live."""
    in_sandbox = InSandbox(simulation)
    sessions = [
        Route("/users/sign_in", in_sandbox.sign_in, methods=["POST"]),
        Route("/account_switch", in_sandbox.switch_account, methods=["POST"]),
    ]
    services = [
        Route("/universalservices", in_sandbox.list_services, methods=["GET"]),
        Route("/universalservices/{id}", in_sandbox.delete_service, methods=["DELETE"]),
    ]
    return [
        Mount("/v2/session", _app(sessions, simulation)),
        Mount("/api/universalinfra/v1", _app(services, simulation)),
    ]


def _app(routes: list[Route], simulation: Simulation) -> Starlette:
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Journaling, journal=lambda: simulation.journal, clock=simulation.clock),
            Middleware(Faulty, simulation=simulation),
        ],
        exception_handlers=ERROR_HANDLERS,
    )
    app.router.redirect_slashes = False
    return app
