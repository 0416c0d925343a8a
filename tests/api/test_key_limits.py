"""B3, D5: strangers with made-up keys cost the store little; keys and tenants have ceilings of their own."""

import asyncio
from collections import Counter

import pytest

from app import ceilings, limits
from app.ceilings import TenantCeilings
from broker.role import Role
from local.store_proxy import StoreProxy
from tests.api.keys import a_tenant, bearer, made_key
from tests.api.service import ADMIN, Api, a_client, an_api, error_of
from tests.builders import TEST_CAUSE

MADE_UP = [f"sbk_{number:012d}_{'A' * 43}" for number in range(60)]


def reads(proxy: StoreProxy) -> int:
    return proxy.counts.calls["GetItem:consistent"]


async def tried(api: Api, token: str, address: str = "203.0.113.7") -> int:
    async with a_client(api.app, address) as http:
        return (await http.get("/v1/admin/mode", headers=bearer(token))).status_code


async def test_an_address_pays_before_its_guesses_are_looked_up(proxy: StoreProxy, table_name: str) -> None:
    async with an_api(proxy.url, table_name, RATE_LIMIT_PER_ADDRESS="5/hour") as api:
        proxy.counts.reset()
        answers = await asyncio.gather(*(tried(api, token) for token in MADE_UP))
        assert Counter(answers) == {401: 5, 429: len(MADE_UP) - 5}
        assert reads(proxy) == 5


async def test_guesses_from_everywhere_have_a_ceiling_a_process(
    proxy: StoreProxy, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STRANGERS", "7/hour")
    async with an_api(proxy.url, table_name) as api:
        proxy.counts.reset()
        tries = (tried(api, token, f"198.51.100.{n}") for n, token in enumerate(MADE_UP))
        assert Counter(await asyncio.gather(*tries)) == {401: 7, 429: len(MADE_UP) - 7}
        assert reads(proxy) == 7


async def test_who_has_a_key_pays_nothing_for_having_been_a_stranger(ministack: str, table_name: str) -> None:
    """Two hundred students behind one address, with the one key of their track, on a process that just began."""
    async with an_api(ministack, table_name, RATE_LIMIT_PER_ADDRESS="1/hour") as api:
        made = await made_key(api)
        await api.fill(1)
        headers = bearer(made.token)
        answers = await asyncio.gather(
            *(api.http.post("/v1/allocate", headers=headers | {"X-Track-ID": f"s-{n}"}) for n in range(200))
        )
        assert set(Counter(answer.status_code for answer in answers)) == {201, 409}
        others = [(await made_key(api)).token for _ in range(3)]
        assert [await tried(api, token) for token in others] == [403] * 3


async def test_each_key_has_the_credentials_ceiling_to_itself(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, RATE_LIMIT_PER_CREDENTIAL="3/hour") as api:
        one, other = await made_key(api), await made_key(api)
        answers = [await tried(api, one.token) for _ in range(5)]
        assert answers == [403] * 3 + [429] * 2
        assert await tried(api, other.token) == 403


async def test_a_tenants_ceiling_is_over_all_of_its_credentials(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name) as api:
        await a_tenant(api, "north", requests="5/hour")
        keys = [await made_key(api, "north") for _ in range(3)]
        ours = await made_key(api)
        answers = [await tried(api, keys[n % 3].token) for n in range(9)]
        assert answers == [403] * 5 + [429] * 4
        refused = await api.http.get("/v1/admin/mode", headers=bearer(keys[0].token))
        assert error_of(refused)["details"]["scope"] == "tenant"
        assert await tried(api, ours.token) == 403, "another tenant has its own"


@pytest.mark.parametrize("value", ["many", "0/second", "", "10", "5/fortnight"])
async def test_a_ceiling_that_nobody_can_read_refuses_nobody(ministack: str, table_name: str, value: str) -> None:
    async with an_api(ministack, table_name) as api:
        await a_tenant(api, "north", requests=value)
        made = await made_key(api, "north")
        assert [await tried(api, made.token) for _ in range(3)] == [403] * 3


async def test_a_ceiling_that_is_changed_holds_within_seconds(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name) as api:
        await a_tenant(api, "north")
        made = await made_key(api, "north")
        assert await tried(api, made.token) == 403
        await api.core.tenants.change("north", lambda t: t.limited(requests="1/hour"), TEST_CAUSE, now=0)
        async with asyncio.timeout(30):
            while await tried(api, made.token) != 429:  # noqa: ASYNC110  nobody tells us
                await asyncio.sleep(0.1)


async def test_a_store_that_is_down_takes_no_ceiling_away_and_refuses_nobody(
    proxy: StoreProxy, table_name: str
) -> None:
    async with an_api(proxy.url, table_name) as api:
        proxy.faults.down = True
        assert (await api.admin("/mode")).status_code == 200


async def test_a_ceiling_of_the_default_tenant_locks_out_nobody_who_can_undo_it(
    ministack: str, table_name: str
) -> None:
    async with an_api(ministack, table_name) as api:
        viewer = (await made_key(api, "acme", Role.VIEWER)).token
        await api.core.tenants.change("acme", lambda t: t.limited(requests="1/hour"), TEST_CAUSE, now=0)
        assert [await tried(api, viewer) for _ in range(2)] == [200, 429]
        people = [ADMIN, bearer((await made_key(api, "acme", Role.ADMIN)).token)]
        bodies = [{"requests": "1/day"}, {"requests": None}]
        answers = [
            await api.http.patch("/v1/admin/tenants/acme", headers=who, json=body | {"reason": "CHG-812"})
            for who, body in zip(people, bodies, strict=True)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_process_that_was_idle_judges_its_first_request_by_the_ceiling_as_it_is(
    proxy: StoreProxy, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    async with an_api(proxy.url, table_name) as api:
        await a_tenant(api, "north", requests="7/hour")
        known = TenantCeilings(monotonic=lambda: now)
        known.open(api.core.tenants)
        assert str(await known.of("north")) == "7 per 1 hour"
        await api.core.tenants.change("north", lambda t: t.limited(requests="8/hour"), TEST_CAUSE, now=0)
        now += ceilings.OLD_S
        assert str(await known.of("north")) == "8 per 1 hour"

        await api.core.tenants.change("north", lambda t: t.limited(requests="9/hour"), TEST_CAUSE, now=0)
        monkeypatch.setattr(ceilings, "WAIT_S", 0.01)
        proxy.faults.latency_ms = 3000
        now += ceilings.OLD_S
        assert str(await known.of("north")) == "8 per 1 hour", "a store that is slow holds up nobody for long"
        assert known._reads, "it is still being read"
        proxy.faults.latency_ms = 0
        await known.close()
