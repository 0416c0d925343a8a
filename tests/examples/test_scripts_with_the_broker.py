"""The Instruqt scripts against the real broker: `python -m app` over a real engine."""

import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.examples.conftest import BOTH, SCRIPTS, Host, RealBroker


@BOTH
def test_setup_holds_a_sandbox_and_leaves_its_facts_where_later_scripts_find_them(
    real_broker: RealBroker, host: Host
):
    [sandbox] = real_broker.add(1, host)
    done = host.setup(real_broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    held = real_broker.view(host, sandbox.id)
    assert held["status"] == "allocated"
    assert host.sourced() == {
        "SANDBOX_ID": sandbox.id,
        "SANDBOX_NAME": sandbox.name,
        "SANDBOX_EXTERNAL_ID": sandbox.external_id,
        "SANDBOX_EXPIRES_AT": str(held["expires_at"]),
        "SANDBOX_GENERATION": str(held["generation"]),
        "SANDBOX_HOLDER": host.holder,
    }
    assert stat.S_IMODE(host.env_file.stat().st_mode) == 0o600
    assert done.stdout == f"setup-sandbox: sandbox {sandbox.id} ({sandbox.name}) is allocated\n"


@BOTH
def test_setup_run_again_gives_the_same_sandbox(real_broker: RealBroker, host: Host):
    real_broker.add(2, host)
    host.setup(real_broker.url)
    first = host.env_file.read_text()
    host.env_file.unlink()
    again = host.setup(real_broker.url)
    assert (again.returncode, again.stderr) == (0, "")
    assert "was held already" in again.stdout
    assert host.env_file.read_text() == first


@BOTH
def test_cleanup_releases_what_setup_got_and_then_has_nothing_left_to_do(real_broker: RealBroker, host: Host):
    [sandbox] = real_broker.add(1, host)
    host.setup(real_broker.url)
    released = host.cleanup(real_broker.url)
    assert (released.returncode, released.stderr) == (0, "")
    assert released.stdout == f"cleanup-sandbox: released sandbox {sandbox.id}\n"
    assert real_broker.view(host, sandbox.id)["ended_by"] == "released"
    assert not host.env_file.exists()
    again = host.cleanup(real_broker.url)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing to release" in again.stdout


def test_cleanup_releases_for_the_holder_of_the_setup_even_where_its_own_environment_names_another(
    real_broker: RealBroker, host: Host
):
    [sandbox] = real_broker.add(1, host)
    host.setup(real_broker.url)
    assert host.cleanup(real_broker.url, SANDBOX_HOLDER="somebody-else").returncode == 0
    assert real_broker.view(host, sandbox.id)["ended_by"] == "released"


def test_cleanup_takes_the_sandbox_from_the_environment_where_there_is_no_file(
    real_broker: RealBroker, host: Host
):
    [sandbox] = real_broker.add(1, host)
    host.setup(real_broker.url)
    host.env_file.unlink()
    for _ in range(2):  # a release repeats
        released = host.cleanup(real_broker.url, SANDBOX_ID=sandbox.id)
        assert (released.returncode, released.stderr) == (0, "")
        assert f"released sandbox {sandbox.id}" in released.stdout


def test_cleanup_of_a_sandbox_that_the_broker_does_not_know_is_done_with_a_note(
    real_broker: RealBroker, host: Host
):
    done = host.cleanup(real_broker.url, SANDBOX_ID="no-such-sandbox")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no-such-sandbox is gone already: SANDBOX_NOT_FOUND: " in done.stdout


def test_cleanup_of_another_students_sandbox_fails_and_releases_nothing(real_broker: RealBroker, host: Host):
    [sandbox] = real_broker.add(1, host)
    host.setup(real_broker.url)
    host.env_file.unlink()
    refused = host.cleanup(real_broker.url, SANDBOX_ID=sandbox.id, SANDBOX_HOLDER="somebody-else")
    assert refused.returncode == 1
    assert "NOT_SANDBOX_OWNER" in refused.stderr
    assert real_broker.view(host, sandbox.id)["status"] == "allocated"


@BOTH
def test_a_wrong_token_is_refused_at_once_in_one_line_with_code_text_and_request_id(
    real_broker: RealBroker, host: Host
):
    refused = host.setup(real_broker.url, BROKER_API_TOKEN="some-other-token-of-20")
    assert (refused.returncode, refused.stdout) == (1, "")
    [line] = refused.stderr.splitlines()
    assert line.startswith("setup-sandbox: UNAUTHENTICATED: Send a valid token")
    assert "(HTTP 401, request id setup-sandbox-" in line
    assert not host.env_file.exists()


def test_an_empty_pool_is_waited_for_and_what_comes_is_taken(real_broker: RealBroker, host: Host):
    late = threading.Timer(3, real_broker.add, (1, host))
    late.start()
    began = time.monotonic()
    done = host.setup(real_broker.url, BROKER_EMPTY_SEC="60")
    late.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert "NO_SANDBOXES_AVAILABLE: No sandbox whose name starts with" in done.stdout
    assert time.monotonic() - began >= 10  # the broker's Retry-After


@BOTH
def test_an_empty_pool_that_stays_empty_ends_with_the_brokers_own_words(real_broker: RealBroker, host: Host):
    done = host.setup(real_broker.url, BROKER_EMPTY_SEC="5")
    assert done.returncode == 75
    [line] = done.stderr.splitlines()
    assert f"NO_SANDBOXES_AVAILABLE: No sandbox whose name starts with '{host.pool}'" in line
    assert "gave up after 1 tries" in line


def test_a_broker_that_comes_up_late_is_waited_for(late_broker: RealBroker, host: Host):
    [sandbox] = late_broker.add(1, host)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(host.setup, late_broker.url, BROKER_BACKOFF_MS="500", BROKER_ATTEMPTS="60")
        time.sleep(1)
        late_broker.start()
        done = running.result(60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "NO_ANSWER: curl: (7)" in done.stdout
    assert host.sourced()["SANDBOX_ID"] == sandbox.id


def test_students_who_start_together_hold_one_sandbox_each(real_broker: RealBroker, host: Host):
    real_broker.add(8, host)

    def start(number: int) -> str:
        mine = {"_SANDBOX_ID": f"{host.holder}-{number}", "SANDBOX_ENV_FILE": str(host.home / f"{number}.env")}
        done = host.setup(real_broker.url, **mine)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 8


def test_a_track_author_can_source_the_file_in_a_strict_shell(real_broker: RealBroker, host: Host):
    [sandbox] = real_broker.add(1, host)
    host.setup(real_broker.url)
    sourced = subprocess.run(
        ["sh", "-euc", '. "$0"; echo "$SANDBOX_ID"', host.env_file],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sourced.stdout == f"{sandbox.id}\n"


def test_the_scripts_can_be_copied_one_by_one():
    """Each holds all that it needs; what they share is the same in both."""
    setup, extend, cleanup = (
        (SCRIPTS / f"{name}-sandbox.sh").read_text() for name in ("setup", "extend", "cleanup")
    )
    for texts, least in (((setup, extend, cleanup), 100), ((extend, cleanup), 30)):
        begin = f"# --- the same in {'setup' if setup in texts else 'extend'}-sandbox.sh"
        shared = [text[text.index(begin) :] for text in texts]
        shared = [text[: text.index("# --- end of what")] for text in shared]
        assert len(shared[0].splitlines()) > least
        assert set(shared) == {shared[0]}


@BOTH
def test_an_extension_keeps_the_sandbox_for_longer_and_later_scripts_find_the_new_end(
    real_broker: RealBroker, host: Host
):
    [sandbox] = real_broker.add(1, host)
    host.setup(real_broker.url)
    before = host.sourced()
    done = host.extend(real_broker.url, "18000")
    assert (done.returncode, done.stderr) == (0, "")
    until = real_broker.view(host, sandbox.id)["expires_at"]
    assert int(before["SANDBOX_EXPIRES_AT"]) + 3000 < until
    assert host.sourced() == before | {"SANDBOX_EXPIRES_AT": str(until)}
    assert stat.S_IMODE(host.env_file.stat().st_mode) == 0o600
    assert done.stdout == f"extend-sandbox: sandbox {sandbox.id} is kept until {until} (Unix seconds)\n"
    assert [path.name for path in host.home.glob("sandbox.env*")] == [host.env_file.name]


def test_an_extension_to_what_is_held_anyhow_is_done_and_shortens_nothing(real_broker: RealBroker, host: Host):
    real_broker.add(1, host)
    host.setup(real_broker.url)
    before = host.sourced()
    for arguments in ((), ("1",)):  # an hour, a second
        done = host.extend(real_broker.url, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
    assert host.sourced() == before


def test_an_extension_beyond_the_limit_is_refused_with_how_long_it_can_be(real_broker: RealBroker, host: Host):
    real_broker.add(1, host)
    host.setup(real_broker.url)
    before = host.sourced()
    refused = host.extend(real_broker.url, "99999")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "EXTENSION_LIMIT: This allocation can be held 28" in line
    assert "s more at most" in line
    assert host.sourced() == before


def test_scripts_of_a_past_allocation_touch_nothing_and_cleanup_is_done_with_a_note(
    real_broker: RealBroker, host: Host
):
    [sandbox] = real_broker.add(1, host)
    host.setup(real_broker.url)
    present = int(host.sourced()["SANDBOX_GENERATION"])
    text = host.env_file.read_text()
    host.env_file.write_text(text.replace(f"'{present}'", f"'{present - 1}'"))
    assert "STALE_GENERATION" in host.extend(real_broker.url, "18000").stderr
    done = host.cleanup(real_broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is gone already: STALE_GENERATION: " in done.stdout
    assert real_broker.view(host, sandbox.id)["status"] == "allocated"
