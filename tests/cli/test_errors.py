"""Every way in which a command ends badly: a sentence, an exit code, no traceback and no secret."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from local.engine import free_port
from local.store_proxy import StoreProxy
from tests.api.process import a_process, make_table
from tests.api.service import ADMIN_TOKEN, API_TOKEN, Api
from tests.cli.conftest import served
from tests.cli.shell import Done, Shell
from tests.provider.sockets import saying, serving

ALL = [
    ["status"],
    ["list"],
    ["show", "2009001"],
    ["dead-letters"],
    ["reconcile"],
    ["sync"],
    ["cleanup"],
    ["jobs", "list"],
    ["jobs", "show", "1"],
    ["jobs", "watch", "1"],
    ["jobs", "cancel", "1"],
    ["jobs", "requeue", "1"],
    ["mode"],
    ["mode", "drain", "--reason", "a test"],
    ["retry", "2009001"],
    ["force-release", "2009001", "2009002", "--reason", "a test"],
    ["bulk", "retry", "--reason", "a test", "--yes"],
    ["bulk-delete", "--status", "stale", "--yes"],
]
"""Every command that talks to the API, in its shortest form."""
SOME = [["status"], ["list"], ["sync"], ["retry", "1", "2"]]
"""One of each way to call it: several parts at once, pages, a job, several calls."""


def sentence(done: Done) -> str:
    """The one line that tells what is wrong."""
    (line,) = done.err.splitlines()
    assert line.startswith("sandbox-broker: ")
    return line.removeprefix("sandbox-broker: ")


async def test_an_api_that_is_not_there_is_3_and_says_where_it_was_looked_for() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"

    for done in await Shell(nowhere).run_each(*ALL):
        assert done.code == 3
        assert f"{nowhere} cannot be reached: Connection refused." in done.err
        assert "(request cli-" in done.err


async def test_a_token_that_the_broker_does_not_know_is_1_and_is_not_repeated(shell: Shell) -> None:
    wrong = "wrong-0123456789abcdef"

    for done in await shell.run_each(*SOME, BROKER_ADMIN_TOKEN=wrong):
        assert done.code == 1
        assert "BROKER_ADMIN_TOKEN (or --token-file) holds no token of this broker." in sentence(done)
        assert "(UNAUTHENTICATED, request cli-" in sentence(done)
        assert wrong not in done.out + done.err


async def test_the_token_of_the_tracks_is_refused_with_what_to_use_instead(shell: Shell) -> None:
    done = await shell.run("status", BROKER_ADMIN_TOKEN=API_TOKEN)

    assert done.code == 1
    assert "Use a token or key of that role. (FORBIDDEN, request cli-" in sentence(done)


@pytest.mark.parametrize("token", [None, "", "  "])
def test_without_a_token_nothing_is_sent_and_it_is_2(
    misused: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.delenv("BROKER_ADMIN_TOKEN")
    if token is not None:
        monkeypatch.setenv("BROKER_ADMIN_TOKEN", token)
    for command in ALL:
        done = misused(*command)
        assert done.code == 2
        assert "BROKER_ADMIN_TOKEN is not set" in sentence(done)


async def test_a_token_can_come_from_a_file_and_never_from_an_option(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{ADMIN_TOKEN}\n")

    good = await shell.run("--token-file", str(file), "mode", BROKER_ADMIN_TOKEN="wrong-0123456789abcdef")
    flag = await shell.run("--token", ADMIN_TOKEN, "status")

    assert good.code == 0, good.err
    assert (flag.code, "No such option: --token" in flag.err) == (2, True)


BAD_FILES = {
    "missing": None,
    "empty": b"",
    "binary": b"\xff\xfe\x00",
    "two words": b"a secret",
    "odd": b"caf\xc3\xa9-token",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=list(BAD_FILES))
def test_a_token_file_that_holds_none_is_2_and_its_content_is_not_shown(
    misused: Callable[..., Done], tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)

    done = misused("--token-file", str(file), "status")

    assert done.code == 2
    assert str(file) in sentence(done)
    assert "secret" not in done.err
    assert "caf" not in done.err


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "ftp://host", "http://", "http://[::1", "127.0.0.1:8080", "http://a b", "http://a\nb"],
)
def test_an_address_that_is_none_is_2(misused: Callable[..., Done], url: str) -> None:
    done = misused("--url", url, "status")

    assert done.code == 2
    assert "must be http://host:port or https://host" in sentence(done)


def test_a_password_in_the_address_is_refused_and_not_repeated(misused: Callable[..., Done]) -> None:
    done = misused("--url", "http://me:hunter2@127.0.0.1:1", "status")

    assert (done.code, "hunter2" in done.err) == (2, False)


async def test_the_option_wins_over_the_environment_and_the_default_is_this_machine(shell: Shell) -> None:
    done = await Shell("http://127.0.0.1:1").run("--url", f"{shell.url}/", "mode")
    unset = await shell.run("--help", BROKER_URL=None)

    assert done.code == 0, done.err
    assert "http://127.0.0.1:8080" in unset.out


REFUSED = [
    (["show", "unknown"], "SANDBOX_NOT_FOUND"),
    (["jobs", "watch", "unknown", "--json"], "JOB_NOT_FOUND"),
    (["jobs", "cancel", "unknown"], "JOB_NOT_FOUND"),
    (["jobs", "requeue", "unknown", "--json"], "JOB_NOT_FOUND"),
    (["bulk", "retry", "--track", "a b", "--reason", "a test", "--yes"], "INVALID_REQUEST"),
]


async def test_a_no_of_the_api_is_1_with_its_code_the_request_and_nothing_on_standard_output(
    shell: Shell,
) -> None:
    every = await shell.run_each(*(command for command, _ in REFUSED))
    for done, (_, code) in zip(every, REFUSED, strict=True):
        assert (done.code, done.out) == (1, "")
        assert f"({code}, request cli-" in sentence(done)


def test_the_request_id_of_an_error_finds_the_request_in_the_log(ministack: str, table_name: str) -> None:
    make_table(ministack, table_name)
    with a_process(DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=table_name) as process:
        done = asyncio.run(Shell(process.url).run("show", "unknown"))
        logged = process.wait_for_event("request")

    assert logged["status"] == 404
    assert sentence(done).endswith(f"request {logged['request_id']})")


async def test_a_store_in_trouble_is_1_and_is_asked_again_only_by_reads(proxied: Api, proxy: StoreProxy) -> None:
    async with served(proxied.app) as url:
        proxy.faults.down = True
        read = await Shell(url).run("jobs", "list")
        before = (await proxied.metrics())[
            'broker_http_requests_total{method="GET",route="/v1/admin/jobs",status="503"}'
        ]
        asked = await Shell(url).run("sync")
        metrics = await proxied.metrics()

    assert (read.code, asked.code) == (1, 1)
    assert "(STORE_UNAVAILABLE, request cli-" in sentence(read)
    assert "(STORE_UNAVAILABLE, request cli-" in sentence(asked)
    assert before == 3
    assert metrics['broker_http_requests_total{method="POST",route="/v1/admin/sync",status="503"}'] == 1


HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"
STRANGERS = {
    "html": (HTML, "is not the broker's API (it answered 200)"),
    "a list": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "is not the broker's API (it answered 200)"),
    "not found": (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "is not the broker's API (it answered 404)",
    ),
    "another's error": (
        b'HTTP/1.1 400 Bad\r\nContent-Length: 15\r\n\r\n{"error":"nope"}'[:-1] + b"}",
        "is not the broker's API (it answered 400)",
    ),
    "a redirect": (
        b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.test/\r\nContent-Length: 0\r\n\r\n",
        "redirects elsewhere (301): is BROKER_URL right, is it https?",
    ),
    "a balancer without a target": (
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
        "something before the broker answered 502",
    ),
    "no http": (b"SSH-2.0-OpenSSH_9.6\r\n", "cannot be reached"),
    "nothing": (b"", "cannot be reached: "),
    "a cut answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "cannot be reached"),
    "broken compression": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        "cannot be reached",
    ),
}


@pytest.mark.parametrize(("said", "expected"), STRANGERS.values(), ids=list(STRANGERS))
async def test_what_is_not_the_broker_is_3_and_says_what_answered(said: bytes, expected: str) -> None:
    commands = ["jobs", "list"], ["mode", "drain", "--reason", "a test"], ["status"]
    async with serving(saying(said)) as port:
        for done in await Shell(f"http://127.0.0.1:{port}").run_each(*commands):
            assert done.code == 3, done
            assert expected in sentence(done)


async def test_no_answer_within_the_timeout_is_3_and_a_change_may_have_been_made() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    command = ["mode", "drain", "--reason", "a test"]
    async with serving(silent) as port:
        done = await Shell(f"http://127.0.0.1:{port}").run("--timeout", "0.3", *command)

    assert done.code == 3
    assert "no answer within 0.3 s (--timeout)" in sentence(done)
    assert "Whether it was done is unknown: look before repeating it." in sentence(done)


@pytest.mark.parametrize(
    ("body", "commands"),
    [(b"{}", ALL), (b'{"jobs": 7, "sandboxes": null, "state": []}', SOME)],
    ids=["other names", "other types"],
)
async def test_the_bodies_of_another_release_are_a_sentence_and_no_traceback(
    body: bytes, commands: list[list[str]]
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with serving(saying(head.encode() + body)) as port:
        screen, *others = await Shell(f"http://127.0.0.1:{port}").run_each(*commands)

    assert (screen.code, "is not the broker's API" in sentence(screen)) == (3, True)
    for done in others:
        assert done.code == 1, done
        assert "It is a bug, or another release's API." in sentence(done)


async def test_a_proxy_for_the_world_is_none_for_this_machine(shell: Shell) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"

    here = await shell.run("mode", HTTP_PROXY=nowhere, http_proxy=nowhere)
    elsewhere = await Shell("http://broker.test").run("mode", HTTP_PROXY=nowhere, http_proxy=nowhere)

    assert here.code == 0, here.err
    assert (elsewhere.code, "Connection refused" in elsewhere.err) == (3, True)
