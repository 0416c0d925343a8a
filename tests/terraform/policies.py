"""IAM policies as a test reads them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Grant:
    """One action on one resource."""

    action: str
    resource: str


def statements(policy: str) -> list[dict[str, Any]]:
    found = json.loads(policy)["Statement"]
    return found if isinstance(found, list) else [found]


def grants(policy: str) -> set[Grant]:
    """What a policy allows, action by action; fails where it allows by exception."""
    return {
        Grant(action, resource)
        for statement in statements(policy)
        for action in _listed(statement, "Action")
        for resource in _listed(statement, "Resource")
    }


def _listed(statement: dict[str, Any], name: str) -> Iterator[str]:
    assert statement["Effect"] == "Allow"
    assert f"Not{name}" not in statement
    value = statement[name]
    yield from [value] if isinstance(value, str) else value
