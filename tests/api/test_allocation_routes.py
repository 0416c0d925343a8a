"""A1, A2, A9 to A13 and the statuses of A4 to A6, A14, A15, as a track script sees them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from broker.sandbox import Sandbox, State
from local.store_proxy import StoreProxy
from tests.api.service import TRACK, Api, error_of, refusal
from tests.builders import TEST_CAUSE, a_sandbox

FIELDS = {"sandbox_id": str, "name": str, "external_id": str, "allocated_at": int, "expires_at": int}
ALLOCATION = FIELDS | {"generation": int}


async def test_an_allocation_answers_201_with_the_five_fields_that_clients_rely_on_and_its_generation(
    api: Api,
) -> None:
    await api.fill(1)

    answer = await api.allocate("student-1")

    assert answer.status_code == 201
    body = answer.json()
    assert {name: type(value) for name, value in body.items()} == ALLOCATION
    assert body["sandbox_id"] == a_sandbox().id
    assert body["name"] == a_sandbox().name
    assert body["external_id"] == a_sandbox().external_id
    assert body["expires_at"] - body["allocated_at"] == 4 * 3600
    assert abs(body["allocated_at"] - time.time()) < 60
    stored = await api.core.sandboxes.get("acme", body["sandbox_id"])
    assert stored is not None
    assert (stored.state, stored.holder) == (State.ALLOCATED, "student-1")
    assert stored.version == body["generation"] == a_sandbox().version + 1


async def test_ids_are_strings_in_every_answer(api: Api) -> None:
    await api.fill(1)
    sandbox_id = (await api.allocate()).json()["sandbox_id"]
    answers = [
        await api.allocate(),
        await api.view(sandbox_id),
        await api.release(sandbox_id),
        await api.release(sandbox_id),
    ]
    listed = (await api.admin("/sandboxes")).json()["sandboxes"]
    assert [answer.json()["sandbox_id"] for answer in answers] == [sandbox_id] * 4
    assert [row["sandbox_id"] for row in listed] == [sandbox_id]
    assert isinstance(sandbox_id, str)


async def test_the_older_header_alone_names_the_student(api: Api) -> None:
    await api.fill(1)

    answer = await api.http.post("/v1/allocate", headers=TRACK | {"X-Track-ID": "trk-1"})

    assert answer.status_code == 201
    stored = await api.core.sandboxes.get("acme", answer.json()["sandbox_id"])
    assert stored is not None
    assert stored.holder == "trk-1"


async def test_the_new_header_wins_when_both_are_sent(api: Api) -> None:
    await api.fill(2)

    answer = await api.allocate("ins-1", X_Track_ID="trk-1")

    stored = await api.core.sandboxes.get("acme", answer.json()["sandbox_id"])
    assert stored is not None
    assert stored.holder == "ins-1"
    by_older = await api.http.post("/v1/allocate", headers=TRACK | {"X-Track-ID": "trk-1"})
    assert by_older.status_code == 201, "trk-1 holds nothing yet"


@pytest.mark.parametrize("empty", ["", "   "])
async def test_an_empty_new_header_counts_as_not_sent(api: Api, empty: str) -> None:
    await api.fill(1)
    answer = await api.allocate(empty, X_Track_ID="trk-1")
    stored = await api.core.sandboxes.get("acme", answer.json()["sandbox_id"])
    assert stored is not None
    assert stored.holder == "trk-1"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/allocate"),
        ("GET", "/v1/sandboxes/2009001"),
        ("POST", "/v1/sandboxes/2009001/mark-for-deletion"),
    ],
)
async def test_neither_header_is_400_missing_sandbox_id(api: Api, method: str, path: str) -> None:
    await api.fill(1)
    assert refusal(await api.http.request(method, path, headers=TRACK)) == (400, "MISSING_SANDBOX_ID")


async def test_who_releases_for_nobody_is_told_that_whatever_else_is_wrong(api: Api) -> None:
    path = "/v1/sandboxes/2009521/mark-for-deletion"
    answer = await api.http.post(path, headers=TRACK, json={"generation": "none"})
    assert refusal(answer) == (400, "MISSING_SANDBOX_ID")


async def test_a_repeat_answers_200_with_the_same_body_also_when_the_pool_is_empty(api: Api) -> None:
    await api.fill(1)
    first = await api.allocate("student-1")

    again = await api.allocate("student-1", X_Sandbox_Name_Prefix="other-", X_Instruqt_Track_ID="other")

    assert (again.status_code, again.json()) == (200, first.json())


async def test_a_student_a_hundred_times_at_once_gets_one_201_and_equal_bodies(api: Api) -> None:
    await api.fill(5)

    answers = await asyncio.gather(*(api.allocate("student-1") for _ in range(100)))

    assert sorted(answer.status_code for answer in answers) == [200] * 99 + [201]
    assert len({answer.text for answer in answers}) == 1


async def test_an_empty_pool_is_409_with_retry_after(api: Api) -> None:
    answer = await api.allocate()
    assert refusal(answer) == (409, "NO_SANDBOXES_AVAILABLE")
    assert int(answer.headers["Retry-After"]) == error_of(answer)["retry_after"] > 0


async def test_a_prefix_hands_out_only_matching_names_and_says_so_when_there_are_none(api: Api) -> None:
    await api.fill(1)
    await api.core.sandboxes.add(a_sandbox(number=2, name="big-0001"), TEST_CAUSE, now=0)

    given = await api.allocate("student-1", X_Sandbox_Name_Prefix="big-")
    refused = await api.allocate("student-2", X_Sandbox_Name_Prefix="big-")

    assert given.json()["name"] == "big-0001"
    assert refusal(refused) == (409, "NO_SANDBOXES_AVAILABLE")
    assert "big-" in error_of(refused)["message"]


async def test_an_idempotency_key_is_a_further_claim_of_its_own_student_only(api: Api) -> None:
    await api.fill(4)
    plain = await api.allocate("student-1")
    keyed = await api.allocate("student-1", Idempotency_Key="second")
    foreign = await api.allocate("student-2", Idempotency_Key="second")
    repeated = await api.allocate("student-1", Idempotency_Key="second")

    assert [a.status_code for a in (plain, keyed, foreign, repeated)] == [201, 201, 201, 200]
    assert len({a.json()["sandbox_id"] for a in (plain, keyed, foreign)}) == 3
    assert repeated.json() == keyed.json()
    other_wish = await api.allocate("student-1", Idempotency_Key="second", X_Instruqt_Track_ID="lab")
    assert refusal(other_wish) == (409, "IDEMPOTENCY_KEY_REUSED")


async def test_a_key_whose_allocation_ended_is_410_with_what_happened(api: Api) -> None:
    await api.fill(2)
    held = (await api.allocate("student-1", Idempotency_Key="k")).json()["sandbox_id"]
    released = await api.release(held)

    late = await api.allocate("student-1", Idempotency_Key="k")

    assert refusal(late) == (410, "ALLOCATION_ENDED")
    assert error_of(late)["details"] == {"ended_by": "released", "ended_at": released.json()["released_at"]}


async def test_more_keys_than_a_student_may_hold_is_409(api: Api) -> None:
    await api.fill(6)
    answers = [await api.allocate("student-1", Idempotency_Key=f"k-{n}") for n in range(6)]
    assert [answer.status_code for answer in answers[:5]] == [201] * 5
    assert refusal(answers[5]) == (409, "HOLDER_LIMIT")


async def test_a_track_id_lists_what_the_lab_holds(api: Api) -> None:
    await api.fill(3)
    held = {(await api.allocate(f"s-{n}", X_Instruqt_Track_ID="lab-x")).json()["sandbox_id"] for n in range(2)}
    await api.allocate("s-2", X_Instruqt_Track_ID="lab-y")

    listed = (await api.admin("/sandboxes", track="lab-x", status="allocated")).json()

    assert {row["sandbox_id"] for row in listed["sandboxes"]} == held
    assert {(row["track"], row["status"]) for row in listed["sandboxes"]} == {("lab-x", "allocated")}
    assert {row["holder"] for row in listed["sandboxes"]} == {"s-0", "s-1"}
    assert listed["cursor"] is None


async def test_a_released_sandbox_leaves_the_labs_allocated_list_and_stays_in_its_history(api: Api) -> None:
    await api.fill(1)
    held = (await api.allocate(X_Instruqt_Track_ID="lab-x")).json()["sandbox_id"]
    await api.release(held)

    now = (await api.admin("/sandboxes", track="lab-x", status="allocated")).json()
    ever = (await api.admin("/sandboxes", track="lab-x")).json()

    assert now["sandboxes"] == []
    assert [(row["sandbox_id"], row["status"]) for row in ever["sandboxes"]] == [(held, "pending_deletion")]


async def test_a_release_answers_200_pending_deletion_and_the_student_may_allocate_anew(api: Api) -> None:
    await api.fill(2)
    held = (await api.allocate("student-1")).json()["sandbox_id"]

    released = await api.release(held)
    anew = await api.allocate("student-1")

    assert released.status_code == 200
    assert released.json()["sandbox_id"] == held
    assert released.json()["status"] == "pending_deletion"
    assert abs(released.json()["released_at"] - time.time()) < 60
    assert anew.status_code == 201
    assert anew.json()["sandbox_id"] != held


async def test_a_second_release_answers_as_the_first_whatever_happened_since(api: Api) -> None:
    await api.fill(1)
    held = (await api.allocate("student-1")).json()["sandbox_id"]
    first = await api.release(held)
    states: list[str] = []
    answers = [await api.release(held)]
    now = int(time.time()) + 100
    for step in (
        lambda s: s.lease(token="t", now=now, lease_s=60),
        lambda s: s.fail_deletion(error="HTTP 500", now=now, retry_at=now + 60),
        lambda s: s.finish_deletion(now=now),
        lambda s: s.delete_again(now=now),
        lambda s: s.fail_deletion(error="HTTP 500", now=now, retry_at=None),
    ):
        states.append(await _moved(api, held, step))
        answers.append(await api.release(held))

    assert states == ["pending_deletion", "pending_deletion", "deleted", "pending_deletion", "deletion_failed"]
    assert [(a.status_code, a.json()) for a in answers] == [(200, first.json())] * 6


async def _moved(api: Api, sandbox_id: str, step: Callable[[Sandbox], Sandbox]) -> str:
    """What the worker does to a released sandbox; the state it is in then."""
    before = await api.core.sandboxes.get("acme", sandbox_id)
    assert before is not None
    after = step(before)
    if after.state is before.state:
        await api.core.sandboxes.touch(before, after)
    else:
        await api.core.sandboxes.move(before, after, TEST_CAUSE, now=time.time())
    return after.state.value


async def test_another_student_is_403_and_changes_nothing(api: Api) -> None:
    await api.fill(1)
    held = (await api.allocate("student-1")).json()["sandbox_id"]

    assert refusal(await api.release(held, "student-2")) == (403, "NOT_SANDBOX_OWNER")
    assert refusal(await api.view(held, "student-2")) == (403, "NOT_SANDBOX_OWNER")

    stored = await api.core.sandboxes.get("acme", held)
    assert stored is not None
    assert (stored.state, stored.holder) == (State.ALLOCATED, "student-1")


async def test_a_sandbox_that_nobody_holds_is_nobodys_to_release(api: Api) -> None:
    await api.fill(1)
    assert refusal(await api.release(a_sandbox().id)) == (403, "NOT_SANDBOX_OWNER")
    stored = await api.core.sandboxes.get("acme", a_sandbox().id)
    assert stored is not None
    assert stored.state is State.AVAILABLE


async def test_an_unknown_id_is_404(api: Api) -> None:
    assert refusal(await api.release("4711")) == (404, "SANDBOX_NOT_FOUND")
    assert refusal(await api.view("4711")) == (404, "SANDBOX_NOT_FOUND")


async def test_a_release_after_the_time_is_over_but_before_expiry_ran_is_200(api: Api) -> None:
    await api.fill(1)
    held = (await api.allocate("student-1")).json()["sandbox_id"]
    over = {"expires_at": int(time.time()) - 60}
    await _moved(api, held, lambda before: replace(before, version=before.version + 1, **over))

    assert (await api.release(held)).status_code == 200


async def test_a_release_after_expiry_is_410_with_what_happened(api: Api) -> None:
    await api.fill(1)
    held = (await api.allocate("student-1")).json()["sandbox_id"]
    before = await api.core.sandboxes.get("acme", held)
    assert before is not None
    await api.core.lifecycle.expire(before, TEST_CAUSE)
    ended = await api.core.sandboxes.get("acme", held)
    assert ended is not None

    late = await api.release(held, "student-1")

    assert refusal(late) == (410, "ALLOCATION_EXPIRED")
    assert error_of(late)["details"] == {"ended_by": "expired", "ended_at": ended.ended_at}
    assert refusal(await api.release(held, "student-2")) == (403, "NOT_SANDBOX_OWNER")


async def test_the_owner_sees_state_and_times(api: Api) -> None:
    await api.fill(1)
    allocation = (await api.allocate("student-1")).json()

    held = await api.view(allocation["sandbox_id"])
    released = (await api.release(allocation["sandbox_id"])).json()
    ended = await api.view(allocation["sandbox_id"])

    assert held.status_code == ended.status_code == 200
    assert held.json() == allocation | {"status": "allocated", "ended_at": None, "ended_by": None}
    assert ended.json() == held.json() | {
        "status": "pending_deletion",
        "ended_at": released["released_at"],
        "ended_by": "released",
    }


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"down": True}, "STORE_UNAVAILABLE"),
        ({"throttle_rate": 1}, "STORE_THROTTLED"),
        ({"internal_error_rate": 1}, "STORE_UNAVAILABLE"),
        ({"reset_rate": 1}, "STORE_UNAVAILABLE"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value,
)
async def test_store_trouble_is_503_with_retry_after_on_every_route(
    proxied: Api, proxy: StoreProxy, fault: dict[str, float], code: str
) -> None:
    await proxied.fill(1)
    proxy.faults.change(fault)

    answers = [
        await proxied.allocate(),
        await proxied.view("2009001"),
        await proxied.release("2009001"),
        await proxied.admin("/stats"),
        await proxied.admin("/sandboxes"),
        await proxied.admin("/sandboxes", track="lab"),
    ]

    assert [refusal(answer) for answer in answers] == [(503, code)] * 6
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
