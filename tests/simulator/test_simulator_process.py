"""`python -m simulator` as a process: its options, its signals, its exit codes."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from simulator.faults import CHECKS, Faults
from simulator.fields import InvalidInput
from simulator.manual import EXAMPLES
from simulator.options import OPTIONS, Settings, read_settings

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-W", "error", "-m", "simulator"]
Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a simulator on a free port; gives the process and its URL. Ends what a test leaves running."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [*COMMAND, "--port", "0", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        line = process.stdout.readline()
        assert " sandboxes at http://" in line, line + process.stderr.read()
        return process, line.split(" at ")[1].split(",")[0]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_without_a_word(start: Start, number):
    process, url = start()
    assert httpx.get(f"{url}/healthz").status_code == 200
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_what_is_in_hand_at_the_end_is_answered_and_does_not_hold_it_up(start: Start):
    process, url = start("--delete-latency-s", "60")
    headers = {"Authorization": "Token simulator-token"}
    accounts = httpx.get(f"{url}/current_user/accounts", headers=headers).json()["results"]
    uuid = next(a for a in accounts if a["account_type"] == "sandbox")["id"].rpartition("/")[2]
    statuses: list[int] = []

    def delete() -> None:
        statuses.append(httpx.delete(f"{url}/sandbox/accounts/{uuid}", headers=headers, timeout=30).status_code)

    caller = threading.Thread(target=delete)
    caller.start()
    while not any(a["delete_requests"] for a in httpx.get(f"{url}/_simulator/accounts").json()["results"]):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=5)
    caller.join(timeout=5)
    assert (process.returncode, err, statuses) == (0, "", [204])


def test_a_second_start_on_a_used_port_says_one_sentence_and_ends_with_1(start: Start):
    _, url = start()
    port = url.rpartition(":")[2]
    second = run("--port", port)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == (
        f"simulator: cannot listen on 127.0.0.1, port {port}: "
        "it is in use; stop the other process or choose another with --port or SIM_PORT.\n"
    )


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", "a" * 100, "x..y"])
def test_a_host_it_cannot_listen_on_is_one_sentence_and_ends_with_1(host):
    ended = run("--host", host, "--port", "0")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"simulator: cannot listen on {host}, port 0: ")
    assert ended.stderr.count("\n") == 1


def test_the_port_can_be_used_again_at_once(start: Start):
    process, url = start()
    with httpx.Client() as client:  # its connection is open, so that the server is the side that closes
        client.get(f"{url}/healthz")
        process.terminate()
        process.wait(timeout=10)
    _, again = start("--port", url.rpartition(":")[2])
    assert again == url


def test_it_listens_on_loopback_and_serves_what_the_environment_says(start: Start):
    _, url = start(CSP_API_TOKEN="from-env", SIM_SANDBOXES="7", SIM_NOISE="2", SIM_LISTING_LAG_S="9.5")
    assert url.startswith("http://127.0.0.1:")
    headers = {"Authorization": "Token from-env"}
    assert len(httpx.get(f"{url}/current_user/accounts", headers=headers).json()["results"]) == 9
    faults = httpx.get(f"{url}/_simulator/faults").json()
    assert (faults["listing_lag_s"], faults["delete_latency_s"]) == (9.5, 0.2)


def test_a_bad_option_is_one_sentence_and_ends_with_2():
    ended = run("--port", "eighty")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "simulator: --port must be a whole number from 0 to 65535.\n"


def test_help_tells_every_option_its_variable_and_its_default_and_every_switch():
    ended = run("--help", CSP_API_TOKEN="a-real-secret", SIM_SERVICES_PASSWORD="a-real-secret")
    assert (ended.returncode, ended.stderr) == (0, "")
    for option in OPTIONS:
        assert option.flag in ended.stdout
        assert f"[{option.env};" in " ".join(ended.stdout.split())
    assert all(f"\n  {name} " in ended.stdout for name in CHECKS)
    assert "a-real-secret" not in ended.stdout


def test_every_switch_is_in_a_line_to_copy_and_every_such_line_is_accepted():
    told = [json.loads(line.split("'")[1]) for line in EXAMPLES.splitlines() if line.startswith("  faults '")]
    for changes in told:
        assert Faults().changed(changes) != Faults()
    assert {name for changes in told for name in changes} == set(CHECKS)


def test_the_defaults_are_those_of_the_settings():
    assert read_settings([], {}) == Settings()
    assert (Settings().host, Settings().port, Settings().sandboxes) == ("127.0.0.1", 9100, 200)


def test_a_flag_wins_over_the_environment_and_an_empty_variable_counts_as_unset():
    settings = read_settings(["--sandboxes", "5"], {"SIM_SANDBOXES": "6", "SIM_PORT": "", "SIM_SEED": "8"})
    assert (settings.sandboxes, settings.port, settings.seed) == (5, 9100, 8)


BOUNDS = [
    ("--port", "SIM_PORT", ["0", "65535"], ["-1", "65536", "1.5", "x"]),
    ("--sandboxes", "SIM_SANDBOXES", ["0", "1000000"], ["-1", "1000001", "1e3"]),
    ("--noise", "SIM_NOISE", ["0", "100000"], ["-1", "100001"]),
    (
        "--delete-latency-s",
        "SIM_DELETE_LATENCY_S",
        ["0", "600", "7.5"],
        ["-0.1", "600.1", "nan", "inf", "soon"],
    ),
    ("--listing-lag-s", "SIM_LISTING_LAG_S", ["0", "5184000"], ["-1", "5184001", "nan"]),
    ("--seed", "SIM_SEED", ["0", "4294967295"], ["-1", "4294967296", "x"]),
    ("--token", "CSP_API_TOKEN", ["x", "a-b_c.~!"], ["a b", "ü", "a\nb"]),
    ("--services-per-account", "SIM_SERVICES_PER_ACCOUNT", ["0", "100"], ["-1", "101", "x"]),
    ("--services-email", "SIM_SERVICES_EMAIL", ["a@b.example"], ["a b", "ü"]),
    ("--services-password", "SIM_SERVICES_PASSWORD", ["x", "p-w~!"], ["a b", "ü"]),
    ("--host", "SIM_HOST", ["::1", "localhost"], ["a\nb", "ä", "a b"]),
]


def test_the_bounds_of_every_option_are_tested():
    assert {(flag, env) for flag, env, _, _ in BOUNDS} == {(option.flag, option.env) for option in OPTIONS}


@pytest.mark.parametrize(("flag", "env", "value"), [(f, e, v) for f, e, good, _ in BOUNDS for v in good])
def test_an_option_within_its_bounds_is_taken_from_the_flag_and_from_the_environment(flag, env, value):
    assert read_settings([f"{flag}={value}"], {}) == read_settings([], {env: value})


@pytest.mark.parametrize(("flag", "env", "value"), [(f, e, v) for f, e, _, bad in BOUNDS for v in bad])
def test_an_option_out_of_bounds_is_refused_by_the_name_it_was_given(flag, env, value):
    with pytest.raises(InvalidInput, match=f"^{flag} must be"):
        read_settings([f"{flag}={value}"], {})
    with pytest.raises(InvalidInput, match=f"^{env} must be"):
        read_settings([], {env: value})


def test_an_empty_flag_is_refused_and_an_unknown_or_shortened_one_too():
    for arguments in (["--token="], ["--no-such"], ["--sand", "5"], ["--port"]):
        with pytest.raises(InvalidInput):
            read_settings(arguments, {})


def test_all_bad_options_are_told_at_once_and_the_token_is_not_repeated():
    with pytest.raises(InvalidInput) as refused:
        read_settings(["--port", "x", "--token", "sec ret"], {"SIM_SEED": "y"})
    assert [problem.split()[0] for problem in refused.value.problems] == ["--port", "--token", "SIM_SEED"]
    assert "sec" not in str(refused.value)
