"""Dockerfile and Dockerfile.worker: what they say, what their steps leave, and how it runs (H7).

The steps are taken in a clean virtual environment, so this needs no Docker. test_docker.py builds for real.
"""

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from broker.settings import ApiSettings, CoreSettings, WorkerSettings
from tests.containers.dockerfile import Built, Replay, Stage, StepFailed, read

ROOT = Path(__file__).parents[2]
NO_INDEX = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|Name or service not known"
)

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Kind:
    """What an image is meant to be."""

    name: str
    file: str
    requirements: str
    packages: frozenset[str]
    port_setting: str
    settings: type[CoreSettings]
    absent: frozenset[str]

    def stages(self) -> list[Stage]:
        return read((ROOT / self.file).read_text())


NEVER = {
    "pip",
    "setuptools",
    "simulator",
    "local",
    "cli",
    "typer",
    "rich",
    "tests",
    "pytest",
    "moto",
    "mypy",
    "hypothesis",
    "aiohttp_cors",
}
API = Kind(
    "api",
    "Dockerfile",
    "requirements/api.txt",
    frozenset({"broker", "app"}),
    "API_PORT",
    ApiSettings,
    frozenset(NEVER | {"worker", "httpx", "apscheduler"}),
)
WORKER = Kind(
    "worker",
    "Dockerfile.worker",
    "requirements/worker.txt",
    frozenset({"broker", "worker"}),
    "WORKER_PORT",
    WorkerSettings,
    frozenset(NEVER | {"app", "fastapi", "slowapi"}),
)
KINDS = [API, WORKER]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@dataclass
class Image:
    """What the steps of a Dockerfile left, and, once asked for, how it ran."""

    kind: Kind
    built: Built
    workshop: Path

    @cached_property
    def ran(self) -> dict[str, Any]:
        final = self.kind.stages()[-1]
        options, healthcheck = final.healthcheck()
        home = self.workshop / "home"
        home.mkdir()
        plan = {
            "root": str(self.built.root),
            "folder": str(self.built.folder),
            "environment": self.built.environment_with({"HOME": str(home), "TMPDIR": str(home)}),
            "command": final.command(),
            "healthcheck": healthcheck,
            "healthcheck_timeout_s": float(options["timeout"].removesuffix("s")),
            "port_setting": self.kind.port_setting,
            "log": str(self.workshop / "log"),
            "own_network": bool(unshare()),
        }
        ran = subprocess.run(
            [*unshare(), sys.executable, "-m", "tests.containers.offline_run"],
            cwd=ROOT,
            input=json.dumps(plan),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return dict(json.loads(ran.stdout)) | {"left_in_home": [str(path) for path in home.rglob("*")]}

    def python(self, code: str) -> str:
        done = subprocess.run(
            ["python", "-c", code],
            cwd=self.built.folder,
            env=self.built.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def unshare() -> list[str]:
    """The command that gives a process a network of its own, where this machine has one that works."""
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            break
    return []


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The steps, taken from a checkout that nobody else may read (a builder's umask of 077)."""
    kind: Kind = request.param
    workshop = tmp_path_factory.mktemp(kind.name)
    context = workshop / "context"
    subprocess.run(
        ["sh", "-c", 'mkdir "$1" && cp -R broker app worker requirements "$1"', "sh", context],
        cwd=ROOT,
        check=True,
    )
    subprocess.run(
        ["sh", "-c", "chmod -R go-rwx . && find . -name __pycache__ -prune -exec rm -r {} +"],
        cwd=context,
        check=True,
    )
    python = Path(os.environ.get("BROKER_IMAGE_PYTHON", sys.executable))
    try:
        built = Replay(context, workshop, python).build(kind.stages())
    except StepFailed as failed:
        if NO_INDEX.search(str(failed)):
            pytest.skip("no package index can be reached from here")
        raise
    return Image(kind, built, workshop)


def test_the_image_holds_its_two_packages_and_nothing_else_of_ours(image: Image):
    assert {path.name for path in image.built.folder.iterdir()} == image.kind.packages
    assert {path.name for path in image.built.path("/srv").iterdir()} == {"broker"}


def test_the_image_cannot_import_what_belongs_elsewhere(image: Image):
    found = image.python(
        f"import importlib.util as u; print([n for n in {sorted(image.kind.absent)} if u.find_spec(n)])"
    )
    assert found.strip() == "[]"


def test_no_module_of_the_image_names_what_it_does_not_hold(image: Image):
    """No lazy import that only a request would trip over."""
    named = re.compile(rf"^\s*(?:from|import)\s+({'|'.join(image.kind.absent)})\b", re.MULTILINE)
    texts = {path: path.read_text() for path in image.built.folder.rglob("*.py")}
    assert len(texts) > 15
    assert {str(path): named.findall(text) for path, text in texts.items() if named.search(text)} == {}


def test_every_installed_distribution_is_the_one_that_the_lock_names(image: Image):
    listed = image.python(
        "import importlib.metadata as m; "
        "print(*(d.metadata['Name'] + '==' + d.version for d in m.distributions()))"
    )
    lock = (ROOT / image.kind.requirements).read_text()
    locked = {_normal(pin) for pin in re.findall(r"^[\w.-]+==[\w.]+", lock, re.MULTILINE)}
    installed = {_normal(pin) for pin in listed.split()}
    assert len(installed) > 10
    assert installed <= locked


def _normal(pin: str) -> str:
    """Of PEP 503."""
    name, _, version = pin.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def test_every_module_is_compiled_so_that_a_read_only_root_costs_nothing(image: Image):
    sources = list(image.built.folder.rglob("*.py"))
    for source in sources:
        [compiled] = source.parent.glob(f"__pycache__/{source.stem}.*.pyc")
        flags = int.from_bytes(compiled.read_bytes()[4:8], "little")
        assert flags == 0b01, f"{source} would be compared with its source"


def test_any_user_can_read_the_image_whatever_the_umask_of_its_builder(image: Image):
    for path in [image.built.folder, *image.built.folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        needed = 0o555 if path.is_dir() else 0o444
        assert mode & needed == needed, f"{path} {mode:o}"


def test_it_starts_with_its_own_command_and_its_own_healthcheck_finds_it_healthy(image: Image):
    assert image.ran["healthy"], image.ran["said"]
    assert image.ran["healthy_after_s"] < 60, "the start period of HEALTHCHECK"
    assert "created" in image.ran["table"]


def test_what_started_does_its_work(image: Image):
    assert image.ran["works"], image.ran["said"]
    assert '"ready"' in image.ran["said"]
    assert "Traceback" not in image.ran["said"]


def test_the_healthcheck_fails_before_the_start_after_the_end_and_while_the_process_is_stuck(image: Image):
    assert image.ran["health_before"] == 1
    assert image.ran["health_after"] == 1
    assert image.ran["health_of_a_stopped_process"] == 1  # and not 124: it gives up before Docker does


def test_it_starts_without_any_network_but_loopback(image: Image):
    if not unshare():
        pytest.skip("this machine gives no network namespace (unshare --net)")
    assert image.ran["outside"] == "Network is unreachable"
    assert image.ran["works"]


def test_it_writes_nothing_to_its_root_its_home_or_its_temporary_folder(image: Image):
    assert image.ran["written"] == []
    assert image.ran["left_in_home"] == []


def test_sigterm_ends_it_with_0_well_before_docker_kills_it(image: Image):
    assert image.ran["exit"] == 0
    assert image.ran["ended_after_s"] < 10


@each_kind
def test_the_process_is_nobody_known_by_number(kind: Kind):
    """A number, so that Kubernetes' runAsNonRoot can see it."""
    user = kind.stages()[-1].last("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    after = [step.verb for step in kind.stages()[-1].steps if step.text == user or step.verb in ("RUN", "COPY")]
    assert after[-1] == "USER", "nothing is written after it"


@each_kind
def test_the_base_image_is_an_argument_that_a_digest_pins(kind: Kind):
    head, *stages = kind.stages()
    assert head.texts("ARG") == ["PYTHON_IMAGE=python:3.13-slim", "PYTHON_DIGEST="]
    assert {stage.base for stage in stages} == {"${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}"}


@each_kind
def test_nothing_is_installed_without_a_hash_or_from_a_source_that_must_be_built(kind: Kind):
    installs = [run for stage in kind.stages() for run in stage.texts("RUN") if " install " in run]
    assert len(installs) == 1
    assert {"--require-hashes", "--only-binary"} <= set(installs[0].split())
    copied = [text for stage in kind.stages() for text in stage.texts("COPY") if "requirements" in text]
    assert copied == [f"{kind.requirements} /tmp/requirements.txt"]
    assert not [stage for stage in kind.stages() if stage.texts("ADD")]


@each_kind
def test_the_final_stage_installs_nothing_and_takes_only_what_was_built(kind: Kind):
    final = kind.stages()[-1]
    assert [run.split()[0] for run in final.texts("RUN")] == ["rm"]
    assert all(text.startswith("--from=build ") for text in final.texts("COPY"))


@each_kind
def test_the_healthcheck_has_the_numbers_that_the_deployment_counts_on(kind: Kind):
    options, command = kind.stages()[-1].healthcheck()
    assert options == {"interval": "30s", "timeout": "5s", "start-period": "60s", "retries": "3"}
    assert command[:2] == ["python", "-c"]


@each_kind
def test_port_signal_command_and_labels_are_those_of_the_code(kind: Kind):
    final = kind.stages()[-1]
    port = next(f.default for f in kind.settings.model_fields.values() if f.alias == kind.port_setting)
    assert final.texts("EXPOSE") == [str(port)]
    assert f"'{kind.port_setting}', {port}" in final.healthcheck()[1][-1]
    assert final.texts("STOPSIGNAL") == ["SIGTERM"]
    assert final.command() == ["python", "-m", *kind.packages - {"broker"}]
    for label in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in final.last("LABEL")


@each_kind
def test_no_secret_and_no_setting_is_baked_in(kind: Kind):
    named = {
        word.partition("=")[0] for stage in kind.stages() for text in stage.texts("ENV") for word in text.split()
    }
    assert named == {
        "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR",
    }  # fmt: skip


def test_the_build_context_is_what_the_images_are_built_from_and_nothing_else():
    """compose.yaml's own images included."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    compose = re.findall(r"^\s+COPY (\S+)", (ROOT / "compose.yaml").read_text(), re.MULTILINE)
    stages = [stage for kind in KINDS for stage in kind.stages()]
    texts = [text for stage in stages for text in stage.texts("COPY") if not text.startswith("--from=")]
    copied = {text.split()[0].split("/")[0] for text in [*texts, *compose]}
    assert "*" in ignored
    assert copied == allowed
