"""A file of settings, as it is given to the processes, and what they make of it."""

import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from cli.errors import Misused

ROOT: Final = Path(__file__).resolve().parents[2]
SECRETS: Final = ("BROKER_API_TOKEN", "BROKER_ADMIN_TOKEN", "API_KEY_PEPPER", "CSP_API_TOKEN", "NIOSXAAS_PASSWORD")
"""Where the file has them not, they are taken from the environment: they are seldom kept beside the rest."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEPT: Final = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")
_WITHIN_S: Final = 60


def read(file: Path) -> dict[str, str]:
    """The variables of a file of NAME=value lines; `export`, comments and quotes around a value are passed over.

    Raises:
        Misused: it cannot be read, or a line is none of these. The text repeats no value.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise Misused(f"--env-file {file} cannot be read: {why}.") from None
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise Misused(f"--env-file {file}, line {number}, is no NAME=value.")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[name] = value[1:-1] if quoted else value
    return found


def problems(module: str, variables: dict[str, str]) -> list[str]:
    """What `python -m MODULE --check` says of these settings; nothing where they are good."""
    done = _run(module, "--check", variables)
    said = [line.removeprefix("configuration: ") for line in (done.stderr + done.stdout).splitlines()]
    return [] if done.returncode == 0 else said or [f"exit code {done.returncode}"]


def effective(variables: dict[str, str]) -> dict[str, Any] | None:
    """What an API process would show at /v1/meta with these settings, defaults included; None where it would not
    start. Secrets that nobody named here are made up: no configuration shows them."""
    made_up = {
        name: secrets.token_hex(20) for name in SECRETS[:2] if not (os.environ.get(name) or name in variables)
    }
    done = _run("app", "--show", made_up | variables)
    if done.returncode != 0:
        return None
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def _run(module: str, option: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In an environment of nothing else: what is exported in this shell is not declared."""
    kept = {name: os.environ[name] for name in (*_KEPT, *SECRETS) if os.environ.get(name)}
    command = [sys.executable, "-m", module, option]
    return subprocess.run(  # noqa: S603  our own modules, from this very clone
        command,
        cwd=ROOT,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )
