"""The in-sandbox services: sign in, switch to an account, list, delete."""

from typing import Any

import httpx
import pytest
from simulated import TOKEN, Simulated, uuid_of

from simulator.options import DEFAULT_EMAIL, DEFAULT_PASSWORD

SIGN_IN = "/v2/session/users/sign_in"
SWITCH = "/v2/session/account_switch"
SERVICES = "/api/universalinfra/v1/universalservices"
CONTROL = "/_simulator/services"
RIGHT = {"email": DEFAULT_EMAIL, "password": DEFAULT_PASSWORD}


def bearer(jwt: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {jwt}"}


async def sign_in(simulator: Simulated) -> str:
    answer = await simulator.http.post(SIGN_IN, json=RIGHT)
    assert answer.status_code == 200
    return answer.json()["jwt"]


async def enter(simulator: Simulated, account: dict[str, Any]) -> dict[str, str]:
    """The headers of a session in that account."""
    headers = bearer(await sign_in(simulator))
    answer = await simulator.http.post(SWITCH, json={"id": account["id"]}, headers=headers)
    assert answer.status_code == 200
    return bearer(answer.json()["jwt"])


async def listed(simulator: Simulated, headers: dict[str, str]) -> list[dict[str, str]]:
    answer = await simulator.http.get(SERVICES, headers=headers)
    assert answer.status_code == 200
    return answer.json()["results"]


async def test_an_accounts_services_are_listed_and_deleted_after_signing_in_and_switching(simulator: Simulated):
    account, other, *_ = await simulator.sandboxes()
    await simulator.switch(services_per_account=3)
    headers = await enter(simulator, account)
    services = await listed(simulator, headers)
    csp_id = account["csp_id"]
    assert [s["name"] for s in services] == [f"lab-vpn-{csp_id}-1", f"keep-me-{csp_id}-2", f"lab-vpn-{csp_id}-3"]
    assert all(set(s) == {"id", "name"} for s in services)
    path = f"{SERVICES}/{services[0]['id']}"
    assert [(await simulator.http.delete(path, headers=headers)).status_code for _ in range(2)] == [204, 404]
    assert await listed(simulator, headers) == services[1:]
    assert len(await listed(simulator, await enter(simulator, other))) == 3


async def test_service_ids_are_the_same_after_a_reset_and_differ_between_accounts(simulator: Simulated):
    first, second, *_ = await simulator.sandboxes()
    await simulator.switch(services_per_account=2)
    before = await listed(simulator, await enter(simulator, first))
    others = await listed(simulator, await enter(simulator, second))
    assert len({s["id"] for s in (*before, *others)}) == 4
    await simulator.http.post("/_simulator/reset")
    await simulator.switch(services_per_account=2)
    assert await listed(simulator, await enter(simulator, first)) == before


@pytest.mark.parametrize(
    "body",
    [{}, {"email": DEFAULT_EMAIL}, RIGHT | {"password": "wrong"}, RIGHT | {"email": "someone@else.example"}],
)
async def test_a_wrong_email_or_password_is_401(simulator: Simulated, body):
    answer = await simulator.http.post(SIGN_IN, json=body)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid email or password."})


@pytest.mark.parametrize("path", [SIGN_IN, SWITCH])
async def test_a_body_that_is_no_object_is_400(simulator: Simulated, path):
    headers = bearer(await sign_in(simulator))
    for body in (b"", b"[]", b"{", b'{"email": 5}'):
        assert (await simulator.http.post(path, content=body, headers=headers)).status_code == 400


@pytest.mark.parametrize(
    "authorization", ["", f"Token {TOKEN}", "Bearer", "Bearer x", "Bearer a.b.c", "{bare}", "{cut}"]
)
async def test_without_a_session_nothing_is_told_and_nothing_is_deleted(simulator: Simulated, authorization):
    account = (await simulator.sandboxes())[0]
    await simulator.switch(services_per_account=1)
    headers = await enter(simulator, account)
    service = (await listed(simulator, headers))[0]
    jwt = headers["Authorization"].removeprefix("Bearer ")
    forged = {"Authorization": authorization.format(bare=jwt, cut=f"Bearer {jwt[:-1]}")}
    answers = [
        await simulator.http.post(SWITCH, json={"id": account["id"]}, headers=forged),
        await simulator.http.get(SERVICES, headers=forged),
        await simulator.http.delete(f"{SERVICES}/{service['id']}", headers=forged),
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert await listed(simulator, headers) == [service]


async def test_a_session_of_before_a_reset_is_over(simulator: Simulated):
    headers = bearer(await sign_in(simulator))
    await simulator.http.post("/_simulator/reset")
    account = (await simulator.sandboxes())[0]
    assert (await simulator.http.post(SWITCH, json={"id": account["id"]}, headers=headers)).status_code == 401


async def test_whoever_has_not_switched_yet_sees_no_services(simulator: Simulated):
    answer = await simulator.http.get(SERVICES, headers=bearer(await sign_in(simulator)))
    assert answer.status_code == 403


async def test_a_service_of_another_account_is_404_and_stays(simulator: Simulated):
    mine, theirs, *_ = await simulator.sandboxes()
    await simulator.switch(services_per_account=1)
    in_theirs = await enter(simulator, theirs)
    foreign = (await listed(simulator, in_theirs))[0]
    answer = await simulator.http.delete(f"{SERVICES}/{foreign['id']}", headers=await enter(simulator, mine))
    assert answer.status_code == 404
    assert await listed(simulator, in_theirs) == [foreign]


@pytest.mark.parametrize("wanted", ["identity/accounts/d448bcf5-fcfb-44ee-b28a-1a625bdb597a", "x", None])
async def test_a_switch_to_an_unknown_account_is_404(simulator: Simulated, wanted):
    body = {} if wanted is None else {"id": wanted}
    answer = await simulator.http.post(SWITCH, json=body, headers=bearer(await sign_in(simulator)))
    assert (answer.status_code, answer.json()) == (404, {"detail": "Account not found."})


async def test_with_its_account_a_service_is_gone(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    headers = await enter(simulator, account)
    await simulator.delete(account)
    assert (await simulator.http.get(SERVICES, headers=headers)).status_code == 404
    again = await simulator.http.post(SWITCH, json={"id": account["id"]}, headers=bearer(await sign_in(simulator)))
    assert again.status_code == 404


async def test_the_control_plane_shows_and_adds_services(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    csp_id = account["csp_id"]
    await simulator.switch(services_per_account=1)
    added = await simulator.http.post(CONTROL, json={"csp_id": csp_id, "name": "lab-extra"})
    assert added.status_code == 201
    headers = await enter(simulator, account)
    first, extra = await listed(simulator, headers)
    assert added.json()["results"] == [{"csp_id": csp_id, "deleted_at": None, **extra}]
    await simulator.http.delete(f"{SERVICES}/{first['id']}", headers=headers)
    shown = (await simulator.http.get(CONTROL, params={"csp_id": csp_id})).json()["results"]
    assert shown == [
        {"csp_id": csp_id, "deleted_at": simulator.clock.now, **first},
        {"csp_id": csp_id, "deleted_at": None, **extra},
    ]


async def test_the_control_plane_shows_the_services_of_all_sandboxes_and_of_nobody_else(simulator: Simulated):
    await simulator.switch(services_per_account=2)
    shown = (await simulator.http.get(CONTROL)).json()["results"]
    sandboxes = [a for a in (await simulator.inspected()).values() if a["account_type"] == "sandbox"]
    assert [s["csp_id"] for s in shown] == [a["csp_id"] for a in sandboxes for _ in range(2)]
    await simulator.http.post("/_simulator/reset")
    assert (await simulator.http.get(CONTROL)).json() == {"results": []}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"csp_id": 5}, 400),
        ({"name": "x"}, 400),
        ({"csp_id": "5", "name": "x"}, 400),
        ({"csp_id": 5, "name": "x"}, 404),
    ],
)
async def test_a_service_that_makes_no_sense_is_refused(simulator: Simulated, body, status):
    assert (await simulator.http.post(CONTROL, json=body)).status_code == status


@pytest.mark.parametrize(("csp_id", "status"), [("5", 404), ("x", 400), ("0", 400), ("", 400)])
async def test_services_of_an_odd_account_are_refused(simulator: Simulated, csp_id, status):
    assert (await simulator.http.get(CONTROL, params={"csp_id": csp_id})).status_code == status


async def everything(
    simulator: Simulated, headers: dict[str, str], account: dict[str, Any]
) -> list[httpx.Response]:
    """Each of the four calls once."""
    return [
        await simulator.http.post(SIGN_IN, json=RIGHT),
        await simulator.http.post(SWITCH, json={"id": account["id"]}, headers=headers),
        await simulator.http.get(SERVICES, headers=headers),
        await simulator.http.delete(f"{SERVICES}/no-such-service", headers=headers),
    ]


@pytest.mark.parametrize(("switches", "status"), [({"services_500_rate": 1}, 500), ({"services_html": True}, 502)])
async def test_each_service_call_fails_as_told_and_the_providers_own_calls_do_not(
    simulator: Simulated, switches, status
):
    account = (await simulator.sandboxes())[0]
    headers = await enter(simulator, account)
    await simulator.switch(**switches)
    assert {answer.status_code for answer in await everything(simulator, headers, account)} == {status}
    assert (await simulator.delete(account)).status_code == 204


async def test_a_service_call_can_hang(simulator: Simulated):
    await simulator.switch(services_hang_rate=1)
    with pytest.raises(httpx.ReadTimeout):
        await simulator.http.post(SIGN_IN, json=RIGHT, timeout=0.3)
    assert len(await simulator.listed()) == 15


async def test_the_right_password_can_be_refused(simulator: Simulated):
    await simulator.switch(sign_in_rejects=True)
    assert (await simulator.http.post(SIGN_IN, json=RIGHT)).status_code == 401
    await simulator.switch(sign_in_rejects=False)
    assert await sign_in(simulator)


async def test_the_journal_holds_service_calls_without_a_word_of_what_they_carried(simulator: Simulated):
    account = (await simulator.sandboxes())[0]
    headers = await enter(simulator, account)
    await everything(simulator, headers, account)
    answer = await simulator.http.get("/_simulator/journal?since=3")
    assert [(c["method"], c["path"], c["status"]) for c in answer.json()["results"]] == [
        ("POST", SIGN_IN, 200),
        ("POST", SWITCH, 200),
        ("GET", SERVICES, 200),
        ("DELETE", f"{SERVICES}/no-such-service", 404),
    ]
    for secret in (DEFAULT_EMAIL, DEFAULT_PASSWORD, uuid_of(account), headers["Authorization"][7:]):
        assert secret not in answer.text
    assert DEFAULT_PASSWORD not in repr(simulator.simulation.settings)
