"""compose.yaml: what it names exists in the code, and what it starts works, here without Docker."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.settings import ApiSettings, CoreSettings, WorkerSettings
from local.engine import engine_python, free_port, ministack_command
from simulator.options import OPTIONS
from tests.containers.compose_file import ROOT, MissingVariable, read_compose
from tests.containers.dockerfile import Stage, read

SECRETS = {
    "BROKER_API_TOKEN": "track-token-7c1f0b8e55aa4d",
    "BROKER_ADMIN_TOKEN": "admin-token-90a1c3d27be4f6",
    "CSP_API_TOKEN": "provider-token-of-this-run",
}
AWS = {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
SIMULATOR = {option.env for option in OPTIONS}
READ_BY = {
    "create-table": CoreSettings,
    "worker": WorkerSettings,
    "api": ApiSettings,
}


def _services() -> dict[str, dict[str, Any]]:
    return dict(read_compose(SECRETS)["services"])


def _aliases(settings: type[CoreSettings]) -> set[str]:
    return {field.alias for field in settings.model_fields.values() if field.alias}


def _final_stage(service: dict[str, Any]) -> Stage:
    """Of the image that the service runs."""
    build = service["build"]
    inline = build.get("dockerfile_inline")
    return read(inline if inline else (ROOT / build["dockerfile"]).read_text())[-1]


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_token_that_is_not_set_is_asked_for_by_name(name: str):
    with pytest.raises(MissingVariable, match=f"{name}: set it to"):
        read_compose({key: value for key, value in SECRETS.items() if key != name})


def test_no_token_has_a_value_in_the_file():
    for service in read_compose({name: "given" for name in SECRETS})["services"].values():
        for name, value in service["environment"].items():
            assert value == "given" or not name.endswith("_TOKEN"), name


@pytest.mark.parametrize("name", sorted(READ_BY))
def test_every_variable_of_a_service_is_one_that_its_process_reads(name: str):
    assert set(_services()[name]["environment"]) <= _aliases(READ_BY[name]) | AWS


def test_every_variable_of_the_simulator_is_one_that_it_reads():
    assert set(_services()["simulator"]["environment"]) <= SIMULATOR | {"PYTHONDONTWRITEBYTECODE"}


@pytest.mark.parametrize("name", sorted(READ_BY))
def test_the_settings_of_a_service_are_accepted_by_its_process(name: str, monkeypatch: pytest.MonkeyPatch):
    for variable, value in _services()[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = READ_BY[name]()
    assert settings.development


def test_ports_are_those_that_the_processes_listen_on_and_open_to_this_machine_alone():
    services = _services()
    for name in ("api", "worker"):
        [port] = services[name]["ports"]
        address, published, inside = port.split(":")
        first, _, last = published.partition("-")
        assert address == "127.0.0.1"
        assert inside == _final_stage(services[name]).last("EXPOSE") == first
        assert int(last or first) - int(first) + 1 == services[name].get("deploy", {}).get("replicas", 1)
    assert [name for name, service in services.items() if "ports" in service] == ["worker", "api"]


def test_there_are_two_apis_and_one_worker():
    services = _services()
    assert services["api"]["deploy"]["replicas"] == 2
    assert "deploy" not in services["worker"]


def test_services_find_each_other_where_they_listen():
    services = _services()
    store = _final_stage(services["store"]).command()
    assert {services[name]["environment"]["DDB_ENDPOINT_URL"] for name in READ_BY} == {
        f"http://store:{store[store.index('--port') + 1]}"
    }
    simulator = services["simulator"]["environment"]
    assert services["worker"]["environment"]["CSP_BASE_URL"] == f"http://simulator:{simulator['SIM_PORT']}"
    assert simulator["SIM_HOST"] == "0.0.0.0"  # noqa: S104  the container's only interface
    assert simulator["CSP_API_TOKEN"] == services["worker"]["environment"]["CSP_API_TOKEN"]


def test_the_store_is_the_engine_of_make_run():
    stage = _final_stage(_services()["store"])
    command, environment = ministack_command(4566)
    assert stage.command()[1:] == [word.replace("127.0.0.1", "0.0.0.0") for word in command[1:]]  # noqa: S104
    assert _services()["store"]["environment"]["SERVICES"] == environment["SERVICES"]
    assert stage.texts("COPY") == ["requirements/engine.txt /tmp/requirements.txt"]


@pytest.mark.parametrize("name", ["store", "simulator"])
def test_images_of_the_file_itself_are_locked_and_run_as_nobody(name: str):
    stage = _final_stage(_services()[name])
    [install] = stage.texts("RUN")
    assert {"--require-hashes", "--only-binary"} <= set(install.split())
    assert stage.last("USER") == "10001:10001"


def test_the_simulator_is_in_no_image_that_ships():
    built_by = {name: service["build"].get("dockerfile") for name, service in _services().items()}
    assert built_by == {
        "store": None,
        "create-table": "Dockerfile",
        "simulator": None,
        "worker": "Dockerfile.worker",
        "api": "Dockerfile",
    }


def test_nothing_starts_before_what_it_needs_is_healthy():
    needs = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in _services().items()
    }
    table = {"create-table": "service_completed_successfully"}
    assert needs == {
        "store": {},
        "create-table": {"store": "service_healthy"},
        "simulator": {},
        "worker": table | {"simulator": "service_healthy"},
        "api": table,
    }


def test_every_service_that_is_waited_for_has_a_healthcheck_and_the_others_keep_their_images():
    checks = {name: service.get("healthcheck") for name, service in _services().items()}
    assert checks["api"] is checks["worker"] is None
    assert _final_stage(_services()["api"]).healthcheck()
    assert _final_stage(_services()["worker"]).healthcheck()
    assert checks["create-table"] == {"disable": True}
    for name in ("store", "simulator"):
        assert checks[name]["test"][:3] == ["CMD", "python", "-c"]


def test_every_service_is_read_only_and_without_privileges():
    for service in _services().values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", ["api", "worker"])
def test_docker_kills_no_process_that_is_still_draining(name: str, monkeypatch: pytest.MonkeyPatch):
    service = _services()[name]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    drain_s = READ_BY[name]().drain_timeout_s
    assert float(service["stop_grace_period"].removesuffix("s")) > drain_s


@contextmanager
def _process(service: dict[str, Any], command: list[str], **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The service's process with the service's environment, and nothing of this machine's."""
    environment = {"PATH": "/usr/bin:/bin", **service["environment"], **more}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def _healthy(service: dict[str, Any], port: str, own_port: str) -> bool:
    test = [word.replace(port, own_port) for word in service["healthcheck"]["test"][2:]]
    return subprocess.run([sys.executable, *test], capture_output=True, check=False).returncode == 0


def _until(question: Any) -> None:
    ends_at = time.monotonic() + 40
    while not question():
        assert time.monotonic() < ends_at, "not within 40 s"
        time.sleep(0.1)


def test_what_the_file_starts_hands_out_a_sandbox():
    """The same commands and environments in the same order; names of services become ports of loopback."""
    store_port, provider_port, api_port, worker_port = (str(free_port()) for _ in range(4))
    services = _services()
    for service in services.values():
        for name, value in service["environment"].items():
            text = value.replace("store:4566", f"127.0.0.1:{store_port}").replace("9100", provider_port)
            service["environment"][name] = text.replace("simulator:", "127.0.0.1:").replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    python = sys.executable
    with ExitStack() as stack:
        store = _final_stage(services["store"]).command()[1:]
        listening = [word.replace("4566", store_port).replace("0.0.0.0", "127.0.0.1") for word in store]  # noqa: S104
        assert not _healthy(services["store"], "4566", store_port)
        stack.enter_context(_process(services["store"], [str(engine_python()), *listening]))
        _until(lambda: _healthy(services["store"], "4566", store_port))
        with _process(services["create-table"], [python, *services["create-table"]["command"][1:]]) as once:
            assert once.wait(30) == 0
        assert not _healthy(services["simulator"], "9100", provider_port)
        stack.enter_context(
            _process(services["simulator"], [python, *_final_stage(services["simulator"]).command()[1:]])
        )
        _until(lambda: _healthy(services["simulator"], "9100", provider_port))
        for name, port in (("worker", {"WORKER_PORT": worker_port}), ("api", {"API_PORT": api_port})):
            command = [python, *_final_stage(services[name]).command()[1:]]
            stack.enter_context(_process(services[name], command, **port))
        headers = {
            "Authorization": f"Bearer {SECRETS['BROKER_API_TOKEN']}",
            "X-Instruqt-Sandbox-ID": "student-1",
        }

        def allocated() -> bool:
            try:
                answer = httpx.post(f"http://127.0.0.1:{api_port}/v1/allocate", headers=headers)
            except httpx.TransportError:
                return False
            return answer.status_code == 201

        _until(allocated)


def test_docker_compose_accepts_the_file(tmp_path: Path):
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("the docker client is not installed here")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("the docker client here has no compose plugin")
    config = [docker, "compose", "-f", str(ROOT / "compose.yaml"), "config", "--quiet"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    good = subprocess.run(config, env=environment | SECRETS, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stdout) == (0, ""), good.stderr
    bad = subprocess.run(config, env=environment, capture_output=True, text=True, check=False)
    assert bad.returncode != 0
    assert "_TOKEN" in bad.stderr
