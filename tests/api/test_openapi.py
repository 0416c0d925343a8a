"""The document says what the API does, and the docs page shows it without the internet."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from app.errors import STATUS
from app.main import create_app
from app.openapi import COMMON, EXAMPLES
from broker.sandbox import State
from broker.settings import ApiSettings
from local.store_proxy import StoreProxy
from tests.api.service import ADMIN, TRACK, Api, an_app, api_settings
from tests.api.test_roles import PUBLIC, ROUTES, routes_of

TOKEN_STATUSES = {"400", "401", "403", "429", "503"}
LIMIT_STATUSES = {"400", "408", "413", "414", "431", "500"}
RATE = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """Not booted: a document needs no store."""
    settings: ApiSettings = api_settings("http://127.0.0.1:1", "nowhere")
    return create_app(settings)


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_it_holds_every_route_but_the_docs(app: FastAPI, document: dict[str, Any]) -> None:
    documented = {(method, path) for method, path, _ in operations(document)}
    undocumented = routes_of(app) - documented
    assert documented <= set(ROUTES)
    assert all(path.startswith(("/v1/docs", "/v1/openapi.json")) for _, path in undocumented)


def test_every_operation_says_what_it_is_for(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert operation.get("summary"), (method, path)
        assert operation.get("description") or len(operation["summary"]) > 15, (method, path)
        assert operation["tags"]
    assert document["info"]["title"]
    assert document["info"]["description"]


def test_every_route_behind_a_token_asks_for_one_and_documents_its_refusals(document: dict[str, Any]) -> None:
    guarded = 0
    for method, path, operation in operations(document):
        statuses = set(operation["responses"])
        assert "422" not in statuses, "it is answered as 400"
        assert statuses >= LIMIT_STATUSES, (method, path)
        if ROUTES[method, path] == PUBLIC:
            assert "security" not in operation
            continue
        guarded += 1
        assert operation["security"] == [{"HTTPBearer": []}]
        assert statuses >= TOKEN_STATUSES, (method, path)
    assert guarded == 41
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_response_names_its_headers_and_every_error_its_body_with_examples(document: dict[str, Any]) -> None:
    codes = set()
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            where = (method, path, status)
            assert response["description"], where
            if path == "/readyz" and status == "503":
                continue
            assert "X-Request-ID" in response["headers"], where
            if ROUTES[method, path] != PUBLIC and status not in LIMIT_STATUSES - {"400"}:
                assert set(response["headers"]) >= RATE, where
            if status in ("429", "503"):
                assert "Retry-After" in response["headers"], where
            if status[0] in "45":
                content = response["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorOut"}, where
                for code, example in content.get("examples", {}).items():
                    codes.add(code)
                    assert example["value"]["error"]["code"] == code
    assert codes == {error.code for error in EXAMPLES}, "each error is an answer of some route"


def test_what_every_guarded_route_may_answer_is_documented_with_an_example(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if ROUTES[method, path] == PUBLIC:
            continue
        for error in COMMON:
            examples = operation["responses"][str(STATUS[error])]["content"]["application/json"]["examples"]
            assert error.code in examples, (method, path, error)


def test_every_parameter_and_field_is_described_with_an_example_or_a_bound(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (method, path, parameter["name"])
    headers = {
        parameter["name"]: parameter["schema"]
        for parameter in document["paths"]["/v1/allocate"]["post"]["parameters"]
    }
    assert set(headers) == {
        "X-Instruqt-Sandbox-ID", "X-Track-ID", "X-Sandbox-Name-Prefix", "X-Instruqt-Track-ID", "Idempotency-Key",
    }  # fmt: skip
    assert all(schema["pattern"] == "^[A-Za-z0-9._:-]{1,128}$" for schema in headers.values())
    of_students = [path for path in document["paths"] if path.startswith("/v1/sandboxes/")]
    assert len(of_students) == 4
    for path in of_students:
        (operation,) = document["paths"][path].values()
        names = {parameter["name"] for parameter in operation["parameters"]}
        assert names == {"sandbox_id", "X-Instruqt-Sandbox-ID", "X-Track-ID"}, path
    fields = document["components"]["schemas"]["AllocationOut"]["properties"]
    assert set(fields) == {"sandbox_id", "name", "external_id", "allocated_at", "expires_at", "generation"}
    assert all(field["description"] and field["examples"] for field in fields.values())
    assert fields["sandbox_id"]["type"] == "string"


def test_every_body_that_is_taken_has_an_example_that_its_own_schema_accepts(document: dict[str, Any]) -> None:
    taken = set()
    for method, path, operation in operations(document):
        if (wanted := operation.get("requestBody")) is None:
            continue
        taken.add((method, path))
        content = wanted["content"]["application/json"]
        assert wanted["required"] == bool(content["schema"].get("required"))
        if not path.endswith("/mark-for-deletion"):  # which has always taken whatever JSON was sent along
            assert content["schema"]["additionalProperties"] is False
        Draft202012Validator(content["schema"]).validate(content["example"])
        assert all(field.get("description") for field in content["schema"]["properties"].values())
    assert ("POST", "/v1/admin/mode") in taken


def test_the_examples_of_errors_match_the_schema(document: dict[str, Any]) -> None:
    checked = 0
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                _validator(document, path, method, status).validate(example["value"])
                checked += 1
    assert checked > 40


def _validator(document: dict[str, Any], path: str, method: str, status: str) -> Draft202012Validator:
    """Checks bodies of one response; refuses fields that the document does not name."""
    resource = Resource(contents=_closed(document), specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource("urn:api", resource)
    steps = ("paths", path, method.lower(), "responses", status, "content", "application/json", "schema")
    pointer = "/".join(quote(step.replace("~", "~0").replace("/", "~1")) for step in steps)
    return Draft202012Validator({"$ref": f"urn:api#/{pointer}"}, registry=registry)


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(inner) for name, inner in node.items()}
    if "properties" in closed and closed.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def conforms(document: dict[str, Any], answer: httpx.Response) -> tuple[str, int]:
    """Assert that an answer is one that the document describes; says which."""
    path = answer.request.url.path
    for template in sorted(document["paths"], key=lambda template: "{" in template):
        pattern = re.sub(r"\{\w+\}", "[^/]+", template)
        if re.fullmatch(pattern, path) and answer.request.method.lower() in document["paths"][template]:
            operation = document["paths"][template][answer.request.method.lower()]
            break
    else:
        raise AssertionError(f"{path} is not documented")
    status = str(answer.status_code)
    assert status in operation["responses"], (path, status, answer.text)
    response = operation["responses"][status]
    for name in set(response.get("headers", {})) - RATE - {"Retry-After"}:
        assert name in answer.headers, (path, status, name)
    content = response["content"]
    media_type = answer.headers["content-type"].split(";")[0]
    assert media_type in content, (path, status, media_type)
    if media_type == "application/json":
        _validator(document, template, answer.request.method, status).validate(answer.json())
    return template, answer.status_code


async def about_jobs(api: Api) -> list[httpx.Response]:
    """Every route about jobs, well and badly asked; nobody runs them."""

    async def post(path: str, json: Any = None, **query: Any) -> httpx.Response:
        asked = ({} if path.startswith("/jobs/") else {"wait": 0}) | query
        return await api.http.post(f"/v1/admin{path}", headers=ADMIN, json=json, params=asked)

    many = {"reason": "a test", "status": "available"}
    queued = await post("/bulk/quarantine", many)
    job = f"/jobs/{queued.json()['job_id']}"
    return [
        queued,
        await post("/bulk/quarantine", many, dry_run=True),
        await post("/bulk/retry", {"reason": "x"}),
        await post("/bulk/explode", many),
        await post("/sync", {"confirm": True}),
        await post("/cleanup"),
        await post("/bulk-delete", status="stale"),
        await post("/bulk-delete", status="stale", dry_run=True),
        await post("/bulk-delete", status="available"),
        await api.admin(job),
        await post(f"{job}/requeue"),
        await post(f"{job}/cancel"),
        await post(f"{job}/requeue"),
        await post("/jobs/unknown/cancel"),
        await api.admin("/jobs/unknown"),
        await api.admin("/jobs", limit=1),
        await api.admin("/jobs", cursor="x"),
        await api.admin("/dead-letters"),
        await api.admin("/events", limit=3),
        await api.admin("/events", cursor="x"),
        await api.admin("/events", since="yesterday"),
    ]


async def about_tenants(api: Api) -> list[httpx.Response]:
    """Every route about tenants and pools, well and badly asked."""
    admin, why = "/v1/admin", {"reason": "a test"}
    new = {"name": "north", "max_live": 3, "provider": {"base_url": "https://csp.test", "secret": "north"}}
    pool = {"prefix": "lab-", "state": "drained"}
    return [
        await api.http.post(f"{admin}/tenants", headers=ADMIN, json=new | why),
        await api.http.post(f"{admin}/tenants", headers=ADMIN, json=new | why),
        await api.http.post(f"{admin}/tenants", headers=ADMIN, json={"name": "../x"} | why),
        await api.http.patch(f"{admin}/tenants/north", headers=ADMIN, json={"max_live": None} | why),
        await api.http.patch(f"{admin}/tenants/south", headers=ADMIN, json={"max_live": 1} | why),
        await api.http.patch(f"{admin}/tenants/north", headers=ADMIN, json=why),
        await api.http.patch(f"{admin}/tenants/north", headers=TRACK, json=why),
        await api.http.post(f"{admin}/tenants/north/drain", headers=ADMIN, json=why),
        await api.http.post(f"{admin}/tenants/north/resume", headers=ADMIN, json=why),
        await api.admin("/tenants"),
        await api.admin("/stats", tenant="north"),
        await api.admin("/stats", tenant="south"),
        await api.admin("/tenants/north"),
        await api.admin("/tenants/south"),
        await api.http.post(f"{admin}/pools", headers=ADMIN, json=pool | why),
        await api.http.post(f"{admin}/pools", headers=ADMIN, json=pool | why | {"state": "open"}),
        await api.http.post(f"{admin}/pools", headers=ADMIN, json=pool),
        await api.admin("/pools"),
    ]


async def about_keys(api: Api) -> list[httpx.Response]:
    """Every route about keys, well and badly asked."""

    async def post(path: str, json: Any = None, **query: Any) -> httpx.Response:
        return await api.http.post(f"/v1/admin/keys{path}", headers=ADMIN, json=json, params=query)

    made = await post("", {"name": "x", "role": "track", "expires_in_days": 1})
    key = f"/{made.json()['id']}"
    return [
        made,
        await post("", {"name": "x", "role": "root"}),
        await post("", {"name": "x", "role": "track"}, tenant="nowhere"),
        await api.admin("/keys", limit=1),
        await api.admin("/keys", cursor="x"),
        await api.admin(f"/keys{key}"),
        await api.admin("/keys/unknown"),
        await post(f"{key}/rotate"),
        await post(f"{key}/rotate"),
        await post("/unknown/rotate"),
        await post(f"{key}/revoke", {"reason": "a test"}),
        await post(f"{key}/revoke"),
        await post("/unknown/revoke", {"reason": "a test"}),
    ]


async def test_what_the_main_routes_answer_is_what_the_document_says(proxied: Api, proxy: StoreProxy) -> None:
    document = (await proxied.http.get("/v1/openapi.json")).json()
    await proxied.fill(3)
    held = (await proxied.allocate("s-1", X_Instruqt_Track_ID="lab")).json()["sandbox_id"]
    keyed = (await proxied.allocate("s-1", Idempotency_Key="k")).json()["sandbox_id"]
    answers = [
        await proxied.allocate("s-1"),
        await proxied.allocate("s-2"),
        await proxied.allocate("s-3"),
        await proxied.allocate("s-1", Idempotency_Key="k", X_Instruqt_Track_ID="other"),
        await proxied.view(held, "s-1"),
        await proxied.admin("/sandboxes"),
        await proxied.admin("/sandboxes", track="lab"),
        await proxied.release(keyed, "s-1"),
        await proxied.allocate("s-1", Idempotency_Key="k"),
        await proxied.view(keyed, "s-1"),
        *await the_holders_answers(proxied, held, keyed),
        await proxied.view(held, "s-2"),
        await proxied.release(held, "s-2"),
        await proxied.release("unknown"),
        await proxied.view("unknown"),
        await proxied.http.post("/v1/allocate", headers=TRACK),
        await proxied.http.post("/v1/allocate", headers=TRACK | {"X-Track-ID": "a b"}),
        await proxied.http.post("/v1/allocate"),
        await proxied.http.post("/v1/allocate", headers=ADMIN),
        await proxied.http.post("/v1/allocate", headers=TRACK | {"X-Track-ID": "s"}, content=b"x" * 70_000),
        await proxied.http.post("/v1/allocate", headers=TRACK | {"X-Big": "x" * 20_000}),
        await proxied.http.post("/v1/allocate?" + "x" * 5_000, headers=TRACK),
        await proxied.admin("/stats"),
        await proxied.admin("/reconciliation"),
        await proxied.admin("/worker"),
        await proxied.admin("/sandboxes", limit=0),
        await proxied.admin("/sandboxes", cursor="x"),
        *await about_jobs(proxied),
        *await about_tenants(proxied),
        *await about_keys(proxied),
        await proxied.http.get("/healthz"),
        await proxied.http.get("/readyz"),
        await proxied.http.get("/metrics"),
        await proxied.http.get("/v1/meta"),
        *await the_operators_answers(proxied, held),
    ]
    proxy.faults.throttle_rate = 1
    answers += [await proxied.allocate("s-9"), await proxied.admin("/stats"), await proxied.view(held, "s-1")]
    seen = {conforms(document, answer) for answer in answers}
    assert {status for path, status in seen if path == "/v1/allocate"} == {
        200, 201, 400, 401, 403, 409, 410, 413, 414, 431, 503,
    }  # fmt: skip
    assert {path for path, _ in seen} == set(document["paths"])


async def the_holders_answers(api: Api, held: str, released: str) -> list[httpx.Response]:
    """What a holder is told, and everyone who is none."""
    generation = (await api.view(held, "s-1")).json()["generation"]
    past = (await api.view(released, "s-1")).json()["generation"]
    answers = [
        await api.extend(held, generation, 5 * 3600, "s-1"),
        await api.extend(held, generation, 9 * 3600, "s-1"),
        await api.extend(held, generation, 0, "s-1"),
        await api.extend(released, past, 60, "s-1"),
        await api.heartbeat(held, generation, "s-1"),
        await api.heartbeat(released, past, "s-1"),
        await api.release(held, "s-1", generation=generation - 1),
        await api.release(held, "s-1", generation="x"),
    ]
    assert [answer.status_code for answer in answers] == [200, 409, 400, 410, 200, 410, 409, 400]
    for act in (api.extend, api.heartbeat):
        more = {"for_s": 60} if act == api.extend else {}
        answers += [
            await act(held, generation - 1, student="s-1", **more),
            await act(held, generation, student="s-2", **more),
            await act("unknown", generation, student="s-1", **more),
        ]
    return answers


async def the_operators_answers(api: Api, held: str) -> list[httpx.Response]:
    """Each operation where it fits, where it does not, and on what there is not; then the modes."""
    await api.fill(2, first=50)
    await api.fill(2, first=60, state=State.DELETION_FAILED)
    fitting = [
        ("force-release", held), ("quarantine", "2009050"), ("reinstate", "2009050"), ("quarantine", "2009051"),
        ("discard", "2009051"), ("retry", "2009060"), ("abandon", "2009061"),
    ]  # fmt: skip
    answers = [await api.operate(operation, sandbox_id) for operation, sandbox_id in fitting]
    assert {answer.status_code for answer in answers} == {200}
    for operation in {operation for operation, _ in fitting}:
        answers += [await api.operate(operation, "unknown"), await api.operate(operation, "2009050", "")]
    answers += [
        await api.operate("retry", "2009050"),
        await api.admin("/sandboxes/2009050"),
        await api.admin("/sandboxes/unknown"),
        await api.admin("/mode"),
        await api.set_mode("drained"),
        await api.allocate("student-of-a-drained-broker"),
        await api.set_mode("open"),
        await api.set_mode("closed"),
        await api.admin("/mode"),
    ]
    return answers


async def test_a_booting_process_answers_as_documented(proxy: StoreProxy, table_name: str) -> None:
    proxy.faults.down = True
    async with an_app(api_settings(proxy.url, table_name), booted=False) as api:
        document = (await api.http.get("/v1/openapi.json")).json()
        answers = [await api.http.get("/readyz"), await api.allocate(), await api.http.get("/metrics")]
    assert [conforms(document, answer)[1] for answer in answers] == [503, 503, 200]


def test_conformance_can_fail(document: dict[str, Any]) -> None:
    def made_up(body: dict[str, Any], status: int = 201) -> httpx.Response:
        request = httpx.Request("POST", "http://broker.test/v1/allocate")
        return httpx.Response(status, json=body, request=request, headers={"X-Request-ID": "x"})

    good = {
        "sandbox_id": "1", "name": "n", "external_id": "e", "allocated_at": 1, "expires_at": 2, "generation": 3,
    }  # fmt: skip
    conforms(document, made_up(good))
    for bad in (good | {"sandbox_id": 1}, good | {"more": 1}, {"sandbox_id": "1"}):
        with pytest.raises(Exception, match=r"valid|required|additional|Additional"):
            conforms(document, made_up(bad))
    with pytest.raises(AssertionError):
        conforms(document, made_up(good, status=202))


URLS = re.compile(r"""(?:src|href|action|url)\s*[=:]\s*["']?([^"'\s>]+)""", re.IGNORECASE)


async def test_the_docs_page_and_all_it_loads_come_from_this_host(api: Api) -> None:
    page = await api.http.get("/v1/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "//" not in re.sub(r"</", "", page.text)
    referred = URLS.findall(page.text)
    assert sorted(referred) == [
        "docs/favicon.png", "docs/start.js", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css",
    ]  # fmt: skip
    for reference in referred:
        asset = await api.http.get(str(page.url.join(reference)))
        assert asset.status_code == 200, reference
        assert len(asset.content) > 50


async def test_the_policy_permits_what_the_page_needs(api: Api) -> None:
    page = await api.http.get("/v1/docs")
    rules = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
    assert re.findall(r"<script(?![^>]*\bsrc=)", page.text) == [], "no script stands in the page itself"
    assert re.findall(r"\son\w+=", page.text) == [], "nor in an attribute"
    assert rules["script-src"] == "'self'"
    assert "'self'" in rules["style-src"]
    assert "'unsafe-inline'" in rules["style-src"], "Swagger UI sets styles on its elements"
    assert "'self'" in rules["img-src"]
    assert "data:" in rules["img-src"], "Swagger UI's icons"
    assert "'self'" in rules["connect-src"], "openapi.json, and trying out"


async def test_the_page_starts_swagger_with_this_hosts_document_and_asks_no_validator(api: Api) -> None:
    script = await api.http.get("/v1/docs/start.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "://" not in script.text
    assert "validatorUrl: null" in script.text
    (url,) = re.findall(r'url: "([^"]+)"', script.text)
    page = (await api.http.get("/v1/docs")).url
    assert (await api.http.get(str(page.join(url)))).json()["openapi"]


async def test_scripts_and_styles_are_served_as_what_they_are(api: Api) -> None:
    """nosniff makes browsers refuse them otherwise."""
    for name, media_type in (
        ("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css"), ("favicon.png", "image/png"),
    ):  # fmt: skip
        asset = await api.http.get(f"/v1/docs/{name}")
        assert asset.headers["content-type"].split(";")[0] == media_type
