import asyncio
import json

import httpx
import pytest
from simulated import TOKEN, Simulated, uuid_of

from simulator.journal import KEPT, Journal
from simulator.options import Settings
from simulator.server import create_app
from simulator.simulation import Simulation

FAULTS = "/_simulator/faults"
ACCOUNTS = "/_simulator/accounts"
NOT_OBJECTS = [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff", b"[" * 100_000]


async def test_the_control_routes_ask_for_no_token(simulator: Simulated):
    async with httpx.AsyncClient(base_url=simulator.url) as operator:
        assert (await operator.get(FAULTS)).status_code == 200
        assert (await operator.post("/_simulator/reset")).status_code == 204


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200),
        ("127.8.8.8", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("203.0.113.9", 403),
        ("10.0.0.1", 403),
        ("::ffff:203.0.113.9", 403),
        ("2001:db8::1", 403),
        ("no address", 403),
    ],
)
async def test_the_control_routes_answer_on_loopback_only(address, status):
    app = create_app(Simulation(Settings(sandboxes=1)))
    transport = httpx.ASGITransport(app, client=(address, 4711))
    forged = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
    async with httpx.AsyncClient(transport=transport, base_url="http://simulator", headers=forged) as http:
        assert (await http.get(FAULTS)).status_code == status
        assert (await http.get("/healthz")).status_code == 200


async def test_a_forwarded_address_changes_nothing_at_the_real_server(simulator: Simulated):
    answer = await simulator.http.get(FAULTS, headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.status_code == 200


async def test_faults_are_shown_and_changed_some_at_a_time(simulator: Simulated):
    before = (await simulator.http.get(FAULTS)).json()
    await simulator.switch(delete_500_rate=0.25)
    after = await simulator.switch(failing_accounts=[5, "x"])
    assert after == before | {"delete_500_rate": 0.25, "failing_accounts": [5, "x"]}
    assert (await simulator.http.get(FAULTS)).json() == after


@pytest.mark.parametrize("body", NOT_OBJECTS)
@pytest.mark.parametrize(("method", "path"), [("PATCH", FAULTS), ("POST", ACCOUNTS), ("PATCH", f"{ACCOUNTS}/1")])
async def test_a_body_that_is_no_object_is_refused(simulator: Simulated, method, path, body):
    answer = await simulator.http.request(method, path, content=body)
    assert (answer.status_code, answer.json()) == (400, {"detail": "the body must be a JSON object"})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"no_such": 1}, "no_such"),
        ({"delete_500_rate": 1.5}, "delete_500_rate"),
        ({"delete_500_rate": "0.5"}, "delete_500_rate"),
        ({"fail_next_lists": True}, "fail_next_lists"),
        ({"hidden_accounts": "lab"}, "hidden_accounts"),
        ({"listing_lag_s": float("nan")}, "listing_lag_s"),
        ({"\ud800": 1}, "ud800"),
    ],
)
async def test_a_bad_switch_is_named_and_the_good_ones_beside_it_stay(simulator: Simulated, changes, named):
    before = (await simulator.http.get(FAULTS)).json()
    answer = await simulator.http.patch(FAULTS, content=json.dumps({"list_latency_s": 1, **changes}))
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
    assert "list_latency_s must" not in answer.json()["detail"]
    assert (await simulator.http.get(FAULTS)).json() == before


async def test_accounts_are_shown_with_what_became_of_them(simulator: Simulated):
    one, other, *_ = await simulator.sandboxes()
    await simulator.delete(one)
    await simulator.delete(one)
    await simulator.switch(fail_next_deletes=1)
    await simulator.delete(other)
    shown = await simulator.inspected()
    assert len(shown) == 15
    assert shown[one["csp_id"]] == one | {
        "deleted_at": simulator.clock.now,
        "delete_requests": 2,
        "deletes_done": 1,
    }
    assert shown[other["csp_id"]] == other | {"deleted_at": None, "delete_requests": 1, "deletes_done": 0}


async def test_sandboxes_are_added_by_number(simulator: Simulated):
    answer = await simulator.http.post(ACCOUNTS, json={"count": 3})
    assert answer.status_code == 201
    assert [a["name"] for a in answer.json()["results"]] == [f"lab-adventure-00{n}" for n in (13, 14, 15)]
    assert len(await simulator.sandboxes()) == 15
    assert (await simulator.delete(answer.json()["results"][0])).status_code == 204


async def test_one_account_is_added_as_described(simulator: Simulated):
    wish = {"name": "special", "csp_id": 42, "account_type": "standard", "state": "suspended"}
    answer = await simulator.http.post(ACCOUNTS, json=wish)
    assert answer.status_code == 201
    first = (await simulator.listed())[0]
    assert {key: first[key] for key in wish} == wish


async def test_an_account_with_a_name_alone_is_a_usable_sandbox(simulator: Simulated):
    await simulator.http.post(ACCOUNTS, json={"name": "special"})
    assert (await simulator.sandboxes())[-1]["name"] == "special"


async def test_a_taken_csp_id_is_409(simulator: Simulated):
    taken = (await simulator.listed())[0]["csp_id"]
    answer = await simulator.http.post(ACCOUNTS, json={"name": "x", "csp_id": taken})
    assert (answer.status_code, answer.json()) == (409, {"detail": f"csp_id {taken} is taken"})


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "name"),
        ({"count": 0}, "count"),
        ({"count": 100_001}, "count"),
        ({"count": "3"}, "count"),
        ({"count": 3, "name": "x"}, "name"),
        ({"csp_id": 3}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x", "csp_id": 0}, "csp_id"),
        ({"name": "x", "csp_id": "7"}, "csp_id"),
        ({"name": "x", "state": ""}, "state"),
        ({"name": "x", "uuid": "y"}, "uuid"),
    ],
)
async def test_an_account_that_makes_no_sense_is_refused_by_name(simulator: Simulated, body, named):
    answer = await simulator.http.post(ACCOUNTS, json=body)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
    assert len(await simulator.listed()) == 15


async def test_the_provider_renames_and_disables_an_account(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    path = f"{ACCOUNTS}/{account['csp_id']}"
    renamed = await simulator.http.patch(path, json={"name": "renamed"})
    assert (renamed.status_code, renamed.json()["name"], renamed.json()["state"]) == (
        200,
        "renamed",
        "active",
    )
    await simulator.http.patch(path, json={"state": "disabled"})
    assert account | {"name": "renamed", "state": "disabled"} in await simulator.listed()
    assert len(await simulator.sandboxes()) == 11


@pytest.mark.parametrize("body", [{}, {"name": 3}, {"state": None}, {"csp_id": 5}])
async def test_a_change_that_makes_no_sense_is_refused(simulator: Simulated, body):
    account = (await simulator.sandboxes())[0]
    answer = await simulator.http.patch(f"{ACCOUNTS}/{account['csp_id']}", json=body)
    assert answer.status_code == 400
    assert account in await simulator.listed()


@pytest.mark.parametrize("csp_id", ["1", "x", "9" * 30])
async def test_a_change_of_an_unknown_account_is_404(simulator: Simulated, csp_id):
    answer = await simulator.http.patch(f"{ACCOUNTS}/{csp_id}", json={"name": "x"})
    assert answer.status_code == 404


async def test_the_journal_holds_every_provider_call_and_no_other(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.delete(account)
    await simulator.http.get("/current_user/accounts", headers={"Authorization": "x"})
    await simulator.http.get("/no/such")
    await simulator.http.get("/healthz")
    journal = await simulator.journal()
    assert journal["last_seq"] == 4
    assert [(c["seq"], c["method"], c["path"], c["query"], c["status"]) for c in journal["results"]] == [
        (1, "GET", "/current_user/accounts", "_limit=1000", 200),
        (2, "DELETE", f"/sandbox/accounts/{uuid_of(account)}", "", 204),
        (3, "GET", "/current_user/accounts", "", 401),
        (4, "GET", "/no/such", "", 404),
    ]
    assert {c["at"] for c in journal["results"]} == {simulator.clock.now}


async def test_the_journal_tells_what_came_after_a_call(simulator: Simulated):
    for _ in range(3):
        await simulator.listed()
    assert [call["seq"] for call in (await simulator.journal(since=2))["results"]] == [3]
    assert (await simulator.journal(since=3))["results"] == []


@pytest.mark.parametrize("since", ["-1", "x", ""])
async def test_a_bad_since_is_refused(simulator: Simulated, since):
    assert (await simulator.http.get("/_simulator/journal", params={"since": since})).status_code == 400


async def test_the_journal_lists_calls_by_their_end_so_that_none_appears_behind_a_reader(
    simulator: Simulated,
):
    await simulator.switch(delete_latency_s=0.6)
    account = (await simulator.sandboxes())[0]
    deletion = asyncio.create_task(simulator.delete(account))
    await asyncio.sleep(0.1)
    await simulator.listed()
    await deletion
    calls = (await simulator.journal(since=1))["results"]
    assert [call["method"] for call in calls] == ["GET", "DELETE"]
    assert calls[1]["duration_s"] >= 0.6


def test_the_journal_keeps_the_last_ten_thousand_calls():
    journal = Journal()
    for _ in range(KEPT + 1):
        journal.record(at=0, duration_s=0, method="GET", path="/" * 9999, query="q" * 9999, status=200)
    calls = journal.since(0)
    assert (len(calls), calls[0].seq, calls[-1].seq) == (10_000, 2, 10_001)
    assert len(calls[0].path) == len(calls[0].query) == 500


async def test_a_reset_goes_back_to_the_start(simulator: Simulated):
    faults = (await simulator.http.get(FAULTS)).json()
    accounts = await simulator.inspected()
    sandboxes = await simulator.sandboxes()
    await simulator.delete(sandboxes[0])
    await simulator.http.post(ACCOUNTS, json={"count": 5})
    await simulator.switch(list_latency_s=0.01, hidden_accounts=["x"])
    assert (await simulator.http.post("/_simulator/reset")).status_code == 204
    assert (await simulator.http.get(FAULTS)).json() == faults
    assert await simulator.inspected() == accounts
    assert await simulator.journal() == {"results": [], "last_seq": 0}


async def test_a_deletion_that_a_reset_overtakes_leaves_no_trace(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(delete_latency_s=0.2)
    deletion = asyncio.create_task(simulator.delete(account))
    await asyncio.sleep(0.1)
    await simulator.http.post("/_simulator/reset")
    assert (await deletion).status_code == 204
    assert (await simulator.inspected())[account["csp_id"]]["deleted_at"] is None
    assert (await simulator.journal())["results"] == []


async def test_the_token_is_in_no_control_answer(simulator: Simulated):
    answers = [await simulator.http.get(f"/_simulator/{name}") for name in ("faults", "accounts", "journal")]
    assert all(TOKEN not in answer.text for answer in answers)
    assert TOKEN not in repr(simulator.simulation.settings)
