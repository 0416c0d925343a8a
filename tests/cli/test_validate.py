"""K4: `validate ready` looks at the clone, `pre` and `post` at a deployment; what post took it gives back."""

import asyncio
import json
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from broker.sandbox import State
from broker.store.leader import LEADER_SCOPE
from broker.store.table import SCHEMA
from cli.connection import Connection
from cli.validation import live, repository
from local.engine import free_port
from tests.api.process import ROOT, a_process, environment
from tests.api.service import ADMIN_TOKEN, API_TOKEN, Api
from tests.audit import audit
from tests.cli.conftest import served
from tests.cli.shell import Done, Shell, ended
from tests.conftest import a_broker
from tests.worker.conftest import TOKEN, Provider, a_leader, a_provider, until
from tests.worker.test_process import a_worker_process

Asgi = Callable[..., Awaitable[None]]
TRACK = {"BROKER_API_TOKEN": API_TOKEN}
STEPS = ["allocate", "repeat", "look", "extend", "return", "deletion"]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider() as running:
        yield running


def marks(done: Done) -> dict[str, bool | None]:
    """Each check of a --json run, and whether it is good."""
    return {check["check"]: check["ok"] for check in done.json["checks"]}


def told(done: Done, name: str) -> str:
    (check,) = [check for check in done.json["checks"] if check["check"] == name]
    return f"{check['found']} {check['todo'] or ''}"


@pytest.mark.timeout(300)
async def test_post_passes_on_a_deployment_that_is_well_and_leaves_nothing_held(
    ministack: str, table_name: str, provider: Provider, tmp_path: Path
) -> None:
    """Real processes, the settings they were started with as they were declared."""
    async with a_broker(ministack, table_name) as core:
        place = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
        api = a_process(**place, LAB_DURATION_HOURS="2")
        process = await asyncio.to_thread(api.__enter__)
        try:
            async with a_worker_process(ministack, table_name, provider) as worker:
                await worker.event("job done", job="sync")
                declared = environment(**place, LAB_DURATION_HOURS="2", API_PORT=str(process.port))
                del declared["BROKER_API_TOKEN"], declared["BROKER_ADMIN_TOKEN"]
                good, other = tmp_path / "good.env", tmp_path / "other.env"
                lines = [f"{name}='{value}'" for name, value in declared.items()]
                good.write_text("\n".join(["# what we deploy", *lines]))
                other.write_text("\n".join([*lines, "LAB_DURATION_HOURS=3", "GRACEFUL_SHUTDOWN_TIMEOUT_SEC=20"]))
                shell = Shell(process.url)
                well = await shell.run(
                    "validate", "post", "--env-file", str(good), **(TRACK | {"MAX_PER_HOLDER": "9"})
                )
                differs = await shell.run(
                    "validate", "post", "--json", "--no-golden-path", "--env-file", str(other)
                )
                over_it = await shell.run("validate", "pre")
        finally:
            await asyncio.to_thread(api.__exit__, None, None, None)
        counts = await audit(core)

    assert well.code == 0, well.out + well.err
    assert [line.split()[:2] for line in well.out.splitlines() if "✓" in line][-6:] == [["✓", s] for s in STEPS]
    assert "settings in force as declared" in well.out
    assert "post: all is well." in well.out
    assert counts["available"] == 9
    assert counts["pending_deletion"] + counts["deleted"] == 1
    assert differs.code == 1
    assert [name for name, ok in marks(differs).items() if ok is False] == ["configuration"]
    assert "LAB_DURATION_HOURS is 2.0, declared 3.0" in told(differs, "configuration")
    assert "GRACEFUL_SHUTDOWN_TIMEOUT_SEC is 30" in told(differs, "configuration")
    assert (over_it.code, "✗" in over_it.out) == (0, False), over_it.out


async def test_tokens_of_another_deployment_fail_the_checks_that_need_them(api: Api, shell: Shell) -> None:
    await api.fill(1)
    astray = {"BROKER_API_TOKEN": "track-of-another-deployment-1", "BROKER_ADMIN_TOKEN": "admin-of-another-one-22"}

    done = await shell.run("validate", "post", "--json", **astray)

    assert done.code == 1
    failed = [name for name, ok in marks(done).items() if ok is False]
    assert failed == ["worker", "allocate"]
    assert "BROKER_ADMIN_TOKEN" in told(done, "worker")
    assert "BROKER_API_TOKEN" in told(done, "allocate")
    assert await api.core.sandboxes.count("acme", State.AVAILABLE) == 1


async def test_an_empty_pool_fails_the_golden_path_and_says_what_fills_it(shell: Shell) -> None:
    done = await shell.run("validate", "post", "--json", **TRACK)

    assert done.code == 1
    assert "sandbox-broker sync" in told(done, "allocate")
    assert "repeat" not in marks(done)
    assert marks(done)["configuration"] is None  # no file was named


async def test_without_a_tracks_token_post_does_not_begin(shell: Shell) -> None:
    done = await shell.run("validate", "post")

    assert done.code == 2
    assert "--no-golden-path" in done.err


async def test_an_address_that_hangs_is_told_once_and_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        shell = Shell(f"http://127.0.0.1:{silent.getsockname()[1]}")
        done = await shell.run("--timeout", "0.3", "validate", "post", "--json", **TRACK)
        before = await shell.run("--timeout", "0.3", "validate", "pre", "--json")

    assert done.code == 1
    assert marks(done) == {"connects": False, "golden path": None}
    assert told(done, "connects").startswith("0 of 5 connected, the last: ReadTimeout")
    assert before.code == 1
    assert marks(before) == {"API": False}
    assert "BROKER_URL" in told(before, "API")


async def test_what_is_not_the_broker_is_asked_for_no_sandbox() -> None:
    """Another service at that address answers everything, also the health check."""
    asked: list[str] = []

    class Another(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Another) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shell = Shell(f"http://127.0.0.1:{server.server_port}")
        done = await shell.run("validate", "post", "--json", **TRACK)
        server.shutdown()

    assert marks(done) == {"connects": True, "API": False, "golden path": None}
    assert "BROKER_URL" in told(done, "API")
    assert not [line for line in asked if line.startswith("POST")]


async def test_a_connection_that_is_refused_says_so() -> None:
    done = await Shell(f"http://127.0.0.1:{free_port()}").run("validate", "post", "--json", **TRACK)

    assert "refused" in told(done, "connects")


@contextmanager
def answering(outcomes: list[bool]) -> Iterator[Connection]:
    """A server that answers each connection in turn, or breaks it off."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answers in outcomes:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    if answers:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield Connection(url=f"http://127.0.0.1:{port}", token="x", timeout_s=10)
        thread.join(10)


@pytest.mark.parametrize(("broken", "ok"), [(0, True), (1, True), (2, False), (5, False)])
def test_four_of_five_connects_must_succeed(broken: int, ok: bool) -> None:
    with answering([False] * broken + [True] * (5 - broken)) as connection:
        check = live._connects(connection)

    assert (check.ok, check.found.startswith(f"{5 - broken} of 5")) == (ok, True)


@pytest.mark.parametrize(("mean_s", "ok"), [(9.9, True), (10.0, False)])
def test_their_mean_must_be_below_ten_seconds(mean_s: float, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, mean_s] * 5)
    monkeypatch.setattr(live.time, "monotonic", lambda: next(ticks, 0.0))
    with answering([True] * 5) as connection:
        check = live._connects(connection)

    assert check.ok is ok


@asynccontextmanager
async def in_front(api: Api, door: Callable[[Asgi, Any, Any, Any], Awaitable[None]]) -> AsyncIterator[Shell]:
    """A shell whose broker stands behind `door`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await door(api.app, scope, receive, send)

    async with served(app) as url, a_leader(api.core, scope=LEADER_SCOPE):  # type: ignore[arg-type]
        yield Shell(url)


async def nothing_is_held(api: Api) -> None:
    async def given_back() -> bool:
        return await api.core.sandboxes.count("acme", State.ALLOCATED) == 0

    await until(given_back)
    assert await audit(api.core) == {"available": 1, "pending_deletion": 1}


REFUSALS: dict[str, tuple[int, dict[str, Any]]] = {
    "no_answer_of_ours": (500, {"oops": 1}),
    "a_refusal": (409, {"error": {"code": "STALE_GENERATION", "message": "Another one's.", "request_id": "r-1"}}),
}


@pytest.mark.parametrize(("status", "body"), REFUSALS.values(), ids=REFUSALS)
async def test_a_step_that_fails_ends_the_path_and_the_sandbox_is_given_back(
    api: Api, status: int, body: dict[str, Any]
) -> None:
    await api.fill(2)

    async def no_extension(app: Asgi, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/extend"):
            await JSONResponse(body, status_code=status)(scope, receive, send)
        else:
            await app(scope, receive, send)

    async with in_front(api, no_extension) as shell:
        done = await shell.run("validate", "post", "--json", **TRACK)

    assert done.code == 1
    assert marks(done)["extend"] is False
    assert "return" not in marks(done)
    await nothing_is_held(api)


async def test_an_allocation_whose_answer_was_lost_is_given_back(api: Api) -> None:
    await api.fill(2)
    lost = []

    async def loses_the_first(app: Asgi, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/v1/allocate" or lost:
            await app(scope, receive, send)
            return
        lost.append(scope)

        async def nowhere(message: Any) -> None:
            return None

        await app(scope, receive, nowhere)
        await JSONResponse({}, status_code=502)(scope, receive, send)

    async with in_front(api, loses_the_first) as shell:
        done = await shell.run("validate", "post", "--json", **TRACK)

    assert done.code == 1
    assert marks(done)["allocate"] is False
    await nothing_is_held(api)


async def test_an_allocation_that_nobody_can_tell_of_is_left_to_a_person(api: Api) -> None:
    """The answer was lost, and whoever asks again hears of trouble: nobody knows what is held."""
    await api.fill(2)
    asked = []

    async def in_trouble(app: Asgi, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/v1/allocate":
            await app(scope, receive, send)
            return

        async def nowhere(message: Any) -> None:
            return None

        if not asked:
            await app(scope, receive, nowhere)
        asked.append(scope)
        error = {"code": "STORE_UNAVAILABLE", "message": "The store does not answer.", "request_id": "r-1"}
        await JSONResponse({"error": error} if asked[1:] else {}, status_code=503)(scope, receive, send)

    async with in_front(api, in_trouble) as shell:
        done = await shell.run("validate", "post", "--json", **TRACK)

    assert done.code == 1
    assert "may hold a sandbox" in done.err
    assert await api.core.sandboxes.count("acme", State.ALLOCATED) == 1


async def test_of_two_that_one_student_got_neither_is_forgotten(api: Api) -> None:
    await api.fill(2)
    asked = []

    async def takes_a_repeat_for_another(app: Asgi, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/allocate":
            asked.append(scope)
            if len(asked) == 2:
                headers = [(k, b"other" if k == b"x-instruqt-sandbox-id" else v) for k, v in scope["headers"]]
                scope = scope | {"headers": headers}
        await app(scope, receive, send)

    async with in_front(api, takes_a_repeat_for_another) as shell:
        done = await shell.run("validate", "post", "--json", **TRACK)

    (others,) = [s async for s in api.core.sandboxes.walk("acme", State.ALLOCATED)]
    assert (done.code, marks(done)["repeat"]) == (1, False)
    assert f"force-release {others.id} --reason" in done.err, "it is not ours to give back"
    assert await audit(api.core) == {"allocated": 1, "pending_deletion": 1}


@pytest.mark.parametrize(("path", "check"), [("/v1/admin/worker", "worker"), ("/v1/sandboxes/", "look")])
async def test_an_answer_of_another_shape_fails_its_check_and_the_others_are_told(
    api: Api, path: str, check: str
) -> None:
    await api.fill(2)

    async def says_nothing(app: Asgi, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET" and scope["path"].startswith(path):
            await JSONResponse({})(scope, receive, send)
        else:
            await app(scope, receive, send)

    async with in_front(api, says_nothing) as shell:
        done = await shell.run("validate", "post", "--json", **TRACK)

    assert done.code == 1
    assert [name for name, ok in marks(done).items() if ok is False] == [check]
    assert "not as the broker does" in told(done, check)
    await nothing_is_held(api)


async def test_a_sandbox_that_was_not_asked_for_fails_and_is_given_back(api: Api) -> None:
    await api.fill(2)

    async def forgets_the_prefix(app: Asgi, scope: Any, receive: Any, send: Any) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"x-sandbox-name-prefix"]
        await app(scope | {"headers": headers}, receive, send)

    async with in_front(api, forgets_the_prefix) as shell:
        done = await shell.run("validate", "post", "--json", "--prefix", "other-", **TRACK)

    assert (done.code, marks(done)["allocate"]) == (1, False)
    await nothing_is_held(api)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl_c", "sigterm", "sighup"]
)
async def test_a_signal_in_the_middle_gives_the_sandbox_back(api: Api, number: signal.Signals) -> None:
    """Also where a second one comes while it is given back."""
    await api.fill(2)
    looked, returning, again = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def never_shows(app: Asgi, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET" and scope["path"].startswith("/v1/sandboxes/"):
            looked.set()
            await receive()
            await receive()  # until they hang up
            return
        if scope["path"].endswith("/mark-for-deletion"):
            returning.set()
            await again.wait()
        await app(scope, receive, send)

    async with in_front(api, never_shows) as shell:
        process = await shell.start("validate", "post", **TRACK)
        await asyncio.wait_for(looked.wait(), 60)
        process.send_signal(number)
        await asyncio.wait_for(returning.wait(), 60)
        process.send_signal(number)
        again.set()
        done = await ended(process)

    assert done.code not in (0, 1)
    await nothing_is_held(api)


@pytest.mark.parametrize(
    ("status", "by", "kept_inside"), [(200, "us", False), (404, "x", False), (404, "load-balancer", True)]
)
async def test_post_fails_where_another_release_runs_nobody_leads_and_there_are_no_numbers(
    api: Api, status: int, by: str, kept_inside: bool
) -> None:
    meta = (await api.http.get("/v1/meta")).json() | {"version": "0.0.9"}
    error = {"error": {"code": "NOT_FOUND", "message": "Not Found", "request_id": by}}
    answers = {"/v1/meta": (200, meta), "/metrics": (status, error)}

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] in answers:
            status, body = answers[scope["path"]]
            await JSONResponse(body, status_code=status)(scope, receive, send)
        else:
            await api.app(scope, receive, send)

    async with served(broken) as url:  # type: ignore[arg-type]
        done = await Shell(url).run("validate", "post", "--json", "--no-golden-path", **TRACK)

    assert done.code == 1
    failed = [name for name, ok in marks(done).items() if ok is False]
    assert failed == ["release", "worker", *([] if kept_inside else ["metrics"])]
    assert marks(done)["metrics"] is (None if kept_inside else False)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, []),
        ({"version": "9.0.0"}, ["release"]),
        ({"table_schema": "sandbox-broker/2"}, ["table"]),
        ({"election": None, "table_schema": None}, ["election"]),
        ({"service": "something"}, ["release"]),
    ],
    ids=["this_release", "newer", "another_schema", "before_tenants", "something_else"],
)
async def test_pre_fails_where_this_release_must_not_simply_be_put_over_it(
    api: Api, changes: dict[str, str | None], failed: list[str]
) -> None:
    meta = (await api.http.get("/v1/meta")).json() | changes

    async def says(app: Asgi, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/meta":
            kept = {name: value for name, value in meta.items() if value is not None}
            await JSONResponse(kept)(scope, receive, send)
        else:
            await app(scope, receive, send)

    async with in_front(api, says) as shell:
        done = await shell.run("validate", "pre", "--json")

    assert [name for name, ok in marks(done).items() if ok is False] == failed
    assert done.code == bool(failed)


async def test_pre_says_when_the_mode_and_the_worker_are_not_as_usual(api: Api, shell: Shell) -> None:
    await api.set_mode("drained", "INC-4711")

    done = await shell.run("validate", "pre", "--json")

    assert (done.code, marks(done)["mode"], marks(done)["election"]) == (0, None, None)
    assert "INC-4711" in told(done, "mode")
    assert "nobody leads" in told(done, "election")


async def test_pre_knows_what_this_release_says_of_itself(api: Api) -> None:
    meta = (await api.http.get("/v1/meta")).json()

    assert (meta["table_schema"], meta["election"]) == (live.SCHEMA, live.ELECTION) == (SCHEMA, LEADER_SCOPE)


WELL = {
    "BROKER_TENANT": "acme",
    "CSP_BASE_URL": "https://csp.example.org",
    "BROKER_API_TOKEN": API_TOKEN,
    "BROKER_ADMIN_TOKEN": ADMIN_TOKEN,
    "CSP_API_TOKEN": f"{TOKEN}-9f8e7d6c5b4a",
}


async def test_ready_passes_from_the_repository(tmp_path: Path) -> None:
    file = tmp_path / "production.env"
    file.write_text("".join(f"export {name}={value}\n" for name, value in WELL.items()))

    done = await Shell("http://127.0.0.1:1").run("validate", "ready", "--json", "--env-file", str(file))

    plans = all((ROOT / plan).is_file() for plan in repository.PLANS)
    assert [name for name, ok in marks(done).items() if ok is not True] == ([] if plans else ["plans"])
    assert done.code == (not plans)


async def test_ready_tells_every_wrong_setting_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "production.env"
    wrong = WELL | {"LAB_DURATION_HOURS": "-1", "CSP_BASE_URL": "http://plain", "BROKER_ADMIN_TOKEN": "hunter2"}
    file.write_text("".join(f"{name}={value}\n" for name, value in wrong.items()))
    shell = Shell("http://127.0.0.1:1")

    done = await shell.run("validate", "ready", "--json", "--env-file", str(file), BROKER_ADMIN_TOKEN=None)

    assert done.code == 1
    assert "LAB_DURATION_HOURS" in told(done, "API settings")
    assert "BROKER_ADMIN_TOKEN" in told(done, "API settings")
    assert "CSP_BASE_URL: is plain http" in told(done, "worker settings")
    assert "hunter2" not in done.out + done.err


async def test_a_file_of_settings_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "production.env"
    file.write_text("BROKER_TENANT=acme\nsecret words\n")
    shell = Shell("http://127.0.0.1:1")

    broken = await shell.run("validate", "ready", "--env-file", str(file))
    missing = await shell.run("validate", "ready", "--env-file", str(tmp_path / "no.env"))

    assert (broken.code, missing.code) == (2, 2)
    assert "line 2" in broken.err
    assert "secret words" not in broken.err


BROKEN: dict[str, tuple[str, Callable[[str], str], str]] = {
    "unhashed": ("requirements/api.txt", lambda text: f"{text}\nrequests==2.32.0\n", "requirements"),
    "unpinned": ("requirements/worker.txt", lambda text: f"{text}\nrequests\n", "requirements"),
    "no_version": (
        "requirements/api.txt",
        lambda text: f"{text}\nrequests>=2 --hash=sha256:{'0' * 64}\n",
        "requirements",
    ),
    "one_base": (
        "Dockerfile",
        lambda text: text.replace("${PYTHON_DIGEST:+@${PYTHON_DIGEST}}", "", 1),
        "Dockerfile",
    ),
    "base": ("Dockerfile", lambda text: text.replace("${PYTHON_DIGEST:+@${PYTHON_DIGEST}}", ""), "Dockerfile"),
    "root": ("Dockerfile.worker", lambda text: text.replace("USER 10001:10001", "USER 0"), "Dockerfile.worker"),
    "health": ("Dockerfile", lambda text: text.replace("HEALTHCHECK", "# HEALTHCHECK"), "Dockerfile"),
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("clone")
    for name in (*repository.FILES, *repository.PLANS):
        (to / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, to / name)
        else:
            (to / name).touch()
    return to


@pytest.mark.parametrize("kind", BROKEN)
def test_ready_fails_where_what_would_be_built_is_not_pinned(clone: Path, kind: str) -> None:
    name, spoil, check = BROKEN[kind]
    before = (clone / name).read_text()
    (clone / name).write_text(spoil(before))
    try:
        spoilt = repository.checks(clone, None)
    finally:
        (clone / name).write_text(before)

    assert [c.name for c in spoilt if c.ok is False] == [check]
    assert [c.name for c in repository.checks(clone, None) if c.ok is False] == []


def test_ready_names_the_files_that_lack(clone: Path) -> None:
    (clone / "CHANGELOG.md").rename(clone / "gone")
    try:
        checks = {check.name: check for check in repository.checks(clone, None)}
    finally:
        (clone / "gone").rename(clone / "CHANGELOG.md")

    assert checks["files"].ok is False
    assert checks["files"].found == "missing: CHANGELOG.md"
    assert json.dumps(checks["files"].body())
