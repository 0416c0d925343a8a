"""The environment of a bench and of all that it starts: what the caller has set for other ends does not count."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from pydantic import AliasChoices

from broker.settings import ApiSettings, WorkerSettings

KEPT: Final = frozenset(
    {
        *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "BROKER_ENGINE_PYTHON"),
    }
)
"""Where programs, libraries and temporary files are; nothing that says how one of them behaves."""
FAMILIES: Final = ("AWS_", "OTEL_", "SIM_")


@contextmanager
def only(settings: Mapping[str, str]) -> Iterator[None]:
    """What is kept of this process's environment, and these settings; afterwards it is as it was."""
    before = dict(os.environ)
    _set({name: value for name, value in before.items() if name in KEPT} | dict(settings))
    try:
        yield
    finally:
        _set(before)


def left_out() -> list[str]:
    """The settings of broker and simulator in this environment, which only() leaves out."""
    ours = _settings()
    return sorted(name for name in os.environ if name in ours - KEPT or name.startswith(FAMILIES))


def _set(environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _settings() -> set[str]:
    """The names by which API and worker take their settings."""
    names: set[str] = set()
    for field in (ApiSettings.model_fields | WorkerSettings.model_fields).values():
        alias = field.validation_alias
        names.update(map(str, alias.choices) if isinstance(alias, AliasChoices) else [str(alias)])
    return names
