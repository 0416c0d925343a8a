"""E14: secrets are read at call time; a new one needs no restart; none is ever shown."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aioboto3
import pytest
from prometheus_client.exposition import generate_latest

from broker.metrics import Metrics
from local.engine import free_port
from simulator.options import Settings as SimulatorSettings
from simulator.server import listen, serving, url_of
from simulator.simulation import Simulation
from tests.provider.conftest import Clock, listed, settings_of
from tests.provider.files import write, write_without_a_trace
from tests.provider.sockets import hang, request_of
from tests.provider.sockets import serving as raw_serving
from worker.provider.door import open_provider
from worker.provider.errors import ProviderError
from worker.provider.permits import Permit
from worker.provider.secrets import FileSource, GivenSource, ManagedSource, Secret

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "old-token-4f1c0a9be2d77a31", "new-token-9be2d77a314f1c0a"
VARIABLE = "CSP_API_TOKEN"


def a_secret(source: Any, metrics: Metrics | None = None, *, for_header: bool = True) -> Secret:
    return Secret(source, variable=VARIABLE, for_header=for_header, metrics=metrics or Metrics())


def reads(metrics: Metrics, outcome: str) -> float:
    labels = {"secret": VARIABLE, "outcome": outcome}
    return metrics.registry.get_sample_value("worker_secret_reads_total", labels) or 0.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(OLD + "\n")
    return file


# ------------------------------------------------------------------------------------------ environment, file


async def test_a_given_value_is_the_secret() -> None:
    assert await a_secret(GivenSource(OLD)).get() == OLD


@pytest.mark.parametrize("value", ["", "two words", "line\nbreak", "schlüssel"])
async def test_a_token_that_no_header_can_carry_is_no_token(value: str) -> None:
    with pytest.raises(ProviderError) as failed:
        await a_secret(GivenSource(value)).get()
    assert str(failed.value) == "SECRET_UNREADABLE: CSP_API_TOKEN"


async def test_a_password_may_hold_what_it_likes() -> None:
    assert await a_secret(GivenSource("zwei Wörter\\"), for_header=False).get() == "zwei Wörter\\"


async def test_a_file_is_read_when_it_is_needed_and_again_when_it_changed(path: Path, metrics: Metrics) -> None:
    secret = a_secret(FileSource(str(path)), metrics)
    assert [await secret.get() for _ in range(3)] == [OLD] * 3
    assert reads(metrics, "ok") == 1

    write(path, NEW)

    assert await secret.get() == NEW


async def test_a_file_that_is_swapped_by_a_link_is_noticed(path: Path, tmp_path: Path) -> None:
    """As orchestrators mount secrets: a link that is moved to another folder in one step."""
    for name, value in (("one", OLD), ("two", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(value)
        os.utime(tmp_path / name / "token", ns=(1, 1))
    link, spare = tmp_path / "data", tmp_path / "data-next"
    link.symlink_to("one")
    secret = a_secret(FileSource(str(link / "token")))
    assert await secret.get() == OLD
    spare.symlink_to("two")
    spare.replace(link)

    assert await secret.get() == NEW


async def test_a_file_that_is_not_there_yet_stops_calls_until_it_is(path: Path) -> None:
    write(path, None)
    secret = a_secret(FileSource(str(path)))
    with pytest.raises(ProviderError, match="SECRET_UNREADABLE"):
        await secret.get()
    write(path, NEW)

    assert await secret.get() == NEW


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"two words"])
async def test_a_file_that_becomes_unusable_leaves_the_last_known_value(
    path: Path, content: bytes | None, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    secret = a_secret(FileSource(str(path)), metrics)
    await secret.get()
    write(path, content)

    assert [await secret.get() for _ in range(5)] == [OLD] * 5

    assert [r.levelname for r in caplog.records] == ["WARNING"], "one line for one mishap"
    assert reads(metrics, "failed") == 1
    write(path, NEW)
    assert await secret.get() == NEW


async def test_a_refused_value_is_read_anew_before_the_next_call_once(path: Path, metrics: Metrics) -> None:
    """A file that was changed without a trace in its times and size."""
    secret = a_secret(FileSource(str(path)), metrics)
    await secret.get()
    write_without_a_trace(path, NEW)
    assert await secret.get() == OLD

    secret.refused(OLD)

    assert await secret.get() == NEW
    assert reads(metrics, "ok") == 2
    for _ in range(5):
        secret.refused(NEW)
        await secret.get()
    assert reads(metrics, "ok") == 3, "a provider that refuses everything must not make a reading a call"


async def test_a_late_refusal_of_an_older_value_changes_nothing(path: Path, metrics: Metrics) -> None:
    secret = a_secret(FileSource(str(path)), metrics)
    await secret.get()
    write(path, NEW)
    await secret.get()

    secret.refused(OLD)
    await secret.get()

    assert reads(metrics, "ok") == 2


async def test_a_cancelled_reader_leaves_no_stale_value_behind(path: Path) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    class Slow(FileSource):
        async def read(self) -> str:
            reading.set()
            await go_on.wait()
            return await super().read()

    secret = a_secret(Slow(str(path)))
    go_on.set()
    await secret.get()
    write(path, NEW)
    reading.clear()
    go_on.clear()
    first = asyncio.create_task(secret.get())
    await reading.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    go_on.set()

    assert await secret.get() == NEW


# ------------------------------------------------------------------------------------------ Secrets Manager


Put = Callable[[str, str], Any]


@pytest.fixture
async def put(moto: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Put]:
    """Writes a managed secret; the worker's own client finds moto as it would find AWS."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", moto)
    async with aioboto3.Session().client("secretsmanager", region_name="us-east-1") as manager:

        async def store(name: str, value: str) -> None:
            try:
                await manager.create_secret(Name=name, SecretString=value)
            except manager.exceptions.ResourceExistsException:
                await manager.put_secret_value(SecretId=name, SecretString=value)

        yield store


async def test_a_managed_secret_is_remembered_for_a_minute_at_most(put: Put, clock: Clock) -> None:
    clock.now = 6000
    await put("prov/plain", OLD)
    secret = a_secret(ManagedSource("prov/plain", region="us-east-1", clock=clock))
    assert await secret.get() == OLD
    await put("prov/plain", NEW)
    clock.now += 59
    assert await secret.get() == OLD
    clock.now += 1

    assert await secret.get() == NEW


async def test_a_key_of_a_managed_secret_is_named_behind_a_hash(put: Put, clock: Clock) -> None:
    await put("prov/json", json.dumps({"token": OLD, "number": 7}))

    async def at(reference: str) -> str:
        return await a_secret(ManagedSource(reference, region="us-east-1", clock=clock)).get()

    assert await at("prov/json#token") == OLD
    for wrong in ("prov/json#missing", "prov/json#number", "prov/nobody", "#token"):
        with pytest.raises(ProviderError, match="SECRET_UNREADABLE"):
            await at(wrong)


async def test_a_refusal_reads_a_managed_secret_before_its_minute_is_over(put: Put, clock: Clock) -> None:
    await put("prov/early", OLD)
    secret = a_secret(ManagedSource("prov/early", region="us-east-1", clock=clock))
    await secret.get()
    await put("prov/early", NEW)

    secret.refused(OLD)

    assert await secret.get() == NEW


async def test_an_unreachable_manager_leaves_the_last_known_value_with_a_warning(
    put: Put, clock: Clock, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await put("prov/away", OLD)
    secret = a_secret(ManagedSource("prov/away", region="us-east-1", clock=clock), metrics)
    await secret.get()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{free_port()}")
    clock.now += 60

    assert [await secret.get() for _ in range(10)] == [OLD] * 10

    assert reads(metrics, "failed") == 1, "it is asked once a minute, not once a call"
    assert [r.message for r in caplog.records if r.name == "worker"] == [
        "a secret cannot be read: the last known value serves on"
    ]


@pytest.mark.timeout(40)
async def test_a_manager_that_hangs_holds_nobody_for_long(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty at once are not served one after the other: that would be two minutes."""
    async with raw_serving(hang) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{port}")
        secret = a_secret(ManagedSource("prov/hang", region="us-east-1", clock=clock))
        ended = await asyncio.gather(*(secret.get() for _ in range(20)), return_exceptions=True)

    assert {str(error) for error in ended} == {"SECRET_UNREADABLE: CSP_API_TOKEN"}


# ------------------------------------------------------------------------------------------ the whole door


@pytest.mark.parametrize("kept", ["file", "manager"])
async def test_the_provider_rotates_its_token_and_the_worker_follows(
    kept: str, path: Path, put: Put, clock: Clock
) -> None:
    """One refused call, then on: the simulator starts anew on the same port with another token."""
    await put("prov/rotates", OLD)
    where = {"CSP_API_TOKEN_FILE": str(path)} if kept == "file" else {"CSP_API_TOKEN_SECRET": "prov/rotates"}
    first = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    settings = settings_of(CSP_BASE_URL=url_of(first), CSP_API_TOKEN="", **where)
    async with open_provider(settings, Metrics(), clock=clock) as door:
        async with serving(Simulation(SimulatorSettings(sandboxes=3, noise=0, token=OLD)), first):
            before = await listed(door.client)
        async with serving(
            Simulation(SimulatorSettings(sandboxes=3, noise=0, token=NEW, delete_latency_s=0)),
            listen("127.0.0.1", port),
        ):
            with pytest.raises(ProviderError, match="HTTP_401"):
                await listed(door.client)
            write(path, NEW)
            await put("prov/rotates", NEW)
            with_new = await listed(door.client)
            permit = door.client.admit_deletion("identity/accounts/nobody")
            assert isinstance(permit, Permit)
            await door.client.delete(permit)
        states = door.client.states()

    assert len(before[0]) == 3
    assert with_new == before
    assert states["list"] == "closed", "a refused token is no outage"


async def test_no_secret_is_shown_wherever_the_worker_shows_something(
    path: Path, clock: Clock, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the mask: nothing that could be masked is there in the first place."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    asked: list[str] = []

    async def cut(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        asked.append(await request_of(reader))

    async with (
        raw_serving(cut) as port,
        open_provider(
            settings := settings_of(
                CSP_BASE_URL=f"http://127.0.0.1:{port}", CSP_API_TOKEN="", CSP_API_TOKEN_FILE=str(path)
            ),
            metrics,
            clock=clock,
        ) as door,
    ):
        for token in (OLD, NEW):
            write(path, token)
            clock.now += 2
            permit = door.client.admit_deletion("identity/accounts/a")
            assert isinstance(permit, Permit)
            try:
                await door.client.delete(permit)
            except ProviderError as error:
                seen += [str(error), repr(error), *traceback.format_exception(error)]
        seen += [repr(door), repr(permit), str(door.client.states()), repr(settings), str(settings.effective())]
    seen += [str(vars(record)) for record in caplog.records]
    seen.append(generate_latest(metrics.registry).decode())

    assert "RESET" in "".join(seen)
    for request, token in zip(asked, (OLD, NEW), strict=True):
        assert token in request
        assert token not in "".join(seen)


LOGGING_PROGRAM = """
import asyncio, logging, sys
from pathlib import Path
from broker import logs
from broker.metrics import Metrics
from worker.provider.secrets import FileSource, Secret

async def main():
    logs.configure("worker", level="INFO", secrets=["given-at-the-start"])
    path = Path(sys.argv[1])
    secret = Secret(FileSource(str(path)), variable="CSP_API_TOKEN", for_header=True, metrics=Metrics())
    log = logging.getLogger("worker")
    for value in sys.argv[2:]:
        path.write_text(value)
        await secret.get()
        log.warning("leaked given-at-the-start %s", " ".join(sys.argv[2:]))

asyncio.run(main())
"""


def test_the_log_masks_a_rotated_secret_from_the_moment_it_is_read(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOGGING_PROGRAM, str(tmp_path / "token"), OLD, NEW],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    leaks = [line["event"] for line in lines if line["event"].startswith("leaked")]
    assert leaks == [f"leaked *** *** {NEW}", "leaked *** *** ***"]
    assert [line["event"] for line in lines if "secret" in line["event"]] == ["a secret has a new value"]
