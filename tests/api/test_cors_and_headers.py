"""D6, D7: what browsers may do, and the headers that every answer carries."""

import httpx
import pytest
from pydantic import ValidationError

from broker.settings import problems_of
from tests.api.service import ADMIN, TRACK, Api, an_api, api_settings, refusal

ORIGIN = "https://labs.example.org"
ALLOWED = (
    "Authorization", "Content-Type", "Idempotency-Key", "X-Track-ID", "X-Instruqt-Sandbox-ID",
    "X-Instruqt-Track-ID", "X-Sandbox-Name-Prefix",
)  # fmt: skip
EXPOSED = {
    "retry-after", "x-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
}  # fmt: skip


@pytest.fixture
async def browsed(ministack: str, table_name: str):  # type: ignore[no-untyped-def]
    async with an_api(ministack, table_name, CORS_ALLOWED_ORIGINS=f"https://other.example.org, {ORIGIN}") as api:
        yield api


async def preflight(
    api: Api, *, headers: str, origin: str = ORIGIN, method: str = "POST", path: str = "/v1/allocate"
) -> httpx.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }
    return await api.http.options(path, headers=asked)


@pytest.mark.parametrize("header", [*ALLOWED, "X-Request-ID", ", ".join(ALLOWED).lower()])
async def test_a_preflight_allows_each_header_of_the_contract(browsed: Api, header: str) -> None:
    answer = await preflight(browsed, headers=header)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    permitted = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert set(header.lower().split(", ")) <= set(permitted)


@pytest.mark.parametrize(
    "asked",
    [
        {"headers": "X-Made-Up"},
        {"headers": "Authorization", "method": "DELETE"},
        {"headers": "Authorization", "origin": "https://evil.example.org"},
        {"headers": "Authorization", "origin": "https://labs.example.org.evil.org"},
        {"headers": "Authorization", "origin": "http://labs.example.org"},
        {"headers": "Authorization", "origin": "null"},
    ],
    ids=repr,
)
async def test_a_preflight_for_anything_else_is_refused_in_the_envelope(
    browsed: Api, asked: dict[str, str]
) -> None:
    answer = await preflight(browsed, **asked)
    assert refusal(answer) == (400, "INVALID_REQUEST")
    if asked.get("origin"):
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_every_answer_exposes_what_a_browser_needs_to_back_off(browsed: Api) -> None:
    answers = [
        await browsed.http.post("/v1/allocate", headers=TRACK | {"Origin": ORIGIN, "X-Track-ID": "s"}),
        await browsed.http.post("/v1/allocate", headers={"Origin": ORIGIN}),
        await browsed.http.get("/nowhere", headers={"Origin": ORIGIN}),
        await browsed.http.get("/v1/meta?" + "x" * 5000, headers={"Origin": ORIGIN}),
    ]
    assert [answer.status_code for answer in answers] == [409, 401, 404, 414]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert set(answer.headers["Access-Control-Expose-Headers"].lower().split(", ")) >= EXPOSED
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("origin", ["https://evil.example.org", "null", "https://labs.example.org:8443"])
async def test_another_origin_gets_no_cors_headers(browsed: Api, origin: str) -> None:
    answer = await browsed.http.get("/v1/admin/stats", headers=ADMIN | {"Origin": origin})
    assert answer.status_code == 200, "CORS is the browser's business"
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_without_a_setting_no_origin_is_allowed(api: Api) -> None:
    assert (await preflight(api, headers="Authorization")).status_code == 400
    answer = await api.http.get("/v1/meta", headers={"Origin": ORIGIN})
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_any_origin_may_be_allowed_in_development(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, CORS_ALLOWED_ORIGINS="*") as api:
        answer = await preflight(api, headers="Authorization", origin="http://localhost:3000")
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")


@pytest.mark.parametrize("origins", ["*", f"{ORIGIN}, *"])
def test_any_origin_is_refused_in_production(origins: str) -> None:
    with pytest.raises(ValidationError) as refused:
        api_settings(
            "https://dynamodb.example.org", "table", BROKER_ENV="production", CORS_ALLOWED_ORIGINS=origins
        )
    assert problems_of(refused.value) == ["CORS_ALLOWED_ORIGINS: may be * in development only"]


EVERYWHERE = {
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/healthz", {}, 200),
        ("GET", "/metrics", {}, 200),
        ("GET", "/v1/docs", {}, 200),
        ("GET", "/v1/docs/swagger-ui.css", {}, 200),
        ("GET", "/v1/openapi.json", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("DELETE", "/v1/allocate", {}, 405),
        ("POST", "/v1/allocate", {}, 401),
        ("POST", "/v1/allocate", ADMIN, 403),
        ("POST", "/v1/allocate", TRACK, 400),
        ("GET", "/" + "x" * 2000, {}, 414),
        ("GET", "/v1/meta", {"X-Big": "x" * 20_000}, 431),
        ("OPTIONS", "/v1/allocate", {"Origin": "https://x.org", "Access-Control-Request-Method": "POST"}, 400),
    ],
)
async def test_every_answer_carries_the_security_headers_once(
    api: Api, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await api.http.request(method, path, headers=headers)
    assert answer.status_code == status
    for name, value in EVERYWHERE.items():
        assert answer.headers.get_list(name) == [value]
    assert len(answer.headers.get_list("content-security-policy")) == 1
    assert len(answer.headers.get_list("x-request-id")) == 1


async def test_answers_are_not_stored_and_assets_are(api: Api) -> None:
    await api.fill(1)
    assert (await api.allocate()).headers.get_list("cache-control") == ["no-store"]
    asset = await api.http.get("/v1/docs/swagger-ui.css")
    assert asset.headers.get_list("cache-control") == ["public, max-age=86400"]


async def test_the_policy_lets_nothing_in_from_elsewhere_and_no_script_inline(api: Api) -> None:
    policy = (await api.http.get("/v1/docs")).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self'"
    assert rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources <= {"'none'", "'self'", "'unsafe-inline'", "data:"}
