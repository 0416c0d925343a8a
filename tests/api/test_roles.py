"""B4, C6: every route of the app x every kind of caller. A new route needs an entry here."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute, iter_route_contexts

from app import access
from app.access import VIEWER, VIEWER_OF_ANY, admitted, must_be_complete
from app.auth import Authenticator, Credential
from app.limits import RateLimitMiddleware
from app.main import create_app
from broker.role import IMPLIED, Role
from tests.api.keys import a_tenant, bearer, made_key
from tests.api.service import ADMIN, ADMIN_TOKEN, API_TOKEN, TRACK, Api, an_api, api_settings, refusal
from tests.builders import TEST_CAUSE

PUBLIC, TRACKS, VIEWERS, OPERATORS, ADMINS = "public", "tracks", "viewers", "operators", "admins"
PLATFORM, PLATFORM_ADMINS = "platform operators", "platform admins"

ROUTES = {
    ("POST", "/v1/allocate"): TRACKS,
    ("GET", "/v1/sandboxes/{sandbox_id}"): TRACKS,
    ("POST", "/v1/sandboxes/{sandbox_id}/mark-for-deletion"): TRACKS,
    ("POST", "/v1/sandboxes/{sandbox_id}/extend"): TRACKS,
    ("POST", "/v1/sandboxes/{sandbox_id}/heartbeat"): TRACKS,
    ("GET", "/v1/admin/sandboxes"): VIEWERS,
    ("GET", "/v1/admin/stats"): VIEWERS,
    ("GET", "/v1/admin/reconciliation"): VIEWERS,
    ("GET", "/v1/admin/worker"): VIEWERS,
    ("POST", "/v1/admin/sync"): OPERATORS,
    ("POST", "/v1/admin/cleanup"): OPERATORS,
    ("POST", "/v1/admin/bulk-delete"): OPERATORS,
    ("POST", "/v1/admin/bulk/{move}"): OPERATORS,
    ("GET", "/v1/admin/jobs"): VIEWERS,
    ("GET", "/v1/admin/jobs/{job_id}"): VIEWERS,
    ("POST", "/v1/admin/jobs/{job_id}/cancel"): OPERATORS,
    ("POST", "/v1/admin/jobs/{job_id}/requeue"): OPERATORS,
    ("GET", "/v1/admin/dead-letters"): VIEWERS,
    ("GET", "/v1/admin/events"): VIEWERS,
    ("GET", "/v1/admin/sandboxes/{sandbox_id}"): VIEWERS,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/quarantine"): OPERATORS,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/reinstate"): OPERATORS,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/discard"): OPERATORS,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/force-release"): OPERATORS,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/retry"): OPERATORS,
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/abandon"): OPERATORS,
    ("GET", "/v1/admin/mode"): VIEWERS,
    ("POST", "/v1/admin/mode"): PLATFORM,
    ("GET", "/v1/admin/tenants"): PLATFORM,
    ("POST", "/v1/admin/tenants"): PLATFORM_ADMINS,
    ("GET", "/v1/admin/tenants/{tenant}"): VIEWERS,
    ("PATCH", "/v1/admin/tenants/{tenant}"): PLATFORM_ADMINS,
    ("POST", "/v1/admin/tenants/{tenant}/drain"): PLATFORM,
    ("POST", "/v1/admin/tenants/{tenant}/resume"): PLATFORM,
    ("GET", "/v1/admin/pools"): VIEWERS,
    ("POST", "/v1/admin/pools"): OPERATORS,
    ("GET", "/v1/admin/keys"): ADMINS,
    ("POST", "/v1/admin/keys"): ADMINS,
    ("GET", "/v1/admin/keys/{key_id}"): ADMINS,
    ("POST", "/v1/admin/keys/{key_id}/rotate"): ADMINS,
    ("POST", "/v1/admin/keys/{key_id}/revoke"): ADMINS,
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
VIEWER_TOKEN, OPERATOR_TOKEN = "viewer-" + "v" * 30, "operator-" + "o" * 30
PLATFORM_TOKEN, PLATFORM_ADMIN_TOKEN = "platform-" + "p" * 30, "platform-admin-" + "p" * 30
CALLERS = {
    "nobody": {},
    "a stranger": {"Authorization": "Bearer " + "x" * 40},
    "track": TRACK,
    "viewer": {"Authorization": f"Bearer {VIEWER_TOKEN}"},
    "operator": {"Authorization": f"Bearer {OPERATOR_TOKEN}"},
    "admin": ADMIN,
    "platform operator": {"Authorization": f"Bearer {PLATFORM_TOKEN}"},
    "platform admin": {"Authorization": f"Bearer {PLATFORM_ADMIN_TOKEN}"},
}
FILLED = {
    "sandbox_id": "2009001", "name": "swagger-ui.css", "job_id": "1760000000000-aa", "move": "retry",
    "key_id": "aaaabbbbcccc", "tenant": "acme",
}  # fmt: skip
UNAUTHENTICATED, FORBIDDEN = (401, "UNAUTHENTICATED"), (403, "FORBIDDEN")
PLATFORM_ONLY = (403, "PLATFORM_ONLY")
REFUSALS = {
    ("nobody", TRACKS): UNAUTHENTICATED,
    ("nobody", VIEWERS): UNAUTHENTICATED,
    ("nobody", OPERATORS): UNAUTHENTICATED,
    ("a stranger", TRACKS): UNAUTHENTICATED,
    ("a stranger", VIEWERS): UNAUTHENTICATED,
    ("a stranger", OPERATORS): UNAUTHENTICATED,
    ("track", VIEWERS): FORBIDDEN,
    ("track", OPERATORS): FORBIDDEN,
    ("viewer", TRACKS): FORBIDDEN,
    ("viewer", OPERATORS): FORBIDDEN,
    ("operator", TRACKS): FORBIDDEN,
    ("admin", TRACKS): FORBIDDEN,
    ("platform operator", TRACKS): FORBIDDEN,
    ("platform admin", TRACKS): FORBIDDEN,
    ("platform operator", PLATFORM_ADMINS): FORBIDDEN,
    ("nobody", PLATFORM_ADMINS): UNAUTHENTICATED,
    ("a stranger", PLATFORM_ADMINS): UNAUTHENTICATED,
    ("track", PLATFORM_ADMINS): FORBIDDEN,
    ("viewer", PLATFORM_ADMINS): FORBIDDEN,
    ("operator", PLATFORM_ADMINS): FORBIDDEN,
    ("admin", PLATFORM_ADMINS): PLATFORM_ONLY,
    ("nobody", ADMINS): UNAUTHENTICATED,
    ("a stranger", ADMINS): UNAUTHENTICATED,
    ("track", ADMINS): FORBIDDEN,
    ("viewer", ADMINS): FORBIDDEN,
    ("operator", ADMINS): FORBIDDEN,
    ("platform operator", ADMINS): FORBIDDEN,
    ("nobody", PLATFORM): UNAUTHENTICATED,
    ("a stranger", PLATFORM): UNAUTHENTICATED,
    ("track", PLATFORM): FORBIDDEN,
    ("viewer", PLATFORM): FORBIDDEN,
    ("operator", PLATFORM): PLATFORM_ONLY,
    ("admin", PLATFORM): PLATFORM_ONLY,
}


KEYS: dict[str, tuple[str, Role, dict[str, Any]]] = {
    "track": ("north", Role.TRACK, {}),
    "viewer": ("north", Role.VIEWER, {}),
    "operator": ("north", Role.OPERATOR, {}),
    "admin": ("north", Role.ADMIN, {}),
    "platform operator": ("acme", Role.OPERATOR, {}),
    "platform admin": ("acme", Role.ADMIN, {}),
    "a stranger, as expired": ("acme", Role.ADMIN, {"lasts_s": -1}),
    "a stranger, as revoked": ("acme", Role.ADMIN, {}),
}
"""A key of each kind, by the caller whose rights it has; `acme` is the default tenant."""


def spoiled(token: str) -> dict[str, str]:
    """What is nearly the token of an admin."""
    return {
        "truncated": token[:-1],
        "without its secret": token[:17],
        "with another's id": token.replace(token[4:16], "a" * 12),
        "with another secret": token[:-43] + "A" * 43,
        "in capitals": token.upper(),
        "with more": token + "x",
    }


@pytest.fixture
async def api(ministack: str, table_name: str) -> AsyncIterator[Api]:
    """The app with a token of every role: for viewers and operators none is configured yet."""
    tokens = [
        (API_TOKEN, Credential("track", "acme", Role.TRACK)),
        (VIEWER_TOKEN, Credential("viewer", "acme", Role.VIEWER)),
        (OPERATOR_TOKEN, Credential("operator", "acme", Role.OPERATOR)),
        (ADMIN_TOKEN, Credential("admin", "acme", Role.ADMIN)),
        (PLATFORM_TOKEN, Credential("platform", "acme", Role.OPERATOR, platform=True)),
        (PLATFORM_ADMIN_TOKEN, Credential("platform-admin", "acme", Role.ADMIN, platform=True)),
    ]
    async with an_api(ministack, table_name) as running:
        (limits,) = (m for m in running.app.user_middleware if m.cls is RateLimitMiddleware)
        limits.kwargs["authenticator"] = Authenticator(tokens)
        yield running


@pytest.fixture(scope="module")
def api_app() -> FastAPI:
    """Not booted."""
    return create_app(api_settings("http://127.0.0.1:1", "nowhere"))


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Every method and path that the app answers, however it was added."""
    return {
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in context.methods or {"ANY"}
    }  # fmt: skip


NAMES_A_TENANT = {
    ("GET", "/v1/admin/sandboxes"),
    ("GET", "/v1/admin/sandboxes/{sandbox_id}"),
    ("GET", "/v1/admin/stats"),
    ("GET", "/v1/admin/reconciliation"),
    ("GET", "/v1/admin/worker"),
    ("GET", "/v1/admin/jobs"),
    ("GET", "/v1/admin/jobs/{job_id}"),
    ("GET", "/v1/admin/dead-letters"),
    ("GET", "/v1/admin/events"),
    ("GET", "/v1/admin/pools"),
    ("GET", "/v1/admin/keys"),
    ("POST", "/v1/admin/keys"),
    ("GET", "/v1/admin/keys/{key_id}"),
    ("POST", "/v1/admin/keys/{key_id}/rotate"),
    ("POST", "/v1/admin/keys/{key_id}/revoke"),
}
"""Where the platform's people may say whose things they mean. Nowhere else does anybody."""


def test_the_table_names_where_another_tenant_may_be_named() -> None:
    assert {route for route, entry in access.ROUTES.items() if entry.any_tenant} == NAMES_A_TENANT


@pytest.mark.parametrize(
    ("method", "path"), [r for r in ROUTES if ROUTES[r] not in (PUBLIC, TRACKS)], ids=lambda value: value
)
async def test_only_the_platform_names_another_tenant_and_only_where_the_table_says(
    api: Api, method: str, path: str
) -> None:
    """Elsewhere `?tenant=` would show, or drain, another one than meant. No refusal tells whether there is one."""
    await a_tenant(api, "north")
    concrete = path.format(**FILLED)
    for caller, headers in CALLERS.items():
        answers = [
            await api.http.request(method, f"{concrete}?{named}", headers=headers)
            for named in (
                "tenant=north",
                "tenant=nobody",
                "tenant=../x",
                "tenant=acme&tenant=north",
                "tenant=north&tenant=north",
            )
        ]
        if expected := REFUSALS.get((caller, ROUTES[method, path])):
            assert {refusal(answer) for answer in answers} == {expected}, caller
        elif (method, path) not in NAMES_A_TENANT:
            assert {refusal(answer) for answer in answers} == {(400, "INVALID_REQUEST")}, caller
            assert "query.tenant: is not a parameter of this route" in answers[0].json()["error"]["message"]
        elif "platform" not in caller:
            assert {refusal(answer) for answer in answers} == {PLATFORM_ONLY}, caller
            assert len({answer.json()["error"]["message"] for answer in answers}) == 1
        else:
            assert refusal(answers[1]) == (404, "TENANT_NOT_FOUND"), caller
            assert {refusal(answer) for answer in answers[2:]} == {(400, "INVALID_REQUEST")}
            for answer in answers[3:]:
                assert "query.tenant: comes more than once" in answer.json()["error"]["message"]
            assert answers[0].status_code not in (401, 403)


async def test_an_admin_who_says_a_filter_twice_is_refused_as_one_would_be_lost(api: Api) -> None:
    for query in ("?limit=1&limit=2", "?cursor=a&limit=1&limit=1"):
        answer = await api.http.get(f"/v1/admin/keys{query}", headers=CALLERS["admin"])
        assert refusal(answer) == (400, "INVALID_REQUEST")
        assert "query.limit: comes more than once" in answer.json()["error"]["message"]


async def test_a_script_in_the_field_may_send_what_it_likes(api: Api) -> None:
    answer = await api.http.post("/v1/allocate?x=1&x=2&tenant=north", headers=TRACK | {"X-Track-ID": "s"})

    assert refusal(answer) == (409, "NO_SANDBOXES_AVAILABLE")


async def test_the_app_does_not_start_with_a_tenant_s_name_that_the_table_does_not_know(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for route, written in ((("GET", "/v1/admin/stats"), VIEWER), (("GET", "/v1/admin/mode"), VIEWER_OF_ANY)):
        with monkeypatch.context() as change:
            change.setattr(access, "ROUTES", {**access.ROUTES, route: written})
            with pytest.raises(LookupError, match=" ".join(route)):
                must_be_complete(api.app)


async def test_every_route_of_the_app_has_an_entry_in_this_table(api: Api) -> None:
    assert routes_of(api.app) == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: value)
async def test_each_caller_gets_in_exactly_where_the_role_says(api: Api, method: str, path: str) -> None:
    concrete = path.format(**FILLED)
    for caller, headers in CALLERS.items():
        named = headers | {"X-Instruqt-Sandbox-ID": "s-1"}
        answer = await api.http.request(method, concrete, headers=named, params={"wait": "0"})
        if expected := REFUSALS.get((caller, ROUTES[method, path])):
            assert refusal(answer) == expected, caller
            assert ("WWW-Authenticate" in answer.headers) == (answer.status_code == 401)
        else:
            assert answer.status_code not in (401, 403), caller
            assert answer.status_code < 500


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: value)
async def test_each_key_gets_in_exactly_where_its_role_says(api: Api, method: str, path: str) -> None:
    await a_tenant(api, "north")
    made = dict(zip(KEYS, await asyncio.gather(*(made_key(api, *kind) for kind in KEYS.values())), strict=True))
    revoked = made["a stranger, as revoked"].key
    await api.app.state.parts.key_desk.revoke("acme", revoked.id, cause=TEST_CAUSE)
    callers = {caller: key.token for caller, key in made.items()}
    for how, token in spoiled(made["platform admin"].token).items():
        callers[f"a stranger, {how}"] = token
    for caller, token in callers.items():
        named = bearer(token) | {"X-Instruqt-Sandbox-ID": "s-1"}
        answer = await api.http.request(method, path.format(**FILLED), headers=named, params={"wait": "0"})
        who = caller.partition(",")[0]
        may_all = who == "platform admin" and ROUTES[method, path] != TRACKS
        expected = REFUSALS.get(("admin" if who == "platform admin" else who, ROUTES[method, path]))
        if expected and not may_all:
            assert refusal(answer) == expected, caller
        else:
            assert answer.status_code not in (401, 403), caller
            assert answer.status_code < 500


def with_another_route(api: Api) -> FastAPI:
    """The app, after someone added a route and wrote down nobody for it."""
    router = APIRouter()
    router.add_api_route("/v1/forgotten", lambda: {"secret": "served"}, methods=["GET"])
    api.app.include_router(router)
    return api.app


@pytest.mark.parametrize("caller", CALLERS)
async def test_a_route_that_nobody_wrote_down_is_closed_to_everybody(api: Api, caller: str) -> None:
    with_another_route(api)

    answer = await api.http.get("/v1/forgotten", headers=CALLERS[caller])

    assert refusal(answer) == (UNAUTHENTICATED if caller in ("nobody", "a stranger") else FORBIDDEN)


async def test_the_app_does_not_start_with_a_route_that_nobody_wrote_down(api: Api) -> None:
    must_be_complete(api.app)
    with pytest.raises(LookupError, match="GET /v1/forgotten"):
        must_be_complete(with_another_route(api))


async def test_nor_with_one_that_no_check_stands_before(api: Api) -> None:
    async def plain(_: Any) -> PlainTextResponse:
        return PlainTextResponse("served")

    api.app.add_route("/v1/admin/sync", plain, methods=["POST"])  # as one that is guarded
    with pytest.raises(LookupError, match="POST /v1/admin/sync"):
        must_be_complete(api.app)


async def test_nor_with_one_that_was_put_past_the_app_itself(api: Api) -> None:
    route = APIRoute("/v1/admin/sync", lambda: {"secret": "served"}, methods=["POST"])
    api.app.router.routes.append(route)
    with pytest.raises(LookupError, match="POST /v1/admin/sync"):
        must_be_complete(api.app)


async def test_nor_with_another_app_below_a_path(api: Api) -> None:
    api.app.mount("/v1/other", FastAPI())
    with pytest.raises(LookupError, match="/v1/other"):
        must_be_complete(api.app)


def test_the_check_is_the_first_thing_that_happens_to_a_request_on_any_route(api_app: FastAPI) -> None:
    guarded = [c for c in iter_route_contexts(api_app.routes) if hasattr(c.original_route, "dependant")]
    assert len(guarded) > 30
    assert {context.dependant.dependencies[0].call for context in guarded} == {admitted}


@pytest.mark.parametrize(
    ("method", "path"), [route for route in ROUTES if route[1].startswith("/v1/admin/")], ids=lambda value: value
)
async def test_every_admin_route_answers_the_same_under_admin(api: Api, method: str, path: str) -> None:
    await api.fill(2)
    concrete = path.format(**FILLED)
    posted = method == "POST"
    query = {"wait": "0", "dry_run": "true", "status": "stale"} if posted else {}
    said = {"reason": "twice the same"} | ({"mode": "drained"} if path.endswith("/mode") else {})
    body = said if posted else None
    for headers in CALLERS.values():
        canonical = await api.http.request(method, concrete, headers=headers, params=query, json=body)
        alias = await api.http.request(
            method, concrete.removeprefix("/v1"), headers=headers, params=query, json=body
        )
        assert alias.status_code == canonical.status_code
        if alias.status_code in (200, 202):
            assert alias.json() == canonical.json()
        else:
            assert refusal(alias) == refusal(canonical)


async def test_the_alias_keeps_queries(api: Api) -> None:
    await api.fill(3)
    page = await api.http.get("/admin/sandboxes", headers=ADMIN, params={"limit": 2})
    assert page.json()["count"] == 2
    rest = await api.http.get(
        "/admin/sandboxes", headers=ADMIN, params={"limit": 2, "cursor": page.json()["cursor"]}
    )
    assert rest.status_code == 200


async def test_only_the_admin_prefix_is_an_alias(api: Api) -> None:
    for path in ("/allocate", "/sandboxes/2009001", "/adminx/stats", "/admin", "/meta"):
        assert refusal(await api.http.get(path, headers=ADMIN)) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "authorization",
    [
        API_TOKEN,
        f"Basic {API_TOKEN}",
        f"Token {API_TOKEN}",
        f"Bearer{API_TOKEN}",
        "Bearer ",
        "Bearer",
        f"Bearer {API_TOKEN[:-1]}",
        f"Bearer {API_TOKEN}x",
        f"Bearer {API_TOKEN.upper()}",
        f"Bearer {API_TOKEN} {API_TOKEN}",
        f"Bearer {API_TOKEN},{ADMIN_TOKEN}",
    ],
)
async def test_nothing_but_the_whole_token_as_bearer_is_let_in(api: Api, authorization: str) -> None:
    headers = {"Authorization": authorization, "X-Track-ID": "student-1"}
    assert refusal(await api.http.post("/v1/allocate", headers=headers)) == UNAUTHENTICATED


@pytest.mark.parametrize("authorization", [f"bearer {API_TOKEN}", f"BEARER  {API_TOKEN}", f"Bearer {API_TOKEN} "])
async def test_the_scheme_is_read_as_http_says(api: Api, authorization: str) -> None:
    headers = {"Authorization": authorization, "X-Track-ID": "student-1"}
    assert refusal(await api.http.post("/v1/allocate", headers=headers)) == (409, "NO_SANDBOXES_AVAILABLE")


async def test_a_token_in_the_query_is_no_token(api: Api) -> None:
    answer = await api.http.get("/v1/admin/stats", params={"token": ADMIN_TOKEN, "access_token": ADMIN_TOKEN})
    assert refusal(answer) == UNAUTHENTICATED


def test_the_roles_imply_what_the_design_says_and_only_tracks_act_as_students() -> None:
    assert set(IMPLIED) == set(Role)
    assert IMPLIED[Role.ADMIN] == {Role.ADMIN, Role.OPERATOR, Role.VIEWER}
    assert IMPLIED[Role.OPERATOR] == {Role.OPERATOR, Role.VIEWER}
    assert IMPLIED[Role.VIEWER] == {Role.VIEWER}
    assert [role for role, may in IMPLIED.items() if Role.TRACK in may] == [Role.TRACK]


def test_the_authenticator_keeps_no_token() -> None:
    authenticator = Authenticator([(API_TOKEN, Credential("c", "acme", Role.TRACK))])
    assert API_TOKEN not in repr(vars(authenticator))
    assert authenticator.identify(API_TOKEN.encode()) == Credential("c", "acme", Role.TRACK)
