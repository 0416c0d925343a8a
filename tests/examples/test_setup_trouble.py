"""setup-sandbox.sh when things go wrong: a stand-in says what a healthy broker does not say on demand."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from local.engine import free_port
from tests.examples.conftest import BOTH, ROOT, SCRIPTS, TOKEN, Host
from tests.examples.stand_in import ALLOCATION, Answer, allocation, refusal, standing_in

HTML = Answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", {"Content-Type": "text/html"})
EMPTY = refusal(409, "NO_SANDBOXES_AVAILABLE", "No sandbox is available right now.")
DOWN = refusal(503, "STORE_UNAVAILABLE", "The store cannot be reached.")


def test_the_request_is_the_one_that_the_broker_documents(host: Host):
    with standing_in(allocation()) as broker:
        done = host.setup(broker.url, INSTRUQT_TRACK_SLUG="kubernetes-101", SANDBOX_NAME_PREFIX="lab-")
    assert done.returncode == 0
    [request] = broker.requests
    assert (request.method, request.path, request.body) == ("POST", "/v1/allocate", b"")
    sent = {name: request.headers.get(name) for name in ("authorization", "content-length", "content-type")}
    assert sent == {"authorization": f"Bearer {TOKEN}", "content-length": "0", "content-type": None}
    assert request.headers["x-instruqt-sandbox-id"] == host.holder
    assert request.headers["x-instruqt-track-id"] == "kubernetes-101"
    assert request.headers["x-sandbox-name-prefix"] == "lab-"


@pytest.mark.parametrize(
    ("environment", "holder"),
    [
        ({}, "ins-1"),
        ({"_SANDBOX_ID": ""}, "participant-1"),
        ({"SANDBOX_HOLDER": "chosen"}, "chosen"),
    ],
)
def test_the_student_is_named_by_the_first_that_is_set(host: Host, environment: dict[str, str], holder: str):
    with standing_in(allocation()) as broker:
        host.setup(broker.url, **{"_SANDBOX_ID": "ins-1"} | environment)
    assert broker.requests[0].headers["x-instruqt-sandbox-id"] == holder


def test_a_url_may_have_a_path_and_slashes_at_its_end(host: Host):
    with standing_in(allocation()) as broker:
        assert host.setup(f"{broker.url}/base//").returncode == 0
    assert broker.requests[0].path == "/base/v1/allocate"


def test_optional_headers_are_left_out_where_nothing_is_set(host: Host):
    with standing_in(allocation()) as broker:
        host.setup(broker.url, SANDBOX_NAME_PREFIX="", INSTRUQT_TRACK_SLUG="")
    assert not {"x-sandbox-name-prefix", "x-instruqt-track-id"} & broker.requests[0].headers.keys()


def test_a_503_is_repeated_after_the_seconds_that_it_names(host: Host):
    with standing_in(refusal(503, "STORE_THROTTLED", Retry_After="2"), allocation()) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, done.stderr, len(broker.requests)) == (0, "", 2)
    assert 2 <= broker.waits()[0] < 4
    assert "STORE_THROTTLED" in done.stdout
    assert host.sourced()["SANDBOX_ID"] == ALLOCATION["sandbox_id"]


def test_a_429_is_repeated_after_the_seconds_that_it_names(host: Host):
    with standing_in(refusal(429, "RATE_LIMITED", Retry_After="1"), allocation()) as broker:
        assert host.setup(broker.url).returncode == 0
    assert 1 <= broker.waits()[0] < 3


def test_waits_without_a_retry_after_double_up_to_their_cap_and_differ_from_host_to_host(host: Host):
    waits = host.record_sleeps()
    with standing_in(DOWN) as broker:
        host.setup(broker.url, BROKER_ATTEMPTS="41", BROKER_BACKOFF_MS="200", BROKER_BACKOFF_CAP_MS="800")
    slept = waits()
    assert len(slept) == 40
    for number, wait_s in enumerate(slept):
        longest_s = min(0.2 * 2**number, 0.8)
        assert longest_s / 2 <= wait_s <= longest_s
    assert max(slept[2:]) - min(slept[2:]) > 0.2
    assert len(set(slept[2:])) > 20


def test_waits_of_a_retry_after_are_never_shorter_and_differ_from_host_to_host(host: Host):
    waits = host.record_sleeps()
    with standing_in(refusal(503, "NOT_READY", Retry_After="7")) as broker:
        host.setup(broker.url, BROKER_ATTEMPTS="21", BROKER_BACKOFF_MS="1000")
    slept = waits()
    assert len(slept) == 20
    assert all(7 <= wait_s <= 8 for wait_s in slept)
    assert len(set(slept)) > 10


def test_a_retry_after_that_is_a_date_is_no_number_of_seconds(host: Host):
    with standing_in(
        refusal(503, "NOT_READY", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), allocation()
    ) as broker:
        assert host.setup(broker.url).returncode == 0
    assert broker.waits()[0] < 1


def test_a_retry_after_beyond_the_time_left_is_not_waited_for(host: Host):
    with standing_in(refusal(503, "NOT_READY", Retry_After="18446744073709551617")) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, len(broker.requests)) == (75, 1)
    assert "no time is left to wait" in done.stderr


def test_it_gives_up_after_the_attempts_that_are_set_and_says_so_in_one_line(host: Host):
    with standing_in(DOWN) as broker:
        done = host.setup(broker.url, BROKER_ATTEMPTS="3")
    assert (done.returncode, len(broker.requests)) == (75, 3)
    [line] = done.stderr.splitlines()
    assert line.startswith(
        "setup-sandbox: STORE_UNAVAILABLE: The store cannot be reached. (HTTP 503, request id req-4711); "
        "gave up after 3 tries in "
    )
    assert not host.env_file.exists()


def test_it_gives_up_when_the_seconds_that_are_set_are_over_whatever_the_attempts(host: Host):
    began = time.monotonic()
    with standing_in(DOWN) as broker:
        done = host.setup(broker.url, BROKER_TOTAL_SEC="3", BROKER_ATTEMPTS="999", BROKER_BACKOFF_CAP_MS="300")
    assert done.returncode == 75
    assert 1 <= time.monotonic() - began < 5
    assert len(broker.requests) > 3


@BOTH
def test_an_empty_pool_has_bounds_of_its_own(host: Host):
    with standing_in(EMPTY) as broker:
        done = host.setup(broker.url, BROKER_EMPTY_ATTEMPTS="4", BROKER_ATTEMPTS="1")
    assert (done.returncode, len(broker.requests)) == (75, 4)
    assert (
        "NO_SANDBOXES_AVAILABLE: No sandbox is available right now. (HTTP 409, request id req-4711)" in done.stderr
    )


def test_trouble_does_not_use_up_the_attempts_for_an_empty_pool(host: Host):
    with standing_in(DOWN, EMPTY, DOWN, EMPTY, allocation()) as broker:
        done = host.setup(broker.url, BROKER_EMPTY_ATTEMPTS="3", BROKER_ATTEMPTS="3")
    assert (done.returncode, len(broker.requests)) == (0, 5)


def test_an_empty_pool_is_not_waited_for_where_the_track_says_so(host: Host):
    with standing_in(EMPTY) as broker:
        assert host.setup(broker.url, BROKER_EMPTY_ATTEMPTS="1").returncode == 75
    assert len(broker.requests) == 1


@BOTH
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_REQUEST"),
        (401, "UNAUTHENTICATED"),
        (403, "FORBIDDEN"),
        (404, "NOT_FOUND"),
        (409, "HOLDER_LIMIT"),
        (409, "IDEMPOTENCY_KEY_REUSED"),
        (410, "ALLOCATION_ENDED"),
    ],
)
def test_what_a_repeat_cannot_mend_is_not_repeated(host: Host, status: int, code: str):
    with standing_in(refusal(status, code, "A text for people.", Retry_After="1"), allocation()) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, done.stdout, len(broker.requests)) == (1, "", 1)
    assert done.stderr == f"setup-sandbox: {code}: A text for people. (HTTP {status}, request id req-4711)\n"


def test_a_refused_connection_is_repeated_and_then_named(host: Host):
    done = host.setup(f"http://127.0.0.1:{free_port()}", BROKER_ATTEMPTS="3")
    assert done.returncode == 75
    assert done.stdout.count("trying again") == 2
    assert done.stderr.startswith("setup-sandbox: NO_ANSWER: curl: (7) ")
    assert "gave up after 3 tries" in done.stderr


def test_a_broker_that_hangs_costs_one_request_timeout_and_is_asked_again(host: Host):
    hanging = Answer(201, b"{}", hangs_s=30)
    with standing_in(hanging, allocation()) as broker:
        done = host.setup(broker.url, BROKER_REQUEST_TIMEOUT_SEC="1")
    assert (done.returncode, len(broker.requests)) == (0, 2)
    assert "NO_ANSWER: curl: (28)" in done.stdout
    assert 1 <= broker.waits()[0] < 3


def test_a_broker_that_hangs_does_not_outlast_the_whole_time(host: Host):
    began = time.monotonic()
    with standing_in(Answer(201, b"{}", hangs_s=30)) as broker:
        done = host.setup(broker.url, BROKER_TOTAL_SEC="2")
    assert (done.returncode, len(broker.requests)) == (75, 1)
    assert time.monotonic() - began < 5


def test_a_connection_that_takes_no_call_is_given_up_after_its_own_timeout(host: Host):
    """A listener whose queue is full neither refuses nor accepts."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for caller in waiting:
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        began = time.monotonic()
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        done = host.setup(url, BROKER_CONNECT_TIMEOUT_SEC="1", BROKER_ATTEMPTS="1")
        for caller in waiting:
            caller.close()
    assert done.returncode == 75
    assert "curl: (28)" in done.stderr
    assert time.monotonic() - began < 4


def test_an_answer_that_breaks_off_is_asked_for_again(host: Host):
    broken = Answer(201, b'{"sandbox_id": "2009521", "expires_at": 1760014400, "na', breaks=True)
    with standing_in(broken, allocation()) as broker:
        assert host.setup(broker.url, BROKER_REQUEST_TIMEOUT_SEC="2").returncode == 0
    assert len(broker.requests) == 2
    assert host.sourced()["SANDBOX_NAME"] == ALLOCATION["name"]


@BOTH
@pytest.mark.parametrize(
    "garbage",
    [
        HTML,
        Answer(200, b"<html>Sign in to the hotel's network</html>"),
        Answer(201, b""),
        Answer(201, b'["sandbox_id"]'),
        Answer(201, b'{"sandbox_id": "2009521", "name": "no time"}'),
        Answer(201, b'{"sandbox_id": "$(touch pwned)", "expires_at": 1}'),
        Answer(200, b"\x00\xff\xfe garbage \x00"),
    ],
    ids=["502 page", "login page", "nothing", "a list", "half of it", "no id", "bytes"],
)
def test_garbage_instead_of_an_answer_is_asked_for_again(host: Host, garbage: Answer):
    with standing_in(garbage, allocation()) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, done.stderr, len(broker.requests)) == (0, "", 2)
    assert "UNREADABLE_ANSWER: not the broker's JSON" in done.stdout
    assert not (host.home / "pwned").exists()


def test_garbage_for_good_ends_with_one_printable_line(host: Host):
    page = b"<!doctype html>\n<title>\x1b[31mBad\x07 Gateway</title>\n" + b"x" * 100_000
    with standing_in(Answer(503, page)) as broker:
        done = host.setup(broker.url, BROKER_ATTEMPTS="2")
    assert (done.returncode, len(broker.requests)) == (75, 2)
    [line] = done.stderr.splitlines()
    assert "UNREADABLE_ANSWER: not the broker's JSON, is BROKER_URL right? It begins: <!doctype html>" in line
    assert line.isprintable()
    assert len(line) < 400


@BOTH
def test_a_refusal_is_one_printable_line_whatever_its_text_holds(host: Host):
    with standing_in(refusal(403, "FORBIDDEN", "\x1b[31mtwo\nlines\x07" + "x" * 1000)) as broker:
        done = host.setup(broker.url)
    [line] = done.stderr.splitlines()
    assert "FORBIDDEN:  [31mtwo lines xxx" in line
    assert line.isprintable()
    assert len(line) < 400


def test_a_redirect_is_not_followed_with_the_token(host: Host):
    with standing_in(allocation()) as elsewhere:
        moved = Answer(307, b"", {"Location": f"{elsewhere.url}/v1/allocate"})
        with standing_in(moved) as broker:
            done = host.setup(broker.url)
    assert (done.returncode, len(broker.requests), elsewhere.requests) == (1, 1, [])
    assert "HTTP 307" in done.stderr


@BOTH
@pytest.mark.parametrize("script", ["setup-sandbox.sh", "cleanup-sandbox.sh"])
@pytest.mark.parametrize("final", [allocation(), refusal(401, "UNAUTHENTICATED")])
def test_the_token_is_not_shown_by_a_traced_run(host: Host, script: str, final: Answer):
    with standing_in(DOWN, final) as broker:
        traced = host.run(script, trace=True, BROKER_URL=broker.url, SANDBOX_ID="2009521", BROKER_ATTEMPTS="3")
    assert broker.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"
    assert "+ post /v1/" in traced.stderr  # it was traced
    assert TOKEN not in traced.stdout + traced.stderr
    assert not [path for path in host.home.iterdir() if path.is_file() and TOKEN in path.read_text()]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="there is no /proc to look into here")
def test_the_token_stands_in_no_process_list(host: Host):
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(entry.read_bytes())
                except OSError:
                    continue

    looking = threading.Thread(target=look)
    looking.start()
    with standing_in(Answer(503, b"", hangs_s=1), allocation()) as broker:
        done = host.setup(broker.url, BROKER_REQUEST_TIMEOUT_SEC="5")
    over.set()
    looking.join()
    assert done.returncode == 0
    assert any(broker.url.encode() in line and b"curl" in line for line in seen)
    assert not [line for line in seen if TOKEN.encode() in line]


def test_a_curlrc_of_the_host_changes_nothing(host: Host):
    (host.home / ".curlrc").write_text('proxy = "http://127.0.0.1:1"\n')
    with standing_in(allocation()) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert broker.requests[0].headers["x-instruqt-sandbox-id"] == host.holder


@pytest.mark.parametrize("token", ['quote"and\\slash-0123456789', "  padded-with-blanks-0123\n"])
def test_a_token_arrives_as_it_is_but_for_blanks_around_it(host: Host, token: str):
    with standing_in(allocation()) as broker:
        assert host.setup(broker.url, BROKER_API_TOKEN=token).returncode == 0
    assert broker.requests[0].headers["authorization"] == f"Bearer {token.strip()}"


HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a & b | c > pwned",
    "back\\slash and \\n and $HOME and 'quotes' \"too\"",
    "two\nlines\ttab\r\x01",
    "Ünïcode – ラボ 🧪",
    "*",
    "",
]


@BOTH
@pytest.mark.parametrize("value", HOSTILE)
def test_whatever_a_value_holds_it_is_written_as_a_value_and_not_run(host: Host, value: str):
    with standing_in(allocation(name=value, external_id=value)) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    facts = host.sourced()
    assert (facts["SANDBOX_NAME"], facts["SANDBOX_EXTERNAL_ID"]) == (value, value)
    assert not (host.home / "pwned").exists()


@BOTH
def test_json_may_be_spelled_otherwise(host: Host):
    body = (
        b'{\n  "expires_at" : 1760014400 ,\r\n "note": "a \\"name\\": \\"trap\\"",'
        b' "name" : "l\\u0061b-\\u00fc\\u20ac\\/1",'
        b' "external_id":"x\\\\", "sandbox_id":\t"2009521"}'
    )
    with standing_in(Answer(200, body)) as broker:
        assert host.setup(broker.url).returncode == 0
    facts = host.sourced()
    assert (facts["SANDBOX_NAME"], facts["SANDBOX_EXTERNAL_ID"]) == ("lab-ü€/1", "x\\")


@pytest.mark.parametrize("host", ["jq"], indirect=True)
def test_jq_reads_the_answer_where_it_is_installed(host: Host):
    """It knows pairs of escapes, which the script alone does not."""
    body = b'{"sandbox_id": "2009521", "expires_at": 1760014400, "name": "\\ud83e\\uddea", "external_id": "x"}'
    with standing_in(Answer(200, body)) as broker:
        assert host.setup(broker.url).returncode == 0
    assert host.sourced()["SANDBOX_NAME"] == "🧪"


def test_a_jq_that_does_not_run_is_done_without(host: Host):
    host.add_tool("jq", "#!/no/such/interpreter\n")
    with standing_in(allocation()) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert host.sourced()["SANDBOX_NAME"] == ALLOCATION["name"]


def test_instruqts_own_variables_are_set_where_its_command_exists(host: Host):
    host.add_tool("agent", '#!/usr/bin/env bash\nprintf "%s|" "$@" >>"$HOME/agent.log"\n')
    host.environment["PATH"] += ":/usr/bin"  # of env
    with standing_in(allocation(name="two words")) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    said = (host.home / "agent.log").read_text()
    assert "variable|set|SANDBOX_ID|2009521|variable|set|SANDBOX_NAME|two words|" in said
    assert f"|SANDBOX_EXPIRES_AT|{ALLOCATION['expires_at']}|" in said


def test_an_instruqt_command_that_fails_is_a_note_and_no_failure(host: Host):
    host.add_tool("agent", "#!/bin/sh\necho broken >&2\nexit 1\n")
    with standing_in(allocation()) as broker:
        done = host.setup(broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: Instruqt's variable SANDBOX_ID could not be set" in done.stdout
    assert host.sourced()["SANDBOX_ID"] == ALLOCATION["sandbox_id"]


def test_a_file_that_cannot_be_written_fails_and_says_whose_the_sandbox_is(host: Host):
    (host.home / "taken").mkdir()
    with standing_in(allocation()) as broker:
        done = host.setup(broker.url, SANDBOX_ENV_FILE=str(host.home / "taken"))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "sandbox 2009521 is this student's" in line
    assert "cannot be written" in line


def test_the_files_folder_is_made_and_an_older_file_keeps_no_looser_mode(host: Host):
    target = host.home / "deep" / "er" / "sandbox.env"
    target.parent.mkdir(parents=True)
    target.write_text("old")
    target.chmod(0o644)
    with standing_in(allocation()) as broker:
        host.setup(broker.url, SANDBOX_ENV_FILE=str(target))
        host.setup(broker.url, SANDBOX_ENV_FILE=str(host.home / "new" / "sandbox.env"))
    assert target.stat().st_mode & 0o777 == 0o600
    assert (host.home / "new" / "sandbox.env").read_text() == target.read_text()
    assert [path.name for path in target.parent.iterdir()] == ["sandbox.env"]


def test_nothing_but_the_result_is_left_behind(host: Host):
    with standing_in(allocation()) as broker:
        host.setup(broker.url)
        host.run("setup-sandbox.sh", BROKER_URL=f"http://127.0.0.1:{free_port()}", BROKER_ATTEMPTS="1")
    assert {path.name for path in host.home.iterdir()} == {"bin", "sandbox.env"}


@pytest.mark.parametrize("script", ["setup-sandbox.sh", "cleanup-sandbox.sh"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"BROKER_URL": ""}, "BROKER_URL must be the broker's address"),
        ({"BROKER_URL": "broker.example.com"}, "BROKER_URL must be the broker's address"),
        ({"BROKER_URL": "https://user:hunter2@broker.example.com"}, "BROKER_URL must be the broker's address"),
        ({"BROKER_URL": "http://broker.example.com"}, "plain http"),
        ({"BROKER_URL": "http://localhost.example.com"}, "plain http"),
        ({"BROKER_API_TOKEN": ""}, "BROKER_API_TOKEN is not set"),
        ({"BROKER_ATTEMPTS": "0"}, "BROKER_ATTEMPTS must be a whole number from 1"),
        ({"BROKER_TOTAL_SEC": "1.5"}, "BROKER_TOTAL_SEC must be a whole number"),
        ({"BROKER_TOTAL_SEC": "a[$(touch pwned)]"}, "BROKER_TOTAL_SEC must be a whole number"),
        ({"SANDBOX_HOLDER": "a student"}, "SANDBOX_HOLDER may hold"),
        ({"SANDBOX_HOLDER": "a\r\nX-Evil: 1"}, "SANDBOX_HOLDER may hold"),
        ({"_SANDBOX_ID": "", "INSTRUQT_PARTICIPANT_ID": ""}, "set SANDBOX_HOLDER"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_sent(
    host: Host, script: str, changes: dict[str, str], said: str
):
    with standing_in(allocation()) as broker:
        done = host.run(script, **{"BROKER_URL": broker.url, "SANDBOX_ID": "2009521"} | changes)
    assert (done.returncode, done.stdout, broker.requests) == (78, "", [])
    [line] = done.stderr.splitlines()
    assert said in line
    assert "hunter2" not in line
    assert not (host.home / "pwned").exists()


def test_a_number_with_leading_zeros_is_decimal(host: Host):
    with standing_in(DOWN) as broker:
        host.setup(broker.url, BROKER_ATTEMPTS="010", BROKER_BACKOFF_MS="001", BROKER_BACKOFF_CAP_MS="9")
    assert len(broker.requests) == 10


def test_plain_http_to_another_machine_can_be_allowed(host: Host):
    done = host.run(
        "setup-sandbox.sh", BROKER_URL="http://broker.invalid", BROKER_ALLOW_HTTP="1", BROKER_ATTEMPTS="1"
    )
    assert done.returncode == 75
    assert "NO_ANSWER: curl: (6)" in done.stderr


def test_a_host_without_curl_is_told_so(host: Host):
    (host.tools / "curl").unlink()
    done = host.setup("http://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (78, "setup-sandbox: curl is not installed on this host\n")


@pytest.mark.parametrize("script", ["setup-sandbox.sh", "cleanup-sandbox.sh"])
def test_help_names_every_setting_that_the_script_reads_and_needs_none(host: Host, script: str):
    shown = host.run(script, "--help", BROKER_API_TOKEN="", BROKER_URL="")
    assert (shown.returncode, shown.stderr) == (0, "")
    named = {
        "BROKER_URL", "BROKER_API_TOKEN", "BROKER_TOTAL_SEC", "BROKER_ATTEMPTS", "BROKER_CONNECT_TIMEOUT_SEC",
        "BROKER_REQUEST_TIMEOUT_SEC", "BROKER_BACKOFF_MS", "BROKER_BACKOFF_CAP_MS", "BROKER_ALLOW_HTTP",
        "SANDBOX_ENV_FILE", "SANDBOX_HOLDER", "INSTRUQT_PARTICIPANT_ID", "_SANDBOX_ID",
    }  # fmt: skip
    assert {name for name in named if name not in shown.stdout} == set()


@pytest.mark.parametrize("script", ["setup-sandbox.sh", "cleanup-sandbox.sh"])
def test_an_unknown_argument_is_refused(host: Host, script: str):
    done = host.run(script, "--hlep")
    assert done.returncode == 64
    assert "unknown argument '--hlep'; --help lists the settings" in done.stderr


def test_shellcheck_finds_nothing():
    """Of the host, or of the interpreter that runs the tests."""
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed here")
    scripts = [str(path) for path in sorted(SCRIPTS.glob("*.sh"))]
    checked = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")
    assert all(os.access(script, os.X_OK) for script in scripts)
