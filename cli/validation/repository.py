"""`validate ready`: whether this clone can be built and deployed with these settings. Asks nobody."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cli.errors import PROGRAM
from cli.validation import settings_file
from cli.validation.check import Check, bad, good, noted

FILES: Final = (
    "Dockerfile",
    "Dockerfile.worker",
    "requirements/api.txt",
    "requirements/worker.txt",
    "monitoring/alerts.yml",
    "docs/upgrade.md",
    "CHANGELOG.md",
)
PLANS: Final = ("DEPLOYMENT_PLAN.md", "ROLLBACK_PLAN.md")
_DOCKERFILES: Final = ("Dockerfile", "Dockerfile.worker")


def checks(root: Path, env_file: Path | None) -> list[Check]:
    """In the order in which one would mend it."""
    return [
        _present("files", root, FILES),
        _present("plans", root, PLANS),
        _hashed(root),
        *(_pinned(root / name) for name in _DOCKERFILES),
        *_settings(env_file),
    ]


def _present(name: str, root: Path, files: tuple[str, ...]) -> Check:
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        return bad(name, f"missing: {', '.join(missing)}", "Check this release out whole.")
    return good(name, f"{len(files)} there")


def _hashed(root: Path) -> Check:
    """Every requirement of the images has its version and its hashes."""
    loose, count = [], 0
    for name in ("api", "worker"):
        path = root / "requirements" / f"{name}.txt"
        for requirement in _requirements(path):
            count += 1
            if "==" not in requirement or "--hash=sha256:" not in requirement:
                loose.append(f"{path.name}: {requirement.split()[0]}")
    if loose or not count:
        return bad("requirements", f"without version and hash: {', '.join(loose) or 'all'}", "make lock")
    return good("requirements", f"{count} pinned with hashes")


def _requirements(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    text = re.sub(r"\\\n", " ", path.read_text())
    for line in text.splitlines():
        if (requirement := line.partition(" #")[0].strip()) and not requirement.startswith("#"):
            yield requirement


def _pinned(path: Path) -> Check:
    """Its base can be pinned by digest, its packages are by hash, and it runs as nobody."""
    text = path.read_text() if path.is_file() else ""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    lacks = [
        what
        for what, there in {
            "a base pinned by digest (PYTHON_DIGEST)": bool(bases) and all(_by_digest(base) for base in bases),
            "pip install --require-hashes": "--require-hashes" in text,
            "a USER other than root": bool(users) and users[-1].partition(":")[0] not in ("0", "root"),
            "a HEALTHCHECK": any(line.startswith("HEALTHCHECK ") for line in lines),
        }.items()
        if not there
    ]
    if lacks:
        return bad(path.name, f"lacks {', '.join(lacks)}", "Compare it with that of the last release.")
    return good(path.name, "base by PYTHON_DIGEST at the build, packages by hash, not root, health check")


def _by_digest(base: str) -> bool:
    return "PYTHON_DIGEST" in base or "@sha256:" in base


def _settings(env_file: Path | None) -> Iterator[Check]:
    """What both processes say of the settings that they would be started with."""
    if env_file is None:
        yield noted("settings", "not looked at:", f"{PROGRAM} validate ready --env-file FILE")
        return
    variables = settings_file.read(env_file)
    for module, name in (("app", "API settings"), ("worker", "worker settings")):
        if wrong := settings_file.problems(module, variables):
            yield bad(name, "; ".join(wrong), f"Set that in {env_file}, or export it where it is a secret.")
        else:
            yield good(name, f"valid, {len(variables)} variables")
