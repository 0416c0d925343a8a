"""What is said of a body that is refused: what the field takes, in words, and an example of it.

Both come from the body's own schema, so that they are true of fields that are yet to come.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from app.spelling import IN_WORDS

Schema = dict[str, Any]
_OUR_OWN: Final = "value_error"
"""Said by a validator of ours, in words."""
_SAID_BY_US: Final = "Value error, "
_NO_JSON: Final = "json_invalid"
_UNKNOWN: Final = "extra_forbidden"
_MISSING: Final = "missing"


def refusal_of(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """Why a body is none of `model`, as pydantic found; never with the value, which may be a secret."""
    whole = model.model_json_schema()
    if problem["type"] == _UNKNOWN:
        around = _options(_at(whole, problem["loc"][:-1]), whole)
        takes = [name for option in around for name in option.get("properties", ())]
        return f"is no field of this; it takes {', '.join(takes)}"
    field = _at(whole, problem["loc"])
    such_as = f"such as {json.dumps(_example(field, whole), ensure_ascii=False)}"
    if problem["type"] == _OUR_OWN:
        said = problem["msg"].removeprefix(_SAID_BY_US)
        return said if "such as" in said or not problem["loc"] else f"{said}; {such_as}"
    if problem["type"] == _NO_JSON:
        return f"{problem['msg']}; expected: an object, {such_as}"
    missing = "is missing; " if problem["type"] == _MISSING else ""
    return f"{missing}expected: {_words(field, whole)}; {such_as}"


def plain_refusal(problem: Mapping[str, Any]) -> str:
    """The same of a part of the path or the query, of which pydantic alone spoke."""
    pattern = problem.get("ctx", {}).get("pattern")
    said = str(problem["msg"]).removeprefix(_SAID_BY_US)
    return said if pattern is None else f"expected: {IN_WORDS.get(pattern, 'another spelling')}"


def _at(whole: Schema, where: Sequence[str | int]) -> Schema:
    """The schema of a field, by its place; of what is within no field, that of what it lies in."""
    found = whole
    for step in where:
        inner = (_within(option, step, whole) for option in _options(found, whole))
        found = next((schema for schema in inner if schema is not None), found)
    return _resolved(found, whole)


def _within(schema: Schema, step: str | int, whole: Schema) -> Schema | None:
    inner = schema.get("items") if isinstance(step, int) else schema.get("properties", {}).get(step)
    return None if inner is None else _resolved(inner, whole)


def _resolved(schema: Schema, whole: Schema) -> Schema:
    """What a reference refers to, with what is said beside it."""
    if "$ref" not in schema:
        return schema
    beside = {name: value for name, value in schema.items() if name != "$ref"}
    return {**whole["$defs"][schema["$ref"].rpartition("/")[2]], **beside}


def _options(schema: Schema, whole: Schema) -> Iterator[Schema]:
    yield from (_resolved(option, whole) for option in schema.get("anyOf", [schema]))


def _words(schema: Schema, whole: Schema) -> str:
    return ", or ".join(_of_one(option, whole) for option in _options(schema, whole))


def _of_one(schema: Schema, whole: Schema) -> str:
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    match schema.get("type"):
        case "null":
            return "null"
        case "integer":
            return f"a whole number{_bounds(schema.get('minimum'), schema.get('maximum'))}"
        case "boolean":
            return "true or false"
        case "array":
            many = _bounds(schema.get("minItems", 0), schema.get("maxItems"))
            return f"a list{many}, each {_words(schema['items'], whole)}"
        case "object":
            return f"an object of {', '.join(schema['properties'])}"
    if "pattern" in schema:
        return IN_WORDS.get(schema["pattern"], "another spelling")
    return f"text{_bounds(schema.get('minLength'), schema.get('maxLength'))} printable characters"


def _bounds(low: int | None, high: int | None) -> str:
    if low is None:
        return "" if high is None else f" of {high} at the most"
    return f" of {low} or more" if high is None else f" of {low} to {high}"


def _example(schema: Schema, whole: Schema) -> Any:
    """The field's own example; where it has none, one that is made of what it takes."""
    if "examples" in schema:
        return schema["examples"][0]
    option = next(_options(schema, whole))
    if "examples" in option:
        return option["examples"][0]
    if "enum" in option:
        return option["enum"][0]
    match option.get("type"):
        case "boolean":
            return True
        case "integer":
            return option.get("minimum", 1)
        case "array":
            return [_example(_resolved(option["items"], whole), whole)]
        case "object":
            needed = option.get("required", list(option["properties"])[:1])
            return {name: _example(_resolved(option["properties"][name], whole), whole) for name in needed}
    return "text"
