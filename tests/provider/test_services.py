"""E10: services inside a sandbox are cleared before it is deleted, or not; nothing ever stands in the way."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.metrics import Metrics
from tests.provider.conftest import ACCOUNT, Clock, settings_of
from tests.provider.files import write, write_without_a_trace
from worker.provider.breaker import PROBE_AFTER_S
from worker.provider.door import Door, open_provider
from worker.provider.services import Services, ServicesOutcome

EMAIL, PASSWORD = "cleaner@labs.example", "of the cleaner 4f1c"
HOME_JWT, INSIDE_JWT = "home.jwt.1", "inside.jwt.2"
SERVICES = "/api/universalinfra/v1/universalservices"


@dataclass
class Provider:
    """The provider's sessions and services; `broken` says what it answers in place of the truth."""

    services: list[Any] = field(default_factory=list)
    broken: dict[str, httpx.Response | Exception | Callable[[], Any]] = field(default_factory=dict)
    password: str = PASSWORD
    asked: list[tuple[str, str]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        self.asked.append((request.method, path))
        self.cookies += [request.headers["cookie"]] if "cookie" in request.headers else []
        for where, wrong in self.broken.items():
            if where in f"{request.method} {path}":
                if isinstance(wrong, Exception):
                    raise wrong
                return wrong if isinstance(wrong, httpx.Response) else await wrong()
        said = json.loads(request.content) if request.content else {}
        session = request.headers.get("authorization", "")
        match request.method, path:
            case "POST", "/v2/session/users/sign_in":
                if said != {"email": EMAIL, "password": self.password}:
                    return httpx.Response(401, json={})
                return httpx.Response(200, json={"jwt": HOME_JWT}, headers={"set-cookie": "session=home; Path=/"})
            case "POST", "/v2/session/account_switch":
                assert session == f"Bearer {HOME_JWT}"
                assert said == {"id": ACCOUNT} or said["id"].startswith("identity/accounts/")
                return httpx.Response(200, json={"jwt": INSIDE_JWT})
            case "GET", _:
                assert (path, session) == (SERVICES, f"Bearer {INSIDE_JWT}")
                return httpx.Response(200, json={"results": self.services})
            case "DELETE", _:
                assert session == f"Bearer {INSIDE_JWT}"
                self.deleted.append(path.removeprefix(f"{SERVICES}/"))
                return httpx.Response(204)
        raise AssertionError(path)


def a_service(id_: Any, name: Any = "lab-dns") -> dict[str, Any]:
    return {"id": id_, "name": name}


@dataclass
class Bench:
    services: Services
    provider: Provider
    metrics: Metrics
    clock: Clock
    door: Door

    def counted(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value("worker_services_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def provider() -> Provider:
    return Provider([a_service("s1"), a_service("s2", "lab-vpn"), a_service("s3", "customers-own")])


@asynccontextmanager
async def opened(provider: Provider, clock: Clock, **changes: str) -> AsyncIterator[Bench]:
    """The services of a door whose network is the provider above."""
    values = {
        "NIOSXAAS_ENABLED": "true",
        "NIOSXAAS_SHADOW": "false",
        "NIOSXAAS_EMAIL": EMAIL,
        "NIOSXAAS_PASSWORD": PASSWORD,
        "NIOSXAAS_NAME_FILTER": "lab-",
        "NIOSXAAS_TIMEOUT_SEC": "0.5",
    }
    settings, metrics = settings_of(**(values | changes)), Metrics()
    transport = httpx.MockTransport(provider)
    async with open_provider(settings, metrics, transport=transport, clock=clock) as door:
        assert door.services is not None
        yield Bench(door.services, provider, metrics, clock, door)


@pytest.fixture
async def bench(provider: Provider, clock: Clock) -> AsyncIterator[Bench]:
    async with opened(provider, clock) as made:
        yield made


async def test_services_whose_names_begin_with_the_filter_are_deleted(bench: Bench) -> None:
    outcome = await bench.services.clear(ACCOUNT)

    assert outcome == ServicesOutcome("deleted", "deleted 2", listed=3, matched=2, deleted=2)
    assert bench.provider.deleted == ["s1", "s2"]
    assert [method for method, _ in bench.provider.asked] == ["POST", "POST", "GET", "DELETE", "DELETE"]
    assert bench.counted("deleted") == 1


async def test_in_shadow_mode_it_is_told_and_not_done(provider: Provider, clock: Clock) -> None:
    async with opened(provider, clock, NIOSXAAS_SHADOW="true") as bench:
        outcome = await bench.services.clear(ACCOUNT)

    assert outcome == ServicesOutcome("shadow", "would delete 2 (shadow)", listed=3, matched=2)
    assert provider.deleted == []
    assert "DELETE" not in [method for method, _ in provider.asked]


async def test_nothing_to_do_is_told_apart(bench: Bench) -> None:
    bench.provider.services = [a_service("s3", "customers-own")]

    outcome = await bench.services.clear(ACCOUNT)

    assert (outcome.result, outcome.text) == ("nothing", "deleted 0")


async def test_disabled_there_are_no_services(clock: Clock, metrics: Metrics) -> None:
    async with open_provider(settings_of(), metrics, clock=clock) as door:
        assert door.services is None


HTML_404 = httpx.Response(404, html="<html>nginx</html>")
TROUBLE = [
    ("sign_in", httpx.Response(500), "failed: HTTP_500"),
    ("sign_in", httpx.Response(401), "failed: SIGN_IN_REFUSED"),
    ("sign_in", httpx.Response(403), "failed: SIGN_IN_REFUSED"),
    ("sign_in", httpx.Response(302, headers={"location": "/login"}), "failed: REDIRECT"),
    ("sign_in", httpx.Response(200, html="<html>"), "failed: HTML_ANSWER"),
    ("sign_in", httpx.Response(200, json={}), "failed: WRONG_SHAPE"),
    ("sign_in", httpx.Response(200, json={"jwt": None}), "failed: WRONG_SHAPE"),
    ("sign_in", httpx.Response(200, json={"jwt": ""}), "failed: WRONG_SHAPE"),
    ("sign_in", httpx.Response(200, json={"jwt": "a\r\nX-Evil: 1"}), "failed: WRONG_SHAPE"),
    ("sign_in", httpx.Response(200, json=[]), "failed: WRONG_SHAPE"),
    ("sign_in", httpx.Response(200, content=b"{"), "failed: NOT_JSON"),
    ("sign_in", httpx.Response(200, content=b'{"jwt": "a", "jwt": "b"}'), "failed: WRONG_SHAPE"),
    ("sign_in", httpx.Response(200, content=b" " * 70_000), "failed: BODY_TOO_LARGE"),
    ("sign_in", httpx.ConnectError("refused"), "failed: UNREACHABLE"),
    ("sign_in", ZeroDivisionError("a mistake of ours"), "failed: CRASHED"),
    ("account_switch", httpx.Response(404, json={}), "failed: HTTP_404"),
    ("account_switch", httpx.Response(200, json={"jwt": HOME_JWT}), "failed: NOT_SWITCHED"),
    ("GET", httpx.Response(200, json={"results": None}), "failed: WRONG_SHAPE"),
    ("GET", httpx.ReadTimeout("slow"), "failed: TIMEOUT"),
    ("DELETE", httpx.Response(500), "failed: HTTP_500"),
    ("DELETE", HTML_404, "failed: HTML_ANSWER"),
    (f"DELETE {SERVICES}/s2", httpx.Response(409), "deleted 1 of 2, failed: HTTP_409"),
]


@pytest.mark.parametrize(("where", "wrong", "text"), TROUBLE, ids=lambda v: v if isinstance(v, str) else "")
async def test_trouble_is_an_outcome_and_never_an_exception(
    bench: Bench, where: str, wrong: Any, text: str
) -> None:
    bench.provider.broken[where] = wrong

    outcome = await bench.services.clear(ACCOUNT)

    assert (outcome.result, outcome.text) == ("failed", text)
    assert bench.counted("failed") == 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize("where", ["sign_in", "account_switch", "GET", "DELETE"])
async def test_all_of_it_is_under_one_deadline(bench: Bench, where: str) -> None:
    bench.provider.broken[where] = lambda: asyncio.sleep(3600)

    outcome = await bench.services.clear(ACCOUNT)

    assert (outcome.result, outcome.text) == ("failed", "failed: TIMEOUT")


@pytest.mark.timeout(20)
async def test_what_was_done_before_the_deadline_is_told(bench: Bench) -> None:
    bench.provider.broken[f"{SERVICES}/s2"] = lambda: asyncio.sleep(3600)

    assert (await bench.services.clear(ACCOUNT)).text == "deleted 1 of 2, failed: TIMEOUT"


async def test_many_short_calls_share_the_deadline(bench: Bench) -> None:
    """Each is well within it; together they are not."""

    async def slow() -> httpx.Response:
        await asyncio.sleep(0.15)
        return httpx.Response(204)

    bench.provider.services = [a_service(f"s{n}") for n in range(50)]
    bench.provider.broken["DELETE"] = slow

    outcome = await bench.services.clear(ACCOUNT)

    assert outcome.result == "failed"
    assert outcome.text.endswith("of 50, failed: TIMEOUT")
    assert outcome.deleted < 50


async def test_cancelled_it_is_cancelled(bench: Bench) -> None:
    began = asyncio.Event()

    async def hanging() -> None:
        began.set()
        await asyncio.sleep(3600)

    bench.provider.broken["sign_in"] = hanging
    clearing = asyncio.create_task(bench.services.clear(ACCOUNT))
    await began.wait()
    clearing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await clearing


async def test_it_has_a_breaker_of_its_own_over_different_accounts(bench: Bench) -> None:
    bench.provider.broken["GET"] = httpx.Response(500)
    for n in (1, 1, 1, 1, 2, 3):
        assert (await bench.services.clear(f"{ACCOUNT}-{n}")).text == "failed: HTTP_500"
    made = len(bench.provider.asked)

    skipped = await bench.services.clear(ACCOUNT)

    assert skipped == ServicesOutcome("skipped", "skipped: BREAKER_OPEN")
    assert len(bench.provider.asked) == made
    assert bench.counted("skipped") == 1
    states = bench.door.client.states()
    assert (states["services"], states["delete"], states["list"]) == ("open, probe in 15 s", "closed", "closed")
    bench.provider.broken.clear()
    bench.clock.now += PROBE_AFTER_S
    assert (await bench.services.clear(ACCOUNT)).text == "deleted 2"
    assert bench.door.client.states()["services"] == "closed"


async def test_a_wrong_password_is_not_tried_for_each_of_two_hundred_sandboxes(bench: Bench) -> None:
    """It would lock the user out."""
    bench.provider.password = "another one now"

    for n in range(200):
        await bench.services.clear(f"{ACCOUNT}-{n}")

    assert len(bench.provider.asked) == 3


async def test_a_refused_password_is_read_anew(provider: Provider, clock: Clock, tmp_path: Path) -> None:
    """Also from a file that shows no trace of its change."""
    file, rotated = tmp_path / "password", "zwei Wörter 4f1c02"
    assert len(rotated.encode()) == len(PASSWORD)
    write(file, PASSWORD)
    kept = {"NIOSXAAS_PASSWORD": "", "NIOSXAAS_PASSWORD_FILE": str(file)}
    async with opened(provider, clock, **kept) as bench:
        first = await bench.services.clear(ACCOUNT)
        provider.password = rotated
        write_without_a_trace(file, rotated)
        second = await bench.services.clear(ACCOUNT)
        third = await bench.services.clear(ACCOUNT)

    assert [o.text for o in (first, second, third)] == ["deleted 2", "failed: SIGN_IN_REFUSED", "deleted 2"]


async def test_a_session_of_one_sandbox_is_not_carried_into_the_next(bench: Bench) -> None:
    await bench.services.clear(ACCOUNT)
    await bench.services.clear(f"{ACCOUNT}-2")

    assert bench.provider.cookies == []


@pytest.mark.parametrize(
    ("id_", "asked"),
    [
        ("s1", ["s1"]),
        ("universalinfra/services/s1", ["s1"]),
        ("a:b-c_d.e", ["a%3Ab-c_d.e"]),
        ("", []),
        ("..", []),
        ("a/..", []),
        (".", []),
        ("a/", []),
        ("a?all=1", []),
        ("a%2f..", []),
        ("a\nb", []),
        ("x" * 500, []),
        (None, []),
        (7, []),
        ({"a": 1}, []),
    ],
    ids=repr,
)
async def test_an_id_of_the_providers_cannot_reach_another_path(bench: Bench, id_: Any, asked: list[str]) -> None:
    bench.provider.services = [a_service(id_)]

    outcome = await bench.services.clear(ACCOUNT)

    assert bench.provider.deleted == asked
    assert outcome.text == ("deleted 1" if asked else "failed: INVALID_SERVICE")


async def test_one_odd_service_costs_itself_alone(bench: Bench) -> None:
    bench.provider.services = [
        a_service(".."),
        None,
        7,
        {},
        a_service("s9", None),
        a_service("s1"),
        a_service("s1"),
    ]

    outcome = await bench.services.clear(ACCOUNT)

    assert (outcome.text, bench.provider.deleted) == ("deleted 1 of 2, failed: INVALID_SERVICE", ["s1"])


async def test_neither_password_nor_session_is_in_what_is_told(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "worker")
    bench.provider.broken["GET"] = httpx.ReadError("cut off")

    outcome = await bench.services.clear(ACCOUNT)

    said = (
        repr(outcome)
        + repr(bench.services)
        + repr(bench.door)
        + "".join(str(vars(record)) for record in caplog.records)
    )
    assert "RESET" in said
    for secret in (PASSWORD, INSIDE_JWT, HOME_JWT):
        assert secret not in said
