"""`make run`: ports, tokens and the environment of the parts, decided before anything starts."""

import socket
from collections.abc import Iterator

import pytest

from broker.settings import ApiSettings, WorkerSettings
from local.children import StartFailed
from local.engine import free_port
from local.plan import MAX_API_PROCESSES, make_plan


@pytest.fixture
def ports() -> dict[str, str]:
    """Three free ports: the defaults may be in use on this machine."""
    names = ("API_PORT", "SIM_PORT", "WORKER_PORT")
    chosen: set[int] = set()
    while len(chosen) < len(names):
        chosen.add(free_port())
    return {name: str(port) for name, port in zip(names, sorted(chosen), strict=True)}


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_ports_are_as_set_and_the_pool_has_two_hundred_sandboxes(ports: dict[str, str]) -> None:
    plan = make_plan(ports)
    assert plan.api_ports == [int(ports["API_PORT"])]
    assert (plan.sim_port, plan.worker_ports[0]) == (int(ports["SIM_PORT"]), int(ports["WORKER_PORT"]))
    assert plan.sandboxes == 200
    assert plan.store_port is not None
    assert plan.store_url == f"http://127.0.0.1:{plan.store_port}"


def test_several_api_processes_get_ports_in_a_row(ports: dict[str, str]) -> None:
    first = free_port()
    try:
        plan = make_plan(ports | {"API_PORT": str(first), "API_PROCESSES": "3"})
    except StartFailed as failed:
        pytest.skip(f"no three free ports in a row here: {failed}")
    assert plan.api_ports == [first, first + 1, first + 2]


def test_tokens_are_made_where_there_are_none_and_differ_each_time(ports: dict[str, str]) -> None:
    one, other = make_plan(ports), make_plan(ports)
    assert one.generated == {"BROKER_API_TOKEN", "BROKER_ADMIN_TOKEN"}
    assert len({one.api_token, one.admin_token, other.api_token, other.admin_token}) == 4


def test_the_callers_tokens_are_kept(ports: dict[str, str]) -> None:
    plan = make_plan(ports | {"BROKER_API_TOKEN": "mine", "BROKER_ADMIN_TOKEN": ""})
    assert plan.api_token == "mine"
    assert plan.generated == {"BROKER_ADMIN_TOKEN"}, "an empty one is none"


def test_a_store_that_the_caller_brought_is_used_and_none_is_started(ports: dict[str, str]) -> None:
    plan = make_plan(ports | {"DDB_ENDPOINT_URL": "http://127.0.0.1:8000"})
    assert (plan.store_port, plan.store_url) == (None, "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("API_PORT", "0"),
        ("API_PORT", "65536"),
        ("API_PORT", "-1"),
        ("API_PORT", "80.5"),
        ("API_PORT", "http"),
        ("API_PORT", " 8080"),
        ("SIM_PORT", "0"),
        ("WORKER_PORT", "x"),
        ("API_PROCESSES", "0"),
        ("API_PROCESSES", str(MAX_API_PROCESSES + 1)),
        ("SIM_SANDBOXES", "-1"),
        ("SIM_SANDBOXES", "1000001"),
        ("SIM_SANDBOXES", "many"),
    ],
)
def test_a_bad_number_is_one_sentence_that_names_the_variable(ports: dict[str, str], name: str, bad: str) -> None:
    with pytest.raises(StartFailed) as failed:
        make_plan(ports | {name: bad})
    said = str(failed.value)
    assert said.startswith(f"{name} must be a number from ")
    assert f"'{bad}'" in said
    assert said.count(".") == 1 or bad == "80.5"


@pytest.mark.parametrize(("name", "good"), [("SIM_SANDBOXES", "0"), ("SIM_SANDBOXES", "1000000")])
def test_the_bounds_themselves_are_good(ports: dict[str, str], name: str, good: str) -> None:
    assert make_plan(ports | {name: good}).sandboxes == int(good)


@pytest.mark.parametrize("name", ["API_PORT", "SIM_PORT", "WORKER_PORT"])
def test_a_port_that_is_taken_is_said_with_the_variable_to_change(
    ports: dict[str, str], taken: int, name: str
) -> None:
    with pytest.raises(StartFailed) as failed:
        make_plan(ports | {name: str(taken)})
    assert str(failed.value) == f"Port {taken} is in use: stop what holds it, or set {name} to another."


def test_two_parts_cannot_have_one_port(ports: dict[str, str]) -> None:
    with pytest.raises(StartFailed, match="Two processes were given port"):
        make_plan(ports | {"SIM_PORT": ports["WORKER_PORT"]})


def test_the_last_api_process_needs_a_port_too(ports: dict[str, str]) -> None:
    with pytest.raises(StartFailed, match="API_PROCESSES needs ports up to 65536"):
        make_plan(ports | {"API_PORT": "65535", "API_PROCESSES": "3"})


def test_every_part_starts_with_what_the_plan_says_and_passes_its_own_checks(
    ports: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(ports)
    environment = plan.environment({})
    for name in environment:
        monkeypatch.setenv(name, environment[name])
    api, worker = ApiSettings(), WorkerSettings()
    assert api.api_token.get_secret_value() == plan.api_token
    assert api.endpoint_url == worker.endpoint_url == plan.store_url
    assert (api.host, worker.host) == ("127.0.0.1", "127.0.0.1"), "nothing listens beyond this machine"
    assert worker.provider_url == f"http://127.0.0.1:{plan.sim_port}"
    assert worker.port == WorkerSettings.model_fields["port"].default
    assert environment["SIM_PORT"] == str(plan.sim_port)


def test_what_the_caller_set_wins_over_defaults_and_not_over_the_plan(ports: dict[str, str]) -> None:
    caller = {
        "SYNC_INTERVAL_SEC": "5",
        "CSP_API_TOKEN": "mine",
        "OTHER": "kept",
        "CSP_BASE_URL": "http://elsewhere",
    }
    environment = make_plan(ports | caller).environment(ports | caller)
    assert (environment["SYNC_INTERVAL_SEC"], environment["CSP_API_TOKEN"]) == ("5", "mine")
    assert environment["OTHER"] == "kept"
    assert environment["CSP_BASE_URL"] == f"http://127.0.0.1:{ports['SIM_PORT']}"
