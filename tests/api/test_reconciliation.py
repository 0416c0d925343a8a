"""E15: what the last listing was to us, as operators ask for it."""

import time
from typing import Any

import pytest

from broker.policy import Explained
from local.store_proxy import StoreProxy
from tests.api.service import ADMIN, Api, an_api, refusal
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, a_provider, a_worker
from tests.worker.test_sync_guard import hide


async def asked(api: Api) -> dict[str, Any]:
    answer = await api.admin("/reconciliation")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_it_is_all_null_until_a_sync_has_read_a_listing(api: Api) -> None:
    body = await asked(api)

    assert set(body) == {
        "at", "age_s", "listed", "accounts", "unexplained", "expected", "missing", "believed", "suspicion",
    }  # fmt: skip
    assert set(body.values()) == {None}


async def test_every_listed_account_is_counted_and_their_sum_is_the_listing(api: Api) -> None:
    clock = Clock(time.time() - 90)
    async with a_provider(sandboxes=10, noise=3) as provider, a_worker(api.core, provider, clock) as worker:
        await worker.sync(RUN)
        await api.allocate("student-1")
        await worker.sync(RUN)

        body = await asked(api)

    assert (body["at"], 90 <= body["age_s"] < 600) == (int(clock.now), True)
    assert set(body["accounts"]) == {kind.value for kind in Explained}
    assert {kind: count for kind, count in body["accounts"].items() if count} == {
        "available": 9,
        "held": 1,
        "no_sandbox": 3,
    }
    assert (body["listed"], body["expected"], body["missing"]) == (13, 10, 0)
    assert (body["believed"], body["suspicion"], body["unexplained"]) == (True, None, [])


async def test_what_nothing_explains_is_named_with_its_first_sight_the_oldest_first(api: Api) -> None:
    began_at = int(time.time()) - 4000
    clock = Clock(began_at)
    async with a_provider(sandboxes=10) as provider, a_worker(api.core, provider, clock) as worker:
        await worker.sync(RUN)
        ids = sorted(await provider.sandbox_ids(), reverse=True)
        for id_ in ids[:2]:
            await provider.http.patch(f"/_simulator/accounts/{id_}", json={"name": "   "})
            await worker.sync(RUN)
            clock.now += 1000

        body = await asked(api)

    assert [row["first_seen_at"] for row in body["unexplained"]] == [began_at, began_at + 1000]
    assert [row["what"].partition(":")[0] for row in body["unexplained"]] == ids[:2]
    assert body["accounts"]["unknown"] == 2


async def test_a_listing_that_is_not_believed_says_how_often_and_since_when(api: Api) -> None:
    began_at = int(time.time()) - 4000
    clock = Clock(began_at)
    async with a_provider(sandboxes=10) as provider, a_worker(api.core, provider, clock) as worker:
        await worker.sync(RUN)
        await hide(provider, 6)
        for _ in range(2):
            clock.now += 600
            await worker.sync(RUN)

        body = await asked(api)

    assert body["believed"] is False
    assert body["suspicion"] == {"times": 2, "since": began_at + 600}
    assert (body["expected"], body["missing"]) == (10, 6)


async def test_it_is_about_the_callers_own_tenant(ministack: str, table_name: str, api: Api) -> None:
    async with (
        a_provider() as provider,
        a_worker(api.core, provider, time.time) as worker,
        an_api(ministack, table_name, BROKER_TENANT="umbrella") as umbrella,
    ):
        await worker.sync(RUN)

        assert (await asked(api))["at"] is not None
        assert (await asked(umbrella))["at"] is None


@pytest.mark.parametrize("path", ["/v1/admin/reconciliation", "/admin/reconciliation"])
async def test_a_store_that_is_away_is_told_as_that(proxied: Api, proxy: StoreProxy, path: str) -> None:
    proxy.faults.down = True

    assert refusal(await proxied.http.get(path, headers=ADMIN)) == (503, "STORE_UNAVAILABLE")
