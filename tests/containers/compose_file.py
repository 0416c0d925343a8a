"""Reads compose.yaml as `docker compose config` does: merge keys, and variables of the environment."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}|\$\$")


class MissingVariable(Exception):
    """`${NAME:?text}` where NAME is not set, or empty."""


def read_compose(environment: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables put in.

    Raises:
        MissingVariable: a required one is missing; says which, and why it is wanted.
    """
    loaded = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return dict(_interpolated(loaded, environment))


def _interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, environment) for item in value]
    return _text(value, environment) if isinstance(value, str) else value


def _text(text: str, environment: Mapping[str, str]) -> str:
    def put(match: re.Match[str]) -> str:
        name, kind, more = match.groups()
        if name is None:
            return "$"
        if given := environment.get(name):
            return given
        if kind == "?":
            raise MissingVariable(f"{name}: {more}")
        return str(more or "")

    return _VARIABLE.sub(put, text)
