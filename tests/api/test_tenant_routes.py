"""Tenants over HTTP: set up in one request, changed in one, each one's pools its operators' own."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from app.cursors import Cursors
from app.tenant_desk import TenantDesk
from broker.role import Role
from broker.sandbox import State
from broker.store import table
from broker.tenant import Tenant
from tests.api.keys import bearer, made_key
from tests.api.service import ADMIN, TRACK, Api, error_of, refusal
from tests.audit import items_of
from tests.builders import NOW, TEST_CAUSE, a_sandbox

WHY = {"reason": "CHG-812"}
NORTH: dict[str, Any] = {
    "name": "north",
    "max_live": 40,
    "lease_s": 7200,
    "max_extension_s": 0,
    "requests": "500/10 seconds",
    "provider": {"base_url": "https://csp.example.org/", "secret": "sandbox-broker/north"},
    "prefixes": ["north-", "n2-"],
}


async def post(api: Api, path: str, body: dict[str, Any]) -> httpx.Response:
    return await api.http.post(f"/v1/admin{path}", headers=ADMIN, json=body)


async def patch(api: Api, tenant: str, body: dict[str, Any]) -> httpx.Response:
    return await api.http.patch(f"/v1/admin/tenants/{tenant}", headers=ADMIN, json=body)


async def test_a_tenant_is_set_up_in_one_request_and_shown_as_it_was_set_up(api: Api) -> None:
    created = await post(api, "/tenants", NORTH | WHY)
    shown, listed = await api.admin("/tenants/north"), await api.admin("/tenants")

    assert created.status_code == 201
    body = created.json()
    assert body.pop("warnings") == []
    assert body == shown.json()
    assert body.pop("created_at") > 0
    assert (body.pop("state"), body.pop("drained")) == ("active", [])
    assert body == NORTH | {"provider": NORTH["provider"] | {"base_url": "https://csp.example.org"}}
    assert [tenant["name"] for tenant in listed.json()["tenants"]] == ["acme", "north"]


async def test_what_is_not_sent_stays_and_null_sets_it_back(api: Api) -> None:
    await post(api, "/tenants", NORTH | WHY)

    changed = (await patch(api, "north", {"max_live": 50, "requests": None, "provider": None} | WHY)).json()

    assert (changed["max_live"], changed["lease_s"], changed["requests"]) == (50, 7200, None)
    assert (changed["provider"], changed["prefixes"]) == (None, ["north-", "n2-"])
    assert (await patch(api, "north", {"prefixes": []} | WHY)).json()["prefixes"] == []


async def test_the_default_tenant_is_limited_likewise_and_that_holds_at_once(api: Api) -> None:
    await api.fill(3)
    await patch(api, "acme", {"max_live": 1, "lease_s": 600} | WHY)

    first, second = await api.allocate("student-1"), await api.allocate("student-2")

    assert first.status_code == 201
    assert first.json()["expires_at"] - first.json()["allocated_at"] == 600
    assert refusal(second) == (409, "QUOTA_EXCEEDED")
    assert error_of(second)["details"] == {"limit": 1}
    assert "may hold 1 at once, and holds as many or more" in error_of(second)["message"]
    assert "Retry-After" in second.headers
    assert (await api.allocate("student-1")).status_code == 200


async def test_every_change_leaves_who_what_and_why(api: Api) -> None:
    await post(api, "/tenants", NORTH | WHY)
    changed = await patch(api, "north", {"max_live": 50} | WHY)

    ours = (await api.admin("/events", action="change_tenant")).json()["events"]
    assert [(event["subject"], event["after"]) for event in ours] == [("tenant:north", {"max_live": 50})]
    events = [table.decode(i) for i in await items_of(api.core) if i["pk"]["S"].startswith("EVT#north#")]
    created, limited = sorted(events, key=lambda event: event["version"])
    assert (created["action"], limited["action"]) == ("create_tenant", "change_tenant")
    assert (limited["actor"], limited["reason"]) == ("bootstrap-admin", "CHG-812")
    assert limited["request_id"] == changed.headers["X-Request-ID"]
    assert (json.loads(limited["before"]), json.loads(limited["after"])) == ({"max_live": 40}, {"max_live": 50})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "../acme"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "North"}, "name"),
        ({"name": "-n"}, "name"),
        ({"name": "n" * 64}, "name"),
        ({"name": "n\u0000"}, "name"),
        ({"max_live": -1}, "max_live"),
        ({"max_live": "many"}, "max_live"),
        ({"lease_s": 1}, "lease_s"),
        ({"max_extension_s": -1}, "max_extension_s"),
        ({"requests": "a lot"}, "requests"),
        ({"provider": {"base_url": "ftp://x", "secret": "s"}}, "base_url"),
        ({"provider": {"base_url": "https://user:pw@x", "secret": "s"}}, "base_url"),
        ({"provider": {"base_url": "https://x?token=1", "secret": "s"}}, "base_url"),
        ({"provider": {"base_url": "https://10.01.02.03", "secret": "s"}}, "names no host that can be called"),
        ({"provider": {"base_url": "https://xn--a/v2", "secret": "s"}}, "names no host that can be called"),
        ({"provider": {"base_url": "https://x:port", "secret": "s"}}, "names no host that can be called"),
        ({"provider": {"base_url": "https://x", "secret": "env:BROKER_ADMIN_TOKEN"}}, "secret"),
        ({"provider": {"base_url": "https://x", "secret": "file:/etc/passwd"}}, "secret"),
        ({"provider": {"base_url": "https://x", "secret": "env:CSP_API_TOKEN_FILE"}}, "a setting of the broker's"),
        (
            {"provider": {"base_url": "https://x", "secret": "env:CSP_API_TOKEN_SECRET"}},
            "a setting of the broker's",
        ),
        ({"provider": {"base_url": "https://x"}}, "secret"),
        ({"prefixes": ["a b"]}, "prefixes"),
        ({"prefixes": [""]}, "prefixes"),
        ({"colour": "red"}, "colour"),
        ({"reason": ""}, "reason"),
    ],
    ids=lambda value: value if isinstance(value, str) else ascii(value)[:60],
)
async def test_what_is_no_tenant_is_refused_by_name_and_nothing_is_written(
    api: Api, wrong: dict[str, Any], says: str
) -> None:
    answer = await post(api, "/tenants", NORTH | WHY | wrong)

    assert refusal(answer) == (400, "INVALID_REQUEST")
    assert says in error_of(answer)["message"]
    assert [tenant["name"] for tenant in (await api.admin("/tenants")).json()["tenants"]] == ["acme"]


@pytest.mark.parametrize("path", ["north%2F..%2Facme", "..%2Facme", "acme%00", "a" * 65, "acme%20"])
async def test_a_path_that_is_no_name_finds_no_tenant(api: Api, path: str) -> None:
    for answer in (await api.admin(f"/tenants/{path}"), await patch(api, path, {"max_live": 1} | WHY)):
        assert answer.status_code in (400, 404), answer.text
        assert error_of(answer)["code"] in ("INVALID_REQUEST", "NOT_FOUND")


async def test_a_name_is_given_once_and_a_change_says_something(api: Api) -> None:
    await post(api, "/tenants", NORTH | WHY)

    assert refusal(await post(api, "/tenants", NORTH | WHY)) == (409, "TENANT_EXISTS")
    assert refusal(await patch(api, "south", {"max_live": 1} | WHY)) == (404, "TENANT_NOT_FOUND")
    assert refusal(await patch(api, "north", WHY)) == (400, "INVALID_REQUEST")
    assert refusal(await patch(api, "north", {"name": "south"} | WHY)) == (400, "INVALID_REQUEST")


async def test_pools_are_drained_and_opened_with_who_and_why(api: Api) -> None:
    await api.fill(2, name="lab-7-x")
    drained = await post(api, "/pools", {"prefix": "lab-7-", "state": "drained"} | WHY)
    refused = await api.allocate("student-1", X_Sandbox_Name_Prefix="lab-7-")
    shown = await api.admin("/pools")
    opened = await post(api, "/pools", {"prefix": "lab-7-", "state": "open"} | WHY)

    (pool,) = drained.json()["drained"]
    assert (pool["prefix"], pool["reason"], pool["by"]) == ("lab-7-", "CHG-812", "bootstrap-admin")
    assert drained.json() == shown.json() | {"warnings": []}
    assert refusal(refused) == (503, "POOL_DRAINED")
    assert error_of(refused)["details"] == {"pool": "lab-7-", "reason": "CHG-812"}
    assert "Retry-After" in refused.headers
    assert opened.json() == {
        "tenant": "acme", "max_live": None, "held": None, "prefixes": [], "state": "active", "drained": [],
        "warnings": [],
    }  # fmt: skip
    assert (await api.allocate("student-1")).status_code == 201


async def test_a_tenant_is_drained_as_a_whole_and_what_is_held_is_released(api: Api) -> None:
    await api.fill(2)
    held = (await api.allocate("student-1")).json()["sandbox_id"]
    drained = await post(api, "/pools", {"prefix": "", "state": "drained"} | WHY)

    assert drained.json()["state"] == "drained"
    assert refusal(await api.allocate("student-2")) == (503, "POOL_DRAINED")
    assert (await api.allocate("student-1")).json()["sandbox_id"] == held
    assert (await api.release(held)).status_code == 200


async def test_twenty_pools_may_be_drained_and_one_more_says_what_to_do(api: Api) -> None:
    answers = await asyncio.gather(
        *(post(api, "/pools", {"prefix": f"lab-{n}-", "state": "drained"} | WHY) for n in range(2))
    )
    assert {answer.status_code for answer in answers} == {200}
    for n in range(2, 20):
        await post(api, "/pools", {"prefix": f"lab-{n}-", "state": "drained"} | WHY)

    refused = await post(api, "/pools", {"prefix": "one-more", "state": "drained"} | WHY)

    assert refusal(refused) == (400, "INVALID_REQUEST")
    assert "drain a wider one" in error_of(refused)["message"]
    assert (await post(api, "/pools", {"prefix": "lab-1-", "state": "drained"} | WHY)).status_code == 200


async def test_a_track_changes_neither_tenants_nor_pools(api: Api) -> None:
    for path, body in (("tenants", NORTH), ("pools", {"prefix": "", "state": "drained"})):
        answer = await api.http.post(f"/v1/admin/{path}", headers=TRACK, json=body | WHY)
        assert refusal(answer) == (403, "FORBIDDEN")
    assert (await api.admin("/pools")).json()["drained"] == []


def told(answer: httpx.Response) -> list[str]:
    warnings: list[str] = answer.json()["warnings"]
    return warnings


async def test_whose_accounts_and_token_another_tenant_has_too_is_said_and_it_is_done(api: Api) -> None:
    at = {"base_url": "https://csp.example.org", "secret": "shared"}
    first = await post(api, "/tenants", {"name": "north", "prefixes": ["north-"], "provider": at} | WHY)
    within = {
        "name": "south",
        "prefixes": ["north-a-"],
        "provider": at | {"base_url": "https://CSP.example.org/v2"},
    }
    wider = {"name": "west", "prefixes": ["nor"], "provider": at | {"secret": "another"}}

    answers = [await post(api, "/tenants", body | WHY) for body in (within, wider)]
    equal = await patch(api, "south", {"prefixes": ["north-"]} | WHY)
    elsewhere = await patch(api, "south", {"provider": at | {"base_url": "http://other.test"}} | WHY)
    of_limits = await patch(api, "north", {"max_live": 3} | WHY)

    assert told(first) == told(of_limits) == []
    assert [answer.status_code for answer in answers] == [201, 201]
    prefix, secret = told(answers[0])
    assert (
        prefix == "prefix north-a-: within north- of tenant north, which keeps the rest; the longest prefix wins"
    )
    assert secret == "secret shared: tenant north has it, too"
    assert (
        told(answers[1])[0] == "prefix nor: what begins with north- stays tenant north's; the longest prefix wins"
    )
    assert "prefix north-: tenant north has the same" in told(equal)[0]
    assert told(elsewhere) == ["http://other.test: the token is sent in the clear", secret]


async def test_how_many_sandboxes_leave_a_tenant_that_had_them_by_no_or_a_wider_prefix_is_said(api: Api) -> None:
    await api.fill(3, name="lab-7-x")
    await api.fill(1, first=4, name="lab-8-x")
    await api.fill(1, first=5, name="lab-7-y", state=State.QUARANTINED)

    west = await post(api, "/tenants", {"name": "west", "prefixes": ["lab-7-", "zoo-"]} | WHY)
    far = {"base_url": "https://csp.example.org", "secret": "far"}
    elsewhere = await post(api, "/tenants", {"name": "far", "prefixes": ["lab-7-"], "provider": far} | WHY)
    await patch(api, "acme", {"prefixes": ["lab-"]} | WHY)
    wider = await patch(api, "west", {"prefixes": ["lab-8-"]} | WHY)

    assert told(west) == ["prefix lab-7-: of tenant acme 3 sandboxes begin so, and leave it"]
    assert told(elsewhere) == []
    assert told(wider)[0] == "prefix lab-8-: of tenant acme 1 sandbox begins so, and leaves it"


async def test_a_pool_that_is_too_large_to_count_loses_at_least_so_many(api: Api) -> None:
    await api.fill(8, name="lab-7-x")
    desk = TenantDesk(api.core.tenants, api.core.sandboxes, Cursors("a secret"), most=1)

    (said,) = await desk.doubts(Tenant(name="west", prefixes=("lab-",)))

    assert re.fullmatch(r"prefix lab-: of tenant acme at least [1-4] sandboxes begin so, and leave it", said)


async def test_what_was_held_before_there_was_a_limit_is_shown_as_held_at_once(api: Api) -> None:
    await api.fill(3)
    for n in range(3):
        await api.allocate(f"student-{n}")
    await patch(api, "acme", {"max_live": 2} | WHY)

    pools = (await api.admin("/pools")).json()

    assert (pools["held"], pools["max_live"]) == (3, 2)


async def test_of_two_tenants_without_a_prefix_at_one_provider_that_is_said(api: Api) -> None:
    (said,) = told(await post(api, "/tenants", {"name": "north"} | WHY))

    assert said.startswith("no prefix: tenant acme has the same at this provider")


async def test_tenants_are_listed_page_by_page(api: Api) -> None:
    for name in ("north", "south"):
        await post(api, "/tenants", {"name": name} | WHY)

    first = (await api.admin("/tenants", limit=2)).json()
    rest = (await api.admin("/tenants", limit=2, cursor=first["cursor"])).json()

    assert [tenant["name"] for tenant in first["tenants"]] == ["acme", "north"]
    assert (rest["count"], rest["tenants"][0]["name"], rest["cursor"]) == (1, "south", None)
    assert refusal(await api.admin("/sandboxes", cursor=first["cursor"])) == (400, "INVALID_CURSOR")
    assert refusal(await api.admin("/tenants", cursor="x")) == (400, "INVALID_CURSOR")


async def test_what_the_platform_drained_only_the_platform_opens(api: Api) -> None:
    await post(api, "/tenants", {"name": "north"} | WHY)
    theirs = bearer((await made_key(api, "north", Role.ADMIN)).token)
    drained = await post(api, "/tenants/north/drain", {"reason": "INC-4711"})

    refused = [
        await api.http.post("/v1/admin/pools", headers=theirs, json={"prefix": "", "state": state} | WHY)
        for state in ("open", "drained")
    ]
    seen = await api.http.get("/v1/admin/pools", headers=theirs)
    told_them = (await api.http.get("/v1/admin/events", headers=theirs)).json()["events"][0]
    told_us = (await api.admin("/events", action="drain_tenant")).json()["events"][0]
    resumed = await post(api, "/tenants/north/resume", {"reason": "INC-4711 is over"})
    own = await api.http.post("/v1/admin/pools", headers=theirs, json={"prefix": "", "state": "drained"} | WHY)

    assert (drained.status_code, drained.json()["state"]) == (200, "drained")
    assert {refusal(answer) for answer in refused} == {(403, "PLATFORM_ONLY")}
    assert "drained by the platform (INC-4711)" in error_of(refused[0])["message"]
    assert [(d["prefix"], d["platform"]) for d in seen.json()["drained"]] == [("", True)]
    assert (told_them["action"], told_them["subject"], told_them["reason"]) == (
        "drain_tenant",
        "tenant",
        "INC-4711",
    )
    assert (told_us["subject"], told_us["after"]) == ("tenant:north", told_them["after"])
    assert (resumed.json()["state"], own.json()["drained"][0]["platform"]) == ("active", False)
    assert refusal(await post(api, "/tenants/nobody/drain", WHY)) == (404, "TENANT_NOT_FOUND")


async def test_a_pool_that_has_nothing_is_drained_and_that_is_said(api: Api) -> None:
    await api.fill(1, name="lab-7-x")
    await api.fill(1, first=2, name="lab-8-x", state=State.QUARANTINED)

    answers = [
        await post(api, "/pools", {"prefix": p, "state": "drained"} | WHY) for p in ("lab-7", "lab-8", "lba-")
    ]

    assert [len(told(answer)) for answer in answers] == [0, 0, 1]
    assert told(answers[2])[0].startswith("prefix lba-: no sandbox begins with it")
    assert [pool["prefix"] for pool in answers[2].json()["drained"]] == ["lab-7", "lab-8", "lba-"]


async def test_a_change_of_the_connection_says_what_still_waits_for_its_deletion(api: Api) -> None:
    """A provider that has never heard of an account calls it gone: see tests/worker/test_connections.py."""
    await post(api, "/tenants", NORTH | WHY)
    pending = a_sandbox(tenant="north", state=State.PENDING_DELETION, next_attempt_at=NOW)
    await api.core.sandboxes.add(pending, TEST_CAUSE, now=NOW)
    other = {"provider": NORTH["provider"] | {"secret": "sandbox-broker/others"}}

    changed, same = [told(await patch(api, "north", other | WHY)) for _ in range(2)]
    limited = told(await patch(api, "north", {"max_live": 1} | WHY))
    await api.core.sandboxes.move(pending, pending.finish_deletion(now=NOW), TEST_CAUSE, now=NOW)
    empty = told(await patch(api, "north", {"provider": None} | WHY))

    assert [warning.partition(" still")[0] for warning in changed] == ["connection: 1 sandbox has"]
    assert "PROVIDER_CHANGED" in changed[0]
    assert (same, limited, empty) == ([], [], [])
