"""J4, G5: alive, ready, and a loop that stands still."""

import asyncio
import logging
import time

import pytest

from app.readiness import Readiness
from broker.version import VERSION
from local.engine import free_port
from local.store_proxy import StoreProxy
from tests.api.service import (
    ADMIN_TOKEN,
    API_TOKEN,
    TRACK,
    Api,
    an_api,
    an_app,
    api_settings,
    drop_table,
    error_of,
    refusal,
)


async def test_alive_asks_nobody(proxied: Api, proxy: StoreProxy) -> None:
    proxy.counts.reset()
    proxy.faults.down = True
    answer = await proxied.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert sum(proxy.counts.calls.values()) == 0


async def test_ready_says_how_the_store_does(api: Api) -> None:
    answer = await api.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "details": {"store": "ok"}})


async def test_while_the_store_cannot_be_reached_a_new_process_is_alive_and_booting(table_name: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with an_app(api_settings(nobody, table_name), booted=False) as api:
        for _ in range(3):
            ready = await api.http.get("/readyz")
            assert (ready.status_code, ready.json()) == (503, {"status": "booting"})
            await asyncio.sleep(0.1)
        assert (await api.http.get("/healthz")).status_code == 200
        refused = await api.http.post("/v1/allocate", headers=TRACK | {"X-Track-ID": "s"})
        assert refusal(refused) == (503, "NOT_READY")
        assert int(refused.headers["Retry-After"]) == error_of(refused)["retry_after"]
        assert (await api.http.post("/v1/allocate")).status_code == 401, "who is not let in learns nothing"


async def test_the_process_becomes_ready_once_the_store_is_there(proxy: StoreProxy, table_name: str) -> None:
    async with an_api(proxy.url, table_name):
        proxy.faults.down = True
        async with an_app(api_settings(proxy.url, table_name), booted=False) as api:
            assert (await api.http.get("/readyz")).status_code == 503
            proxy.faults.down = False
            async with asyncio.timeout(20):
                while (await api.http.get("/readyz")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert (await api.admin("/stats")).status_code == 200


@pytest.mark.parametrize(
    ("fault", "named"),
    [({"down": True}, "store_unavailable"), ({"throttle_rate": 1}, "store_throttled")],
    ids=str,
)
async def test_when_the_store_goes_down_after_boot_ready_is_200_degraded(
    proxied: Api, proxy: StoreProxy, fault: dict[str, float], named: str
) -> None:
    proxy.faults.change(fault)
    answer = await proxied.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded", "details": {"store": named}})


async def test_a_table_that_is_gone_is_degraded_and_said_once(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    await drop_table(api.app.state.settings)
    now = 0.0
    readiness = Readiness(monotonic=lambda: now)
    readiness.booted(api.core.client, api.core.modes)
    for now in (10.0, 20.0, 30.0):  # noqa: B007  read by `monotonic`
        status, report = await readiness.report()
        assert (status, report) == (200, {"status": "degraded", "details": {"store": "store_unavailable"}})
    said = [vars(record)["why"] for record in caplog.records if record.getMessage() == "store in trouble"]
    assert said == ["STORE_UNAVAILABLE: ResourceNotFoundException"]


async def test_a_store_that_hangs_is_slow_within_about_a_second(proxy: StoreProxy, table_name: str) -> None:
    async with an_api(proxy.url, table_name, STORE_TIMEOUT_SEC=30) as api:
        proxy.faults.change({"hang_next": 1, "hang_s": 60})
        answer = await asyncio.wait_for(api.http.get("/readyz"), 10)
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded", "details": {"store": "slow"}})


async def test_probes_ask_the_store_once_in_five_seconds_and_notice_its_return(
    proxied: Api, proxy: StoreProxy
) -> None:
    now = 100.0
    readiness = Readiness(monotonic=lambda: now)
    readiness.booted(proxied.core.client, proxied.core.modes)
    proxy.counts.reset()
    proxy.faults.down = True
    await asyncio.gather(*(readiness.report() for _ in range(20)))
    asked = proxy.counts.calls["GetItem"]
    assert 1 <= asked <= 2, "one look, which a read may repeat"
    proxy.faults.down = False
    now = 104.9
    _, report = await readiness.report()
    assert report["status"] == "degraded"
    assert proxy.counts.calls["GetItem"] == asked
    now = 105.0
    _, report = await readiness.report()
    assert report == {"status": "ready", "details": {"store": "ok"}}
    assert proxy.counts.calls["GetItem"] == asked + 1


async def test_a_draining_process_is_not_ready_and_still_serves(api: Api) -> None:
    await api.fill(1)
    api.app.state.readiness.draining = True
    answer = await api.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
    assert (await api.allocate()).status_code == 201
    assert (await api.http.get("/healthz")).status_code == 200


async def test_meta_shows_version_and_the_whole_configuration_without_secrets(api: Api) -> None:
    answer = await api.http.get("/v1/meta")
    body = answer.json()
    settings = api.app.state.settings
    assert (body["service"], body["version"]) == ("sandbox-broker", VERSION)
    shown = body["configuration"]
    assert shown["DDB_TABLE_NAME"] == settings.table_name
    assert (shown["LAB_DURATION_HOURS"], shown["AWS_REGION"]) == (4, settings.region)
    secret = {"BROKER_API_TOKEN", "BROKER_ADMIN_TOKEN", "API_KEY_PEPPER", "OTEL_EXPORTER_OTLP_HEADERS"}
    variables = {field.alias for field in type(settings).model_fields.values() if field.alias}
    assert set(shown) == (variables | {"AWS_REGION"}) - secret
    assert set(body["sources"]) == set(shown)
    assert (body["sources"]["DDB_TABLE_NAME"], body["sources"]["API_PORT"]) == ("environment", "default")
    for token in (API_TOKEN, ADMIN_TOKEN):
        assert token not in answer.text


@pytest.mark.parametrize(
    ("setting", "paths"),
    [
        ("META_ENABLED", ["/v1/meta"]),
        ("DOCS_ENABLED", ["/v1/docs", "/v1/docs/start.js", "/v1/docs/swagger-ui.css", "/v1/openapi.json"]),
    ],
)
async def test_what_is_switched_off_is_not_there(
    ministack: str, table_name: str, setting: str, paths: list[str]
) -> None:
    async with an_api(ministack, table_name, **{setting: "false"}) as api:
        for path in paths:
            assert refusal(await api.http.get(path)) == (404, "NOT_FOUND")


async def test_a_loop_that_stands_still_for_over_a_second_is_logged_and_counted(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.sleep(0.3)
    assert (await api.metrics())["broker_event_loop_stalls_total"] == 0

    with caplog.at_level(logging.WARNING, logger="broker"):
        asyncio.get_running_loop().call_soon(time.sleep, 1.4)
        async with asyncio.timeout(10):
            while "event loop stalled" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    stalled = next(record for record in caplog.records if record.getMessage() == "event loop stalled")
    assert vars(stalled)["lag_s"] > 1
    assert (await api.metrics())["broker_event_loop_stalls_total"] == 1


async def test_a_loop_that_stands_still_for_less_is_not_a_stall(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="broker"):
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)
        await asyncio.sleep(1.0)
    assert "event loop stalled" not in caplog.text
    lag = (await api.metrics())["broker_event_loop_lag_seconds"]
    assert lag < 1
