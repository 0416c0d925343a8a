import asyncio
import statistics
import time
from urllib.parse import urlsplit

import httpx
import pytest
from simulated import TOKEN, Simulated, uuid_of

from simulator.options import Settings
from simulator.server import create_app
from simulator.simulation import Simulation

LISTING = "/current_user/accounts"


async def until(condition, *, deadline_s: float = 5) -> None:
    """Wait until the awaited condition holds."""
    ends = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < ends, "it never happened"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("limit", [1, 4, 15, 16])
async def test_paging_gives_every_account_exactly_once(simulator: Simulated, limit):
    seen: list[int] = []
    while True:
        results = (await simulator.page(_limit=limit, _offset=len(seen))).json()["results"]
        seen += [account["csp_id"] for account in results]
        if len(results) < limit:
            break
    assert len(seen) == 15
    assert seen == sorted(await simulator.inspected())


async def test_a_page_has_100_entries_unless_asked_otherwise_and_at_most_1000(simulator: Simulated):
    await simulator.http.post("/_simulator/accounts", json={"count": 1000})
    assert len((await simulator.page()).json()["results"]) == 100
    assert len((await simulator.page(_limit=1000)).json()["results"]) == 1000
    assert (await simulator.page(_limit=1001)).status_code == 400


@pytest.mark.parametrize("value", ["-1", "x", "", "1.5", "1_0", "٣", " 1", "9" * 5000, "1e3"])
@pytest.mark.parametrize("name", ["_limit", "_offset"])
async def test_a_bad_paging_value_is_refused_by_name(simulator: Simulated, name, value):
    answer = await simulator.page(**{name: value})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"{name} must be a whole number")


async def test_a_limit_of_zero_is_refused(simulator: Simulated):
    assert (await simulator.page(_limit=0)).status_code == 400


async def test_the_listing_holds_entries_that_a_client_must_filter_out(simulator: Simulated):
    assert len(await simulator.listed()) == 15
    assert len(await simulator.sandboxes()) == 12


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"Token {TOKEN}x"},
        {"Authorization": f"Token {TOKEN[:-1]}"},
        {"Authorization": "Token"},
        {"Authorization": f"token {TOKEN}"},
        {"Authorization": b"Token \xff\xfe"},
    ],
)
async def test_without_the_token_nothing_is_told_and_nothing_happens(simulator: Simulated, headers):
    account = (await simulator.sandboxes())[0]
    async with httpx.AsyncClient(base_url=simulator.url, headers=headers) as stranger:
        answers = [
            await stranger.get(LISTING),
            await stranger.delete(f"/sandbox/accounts/{uuid_of(account)}"),
            await stranger.get("/no/such/path"),
        ]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert answers[0].json() == {"detail": "Invalid token."}
    assert (await simulator.inspected())[account["csp_id"]]["delete_requests"] == 0


async def test_a_deleted_account_lags_in_the_listing_and_then_is_gone(simulator: Simulated):
    await simulator.switch(listing_lag_s=60)
    account = (await simulator.sandboxes())[3]
    answer = await simulator.delete(account)
    assert (answer.status_code, answer.content) == (204, b"")
    simulator.clock.now += 59
    assert account in await simulator.listed()
    simulator.clock.now += 1
    assert account not in await simulator.listed()
    assert len(await simulator.listed()) == 14


async def test_a_second_deletion_is_404_also_while_the_account_is_still_listed(simulator: Simulated):
    await simulator.switch(listing_lag_s=60)
    account = (await simulator.sandboxes())[0]
    await simulator.delete(account)
    answer = await simulator.delete(account)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Account not found."})


@pytest.mark.parametrize(
    "uuid", ["not-a-uuid", "d448bcf5-fcfb-44ee-b28a-1a625bdb597a", "%00", "%F0%9F%92%A9", "2009005"]
)
async def test_an_unknown_or_malformed_uuid_is_404(simulator: Simulated, uuid):
    answer = await simulator.http.delete(f"/sandbox/accounts/{uuid}")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Account not found."})


async def test_a_standard_account_is_404_and_stays(simulator: Simulated):
    standard = next(a for a in await simulator.listed() if a["account_type"] == "standard")
    assert (await simulator.delete(standard)).status_code == 404
    assert standard in await simulator.listed()


async def test_a_deletion_takes_its_latency_and_is_decided_at_its_end(simulator: Simulated):
    await simulator.switch(delete_latency_s=0.8)
    account = (await simulator.sandboxes())[0]
    began = time.monotonic()
    deletion = asyncio.create_task(simulator.delete(account))
    await asyncio.sleep(0.1)
    assert (await simulator.inspected())[account["csp_id"]]["deleted_at"] is None
    assert (await deletion).status_code == 204
    assert time.monotonic() - began >= 0.8
    assert (await simulator.inspected())[account["csp_id"]]["deleted_at"] == simulator.clock.now


async def test_of_two_deletions_at_once_one_does_it_and_one_finds_nothing(simulator: Simulated):
    await simulator.switch(delete_latency_s=0.2)
    account = (await simulator.sandboxes())[0]
    answers = await asyncio.gather(*(simulator.delete(account) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [204, 404]
    after = (await simulator.inspected())[account["csp_id"]]
    assert (after["delete_requests"], after["deletes_done"]) == (2, 1)


async def test_a_deletion_happens_also_when_the_client_hangs_up(simulator: Simulated):
    await simulator.switch(delete_latency_s=1)
    account = (await simulator.sandboxes())[0]
    address = urlsplit(simulator.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        f"DELETE /sandbox/accounts/{uuid_of(account)} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Token {TOKEN}\r\n\r\n".encode()
    )
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await writer.wait_closed()

    async def deleted() -> bool:
        return (await simulator.inspected())[account["csp_id"]]["deleted_at"] is not None

    assert not await deleted()
    await until(deleted)
    assert account not in await simulator.listed()


async def test_a_deletion_happens_also_when_an_in_process_caller_gives_up():
    simulation = Simulation(Settings(sandboxes=1, noise=0, token=TOKEN, delete_latency_s=0.6))
    account = next(iter(simulation.inventory))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(simulation)),
        base_url="http://simulator",
        headers={"Authorization": f"Token {TOKEN}"},
    ) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await http.delete(f"/sandbox/accounts/{account.uuid}")

    async def deleted() -> bool:
        return next(iter(simulation.inventory)).deleted_at is not None

    assert not await deleted()
    await until(deleted)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/no/such/path", 404),
        ("GET", "/current_user/accounts/", 404),
        ("POST", LISTING, 405),
        ("GET", "/sandbox/accounts/x", 405),
        ("DELETE", "/sandbox/accounts/identity/accounts/x", 404),
    ],
)
async def test_what_the_provider_does_not_have_is_refused_as_json(simulator: Simulated, method, path, status):
    answer = await simulator.http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["detail"]


async def test_an_answer_does_not_wait_for_the_clients_acknowledgement(simulator: Simulated):
    waits = []
    for _ in range(20):
        began = time.monotonic()
        await simulator.http.get("/healthz")
        waits.append(time.monotonic() - began)
    assert statistics.median(waits) < 0.03


async def test_healthz_asks_for_no_token(simulator: Simulated):
    async with httpx.AsyncClient(base_url=simulator.url) as stranger:
        assert (await stranger.get("/healthz")).status_code == 200
