"""A body that is no JSON is refused before anything is written; none, or one that is JSON, is fine."""

import pytest

from broker.sandbox import State
from tests.api.service import API_TOKEN, Api
from tests.builders import NOW, TEST_CAUSE, a_sandbox

HEADERS = {"Authorization": f"Bearer {API_TOKEN}", "X-Instruqt-Sandbox-ID": "student-1"}
BROKEN = [b"{broken", b"{", b"\xff\xfe", b"name=value", b"[" * 60_000, b'{"a":}']


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:10]))
async def test_broken_json_is_400_and_takes_no_sandbox(api: Api, body: bytes) -> None:
    await api.core.sandboxes.add(a_sandbox(), TEST_CAUSE, now=NOW)

    answer = await api.http.post("/v1/allocate", headers=HEADERS, content=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "INVALID_REQUEST"
    assert await api.core.sandboxes.count("acme", State.AVAILABLE) == 1


async def test_who_has_no_token_learns_nothing_of_what_was_wrong_with_the_body(api: Api) -> None:
    answer = await api.http.post("/v1/allocate", content=b"{broken")
    assert answer.status_code == 401


async def test_broken_json_releases_nothing(api: Api) -> None:
    await api.core.sandboxes.add(a_sandbox(), TEST_CAUSE, now=NOW)
    held = (await api.http.post("/v1/allocate", headers=HEADERS)).json()["sandbox_id"]

    answer = await api.http.post(f"/v1/sandboxes/{held}/mark-for-deletion", headers=HEADERS, content=b"{broken")

    assert answer.status_code == 400
    assert await api.core.sandboxes.count("acme", State.ALLOCATED) == 1


@pytest.mark.parametrize("body", [b"", b"  ", b"{}", b'{"note": "ignored"}'])
async def test_no_body_and_a_json_body_are_served_alike(api: Api, body: bytes) -> None:
    await api.core.sandboxes.add(a_sandbox(), TEST_CAUSE, now=NOW)

    answer = await api.http.post("/v1/allocate", headers=HEADERS, content=body)

    assert answer.status_code == 201
