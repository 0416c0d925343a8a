"""A16, L8 as a track script sees them: bodies, statuses, and what each answer says of the generation."""

import time
from typing import Any

import pytest

from broker.sandbox import Sandbox, State
from local.store_proxy import StoreProxy
from tests.api.service import ADMIN, TRACK, Api, an_api, error_of, refusal
from tests.builders import TEST_CAUSE, a_sandbox

HOUR = 3600
ID = a_sandbox().id
INVALID = (400, "INVALID_REQUEST")
STALE = (409, "STALE_GENERATION")
HOLDER = TRACK | {"X-Instruqt-Sandbox-ID": "student-1"}
ROUTES = ["extend", "heartbeat", "mark-for-deletion"]


async def stored(api: Api) -> Sandbox:
    sandbox = await api.core.sandboxes.get("acme", ID)
    assert sandbox is not None
    return sandbox


async def held(api: Api) -> dict[str, Any]:
    """The allocation of the one sandbox to student-1."""
    await api.fill(1)
    return dict((await api.allocate()).json())


async def test_every_answer_about_an_allocation_says_the_same_generation(api: Api) -> None:
    allocation = await held(api)
    generation = allocation["generation"]

    answers = [
        await api.allocate(),
        await api.view(ID),
        await api.extend(ID, generation, 5 * HOUR),
        await api.heartbeat(ID, generation),
        await api.allocate(),
        await api.admin(f"/sandboxes/{ID}"),
    ]
    await api.release(ID, generation=generation)
    answers += [await api.view(ID), await api.admin(f"/sandboxes/{ID}")]

    assert [answer.json()["generation"] for answer in answers] == [generation] * 8


async def test_an_extension_answers_the_allocation_as_it_is_from_now_on(api: Api) -> None:
    allocation = await held(api)

    answer = await api.extend(ID, allocation["generation"], 5 * HOUR)

    assert answer.status_code == 200
    until = answer.json()["expires_at"]
    assert abs(until - time.time() - 5 * HOUR) < 60
    assert answer.json() == allocation | {"expires_at": until}
    assert (await api.allocate()).json() == answer.json()
    assert (await api.view(ID)).json()["expires_at"] == until


async def test_beyond_the_limit_is_409_with_the_latest_end(api: Api) -> None:
    allocation = await held(api)

    answer = await api.extend(ID, allocation["generation"], 9 * HOUR)

    assert refusal(answer) == (409, "EXTENSION_LIMIT")
    assert error_of(answer)["details"] == {"max_expires_at": allocation["allocated_at"] + 8 * HOUR}
    assert (await stored(api)).expires_at == allocation["expires_at"]


async def test_the_limit_is_as_configured_and_none_forbids_it(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, LAB_DURATION_HOURS="1", MAX_EXTENSION_HOURS="0") as api:
        allocation = await held(api)
        answer = await api.extend(ID, allocation["generation"], HOUR + 60)

    assert allocation["expires_at"] - allocation["allocated_at"] == HOUR
    assert refusal(answer) == (409, "EXTENSION_LIMIT")
    assert error_of(answer)["details"] == {"max_expires_at": allocation["expires_at"]}


async def test_a_sign_of_life_answers_when_it_was_kept_and_operators_see_it(api: Api) -> None:
    allocation = await held(api)
    before = (await api.admin(f"/sandboxes/{ID}")).json()

    first, second = [await api.heartbeat(ID, allocation["generation"]) for _ in range(2)]

    assert first.status_code == 200
    assert first.json() == second.json()
    beaten_at = first.json()["heartbeat_at"]
    assert abs(beaten_at - time.time()) < 60
    assert first.json() == {
        "sandbox_id": ID,
        "generation": allocation["generation"],
        "heartbeat_at": beaten_at,
        "expires_at": allocation["expires_at"],
    }
    after = (await api.admin(f"/sandboxes/{ID}")).json()
    assert after == before | {"heartbeat_at": beaten_at}
    assert before["heartbeat_at"] is None


@pytest.mark.parametrize("route", ROUTES)
async def test_a_generation_that_is_not_the_present_one_is_409_and_changes_nothing(api: Api, route: str) -> None:
    generation = (await held(api))["generation"]
    before = await stored(api)
    for stale in (generation - 1, generation + 1, 0, -1, 10**30):
        body = {"generation": stale} | ({"for_s": 60} if route == "extend" else {})
        answer = await api.http.post(f"/v1/sandboxes/{ID}/{route}", headers=HOLDER, json=body)
        assert refusal(answer) == STALE, stale
    assert await stored(api) == before


@pytest.mark.parametrize("route", ROUTES)
async def test_who_holds_it_not_is_403_and_what_is_not_there_404_whatever_the_generation(
    api: Api, route: str
) -> None:
    generation = (await held(api))["generation"]
    for sent in (generation, generation - 1):
        body = {"generation": sent} | ({"for_s": 60} if route == "extend" else {})
        other = TRACK | {"X-Instruqt-Sandbox-ID": "student-2"}
        foreign = await api.http.post(f"/v1/sandboxes/{ID}/{route}", headers=other, json=body)
        unknown = await api.http.post(f"/v1/sandboxes/4711/{route}", headers=HOLDER, json=body)
        nobody = await api.http.post(f"/v1/sandboxes/{ID}/{route}", headers=TRACK, json=body)
        assert refusal(foreign) == (403, "NOT_SANDBOX_OWNER")
        assert refusal(unknown) == (404, "SANDBOX_NOT_FOUND")
        assert refusal(nobody) == (400, "MISSING_SANDBOX_ID")


async def test_after_its_own_release_an_allocation_is_410_with_what_happened(api: Api) -> None:
    generation = (await held(api))["generation"]
    released = (await api.release(ID, generation=generation)).json()

    answers = [await api.extend(ID, generation, 60), await api.heartbeat(ID, generation)]

    for answer in answers:
        assert refusal(answer) == (410, "ALLOCATION_EXPIRED")
        assert error_of(answer)["details"] == {"ended_by": "released", "ended_at": released["released_at"]}


GOOD: dict[str, Any] = {"generation": 2, "for_s": 60}
BAD: dict[str, Any] = {
    "nothing": None,
    "an empty object": {},
    "a list": [GOOD],
    "a text": "2",
    "no generation": {"for_s": 60},
    "no length": {"generation": 2},
    "another field": GOOD | {"force": True},
    "a generation as text": GOOD | {"generation": "2"},
    "a generation that is true": GOOD | {"generation": True},
    "half a generation": GOOD | {"generation": 2.5},
    "no seconds": GOOD | {"for_s": 0},
    "seconds back": GOOD | {"for_s": -60},
    "seconds as text": GOOD | {"for_s": "60"},
    "half a second": GOOD | {"for_s": 0.5},
    "no length at all": GOOD | {"for_s": None},
    "more than a year": GOOD | {"for_s": 365 * 24 * HOUR + 1},
    "seconds without end": GOOD | {"for_s": 10**400},
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_body_is_400_and_changes_nothing(api: Api, what: str) -> None:
    assert (await held(api))["generation"] == GOOD["generation"]
    before = await stored(api)

    answer = await api.http.post(f"/v1/sandboxes/{ID}/extend", headers=HOLDER, json=BAD[what])

    assert refusal(answer) == INVALID
    assert error_of(answer)["details"]["problems"][0]["where"].startswith("body")
    assert await stored(api) == before


@pytest.mark.parametrize("body", [b"{broken", b"\xff\xfe", b"[" * 60_000, b'{"generation": NaN, "for_s": 60}'])
@pytest.mark.parametrize("route", ["extend", "heartbeat"])
async def test_what_is_no_json_is_400_and_told_so_to_no_stranger(api: Api, route: str, body: bytes) -> None:
    await held(api)
    path = f"/v1/sandboxes/{ID}/{route}"

    assert refusal(await api.http.post(path, headers=HOLDER, content=body)) == INVALID
    assert refusal(await api.http.post(path, content=body)) == (401, "UNAUTHENTICATED")
    assert refusal(await api.http.post(path, headers=ADMIN, content=body)) == (403, "FORBIDDEN")


async def test_a_good_body_extends(api: Api) -> None:
    """Of the bad ones above each is one change away from this."""
    await held(api)
    answer = await api.http.post(f"/v1/sandboxes/{ID}/extend", headers=HOLDER, json=GOOD)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"{}", b"[]", b"null", b"17", b'"generation"', b'{"note": "bye"}', b'{"generation": null}',
     b'[{"n": 1}]', b'{"next_generation": 1}', b'{"note": {"generation": 1}}', b'{"n": NaN}',
     b"[" * 500 + b"]" * 500],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
async def test_a_release_takes_whatever_json_it_took_before(api: Api, body: bytes) -> None:
    await held(api)

    answer = await api.http.post(f"/v1/sandboxes/{ID}/mark-for-deletion", headers=HOLDER, content=body)

    assert answer.status_code == 200
    assert (await stored(api)).state is State.PENDING_DELETION


@pytest.mark.parametrize(
    "body",
    [b'{"Generation": 1}', b'{" generation ": 1}', b'{"GENERATION": null}', b'[{"generation": 1}]',
     b'[{"a": 1}, {"Generation": 2}]', b'{"generation": 1, "generation": null}',
     b'{"generation": null, "Generation": 1}', rb'{"\u0047eneration": 1}'],
    ids=ascii,
)  # fmt: skip
async def test_a_release_that_nearly_names_a_generation_is_400_and_releases_nothing(api: Api, body: bytes) -> None:
    """Left unread it would release whatever is held: the very thing that it was sent to prevent."""
    await held(api)

    answer = await api.http.post(f"/v1/sandboxes/{ID}/mark-for-deletion", headers=HOLDER, content=body)

    assert refusal(answer) == (400, "INVALID_REQUEST")
    assert '{"generation": 1760000017}' in error_of(answer)["message"]
    assert (await api.view(ID)).json()["status"] == "allocated"


@pytest.mark.parametrize("generation", ["2", True, 2.5, [2], {"a": 2}], ids=str)
async def test_a_release_whose_generation_is_none_is_400_and_releases_nothing(api: Api, generation: Any) -> None:
    await held(api)

    answer = await api.release(ID, generation=generation, note="bye")

    assert refusal(answer) == INVALID
    assert error_of(answer)["details"]["problems"][0]["where"] == "body.generation"
    assert (await stored(api)).state is State.ALLOCATED


async def test_a_release_with_the_present_generation_repeats_as_one_without(api: Api) -> None:
    generation = (await held(api))["generation"]

    answers = [
        await api.release(ID, generation=generation, note="bye"),
        await api.release(ID, generation=generation),
        await api.release(ID),
    ]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, answers[0].json())] * 3


async def test_another_tenants_sandbox_of_the_same_id_holder_and_generation_is_left_alone(
    ministack: str, table_name: str
) -> None:
    async with (
        an_api(ministack, table_name) as acme,
        an_api(ministack, table_name, BROKER_TENANT="rival") as rival,
    ):
        generation = (await held(acme))["generation"]
        account = "identity/accounts/of-the-rival"
        await rival.core.sandboxes.add(a_sandbox(tenant="rival", external_id=account), TEST_CAUSE, now=0)
        assert (await rival.allocate()).json()["generation"] == generation
        theirs = await rival.core.sandboxes.get("rival", ID)

        done = [
            await acme.extend(ID, generation, 5 * HOUR),
            await acme.heartbeat(ID, generation),
            await acme.release(ID, generation=generation),
        ]

        assert [answer.status_code for answer in done] == [200] * 3
        assert await rival.core.sandboxes.get("rival", ID) == theirs


@pytest.mark.parametrize("mode", ["drained", "maintenance"])
async def test_who_holds_a_sandbox_can_extend_it_in_a_broker_that_hands_out_nothing(api: Api, mode: str) -> None:
    generation = (await held(api))["generation"]
    await api.set_mode(mode)

    assert (await api.extend(ID, generation, 5 * HOUR)).status_code == 200
    assert (await api.heartbeat(ID, generation)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "code"),
    [({"down": True}, "STORE_UNAVAILABLE"), ({"throttle_rate": 1}, "STORE_THROTTLED")],
    ids=["down", "throttled"],
)
async def test_store_trouble_is_503_with_retry_after(
    proxied: Api, proxy: StoreProxy, fault: dict[str, Any], code: str
) -> None:
    generation = (await held(proxied))["generation"]
    proxy.faults.change(fault)

    answers = [await proxied.extend(ID, generation, 5 * HOUR), await proxied.heartbeat(ID, generation)]

    assert [refusal(answer) for answer in answers] == [(503, code)] * 2
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
