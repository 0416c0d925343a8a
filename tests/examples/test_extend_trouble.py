"""extend-sandbox.sh when things go wrong."""

import json

import pytest

from tests.examples.conftest import BOTH, TOKEN, Host
from tests.examples.stand_in import ALLOCATION, Answer, allocation, refusal, standing_in

UNTIL = ALLOCATION["expires_at"] + 3600
EXTENDED = Answer(200, json.dumps(ALLOCATION | {"expires_at": UNTIL}).encode())
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
    with standing_in(EXTENDED) as broker:
        assert held.extend(broker.url, "1800").returncode == 0
    [request] = broker.requests
    assert (request.method, request.path) == ("POST", "/v1/sandboxes/2009521/extend")
    assert json.loads(request.body) == {"generation": ALLOCATION["generation"], "for_s": 1800}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["x-instruqt-sandbox-id"] == held.holder
    assert held.sourced()["SANDBOX_EXPIRES_AT"] == str(UNTIL)


@BOTH
@pytest.mark.parametrize("generation", [{"generation": None}, {}], ids=["none", "an older broker"])
def test_an_allocation_without_a_generation_is_extended_and_released_without_one(
    host: Host, generation: dict[str, None]
):
    answer = {name: value for name, value in ALLOCATION.items() if name != "generation"} | generation
    with standing_in(Answer(201, json.dumps(answer).encode())) as broker:
        assert host.setup(broker.url).returncode == 0
    assert host.sourced()["SANDBOX_GENERATION"] == ""
    with standing_in(EXTENDED) as broker:
        assert host.extend(broker.url).returncode == 0
        host.cleanup(broker.url, BROKER_ATTEMPTS="1")
    extend, release = broker.requests
    assert json.loads(extend.body) == {"generation": None, "for_s": 3600}
    assert release.body == b""
    assert "content-type" not in release.headers


def test_passing_trouble_is_repeated_after_the_seconds_that_it_names(held: Host):
    with standing_in(DOWN, EXTENDED) as broker:
        done = held.extend(broker.url)
    assert (done.returncode, done.stderr, len(broker.requests)) == (0, "", 2)
    assert broker.waits()[0] >= 1
    assert broker.requests[0].body == broker.requests[1].body


def test_it_gives_up_after_the_attempts_that_are_set(held: Host):
    with standing_in(DOWN) as broker:
        done = held.extend(broker.url, BROKER_ATTEMPTS="2")
    assert (done.returncode, len(broker.requests)) == (75, 2)
    assert "STORE_UNAVAILABLE" in done.stderr
    assert held.sourced()["SANDBOX_EXPIRES_AT"] == str(ALLOCATION["expires_at"])


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "EXTENSION_LIMIT"), (409, "STALE_GENERATION"), (410, "ALLOCATION_EXPIRED"), (404, "SANDBOX_NOT_FOUND")],
)
def test_what_a_repeat_cannot_mend_is_not_repeated_and_changes_nothing(held: Host, status: int, code: str):
    before = held.env_file.read_text()
    with standing_in(refusal(status, code, "A text."), EXTENDED) as broker:
        done = held.extend(broker.url)
    assert (done.returncode, len(broker.requests)) == (1, 1)
    why = f"{code}: A text. (HTTP {status}, request id req-4711)"
    assert done.stderr == f"extend-sandbox: sandbox 2009521 was not extended: {why}\n"
    assert held.env_file.read_text() == before


@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Sign in</html>"),
        Answer(200, json.dumps(ALLOCATION | {"sandbox_id": "another"}).encode()),
        Answer(200, json.dumps(ALLOCATION | {"expires_at": "1'; touch pwned; '"}).encode()),
    ],
    ids=["a login page", "another sandbox", "no time"],
)
def test_a_200_that_is_not_this_allocation_is_no_extension(held: Host, answer: Answer):
    with standing_in(answer, EXTENDED) as broker:
        assert held.extend(broker.url).returncode == 0
    assert len(broker.requests) == 2
    assert held.sourced()["SANDBOX_EXPIRES_AT"] == str(UNTIL)


@pytest.mark.parametrize(
    "arguments", [("0",), ("-1",), ("1h",), ("1000000",), ("60", "60"), ("--for", "60"), ("",)]
)
def test_what_is_no_number_of_seconds_is_refused_before_anything_is_sent(held: Host, arguments: tuple[str, ...]):
    with standing_in(EXTENDED) as broker:
        done = held.extend(broker.url, *arguments)
    assert (done.returncode, broker.requests) == (64, [])


def test_nothing_to_extend_is_a_failure(host: Host):
    done = host.extend("http://127.0.0.1:1")
    assert done.returncode == 78
    assert done.stderr.startswith("extend-sandbox: nothing to extend: there is no ")


def test_a_file_that_a_student_has_changed_is_read_and_not_run(held: Host):
    with held.env_file.open("a") as file:
        file.write("touch pwned\nSANDBOX_GENERATION=$(touch pwned)\nSANDBOX_GENERATION='1, \"for_s\": 9'\n")
    with standing_in(EXTENDED) as broker:
        assert held.extend(broker.url).returncode == 0
    assert not (held.home / "pwned").exists()
    assert json.loads(broker.requests[0].body) == {"generation": ALLOCATION["generation"], "for_s": 3600}


def test_a_generation_that_is_none_is_not_sent(host: Host):
    with standing_in(EXTENDED) as broker:
        host.extend(broker.url, SANDBOX_ID="2009521", SANDBOX_GENERATION='1, "for_s": 9')
    assert json.loads(broker.requests[0].body) == {"generation": None, "for_s": 3600}


def test_instruqts_own_variables_say_what_to_extend_and_learn_the_new_end(host: Host):
    host.add_tool(
        "agent",
        '#!/bin/sh\n[ "$2" = set ] && echo "$3=$4" >>said && exit\n'
        "case $3 in SANDBOX_ID) echo 2009521 ;; SANDBOX_GENERATION) echo 17 ;; *) echo who-set-it-up ;; esac\n",
    )
    with standing_in(EXTENDED) as broker:
        done = host.extend(broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert broker.requests[0].path == "/v1/sandboxes/2009521/extend"
    assert json.loads(broker.requests[0].body) == {"generation": 17, "for_s": 3600}
    assert broker.requests[0].headers["x-instruqt-sandbox-id"] == "who-set-it-up"
    assert (host.home / "said").read_text() == f"SANDBOX_EXPIRES_AT={UNTIL}\n"


def test_a_file_that_cannot_be_written_is_a_note_for_the_sandbox_is_extended(held: Host):
    held.add_tool("mktemp", "#!/bin/sh\ncase $1 in -d) mkdir work && echo work ;; *) exit 1 ;; esac\n")
    with standing_in(EXTENDED) as broker:
        done = held.extend(broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sandbox.env cannot be written" in done.stdout


def test_help_names_every_setting(host: Host):
    done = host.run("extend-sandbox.sh", "--help")
    assert done.returncode == 0
    for name in ("BROKER_URL", "BROKER_API_TOKEN", "SANDBOX_ENV_FILE", "SANDBOX_GENERATION", "BROKER_TOTAL_SEC"):
        assert name in done.stdout
