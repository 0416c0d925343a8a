"""B3: admins make, look at, rotate and revoke keys of their own tenant; a secret is told once."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from app import key_desk
from broker.key import KEEP_S, Token
from broker.role import Role
from broker.store import table
from local.store_proxy import StoreProxy
from tests.api.keys import a_tenant, bearer, made_key
from tests.api.service import ADMIN, Api, an_api, error_of, refusal
from tests.audit import items_of

DAY_S = 24 * 3600
KEYS = "/v1/admin/keys"
UNKNOWN = (404, "KEY_NOT_FOUND")


async def post(
    api: Api, path: str = "", body: Any = None, by: dict[str, str] = ADMIN, **query: Any
) -> httpx.Response:
    return await api.http.post(f"{KEYS}{path}", headers=by, json=body, params=query)


async def create(api: Api, by: dict[str, str] = ADMIN, **changes: Any) -> dict[str, Any]:
    query = {"tenant": changes.pop("tenant")} if "tenant" in changes else {}
    answer = await post(api, "", {"name": "lab", "role": "track"} | changes, by, **query)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def allowed(api: Api, token: str) -> bool:
    """Whether a track's or a viewer's token lets in."""
    answer = await api.http.get("/v1/admin/stats", headers=bearer(token))
    assert answer.status_code in (200, 401, 403)
    return answer.status_code != 401


async def events_of(api: Api, key_id: str) -> list[dict[str, Any]]:
    events = [table.decode(item) for item in await items_of(api.core) if item["pk"]["S"].startswith("EVT#")]
    return sorted((e for e in events if e.get("subject") == f"key:{key_id}"), key=lambda e: e["version"])


async def test_a_new_key_lets_in_at_once_and_is_shown_once(api: Api) -> None:
    answer = await post(api, "", {"name": "kubernetes-101 tracks", "role": "track", "expires_in_days": 90})
    made = answer.json()

    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert Token.parse(made["token"].encode()) is not None
    assert made["token"].split("_")[1] == made["id"]
    assert (made["name"], made["role"], made["tenant"], made["state"]) == (
        "kubernetes-101 tracks", "track", "acme", "live",
    )  # fmt: skip
    assert made["expires_at"] - made["created_at"] == 90 * DAY_S
    assert made["created_by"] == "bootstrap-admin"
    await api.fill(1)
    allocated = await api.http.post("/v1/allocate", headers=bearer(made["token"]) | {"X-Track-ID": "s-1"})
    assert allocated.status_code == 201
    secret = made["token"][-43:]
    shown = [await api.admin("/keys"), await api.admin(f"/keys/{made['id']}")]
    assert all(secret not in answer.text and "token" not in answer.text for answer in shown)
    assert shown[0].json()["keys"][0]["id"] == made["id"]


async def test_nothing_in_the_table_is_or_holds_the_secret(api: Api) -> None:
    made = await create(api)
    rotated = (await post(api, f"/{made['id']}/rotate")).json()
    await allowed(api, made["token"])

    stored = json.dumps(await items_of(api.core))

    for token in (made["token"], rotated["token"]):
        assert token[-43:] not in stored
    (event, _) = await events_of(api, made["id"])
    assert "digest" not in json.dumps(event)


async def test_the_log_of_a_request_says_which_key_and_whose_and_never_the_secret(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    made = await create(api)
    caplog.set_level("INFO", logger="app")
    await allowed(api, made["token"])
    await allowed(api, made["token"][:-43] + "A" * 43)

    good, bad = [record for record in caplog.records if record.getMessage() == "request"][-2:]
    assert (good.tenant, good.caller) == ("acme", f"key:{made['id']}")  # type: ignore[attr-defined]
    assert (bad.refused_key, bad.why) == (made["id"], "wrong_secret")  # type: ignore[attr-defined]
    assert all(made["token"][-43:] not in str(vars(record)) for record in caplog.records)


async def test_every_way_of_not_being_a_key_has_the_same_answer(api: Api) -> None:
    made, gone = await create(api), await create(api)
    expired = await made_key(api, changes={"lasts_s": -1})
    await post(api, f"/{gone['id']}/revoke", {"reason": "a test"})
    tokens = [
        gone["token"], expired.token, made["token"][:-1], made["token"] + "x", made["token"][:-43] + "A" * 43,
        f"sbk_{'a' * 12}_{'A' * 43}", "sbk_", f"sbk_{made['id']}_", made["token"].replace("sbk_", "sbk-"),
        made["token"].upper(),
    ]  # fmt: skip
    answers = [await api.http.get("/v1/admin/stats", headers=bearer(token)) for token in tokens]
    bodies = [
        {name: value for name, value in error_of(answer).items() if name != "request_id"} for answer in answers
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert bodies == [bodies[0]] * len(bodies)
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {"Bearer"}


async def test_a_rotation_leaves_both_good_for_the_overlap_and_ends_the_old_one(api: Api) -> None:
    made = await create(api, role="viewer", expires_in_days=2)
    answer = await post(api, f"/{made['id']}/rotate", {"overlap_s": 600})
    new, old = answer.json(), (await api.admin(f"/keys/{made['id']}")).json()

    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    for same in ("name", "role", "tenant", "expires_at"):
        assert new[same] == made[same]
    assert (new["replaces"], old["replaced_by"]) == (made["id"], new["id"])
    assert abs(old["expires_at"] - time.time() - 600) < 60
    assert await allowed(api, made["token"])
    assert await allowed(api, new["token"])
    created, given_way = await events_of(api, made["id"])
    assert (created["action"], given_way["action"]) == ("create_key", "rotate_key")
    assert json.loads(given_way["after"])["replaced_by"] == new["id"]
    assert [event["action"] for event in await events_of(api, new["id"])] == ["rotate_key"]


async def test_without_an_overlap_the_old_one_ends_at_once(api: Api) -> None:
    made = await create(api, role="viewer")
    assert await allowed(api, made["token"])
    new = (await post(api, f"/{made['id']}/rotate", {"overlap_s": 0})).json()
    assert not await allowed(api, made["token"])
    assert await allowed(api, new["token"])


async def test_an_overlap_never_lengthens_a_life(api: Api) -> None:
    made = await made_key(api, changes={"lasts_s": 300})
    await post(api, f"/{made.key.id}/rotate", {"overlap_s": 7 * DAY_S})
    assert (await api.admin(f"/keys/{made.key.id}")).json()["expires_at"] == made.key.expires_at


@pytest.mark.parametrize("how", ["revoked", "expired", "rotated"])
async def test_what_has_ended_or_was_rotated_is_rotated_no_more(api: Api, how: str) -> None:
    made = await made_key(api, changes={"lasts_s": -1 if how == "expired" else 3600})
    if how == "revoked":
        await post(api, f"/{made.key.id}/revoke", {"reason": "a test"})
    if how == "rotated":
        await post(api, f"/{made.key.id}/rotate")
    answer = await post(api, f"/{made.key.id}/rotate")
    assert refusal(answer) == (409, "KEY_NOT_ROTATABLE")
    assert how in error_of(answer)["message"]


async def test_of_many_rotations_at_once_one_is_made(api: Api) -> None:
    made = await create(api)
    answers = await asyncio.gather(*(post(api, f"/{made['id']}/rotate") for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert (await api.admin("/keys")).json()["count"] == 2


async def test_a_revocation_may_be_repeated_and_the_first_reason_stays(api: Api) -> None:
    made = await create(api, role="viewer")
    assert await allowed(api, made["token"])
    first = await post(api, f"/{made['id']}/revoke", {"reason": "it leaked"})
    again = await post(api, f"/{made['id']}/revoke", {"reason": "another"})

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert (first.json()["state"], first.json()["revoked_reason"], first.json()["revoked_by"]) == (
        "revoked", "it leaked", "bootstrap-admin",
    )  # fmt: skip
    assert not await allowed(api, made["token"])
    _, revoked = await events_of(api, made["id"])
    assert (revoked["action"], revoked["reason"], revoked["actor"]) == (
        "revoke_key",
        "it leaked",
        "bootstrap-admin",
    )
    item = await api.core.client.get(table.api_key_key(made["id"]))
    assert item is not None
    assert table.decode(item)["ttl"] == first.json()["revoked_at"] + KEEP_S


async def test_a_key_is_another_tenants_secret(api: Api) -> None:
    """An admin of one tenant sees, rotates and revokes nothing of another's, nor learns that it is there."""
    await asyncio.gather(a_tenant(api, "north"), a_tenant(api, "south"))
    north, south = await made_key(api, "north", Role.ADMIN), await made_key(api, "south", Role.ADMIN)
    by = bearer(north.token)
    for key_id in (south.key.id, "a" * 12, "..", "x" * 128):
        if key_id == "..":
            continue
        answers = [
            await api.http.get(f"{KEYS}/{key_id}", headers=by),
            await post(api, f"/{key_id}/rotate", None, by),
            await post(api, f"/{key_id}/revoke", {"reason": "a test"}, by),
        ]
        assert {refusal(answer) for answer in answers} == {UNKNOWN}
    for tenant in ("south", "acme", "nowhere"):
        answers = [
            await api.http.get(KEYS, headers=by, params={"tenant": tenant}),
            await post(api, "", {"name": "x", "role": "track"}, by, tenant=tenant),
            await api.http.get(f"{KEYS}/{south.key.id}", headers=by, params={"tenant": tenant}),
        ]
        assert {refusal(answer) for answer in answers} == {(403, "PLATFORM_ONLY")}, (
            "whether there is such a tenant or not"
        )
    listed = await api.http.get(KEYS, headers=by)
    assert [key["id"] for key in listed.json()["keys"]] == [north.key.id]
    assert (await api.http.get(KEYS, headers=by, params={"tenant": "north"})).status_code == 200


async def test_a_platform_admin_names_the_tenant(api: Api) -> None:
    await a_tenant(api, "north")
    platform = bearer((await made_key(api, "acme", Role.ADMIN)).token)
    made = await create(api, platform, tenant="north", role="operator")

    assert made["tenant"] == "north"
    own = await api.http.get(f"{KEYS}/{made['id']}", headers=platform, params={"tenant": "acme"})
    assert refusal(own) == UNKNOWN
    shown = await api.http.get(f"{KEYS}/{made['id']}", headers=platform, params={"tenant": "north"})
    assert shown.status_code == 200
    assert refusal(await post(api, "", {"name": "x", "role": "track"}, platform, tenant="nowhere")) == (
        404, "TENANT_NOT_FOUND",
    )  # fmt: skip
    operator = bearer(made["token"])
    assert (await api.http.get("/v1/admin/stats", headers=operator)).json()["total"] == 0


@pytest.mark.parametrize("tenant", ["../acme", "a b", "", "x" * 65, "acme%2f..", "a#b", "acme\n"])
async def test_a_tenants_name_plays_no_tricks(api: Api, tenant: str) -> None:
    assert refusal(await post(api, "", {"name": "x", "role": "track"}, tenant=tenant)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"name": "x"}, {"role": "track"}, {"name": "", "role": "track"},
        {"name": "x" * 65, "role": "track"},
        {"name": "a\nb", "role": "track"}, {"name": "x", "role": "root"},
        {"name": "x", "role": "track", "tenant": "b"},
        {"name": "x", "role": "track", "expires_in_days": 0},
        {"name": "x", "role": "track", "expires_in_days": 3651},
        {"name": "x", "role": "track", "expires_in_days": "1"},
    ],
    ids=lambda body: "-".join(f"{name}.{str(value)[:6]!r}" for name, value in body.items()) or "nothing",
)  # fmt: skip
async def test_a_key_that_is_badly_asked_for_is_not_made(api: Api, body: dict[str, Any]) -> None:
    assert refusal(await post(api, "", body)) == (400, "INVALID_REQUEST")
    assert (await api.admin("/keys")).json()["count"] == 0


@pytest.mark.parametrize("overlap_s", [-1, 7 * DAY_S + 1, "60", 1.5, None])
async def test_an_overlap_is_0_to_7_days(api: Api, overlap_s: Any) -> None:
    made = await create(api)
    assert refusal(await post(api, f"/{made['id']}/rotate", {"overlap_s": overlap_s})) == (400, "INVALID_REQUEST")


async def test_a_tenant_has_so_many_live_keys_and_no_more(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_desk, "MAX_LIVE", 2)
    first, second = await create(api), await create(api)
    full = (409, "KEY_LIMIT")
    assert refusal(await post(api, "", {"name": "x", "role": "track"})) == full
    assert refusal(await post(api, f"/{first['id']}/rotate", {"overlap_s": 60})) == full
    assert (await post(api, f"/{first['id']}/rotate", {"overlap_s": 0})).status_code == 201
    await post(api, f"/{second['id']}/revoke", {"reason": "a test"})
    assert (await create(api))["state"] == "live"


async def test_lists_go_page_by_page_and_a_cursor_is_good_for_its_own_tenant_alone(api: Api) -> None:
    await a_tenant(api, "north")
    made = {(await create(api, name=f"k{n}"))["id"] for n in range(5)}
    await create(api, tenant="north")
    seen: list[str] = []
    cursor = None
    while True:
        page = (await api.admin("/keys", limit=2, **({"cursor": cursor} if cursor else {}))).json()
        seen += [key["id"] for key in page["keys"]]
        if (cursor := page["cursor"]) is None:
            break
        last = cursor
    assert len(seen) == len(set(seen))
    assert set(seen) == made
    foreign = await api.admin("/keys", limit=2, cursor=last, tenant="north")
    assert refusal(foreign) == (400, "INVALID_CURSOR")


async def test_without_a_pepper_keys_are_off_and_bootstrap_tokens_work_as_ever(
    ministack: str, table_name: str
) -> None:
    async with an_api(ministack, table_name) as on:
        made = await create(on)
        async with an_api(ministack, table_name, API_KEY_PEPPER="") as off:
            answers = [
                await post(off, "", {"name": "x", "role": "track"}),
                await off.admin("/keys"),
                await off.admin(f"/keys/{made['id']}"),
                await post(off, f"/{made['id']}/rotate"),
                await post(off, f"/{made['id']}/revoke", {"reason": "a test"}),
            ]
            assert {refusal(answer) for answer in answers} == {(409, "KEYS_NOT_CONFIGURED")}
            assert "API_KEY_PEPPER" in error_of(answers[0])["message"]
            assert not await allowed(off, made["token"])
            assert (await off.admin("/stats")).status_code == 200


async def test_trouble_of_the_store_is_503_and_public_routes_do_not_mind(proxied: Api, proxy: StoreProxy) -> None:
    made = await create(proxied, role="viewer")
    proxied.app.state.key_ring.forget(made["id"])
    proxy.faults.down = True
    assert refusal(await proxied.http.get("/v1/admin/mode", headers=bearer(made["token"]))) == (
        503, "STORE_UNAVAILABLE",
    )  # fmt: skip
    assert (await proxied.http.get("/v1/meta", headers=bearer(made["token"]))).status_code == 200


async def test_a_lost_answer_of_a_creation_is_looked_into(proxied: Api, proxy: StoreProxy) -> None:
    proxy.faults.change({"lose_answer_ops": ["TransactWriteItems"], "lose_answer_next": 1})
    made = await create(proxied, role="viewer")
    assert await allowed(proxied, made["token"])
    assert len(await events_of(proxied, made["id"])) == 1


async def test_the_last_admin_key_of_a_tenant_is_known_as_such_and_its_end_is_warned_of(api: Api) -> None:
    await a_tenant(api, "north")
    first, second = [(await made_key(api, "north", Role.ADMIN)).key.id for _ in range(2)]
    track = (await made_key(api, "north", Role.TRACK)).key.id
    ours = (await made_key(api, "acme", Role.ADMIN)).key.id
    of_north = {"tenant": "north"}

    async def last(key_id: str, **query: str) -> bool:
        return bool((await api.admin(f"/keys/{key_id}", **query)).json()["last_admin"])

    async def post(path: str, body: dict[str, Any], **query: str) -> dict[str, Any]:
        answer = await api.http.post(f"/v1/admin/keys/{path}", headers=ADMIN, json=body, params=query)
        assert answer.status_code in (200, 201), answer.text
        told: dict[str, Any] = answer.json()
        return told

    assert [await last(key_id, **of_north) for key_id in (first, second, track)] == [False, False, False]
    revoked = await post(f"{first}/revoke", {"reason": "a test"}, **of_north)
    assert revoked["warnings"] == []
    assert await last(second, **of_north)
    assert not await last(first, **of_north), "it is none any more"

    rotated = await post(f"{second}/rotate", {"overlap_s": 600}, **of_north)
    assert "tenant north has no other admin key" in rotated["warnings"][0]
    assert [await last(key_id, **of_north) for key_id in (second, rotated["id"])] == [False, True]
    anew = await post(f"{rotated['id']}/rotate", {"overlap_s": 600}, **of_north)
    assert await last(anew["id"], **of_north), "both before it are on their way out"
    ended = await post(f"{anew['id']}/revoke", {"reason": "a test"}, **of_north)
    assert "tenant north has no admin key now" in ended["warnings"][0]
    assert (await post(f"{track}/revoke", {"reason": "a test"}, **of_north))["warnings"] == []

    assert not await last(ours), "the default tenant has its bootstrap token"
    assert (await post(f"{ours}/revoke", {"reason": "a test"}))["warnings"] == []


async def test_the_platform_s_admin_finds_rotates_and_revokes_a_key_of_any_tenant_by_its_id_alone(
    api: Api,
) -> None:
    """An id is all that a log line, or a scanner of repositories, says of a leaked key."""
    await a_tenant(api, "north")
    first, second = [(await made_key(api, "north", Role.VIEWER)).key.id for _ in range(2)]

    shown = await api.admin(f"/keys/{first}")
    rotated = await api.http.post(f"{KEYS}/{first}/rotate", headers=ADMIN, json={"overlap_s": 0})
    revoked = await api.http.post(f"{KEYS}/{second}/revoke", headers=ADMIN, json={"reason": "INC-4711"})
    own_alone = [await api.admin(f"/keys/{second}", tenant="acme"), await api.admin("/keys/zzzzzzzzzzzz")]

    assert (shown.status_code, shown.json()["tenant"]) == (200, "north")
    assert (rotated.status_code, rotated.json()["tenant"]) == (201, "north")
    assert (revoked.status_code, revoked.json()["tenant"]) == (200, "north")
    assert {refusal(answer) for answer in own_alone} == {(404, "KEY_NOT_FOUND")}
    events = (await api.admin("/events", tenant="north")).json()["events"]
    assert {"rotate_key", "revoke_key"} <= {event["action"] for event in events}, "north is told what was done"
