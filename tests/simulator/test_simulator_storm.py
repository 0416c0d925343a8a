"""A storm: for so many seconds every call of some kinds fails alike."""

import httpx
import pytest
from simulated import Simulated

STORM = "/_simulator/storm"


async def storm(simulator: Simulated, **wish) -> dict:
    answer = await simulator.http.post(STORM, json=wish)
    assert answer.status_code == 200, answer.text
    return answer.json()["storm"]


@pytest.mark.parametrize(("kind", "status"), [("500", 500), ("429", 429), ("html", 502)])
async def test_every_deletion_fails_for_its_seconds_and_none_after(simulator: Simulated, kind, status):
    first, second, *_ = await simulator.sandboxes()
    await storm(simulator, seconds=16, kind=kind)
    assert [(await simulator.delete(account)).status_code for account in (first, second)] == [status, status]
    assert (await simulator.page()).status_code == 200
    simulator.clock.now += 15.9
    assert (await simulator.delete(first)).status_code == status
    simulator.clock.now += 0.1
    assert (await simulator.delete(first)).status_code == 204


@pytest.mark.parametrize("kind", ["hang", "reset"])
async def test_in_a_storm_calls_can_go_unanswered(simulator: Simulated, kind):
    account = (await simulator.sandboxes())[0]
    await storm(simulator, seconds=16, kind=kind, calls=["delete", "list"])
    with pytest.raises((httpx.ReadTimeout, httpx.ReadError)):
        await simulator.delete(account, timeout=0.3)
    with pytest.raises((httpx.ReadTimeout, httpx.ReadError)):
        await simulator.http.get("/current_user/accounts", timeout=0.3)
    simulator.clock.now += 16
    assert account in await simulator.listed()


async def test_a_storm_hits_the_calls_it_is_told_to(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await storm(simulator, seconds=16, kind="500", calls=["list", "services"])
    assert (await simulator.page()).status_code == 500
    assert (await simulator.http.post("/v2/session/users/sign_in", json={})).status_code == 500
    assert (await simulator.delete(account)).status_code == 204


async def test_the_faults_show_the_storm_and_what_is_left_of_it(simulator: Simulated):
    assert (await simulator.http.get("/_simulator/faults")).json()["storm"] is None
    await storm(simulator, seconds=16, kind="hang", calls=["delete"])
    simulator.clock.now += 6
    shown = (await simulator.http.get("/_simulator/faults")).json()["storm"]
    assert shown == {"kind": "hang", "calls": ["delete"], "seconds_left": 10}
    simulator.clock.now += 10
    assert (await simulator.http.get("/_simulator/faults")).json()["storm"] is None


async def test_a_storm_uses_up_no_counted_failure_and_wins_over_a_named_account(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(fail_next_deletes=1, fail_with="429", html_accounts=[account["csp_id"]])
    await storm(simulator, seconds=16, kind="500")
    assert (await simulator.delete(account)).status_code == 500
    simulator.clock.now += 16
    assert [(await simulator.delete(account)).status_code for _ in range(2)] == [429, 502]


async def test_a_new_storm_replaces_the_old_one_and_zero_seconds_end_it(simulator: Simulated):
    await storm(simulator, seconds=16, kind="500", calls=["list"])
    await storm(simulator, seconds=16, kind="429", calls=["list"])
    assert (await simulator.page()).status_code == 429
    assert await storm(simulator, seconds=0, kind="429") is None
    assert (await simulator.page()).status_code == 200


async def test_a_reset_ends_a_storm(simulator: Simulated):
    await storm(simulator, seconds=16, kind="500", calls=["list"])
    await simulator.http.post("/_simulator/reset")
    assert (await simulator.page()).status_code == 200


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"kind": "500"}, "seconds is required"),
        ({"seconds": 5}, "kind is required"),
        ({"seconds": -1, "kind": "500"}, "seconds must be"),
        ({"seconds": 86_401, "kind": "500"}, "seconds must be"),
        ({"seconds": 5, "kind": "none"}, "kind must be one of 500, 429, html, hang, reset"),
        ({"seconds": 5, "kind": "500", "calls": ["put"]}, "calls must be"),
        ({"seconds": 5, "kind": "500", "calls": "delete"}, "calls must be"),
        ({"seconds": 5, "kind": "500", "until": 5}, "until"),
        ([], "object"),
    ],
)
async def test_a_storm_that_makes_no_sense_is_refused_by_name(simulator: Simulated, wish, named):
    answer = await simulator.http.post(STORM, json=wish)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
    assert (await simulator.http.get("/_simulator/faults")).json()["storm"] is None
