"""cleanup-sandbox.sh when things go wrong."""

import json

import pytest

from local.engine import free_port
from tests.examples.conftest import BOTH, TOKEN, Host
from tests.examples.stand_in import RELEASE, Answer, allocation, refusal, standing_in

RELEASED = Answer(200, json.dumps(RELEASE).encode())
DOWN = refusal(503, "STORE_UNAVAILABLE", Retry_After="1")


@pytest.fixture
def held(host: Host) -> Host:
    """A host whose setup has run."""
    with standing_in(allocation()) as broker:
        host.setup(broker.url)
    assert host.env_file.exists()
    return host


@BOTH
def test_the_request_is_the_one_that_the_broker_documents(held: Host):
    with standing_in(RELEASED) as broker:
        assert held.cleanup(broker.url).returncode == 0
    [request] = broker.requests
    assert (request.method, request.path) == ("POST", "/v1/sandboxes/2009521/mark-for-deletion")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["x-instruqt-sandbox-id"] == held.holder


@pytest.mark.parametrize("status", [429, 503])
def test_passing_trouble_is_repeated_after_the_seconds_that_it_names(held: Host, status: int):
    with standing_in(refusal(status, "BUSY", Retry_After="1"), RELEASED) as broker:
        done = held.cleanup(broker.url)
    assert (done.returncode, done.stderr, len(broker.requests)) == (0, "", 2)
    assert broker.waits()[0] >= 1
    assert not held.env_file.exists()


def test_it_gives_up_after_the_attempts_that_are_set_and_keeps_the_file_for_a_further_run(held: Host):
    with standing_in(DOWN) as broker:
        done = held.cleanup(broker.url, BROKER_ATTEMPTS="2")
    assert (done.returncode, len(broker.requests)) == (75, 2)
    assert "STORE_UNAVAILABLE" in done.stderr
    with standing_in(RELEASED) as broker:
        assert held.cleanup(broker.url).returncode == 0
    assert len(broker.requests) == 1


def test_a_refused_connection_is_repeated_and_then_named(held: Host):
    done = held.cleanup(f"http://127.0.0.1:{free_port()}", BROKER_ATTEMPTS="3")
    assert done.returncode == 75
    assert done.stdout.count("trying again") == 2
    assert "NO_ANSWER: curl: (7)" in done.stderr


@BOTH
@pytest.mark.parametrize(("status", "code"), [(404, "SANDBOX_NOT_FOUND"), (410, "ALLOCATION_EXPIRED")])
def test_a_sandbox_that_is_gone_is_done_with_a_note(held: Host, status: int, code: str):
    with standing_in(refusal(status, code)) as broker:
        done = held.cleanup(broker.url)
    assert (done.returncode, done.stderr, len(broker.requests)) == (0, "", 1)
    assert f"note: sandbox 2009521 is gone already: {code}: " in done.stdout
    assert not held.env_file.exists()


@BOTH
@pytest.mark.parametrize(
    "answer", [Answer(404, b"<html>no such page</html>"), refusal(404, "NOT_FOUND", "No such route.")]
)
def test_a_404_that_is_not_about_the_sandbox_is_a_failure_for_the_url_is_wrong(held: Host, answer: Answer):
    with standing_in(answer) as broker:
        done = held.cleanup(broker.url)
    assert (done.returncode, len(broker.requests)) == (1, 1)
    assert "sandbox 2009521 was not released: " in done.stderr
    assert held.env_file.exists()


@pytest.mark.parametrize(
    ("status", "code"), [(400, "INVALID_REQUEST"), (401, "UNAUTHENTICATED"), (403, "FORBIDDEN")]
)
def test_what_a_repeat_cannot_mend_is_not_repeated(held: Host, status: int, code: str):
    with standing_in(refusal(status, code, "A text."), RELEASED) as broker:
        done = held.cleanup(broker.url)
    assert (done.returncode, len(broker.requests)) == (1, 1)
    why = f"{code}: A text. (HTTP {status}, request id req-4711)"
    assert done.stderr == f"cleanup-sandbox: sandbox 2009521 was not released: {why}\n"
    assert held.env_file.exists()


@BOTH
def test_a_login_page_with_status_200_is_no_release(held: Host):
    with standing_in(Answer(200, b"<html>Sign in</html>"), RELEASED) as broker:
        assert held.cleanup(broker.url).returncode == 0
    assert len(broker.requests) == 2


def test_nothing_to_release_is_said_and_needs_no_settings(host: Host):
    done = host.run("cleanup-sandbox.sh", BROKER_API_TOKEN="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cleanup-sandbox: nothing to release: there is no ")


def test_instruqts_own_variables_say_what_to_release_where_nothing_else_does(host: Host):
    host.add_tool("agent", '#!/bin/sh\n[ "$3" = SANDBOX_ID ] && echo 2009521 || echo who-set-it-up\n')
    with standing_in(RELEASED) as broker:
        assert host.cleanup(broker.url).returncode == 0
    assert broker.requests[0].path == "/v1/sandboxes/2009521/mark-for-deletion"
    assert broker.requests[0].headers["x-instruqt-sandbox-id"] == "who-set-it-up"


def test_an_instruqt_command_that_knows_nothing_means_nothing_to_release(host: Host):
    host.add_tool("agent", "#!/bin/sh\necho 'no such variable' >&2\nexit 1\n")
    done = host.cleanup("http://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to release" in done.stdout


def test_a_file_that_a_student_has_changed_is_read_and_not_run(held: Host):
    with held.env_file.open("a") as file:
        file.write("touch pwned\nSANDBOX_NAME=$(touch pwned)\nSANDBOX_HOLDER=`touch pwned`\n")
    with standing_in(RELEASED) as broker:
        assert held.cleanup(broker.url).returncode == 0
    assert not (held.home / "pwned").exists()
    assert broker.requests[0].headers["x-instruqt-sandbox-id"] == held.holder


def test_an_id_that_is_none_is_refused_before_anything_is_sent(host: Host):
    with standing_in(RELEASED) as broker:
        done = host.cleanup(broker.url, SANDBOX_ID="../admin/sync?x=")
    assert (done.returncode, broker.requests) == (78, [])
    assert "SANDBOX_ID may hold" in done.stderr
