"""Each fault, switched over HTTP, at the provider's door."""

import time

import pytest
from simulated import Simulated


async def test_the_next_deletes_answer_500_and_delete_nothing(simulator: Simulated):
    await simulator.switch(fail_next_deletes=2)
    account = (await simulator.sandboxes())[0]
    statuses = [(await simulator.delete(account)).status_code for _ in range(3)]
    assert statuses == [500, 500, 204]
    after = (await simulator.inspected())[account["csp_id"]]
    assert (after["delete_requests"], after["deletes_done"]) == (3, 1)


async def test_the_switch_shows_how_many_deletes_will_still_fail(simulator: Simulated):
    await simulator.switch(fail_next_deletes=2)
    await simulator.delete((await simulator.sandboxes())[0])
    assert (await simulator.http.get("/_simulator/faults")).json()["fail_next_deletes"] == 1


async def test_the_next_listing_answers_500_and_the_one_after_does_not(simulator: Simulated):
    await simulator.switch(fail_next_lists=1)
    assert [(await simulator.page()).status_code for _ in range(2)] == [500, 200]


async def test_a_refused_listing_uses_up_no_failure(simulator: Simulated):
    await simulator.switch(fail_next_lists=1)
    assert [(await simulator.page(_limit=limit)).status_code for limit in (0, 1, 1)] == [400, 500, 200]


async def test_at_a_rate_of_one_every_delete_fails_and_listings_do_not(simulator: Simulated):
    await simulator.switch(delete_500_rate=1)
    sandboxes = await simulator.sandboxes()
    assert {(await simulator.delete(account)).status_code for account in sandboxes} == {500}
    assert len(await simulator.sandboxes()) == 12


async def test_at_a_rate_of_one_every_listing_fails_and_deletes_do_not(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(list_500_rate=1)
    assert {(await simulator.page()).status_code for _ in range(10)} == {500}
    assert (await simulator.delete(account)).status_code == 204


async def test_at_a_rate_of_a_half_some_fail_and_some_do_not_and_the_same_ones_after_a_reset(
    simulator: Simulated,
):
    async def run() -> list[int]:
        await simulator.switch(list_500_rate=0.5)
        return [(await simulator.page()).status_code for _ in range(30)]

    await simulator.http.post("/_simulator/reset")
    first = await run()
    assert set(first) == {200, 500}
    await simulator.http.post("/_simulator/reset")
    assert await run() == first


@pytest.mark.parametrize("by", ["csp_id", "name"])
async def test_a_failing_account_always_answers_500_and_the_others_do_not(simulator: Simulated, by):
    bad, good, *_ = await simulator.sandboxes()
    await simulator.switch(failing_accounts=[bad[by]])
    statuses = [(await simulator.delete(account)).status_code for account in (bad, good, bad)]
    assert statuses == [500, 204, 500]
    await simulator.switch(failing_accounts=[])
    assert (await simulator.delete(bad)).status_code == 204


async def test_an_html_account_answers_502_with_html_and_is_not_deleted(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(html_accounts=[account["name"]])
    answer = await simulator.delete(account)
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<html>")
    assert account in await simulator.listed()


async def test_a_hidden_account_vanishes_from_the_listing_and_comes_back(simulator: Simulated):
    first, second, *_ = await simulator.sandboxes()
    await simulator.switch(hidden_accounts=[first["name"], second["csp_id"]])
    listed = await simulator.listed()
    assert len(listed) == 13
    assert first not in listed
    assert second not in listed
    await simulator.switch(hidden_accounts=[])
    assert len(await simulator.listed()) == 15


async def test_a_failing_delete_takes_its_latency_too(simulator: Simulated):
    await simulator.switch(fail_next_deletes=1, delete_latency_s=0.2)
    began = time.monotonic()
    assert (await simulator.delete((await simulator.sandboxes())[0])).status_code == 500
    assert time.monotonic() - began >= 0.2


async def test_the_latency_of_the_listing_is_waited_for(simulator: Simulated):
    await simulator.switch(list_latency_s=0.2)
    began = time.monotonic()
    assert (await simulator.page()).status_code == 200
    assert time.monotonic() - began >= 0.2


async def test_a_share_of_the_deletions_takes_much_longer_and_the_same_ones_after_a_reset(simulator: Simulated):
    async def waits() -> list[float]:
        await simulator.http.post("/_simulator/reset")
        await simulator.switch(
            delete_slow_rate=0.1, delete_slow_s=40, list_slow_rate=0.9, list_slow_s=50, list_latency_s=1
        )
        simulation = simulator.simulation
        return [
            *(simulation.plan_delete(None)[0] for _ in range(200)),
            *(simulation.plan_list(page=1)[0] for _ in range(200)),
        ]

    first = await waits()
    assert set(first[:200]) == {0, 40}
    assert 10 <= first[:200].count(40) <= 30
    assert set(first[200:]) == {1, 50}
    assert 10 <= first[200:].count(1) <= 30
    assert await waits() == first


async def test_the_heavy_tail_is_waited_for(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_slow_rate=1, delete_slow_s=0.2, list_slow_rate=1, list_slow_s=0.2)
    began = time.monotonic()
    assert (await simulator.delete(account)).status_code == 204
    assert time.monotonic() - began >= 0.2
    began = time.monotonic()
    assert (await simulator.page()).status_code == 200
    assert time.monotonic() - began >= 0.2


async def test_jitter_of_the_listing_adds_to_its_latency(simulator: Simulated):
    await simulator.switch(list_latency_s=5, list_latency_jitter_s=5)
    waits = [simulator.simulation.plan_list(page=1)[0] for _ in range(200)]
    assert 5 <= min(waits) < 5.5
    assert 9.5 < max(waits) <= 10


async def test_jitter_adds_between_nothing_and_itself_to_the_latency(simulator: Simulated):
    await simulator.switch(delete_latency_s=5, delete_latency_jitter_s=5)
    waits = [simulator.simulation.plan_delete(None)[0] for _ in range(200)]
    assert 5 <= min(waits) < 5.5
    assert 9.5 < max(waits) <= 10


async def test_a_request_without_token_uses_up_no_failure(simulator: Simulated):
    await simulator.switch(fail_next_lists=1)
    assert (await simulator.http.get("/current_user/accounts", headers={"Authorization": "x"})).status_code == 401
    assert (await simulator.page()).status_code == 500
