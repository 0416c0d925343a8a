"""What is refused with an answer: 429, HTML, counted failures, and the provider's own limits."""

import asyncio

import httpx
import pytest
from simulated import Simulated, uuid_of


async def statuses(simulator: Simulated, count: int) -> list[int]:
    """Of so many deletions, each of another account."""
    return [(await simulator.delete(account)).status_code for account in (await simulator.sandboxes())[:count]]


@pytest.mark.parametrize(("retry_after_s", "header"), [(0, None), (7, "7")])
async def test_a_429_names_the_seconds_to_wait_where_it_is_told_to(simulator: Simulated, retry_after_s, header):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_429_rate=1, list_429_rate=1, retry_after_s=retry_after_s)
    for answer in (await simulator.delete(account), await simulator.page()):
        assert (answer.status_code, answer.json()) == (429, {"detail": "Too many requests."})
        assert answer.headers.get("retry-after") == header
    await simulator.switch(list_429_rate=0)
    assert account in await simulator.listed()


async def test_a_429_is_answered_at_once_whatever_the_latency(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_latency_s=60, delete_429_rate=1, list_latency_s=60, list_429_rate=1)
    async with asyncio.timeout(5):
        assert (await simulator.delete(account)).status_code == 429
        assert (await simulator.page()).status_code == 429


@pytest.mark.parametrize("status", [200, 502, 503])
async def test_html_for_json_comes_with_the_status_it_is_told_to(simulator: Simulated, status):
    first, second, *_ = await simulator.sandboxes()
    await simulator.switch(html_status=status, html_accounts=[first["csp_id"]])
    assert [(await simulator.delete(a)).status_code for a in (first, second)] == [status, 204]
    await simulator.switch(list_html_rate=1, delete_html_rate=1)
    for answer in (await simulator.delete(first), await simulator.page()):
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.text.startswith("<html>")
    await simulator.switch(list_html_rate=0)
    assert first in await simulator.listed()


@pytest.mark.parametrize(("kind", "status"), [("500", 500), ("429", 429), ("html", 502)])
async def test_counted_failures_fail_as_they_are_told_to(simulator: Simulated, kind, status):
    await simulator.switch(fail_with=kind, fail_next_lists=1)
    assert [(await simulator.page()).status_code for _ in range(2)] == [status, 200]
    await simulator.switch(fail_next_deletes=2)
    assert await statuses(simulator, 3) == [status, status, 204]


@pytest.mark.parametrize("kind", ["hang", "reset"])
async def test_a_counted_failure_can_be_no_answer_at_all(simulator: Simulated, kind):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(fail_with=kind, fail_next_deletes=1)
    with pytest.raises((httpx.ReadTimeout, httpx.ReadError)):
        await simulator.delete(account, timeout=0.3)
    assert (await simulator.delete(account)).status_code == 204


async def test_deletions_beyond_the_rate_are_refused_until_time_has_passed(simulator: Simulated):
    await simulator.switch(max_deletes_per_s=3, retry_after_s=1)
    assert await statuses(simulator, 5) == [204, 204, 204, 429, 429]
    simulator.clock.now += 0.4  # time for one, and a bit
    assert await statuses(simulator, 2) == [204, 429]
    simulator.clock.now += 100  # no more than a second's worth is saved up
    assert await statuses(simulator, 5) == [204, 204, 204, 429, 429]
    assert (await simulator.delete((await simulator.sandboxes())[0])).headers["retry-after"] == "1"


async def test_a_rate_below_one_a_second_lets_one_through_at_a_time(simulator: Simulated):
    await simulator.switch(max_deletes_per_s=0.5)
    assert await statuses(simulator, 2) == [204, 429]
    simulator.clock.now += 1.9
    assert await statuses(simulator, 1) == [429]
    simulator.clock.now += 0.1
    assert await statuses(simulator, 2) == [204, 429]


async def test_a_caller_that_keeps_exactly_to_the_rate_is_never_refused(simulator: Simulated):
    await simulator.switch(max_deletes_per_s=10)
    missing = "/sandbox/accounts/d448bcf5-fcfb-44ee-b28a-1a625bdb597a"
    seen = set()
    for _ in range(200):
        seen.add((await simulator.http.delete(missing)).status_code)
        simulator.clock.now += 0.1
    assert seen == {404}


async def test_too_many_deletions_at_once_are_500_and_those_in_hand_succeed(simulator: Simulated):
    await simulator.switch(max_concurrent_deletes=3, delete_latency_s=0.5)
    sandboxes = await simulator.sandboxes()
    answers = await asyncio.gather(*(simulator.delete(account) for account in sandboxes[:8]))
    assert sorted(answer.status_code for answer in answers) == [204, 204, 204, 500, 500, 500, 500, 500]
    await simulator.switch(delete_latency_s=0)
    assert await statuses(simulator, 4) == [204] * 4


async def test_a_reset_forgets_the_load(simulator: Simulated):
    await simulator.switch(max_deletes_per_s=1)
    assert await statuses(simulator, 2) == [204, 429]
    await simulator.http.post("/_simulator/reset")
    await simulator.switch(max_deletes_per_s=1)
    assert await statuses(simulator, 1) == [204]


@pytest.mark.parametrize(
    ("garbage", "status"), [("html200", 200), ("not_found_html", 404), ("redirect", 302), ("huge_body", 200)]
)
async def test_a_proxy_that_answers_deletions_deletes_nothing(simulator: Simulated, garbage, status):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_garbage=garbage, huge_body_mb=1)
    answer = await simulator.delete(account)
    assert answer.status_code == status
    if garbage == "huge_body":
        assert len(answer.content) > 1_000_000
    elif garbage == "redirect":
        assert (await simulator.http.get(answer.headers["location"])).text.startswith("<html>")
    else:
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.text.startswith("<html>")
    assert account in await simulator.listed()
    await simulator.switch(delete_garbage="none")
    assert (await simulator.delete(account)).status_code == 204


async def test_a_client_that_follows_a_redirect_is_seen_in_the_journal(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_garbage="redirect")
    assert (await simulator.delete(account, follow_redirects=True)).status_code == 200
    calls = (await simulator.journal())["results"][-2:]
    assert [(c["method"], c["path"], c["status"]) for c in calls] == [
        ("DELETE", f"/sandbox/accounts/{uuid_of(account)}", 302),
        ("GET", "/login", 200),
    ]
