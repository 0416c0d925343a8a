"""What is refused is refused in words: no form of ours is shown to anybody, of any field of any body."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from app.main import create_app
from app.spelling import IN_WORDS
from tests.api.service import ADMIN, TRACK, Api, api_settings, error_of

FORM = re.compile(r"\^|\[A-Z|\[a-z|\\d|\(\?|[Pp]attern")
"""What a raw regular expression looks like."""
WRONG: list[Any] = ["", " ", "a b!", "\u00e9" * 600, -1, 1.5, 10**12, True, None, [], ["a b"], {}, {"x": 1}]
FILLED = {"sandbox_id": "2009001", "job_id": "1760000000000-aa", "move": "retry", "key_id": "aaaabbbbcccc",
          "tenant": "acme"}  # fmt: skip


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """Not booted: a document needs no store."""
    return create_app(api_settings("http://127.0.0.1:1", "nowhere"))


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Every body that is taken: method, path, schema, example."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if body := operation.get("requestBody"):
                content = body["content"]["application/json"]
                yield method.upper(), path, content["schema"], content["example"]


def spoiled(schema: dict[str, Any], example: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Bodies with one field wrong, by the place of the field; those of objects within it too."""
    for name, field in schema["properties"].items():
        for wrong in WRONG:
            yield name, example | {name: wrong}
        for option in field.get("anyOf", ()):
            inner = schema.get("$defs", {}).get(option.get("$ref", "").rpartition("/")[2], {})
            for within in inner.get("properties", ()):
                for wrong in WRONG:
                    yield f"{name}.{within}", example | {name: example.get(name, {}) | {within: wrong}}
    yield "unknown", example | {"unknown": 1}
    for name in schema.get("required", ()):
        yield name, {given: value for given, value in example.items() if given != name}


async def test_every_field_of_every_body_is_refused_by_name_in_words_and_with_an_example(api: Api) -> None:
    document = (await api.http.get("/v1/openapi.json")).json()
    refused: set[str] = set()
    fields = 0
    for method, path, schema, example in bodies(document):
        headers = (ADMIN if "/admin/" in path else TRACK) | {"X-Instruqt-Sandbox-ID": "s-1"}
        fields += len(schema["properties"])
        for where, body in spoiled(schema, example):
            answer = await api.http.request(
                method, path.format(**FILLED), headers=headers, json=body, params={"wait": 0, "dry_run": True}
                if "bulk" in path else {"wait": 0} if path.endswith(("/sync", "/cleanup")) else {},
            )  # fmt: skip
            if answer.status_code != 400 or error_of(answer)["code"] != "INVALID_REQUEST":
                continue
            for problem in error_of(answer)["details"].get("problems", ()):
                assert not FORM.search(problem["why"]), (path, body, problem)
                if problem["where"].startswith("body."):
                    assert problem["where"].startswith(f"body.{where.partition('.')[0]}"), (path, body, problem)
                    unknown = problem["where"].endswith((".unknown", ".x"))
                    said = "it takes" if unknown else "such as"
                    assert said in problem["why"], (path, body, problem)
                    refused.add(f"{path} {where}")
    assert fields > 40
    assert len(refused) > fields


def test_every_form_that_the_document_holds_is_one_that_is_said_in_words(app: FastAPI) -> None:
    def forms(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                yield node["pattern"]
            for inner in node.values():
                yield from forms(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from forms(inner)

    found = set(forms(app.openapi()))
    assert found
    assert found <= set(IN_WORDS)


def test_an_example_of_every_field_stands_in_the_document_or_follows_from_what_it_takes(app: FastAPI) -> None:
    for _, path, schema, _ in bodies(app.openapi()):
        for name, field in schema["properties"].items():
            options = field.get("anyOf", [field])
            derived = any("enum" in o or "$ref" in o or o.get("type") == "boolean" for o in (*options, field))
            assert field.get("examples") or derived, (path, name)


@pytest.mark.parametrize(
    ("path", "where"),
    [("/jobs/a@b", "path.job_id"), ("/tenants/a@b", "path.tenant"), ("/sandboxes?track=a%20b", "query.track"),
     ("/stats?tenant=a%20b", "query.tenant")],
)  # fmt: skip
async def test_a_part_of_the_path_or_the_query_is_refused_in_words_too(api: Api, path: str, where: str) -> None:
    answer = await api.http.get(f"/v1/admin{path}", headers=ADMIN)

    message = error_of(answer)["message"]
    assert answer.status_code == 400
    assert message.startswith(f"{where}: expected: 1 to ")
    assert not FORM.search(message)
