"""Both images, built and run by a real Docker engine where there is one."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.containers.test_images import KINDS, ROOT, Kind


def _no_engine() -> str | None:
    """Why nothing can be built here, or None where it can."""
    docker = shutil.which("docker")
    if docker is None:
        return "the docker client is not installed here"
    try:
        info = subprocess.run([docker, "info"], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return "the docker engine does not answer"
    return None if info.returncode == 0 else "no docker engine answers here (docker info fails)"


_WHY = _no_engine()
pytestmark = [pytest.mark.skipif(_WHY is not None, reason=str(_WHY)), pytest.mark.timeout(1800)]


def _docker(*words: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout if check else f"{done.returncode}"


@dataclass(frozen=True)
class Container:
    """A running one: no network, a read-only root, no privileges, and no store that it could reach."""

    kind: Kind
    tag: str
    name: str

    def config(self) -> dict[str, Any]:
        [image] = json.loads(_docker("image", "inspect", self.tag))
        return dict(image["Config"])

    def health(self) -> int:
        return int(_docker("exec", self.name, *self.config()["Healthcheck"]["Test"][1:], check=False))


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def container(request: pytest.FixtureRequest) -> Iterator[Container]:
    kind: Kind = request.param
    tag, name = f"sandbox-broker-{kind.name}:test", f"sandbox-broker-{kind.name}-test"
    _docker("build", "-f", kind.file, "-t", tag, "--build-arg", "VERSION=test", ".")
    settings = {
        "BROKER_ENV": "development",
        "DDB_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "BROKER_API_TOKEN": "track-token-7c1f0b8e55aa4d",
        "BROKER_ADMIN_TOKEN": "admin-token-90a1c3d27be4f6",
        "CSP_BASE_URL": "http://127.0.0.1:1",
        "CSP_API_TOKEN": "provider-token-of-this-run",
        "DRAIN_NOTICE_SEC": "0",
    }
    variables = [word for pair in settings.items() for word in ("--env", "=".join(pair))]
    locked = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    _docker("rm", "--force", name, check=False)
    _docker("run", "--detach", "--name", name, *locked, *variables, tag)
    yield Container(kind, tag, name)
    _docker("rm", "--force", name)


def test_the_built_image_says_what_its_dockerfile_says(container: Container):
    config, final = container.config(), container.kind.stages()[-1]
    assert config["User"] == final.last("USER")
    assert list(config["ExposedPorts"]) == [f"{final.last('EXPOSE')}/tcp"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Cmd"] == final.command()
    assert config["Labels"]["org.opencontainers.image.version"] == "test"
    check = config["Healthcheck"]
    seconds = {name: check[name] / 1e9 for name in ("Interval", "Timeout", "StartPeriod")}
    assert seconds | {"Retries": check["Retries"]} == {
        "Interval": 30,
        "Timeout": 5,
        "StartPeriod": 60,
        "Retries": 3,
    }


def test_it_starts_offline_and_its_healthcheck_finds_it_healthy(container: Container):
    ends_at = time.monotonic() + 60
    while container.health() != 0:
        assert time.monotonic() < ends_at, _docker("logs", container.name)
        time.sleep(0.5)


def test_it_runs_as_nobody_and_holds_neither_an_installer_nor_what_belongs_elsewhere(container: Container):
    code = (
        "import importlib.util as u, os; "
        f"print(os.getuid(), os.getgid(), [n for n in {sorted(container.kind.absent)} if u.find_spec(n)])"
    )
    assert _docker("exec", container.name, "python", "-c", code).strip() == "10001 10001 []"
    assert _docker("exec", container.name, "/usr/local/bin/python", "-m", "pip", "--version", check=False) == "1"
    packages = _docker("exec", container.name, "ls", "/srv/broker").split()
    assert set(packages) == container.kind.packages


def test_sigterm_ends_it_with_0(container: Container):
    _docker("stop", "--time", "40", container.name)
    [state] = json.loads(_docker("inspect", container.name))
    assert state["State"]["ExitCode"] == 0
