"""C5, A12: the routes with which operators move one sandbox."""

import logging

import pytest

from broker.sandbox import State
from broker.store import table
from tests.api.service import ADMIN, TRACK, Api, error_of, refusal
from tests.audit import audit, items_of
from tests.builders import NOW, TEST_CAUSE, a_sandbox

ID = a_sandbox().id
OPERATIONS = {
    "retry": (State.DELETION_FAILED, "pending_deletion"),
    "abandon": (State.DELETION_FAILED, "deleted"),
    "quarantine": (State.AVAILABLE, "quarantined"),
    "reinstate": (State.QUARANTINED, "available"),
    "discard": (State.QUARANTINED, "pending_deletion"),
}
PATHS = [f"/v1/admin/sandboxes/{ID}/{name}" for name in (*OPERATIONS, "force-release")]


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_answers_the_sandbox_as_operators_see_it_and_again_the_same(
    api: Api, name: str
) -> None:
    start, end = OPERATIONS[name]
    await api.fill(1, state=start)

    answer = await api.operate(name, ID, "INC-4711: odd network")
    again = await api.operate(name, ID, "INC-4711: odd network")

    assert (answer.status_code, answer.json()["status"]) == (200, end)
    assert answer.json()["reason"] == "INC-4711: odd network"
    assert (again.status_code, again.json()) == (200, answer.json())
    assert (await api.admin(f"/sandboxes/{ID}")).json() == answer.json()
    listed = (await api.admin("/sandboxes", status=end)).json()["sandboxes"]
    assert listed == [answer.json()]


async def test_the_audit_log_holds_the_credential_the_reason_and_the_request(api: Api) -> None:
    await api.fill(1)
    headers = ADMIN | {"X-Request-ID": "req-4711"}
    await api.http.post(PATHS[2], headers=headers, json={"reason": "  odd network  "})

    events = [table.decode(item) for item in await items_of(api.core) if item["pk"]["S"].startswith("EVT#")]
    (event,) = [event for event in events if event["request_id"] == "req-4711"]
    assert (event["actor"], event["action"], event["reason"]) == ("bootstrap-admin", "quarantine", "odd network")
    assert (event["before"], event["after"], event["sandbox_id"]) == ("available", "quarantined", ID)


async def test_a_forced_release_is_told_to_the_student_who_may_allocate_anew(api: Api) -> None:
    await api.fill(2)
    held = (await api.allocate("student-1")).json()["sandbox_id"]

    forced = await api.operate("force-release", held, "the room is closed")
    late = await api.release(held, "student-1")
    new = await api.allocate("student-1")

    body = forced.json()
    assert (forced.status_code, body["status"], body["ended_by"]) == (200, "pending_deletion", "force_released")
    assert body["holder"] == "student-1"
    assert refusal(late) == (410, "ALLOCATION_EXPIRED")
    assert error_of(late)["details"] == {"ended_by": "force_released", "ended_at": body["ended_at"]}
    assert new.status_code == 201
    assert new.json()["sandbox_id"] != held
    assert await audit(api.core) == {"allocated": 1, "pending_deletion": 1}


async def test_from_another_state_it_is_409_with_the_state_it_has_and_the_one_it_needs(api: Api) -> None:
    await api.fill(1)
    answer = await api.operate("retry", ID)
    assert refusal(answer) == (409, "SANDBOX_WRONG_STATE")
    assert error_of(answer)["details"] == {"state": "available", "needs": ["deletion_failed"]}
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("path", [f"/v1/admin/sandboxes/{ID}", *PATHS])
async def test_an_unknown_sandbox_is_404(api: Api, path: str) -> None:
    method = "GET" if path.endswith(ID) else "POST"
    answer = await api.http.request(method, path, headers=ADMIN, json={"reason": "looked at"})
    assert refusal(answer) == (404, "SANDBOX_NOT_FOUND")


NO_REASON = [
    b"", b"null", b"[]", b"{}", b'"why"', b"{broken", b"\xff\xfe", b"[" * 60_000, b'{"reason": 1}',
    b'{"reason": null}', b'{"reason": "no"}', b'{"reason": "      "}', b'{"reason": "a\\nb\\nc"}',
    b'{"reason": "a\\u0000b"}', b'{"reason": "abc\\u202egnp.exe"}', b'{"reason": "\\ud800 alone"}',
    b'{"reason": "good", "more": 1}', b'{"reason": "good", "reason ": "x"}',
    b'{"reason": "' + b"x" * 201 + b'"}', b'{"reason": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("path", [*PATHS, "/v1/admin/mode"])
async def test_no_reason_no_operation(api: Api, path: str) -> None:
    await api.fill(1)
    for body in NO_REASON:
        said = body.replace(b"{", b'{"mode": "drained", ', 1) if path.endswith("/mode") else body
        answer = await api.http.post(path, headers=ADMIN, content=said)
        assert refusal(answer) == (400, "INVALID_REQUEST"), said[:40]
    assert await audit(api.core) == {"available": 1}
    assert (await api.admin("/mode")).json()["mode"] == "open"


@pytest.mark.parametrize("reason", ["abc", "x" * 200, "Überprüft: 日本 ok"])
async def test_a_reason_may_be_3_to_200_printable_characters(api: Api, reason: str) -> None:
    await api.fill(1)
    answer = await api.operate("quarantine", ID, reason)
    assert answer.json()["reason"] == reason


async def test_what_was_wrong_with_a_reason_is_told_without_repeating_it(api: Api) -> None:
    await api.fill(1)
    answer = await api.operate("quarantine", ID, "token-4711-" + "x" * 200)
    (problem,) = error_of(answer)["details"]["problems"]
    assert problem["where"] == "body.reason"
    assert "token-4711" not in answer.text


@pytest.mark.parametrize("path", [*PATHS, "/v1/admin/mode"])
@pytest.mark.parametrize("headers", [{}, TRACK], ids=["nobody", "track"])
async def test_who_is_not_let_in_learns_nothing_of_what_was_wrong_with_the_body(
    api: Api, path: str, headers: dict[str, str]
) -> None:
    answer = await api.http.post(path, headers=headers, content=b"{broken")
    assert answer.status_code == (403 if headers else 401)


async def test_operations_are_in_the_request_log_with_sandbox_and_reason(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    await api.fill(1)
    with caplog.at_level(logging.INFO, logger="app"):
        await api.operate("quarantine", ID, "odd network")
        await api.operate("retry", ID, "odd network")
    lines = [vars(record) for record in caplog.records if record.getMessage() == "request"]
    assert [(line["outcome"], line["sandbox_id"], line["reason"]) for line in lines] == [
        ("quarantine", ID, "odd network"), ("SANDBOX_WRONG_STATE", ID, "odd network"),
    ]  # fmt: skip


async def test_a_quarantined_sandbox_is_given_to_nobody_by_a_process_that_had_it_at_hand(api: Api) -> None:
    await api.fill(2)
    first = (await api.allocate("student-1")).json()["sandbox_id"]
    (left,) = {a_sandbox(number=1).id, a_sandbox(number=2).id} - {first}
    await api.operate("quarantine", left)
    assert refusal(await api.allocate("student-2")) == (409, "NO_SANDBOXES_AVAILABLE")


async def test_another_tenants_sandbox_is_not_there_to_be_moved(api: Api) -> None:
    await api.core.sandboxes.add(a_sandbox(tenant="umbrella"), TEST_CAUSE, now=NOW)
    for name in (*OPERATIONS, "force-release"):
        assert refusal(await api.operate(name, ID)) == (404, "SANDBOX_NOT_FOUND")
    theirs = await api.core.sandboxes.get("umbrella", ID)
    assert theirs == a_sandbox(tenant="umbrella")
