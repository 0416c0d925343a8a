"""J1, J2: bounded labels, and pool gauges that cost one read a minute and never hold up a scrape."""

import asyncio
import logging
import re
import time

import pytest

from app import pool_gauges
from broker.metrics import Metrics
from broker.sandbox import State
from broker.store.gauges import PoolGauges
from broker.tenant import Tenant
from local.store_proxy import StoreProxy
from tests.api.service import ADMIN, TRACK, Api, a_table, an_api, an_app, api_settings, drop_table
from tests.builders import NOW, TEST_CAUSE

COUNTED = PoolGauges(at=1_760_000_000, states={state: n + 1 for n, state in enumerate(State)}, missing=3)
LABELS = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def pool(state: State) -> str:
    return f'broker_pool_sandboxes{{status="{state.value}",tenant="acme"}}'


AGE = 'broker_pool_snapshot_age_seconds{tenant="acme"}'


async def test_odd_requests_leave_no_id_path_or_method_in_the_metrics(api: Api) -> None:
    await api.fill(2)
    held = (await api.allocate("student-4711", X_Instruqt_Track_ID="lab-4711", Idempotency_Key="key-4711")).json()
    await api.release(held["sandbox_id"], "student-4711")
    await api.allocate("student-4712", X_Sandbox_Name_Prefix="prefix-4711")
    for method in ("MADEUP-4711", "PROPFIND", "get", "POST"):
        for path in (
            "/v1/allocate",
            "/made-up-4711",
            "/v1/sandboxes/id-4711",
            "/v1/docs/file-4711",
            "/admin/x-4711",
        ):
            await api.http.request(method, path, headers=TRACK | {"X-Track-ID": "student-4711", "X-Made": "4711"})
    await api.http.get("/v1/admin/sandboxes?track=lab-4711&cursor=4711", headers=ADMIN)
    await api.http.get("/v1/meta?token=4711", headers={"Authorization": "Bearer 4711", "X-Request-ID": "4711"})

    series = await api.metrics()  # without their values: a sum of seconds may have any digits

    text = "\n".join(series)
    for needle in ("4711", "4712", held["sandbox_id"], "PROPFIND", "203.0.113"):
        assert needle not in text
    labels = {(name, value) for line in text.splitlines() for name, value in LABELS.findall(line)}
    assert {value for name, value in labels if name == "method"} <= {"GET", "POST", "OPTIONS", "other"}
    assert {value for name, value in labels if name == "tenant"} == {"acme"}
    routes = {value for name, value in labels if name == "route"}
    assert routes == {
        "/v1/allocate", "/v1/sandboxes/{sandbox_id}", "/v1/sandboxes/{sandbox_id}/mark-for-deletion",
        "/v1/docs/{name}", "/v1/admin/sandboxes", "/v1/meta", "unmatched",
    }  # fmt: skip


async def test_many_odd_requests_make_no_more_series(api: Api) -> None:
    async def odd(n: int) -> None:
        await api.http.request(f"M{n}", f"/path-{n}/x", headers={"X-Track-ID": f"s-{n}"})
        await api.http.get(f"/v1/sandboxes/id-{n}", headers=TRACK | {"X-Track-ID": f"s-{n}"})

    await odd(0)
    before = set(await api.metrics())
    for n in range(1, 40):
        await odd(n)
    assert set(await api.metrics()) - before <= {
        series for series in await api.metrics() if 'route="/metrics"' in series
    }


async def test_requests_are_counted_by_outcome_with_latency(api: Api) -> None:
    await api.fill(1)
    await api.allocate("s-1")
    await api.allocate("s-1")
    await api.allocate("s-2")
    held = (await api.allocate("s-1")).json()["sandbox_id"]
    await api.release(held, "s-2")
    await api.release(held, "s-1")

    counted = await api.metrics()

    def requests(route: str, status: int) -> float:
        return counted[f'broker_http_requests_total{{method="POST",route="{route}",status="{status}"}}']

    release = "/v1/sandboxes/{sandbox_id}/mark-for-deletion"
    assert requests("/v1/allocate", 201) == 1
    assert requests("/v1/allocate", 200) == 2
    assert requests("/v1/allocate", 409) == 1
    assert requests(release, 403) == 1
    assert requests(release, 200) == 1
    assert counted['broker_http_request_seconds_count{route="/v1/allocate"}'] == 4
    assert counted['broker_allocations_total{outcome="created",tenant="acme"}'] == 1
    assert counted['broker_allocations_total{outcome="replayed",tenant="acme"}'] == 2
    assert counted['broker_allocations_total{outcome="no_sandboxes_available",tenant="acme"}'] == 1
    assert counted['broker_releases_total{outcome="released",tenant="acme"}'] == 1
    assert counted['broker_releases_total{outcome="not_sandbox_owner",tenant="acme"}'] == 1
    assert counted['broker_store_call_seconds_count{operation="transact_write_items"}'] >= 2


async def test_the_pools_numbers_are_the_workers_last_count_with_its_age(api: Api) -> None:
    at = int(time.time()) - 500
    await api.core.gauges.write("acme", PoolGauges(at=at, states=COUNTED.states, missing=3))
    counted = await api.metrics()
    assert {state: counted[pool(state)] for state in State} == COUNTED.states
    assert counted['broker_pool_missing{tenant="acme"}'] == 3
    assert 499 <= counted[AGE] < 560


async def test_every_tenants_pool_is_shown_up_to_a_number_that_says_so(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        await api.core.tenants.create(Tenant(name=f"team-{n}"), TEST_CAUSE, now=NOW)
        await api.core.gauges.write(f"team-{n}", PoolGauges(at=int(time.time()), states=COUNTED.states, missing=n))
    monkeypatch.setattr(pool_gauges, "MAX_TENANTS", 3)

    counted = await api.metrics()

    shown = {s.partition("tenant=")[2] for s in counted if s.startswith("broker_pool_missing{")}
    assert shown == {'"team-0"}', '"team-1"}'}, "this installation's own comes first, and was never counted"
    assert counted['broker_pool_missing{tenant="team-1"}'] == 1
    assert counted["broker_pool_tenants_left_out"] == 2


async def test_a_tenant_that_is_shown_no_more_leaves_no_numbers_behind_that_grow_older(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others came to be that are before it by name; or its numbers are there no more."""
    now, metrics = 1000.0, Metrics()
    gauges = pool_gauges.PoolGauges(
        api.core.gauges, api.core.tenants, metrics, tenant="acme", clock=lambda: NOW, monotonic=lambda: now
    )
    monkeypatch.setattr(pool_gauges, "MAX_TENANTS", 2)
    for team in ("team-2", "team-1"):
        await api.core.tenants.create(Tenant(name=team), TEST_CAUSE, now=NOW)
        await api.core.gauges.write(team, COUNTED)
        await gauges.refresh()
        now += 60

    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    pools = [sample for sample in samples if sample.name.startswith("broker_pool_")]
    assert {sample.labels["tenant"] for sample in pools if "tenant" in sample.labels} == {"team-1"}
    assert len([sample for sample in pools if "status" in sample.labels]) == len(State)


async def test_before_the_worker_counted_there_are_no_pool_numbers_and_the_scrape_is_good(api: Api) -> None:
    answer = await api.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "broker_pool_sandboxes{" not in answer.text


async def test_a_hundred_scrapes_at_once_and_more_in_the_minute_cost_one_read(
    proxied: Api, proxy: StoreProxy
) -> None:
    await proxied.core.gauges.write("acme", COUNTED)
    proxy.faults.latency_ms = 50
    proxy.counts.reset()

    answers = await asyncio.gather(*(proxied.http.get("/metrics") for _ in range(100)))
    answers += [await proxied.http.get("/metrics") for _ in range(20)]

    assert {answer.status_code for answer in answers} == {200}
    shown = [f"{pool(State.AVAILABLE)} 1.0" in answer.text for answer in answers]
    assert all(shown[100:])
    assert any(shown[:100]), "they waited for the one read, though on a slow machine no longer than a second"
    assert dict(proxy.counts.calls) == {"Query:StatusIndex": 1, "BatchGetItem": 1}


async def test_each_process_reads_once(proxy: StoreProxy, table_name: str) -> None:
    async with an_api(proxy.url, table_name) as one, an_api(proxy.url, table_name) as other:
        proxy.counts.reset()
        await asyncio.gather(*(api.http.get("/metrics") for api in (one, other) for _ in range(20)))
        assert dict(proxy.counts.calls) == {"Query:StatusIndex": 2, "BatchGetItem": 2}


async def test_after_a_minute_the_next_scrape_reads_again(proxied: Api, proxy: StoreProxy) -> None:
    now = 1000.0
    parts = proxied.app.state.parts
    gauges = pool_gauges.PoolGauges(
        parts.broker.gauges,
        parts.broker.tenants,
        Metrics(),
        tenant="acme",
        clock=lambda: 1_760_000_100,
        monotonic=lambda: now,
    )
    await proxied.core.gauges.write("acme", COUNTED)
    proxy.counts.reset()
    for now in (1000.0, 1030.0, 1059.9, 1060.0, 1061.0):  # noqa: B007  read by `monotonic`
        await gauges.refresh()
    assert dict(proxy.counts.calls) == {"Query:StatusIndex": 2, "BatchGetItem": 2}


async def test_while_the_store_is_down_a_scrape_shows_the_last_numbers_and_their_age(
    proxied: Api, proxy: StoreProxy, caplog: pytest.LogCaptureFixture
) -> None:
    now, clock = 1000.0, 1_760_000_010.0
    metrics = Metrics()
    gauges = pool_gauges.PoolGauges(
        proxied.core.gauges,
        proxied.core.tenants,
        metrics,
        tenant="acme",
        clock=lambda: clock,
        monotonic=lambda: now,
    )
    await proxied.core.gauges.write("acme", COUNTED)
    await gauges.refresh()
    proxy.faults.down = True
    now, clock = 1100.0, 1_760_000_110.0

    with caplog.at_level(logging.WARNING, logger="app"):
        await gauges.refresh()

    def shown(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"tenant": "acme"} | labels)

    assert shown("broker_pool_sandboxes", status="available") == 1
    assert shown("broker_pool_snapshot_age_seconds") == 110
    assert metrics.registry.get_sample_value("broker_pool_refreshes_total", {"outcome": "failed"}) == 1
    assert "pool gauges are stale" in caplog.text


async def test_with_the_store_down_a_scrape_is_good(proxied: Api, proxy: StoreProxy) -> None:
    proxy.faults.down = True
    assert (await proxied.http.get("/metrics")).status_code == 200


async def test_a_store_that_hangs_holds_no_scrape_up(proxy: StoreProxy, table_name: str) -> None:
    """The store's own deadline is 30 s here: an answer well before it did not wait for the store."""
    async with an_api(proxy.url, table_name, STORE_TIMEOUT_SEC=30) as api:
        proxy.faults.change({"hang_next": 1, "hang_s": 60})
        answers = await asyncio.wait_for(asyncio.gather(*(api.http.get("/metrics") for _ in range(5))), 10)
        assert {answer.status_code for answer in answers} == {200}
        again = await asyncio.wait_for(api.http.get("/metrics"), 10)
        assert again.status_code == 200
        assert proxy.faults.hang_next == 0, "the one read did hang"


async def test_a_process_that_boots_can_be_scraped(proxy: StoreProxy, table_name: str) -> None:
    proxy.faults.down = True
    async with an_app(api_settings(proxy.url, table_name), booted=False) as api:
        answer = await asyncio.wait_for(api.http.get("/metrics"), 10)
    assert answer.status_code == 200
    assert "broker_event_loop_stalls_total" in answer.text


async def test_a_table_that_is_gone_fails_no_scrape(ministack: str, table_name: str) -> None:
    async with a_table(ministack, table_name), an_app(api_settings(ministack, table_name)) as api:
        await drop_table(api.app.state.settings)
        counted = await api.metrics()
    assert counted['broker_pool_refreshes_total{outcome="failed"}'] == 1


async def test_no_scrape_scans_the_table(proxied: Api, proxy: StoreProxy) -> None:
    proxy.counts.reset()
    await proxied.http.get("/metrics")
    await proxied.admin("/stats")
    assert "Scan" not in proxy.counts.calls
