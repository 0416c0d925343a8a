"""B1, by pairs: on every route another tenant's thing is as unknown as what there is not, and stays as it is."""

import json
import re
import time
from typing import Any

import httpx
import pytest

from app import key_ring
from app.access import ROUTES, Access
from broker.job import JobState
from broker.role import Role
from local.store_proxy import StoreProxy
from tests.api.keys import a_tenant, bearer, made_key
from tests.api.service import ADMIN, Api, refusal
from tests.api.test_jobs import put_jobs
from tests.audit import items_of
from tests.builders import TEST_CAUSE, a_running_job, a_sandbox

OURS = "acme"
HELD, FREE = a_sandbox(number=1).id, a_sandbox(number=2).id
JOB = a_running_job().id
UNKNOWN = {
    "sandbox_id": "9999999",
    "job_id": "1760000000000-ffffffffffff",
    "key_id": "zzzzzzzzzzzz",
    "tenant": "nobody",
}
WHY = {"reason": "a test by pairs"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/sandboxes/{sandbox_id}/extend": {"generation": 1, "for_s": 60},
    "/v1/sandboxes/{sandbox_id}/heartbeat": {"generation": 1},
    "/v1/sandboxes/{sandbox_id}/mark-for-deletion": {},
    "/v1/admin/keys/{key_id}/rotate": {"overlap_s": 0},
    "/v1/admin/keys/{key_id}/revoke": WHY,
}
NAMED = [
    route for route in ROUTES if "{" in route[1] and ROUTES[route].role is not None and "{move}" not in route[1]
]
LISTS = {
    "/v1/admin/sandboxes": {"limit": 1},
    "/v1/admin/jobs": {"limit": 1},
    "/v1/admin/events": {"limit": 1},
    "/v1/admin/keys": {"limit": 1},
}


async def both(api: Api) -> tuple[str, dict[Role, dict[str, str]]]:
    """Ours has one of everything. Theirs has a key of every role, and is called north. Returns our key's id."""
    await a_tenant(api, "north")
    await api.fill(1)
    await api.allocate("student-1", X_Instruqt_Track_ID="lab-101")
    await api.fill(2, first=2)
    await put_jobs(api, a_running_job(), a_running_job(number=2, state=JobState.DEAD, finished_at=1_760_000_100))
    ours = await made_key(api, OURS, Role.OPERATOR)
    await made_key(api, OURS, Role.VIEWER)
    theirs = {role: bearer((await made_key(api, "north", role)).token) for role in Role}
    return ours.key.id, theirs


def who(access: Access, theirs: dict[Role, dict[str, str]]) -> dict[str, str]:
    """The caller of theirs whom the route lets in; for what is the platform's, the one who comes nearest."""
    assert access.role is not None
    return theirs[access.role]


async def call(
    api: Api, method: str, path: str, by: dict[str, str], names: dict[str, str], **query: Any
) -> httpx.Response:
    body = BODIES.get(path, WHY) if method in ("POST", "PATCH") else None
    headers = by | {"X-Instruqt-Sandbox-ID": "student-1", "X-Request-ID": "the-same"}
    return await api.http.request(method, path.format(**names), headers=headers, params=query, json=body)


def told(answer: httpx.Response, names: dict[str, str]) -> tuple[int, str, list[str]]:
    """What can be learned from an answer, but for the name that was asked for."""
    text = answer.text
    for name in names.values():
        text = text.replace(name, "<name>")
    headers = sorted(name for name in answer.headers if name not in ("date", "content-length"))
    return answer.status_code, text, headers


async def ours_of(api: Api) -> list[str]:
    """Every item of ours, but for when a key was last used."""
    mine = re.compile(rf"#{OURS}(#|$)|^KEY#|^TEN#{OURS}")
    items = [item for item in await items_of(api.core) if mine.search(item["pk"]["S"])]
    kept = [item for item in items if item.get("tenant", {}).get("S") == OURS]
    return sorted(json.dumps(item, sort_keys=True) for item in kept)


@pytest.mark.parametrize("route", NAMED, ids=" ".join)
async def test_what_is_ours_is_to_them_as_what_there_is_not(
    proxied: Api, proxy: StoreProxy, route: tuple[str, str]
) -> None:
    """Same status, same text, same headers, as many calls of the store; and nothing of ours has moved."""
    key_id, theirs = await both(proxied)
    ours = {"sandbox_id": HELD, "job_id": JOB, "key_id": key_id, "tenant": OURS}
    method, path = route
    by = who(ROUTES[route], theirs)
    await call(proxied, method, path, by, UNKNOWN)  # what a first call reads once a second, it has read
    before = await ours_of(proxied)
    calls = []
    answers = []
    for names in (UNKNOWN, ours):
        proxy.counts.reset()
        answers.append(told(await call(proxied, method, path, by, names), names))
        asked = {name: count for name, count in proxy.counts.calls.items() if name != "BatchGetItem"}
        calls.append(asked)

    assert answers[0] == answers[1]
    assert answers[0][0] in (403, 404), answers[0]
    assert calls[0] == calls[1]
    assert await ours_of(proxied) == before


async def test_each_of_our_things_is_there_for_ourselves(api: Api) -> None:
    """Else the pairs above would be alike for a worse reason."""
    key_id, _ = await both(api)
    ours = {"sandbox_id": HELD, "job_id": JOB, "key_id": key_id, "tenant": OURS}
    for path in ("/v1/admin/sandboxes/{sandbox_id}", "/v1/admin/jobs/{job_id}", "/v1/admin/keys/{key_id}"):
        assert (await call(api, "GET", path, ADMIN, ours)).status_code == 200, path


@pytest.mark.parametrize("path", LISTS)
async def test_a_list_holds_nothing_of_ours_and_takes_no_cursor_of_ours(api: Api, path: str) -> None:
    _, theirs = await both(api)
    page = (await api.http.get(path, headers=ADMIN, params=LISTS[path])).json()
    assert page["cursor"], "we have more than one row"
    seen = await api.http.get(path, headers=theirs[Role.ADMIN], params=LISTS[path] | {"limit": 100})
    with_ours = LISTS[path] | {"cursor": page["cursor"]}

    refused = await api.http.get(path, headers=theirs[Role.ADMIN], params=with_ours)

    assert refusal(refused) == (400, "INVALID_CURSOR")
    assert seen.status_code == 200
    for secret in (HELD, FREE, "student-1", "lab-101", JOB, OURS):
        assert secret not in seen.text, secret


@pytest.mark.parametrize(
    "path",
    ["/stats", "/dead-letters", "/reconciliation", "/pools", "/worker", "/events?sandbox=" + HELD, "/mode",
     "/sandboxes?track=lab-101", "/events?actor=bootstrap-track"],
)  # fmt: skip
async def test_what_sums_things_up_sums_up_theirs_alone(api: Api, path: str) -> None:
    _, theirs = await both(api)
    drained = {"prefix": "lab-", "state": "drained", "reason": "our own affair"}
    assert (await api.http.post("/v1/admin/pools", headers=ADMIN, json=drained)).status_code == 200

    seen = await api.http.get(f"/v1/admin{path}", headers=theirs[Role.VIEWER])

    assert seen.status_code == 200
    for secret in (HELD, FREE, "student-1", JOB, OURS, "our own affair"):
        assert secret not in seen.text, secret
    if path == "/stats":
        assert set(seen.json().values()) == {0}


async def test_equal_students_and_keys_of_both_are_two_and_neither_takes_the_others(api: Api) -> None:
    _, theirs = await both(api)
    await api.core.sandboxes.add(
        a_sandbox(number=1, tenant="north", external_id="x/1"),
        TEST_CAUSE,
        now=1_760_000_000,
    )
    named = {"X-Instruqt-Sandbox-ID": "student-1", "Idempotency-Key": "k"}

    got = await api.http.post("/v1/allocate", headers=theirs[Role.TRACK] | named)
    none_left = await api.http.post("/v1/allocate", headers=theirs[Role.TRACK] | named | {"Idempotency-Key": "l"})

    assert (got.status_code, got.json()["sandbox_id"], got.json()["external_id"]) == (201, HELD, "x/1")
    assert refusal(none_left) == (409, "NO_SANDBOXES_AVAILABLE"), "ours are no sandboxes of theirs"
    freed = await api.http.post(
        f"/v1/sandboxes/{HELD}/mark-for-deletion",
        headers=theirs[Role.TRACK] | {"X-Instruqt-Sandbox-ID": "student-1"},
    )
    assert freed.status_code == 200
    assert (await api.view(HELD)).json()["status"] == "allocated"


NAMING = sorted(path for (method, path), access in ROUTES.items() if access.any_tenant and method == "GET")


@pytest.mark.parametrize("path", NAMING)
async def test_whoever_names_us_is_refused_as_whoever_names_nobody_and_nothing_is_read(
    proxied: Api, proxy: StoreProxy, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "REFRESH_S", 600.0)  # the key is not confirmed in between
    key_id, theirs = await both(proxied)
    names = {"sandbox_id": HELD, "job_id": JOB, "key_id": key_id}
    by = theirs[Role.ADMIN]
    await call(proxied, "GET", path, by, names, tenant="nobody")
    answers, calls = [], []
    for tenant in ("nobody", OURS):
        proxy.counts.reset()
        answers.append(told(await call(proxied, "GET", path, by, names, tenant=tenant), {"tenant": tenant}))
        calls.append({name: count for name, count in proxy.counts.calls.items() if name != "BatchGetItem"})

    assert answers[0] == answers[1]
    assert (answers[0][0], "PLATFORM_ONLY" in answers[0][1]) == (403, True)
    assert calls == [{}, {}]


@pytest.mark.parametrize("path", NAMING)
async def test_the_platform_sees_of_a_tenant_what_that_sees_of_itself_and_nothing_of_others(
    api: Api, path: str
) -> None:
    """We are the platform. North has one of everything, with the ids that ours have."""
    await both(api)
    key = await made_key(api, "north", Role.OPERATOR)
    await api.core.sandboxes.add(
        a_sandbox(number=1, tenant="north", external_id="x/1"), TEST_CAUSE, now=1_760_000_000
    )
    await put_jobs(api, a_running_job(tenant="north", reason="their own"))
    themselves = bearer((await made_key(api, "north", Role.ADMIN)).token)
    names = {"sandbox_id": HELD, "job_id": JOB, "key_id": key.key.id}

    ours = await call(api, "GET", path, ADMIN, names)
    seen = await call(api, "GET", path, ADMIN, names, tenant="north")
    own = await call(api, "GET", path, themselves, names)
    named_themselves = await call(api, "GET", path, themselves, names, tenant="north")

    assert (seen.status_code, own.status_code) == (200, 200)
    assert steady(seen) == steady(own) == steady(named_themselves)
    if path not in ("/v1/admin/reconciliation", "/v1/admin/worker"):  # there is no worker here
        if "{key_id}" in path:  # an id is all that is known of a leaked key: the platform finds whose it is
            assert steady(ours) == steady(seen)
        else:
            assert steady(ours) != steady(seen)


def steady(answer: httpx.Response) -> Any:
    """An answer without what is of the moment: when a key was used."""
    return re.sub(r'"last_used_at": ?\w+', "", answer.text)


@pytest.mark.parametrize("path", LISTS)
async def test_a_cursor_goes_with_the_tenant_that_it_pages_for_the_platform_too(api: Api, path: str) -> None:
    await both(api)
    for number in (1, 2):
        await api.core.sandboxes.add(
            a_sandbox(number=number, tenant="north", external_id=f"x/{number}"), TEST_CAUSE, now=int(time.time())
        )
    await put_jobs(api, *(a_running_job(number=n, tenant="north") for n in (1, 2)))
    north = LISTS[path] | {"tenant": "north"}
    page = (await api.http.get(path, headers=ADMIN, params=north)).json()
    assert page["cursor"]

    onward = await api.http.get(path, headers=ADMIN, params=north | {"cursor": page["cursor"]})
    elsewhere = [LISTS[path], LISTS[path] | {"tenant": OURS}]
    refused = [await api.http.get(path, headers=ADMIN, params=q | {"cursor": page["cursor"]}) for q in elsewhere]

    assert onward.status_code == 200
    assert {refusal(answer) for answer in refused} == {(400, "INVALID_CURSOR")}
