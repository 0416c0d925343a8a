"""B7: the list of events: filters, pages, cursors, times; and what other tenants see of it: nothing."""

import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.audit import Audit
from app.cursors import Cursors
from app.instants import instant_of
from broker.action import Action
from broker.role import Role
from broker.sandbox import State
from broker.store.event_log import Sought
from broker.store.events import EVENT_TTL_S, Cause
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.api.keys import a_tenant, bearer, made_key
from tests.api.service import ADMIN, Api, an_api, error_of, refusal
from tests.builders import a_sandbox
from tests.conftest import a_broker
from tests.store.conftest import Clock
from tests.store.test_event_log import HOUR, NOW, happened

ID = a_sandbox().id
DAY = 24 * HOUR


async def listed(api: Api, **query: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    rows: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    for _ in range(200):
        answer = await api.admin("/events", **query, **cursor)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["count"] == len(body["events"]) <= query.get("limit", 100)
        rows += body["events"]
        if body["cursor"] is None:
            return rows
        cursor = {"cursor": body["cursor"]}
    raise AssertionError("the list has no end")


def ago(seconds: int) -> int:
    return int(time.time()) - seconds


async def test_a_life_is_told_by_one_query_newest_first(api: Api) -> None:
    await api.core.sandboxes.add(a_sandbox(), said("worker:sync", "added"), now=ago(100))
    await api.allocate("student-1", X_Instruqt_Track_ID="lab-101")
    await api.operate("force-release", ID, "the room is closed")
    queries = 'broker_store_call_seconds_count{operation="query"}'
    before = (await api.metrics())[queries]

    history = await listed(api, sandbox=ID)

    assert (await api.metrics())[queries] - before == 1
    assert [(e["actor"], e["action"], e["before"], e["after"], e["holder"], e["reason"]) for e in history] == [
        ("bootstrap-admin", "force_release", "allocated", "pending_deletion", "student-1", "the room is closed"),
        ("bootstrap-track", "allocate", "available", "allocated", "student-1", None),
        ("worker:sync", "added", None, "available", None, None),
    ]
    assert [e["version"] for e in history] == [3, 2, 1]
    assert set(history[0]) == {
        "event_id", "at", "actor", "actor_name", "action", "sandbox_id", "subject", "subject_name", "before",
        "after", "version", "holder", "track", "reason", "error", "request_id",
        "expires_at", "expires_at_before",
    }  # fmt: skip


def said(actor: str, action: str) -> Cause:
    return Cause(actor=actor, action=action, request_id="req-1")


async def test_a_sandbox_that_was_removed_is_still_told_of(api: Api) -> None:
    await api.fill(1, state=State.STALE)
    stale = await api.core.operations.look("acme", ID)
    await api.core.sandboxes.remove(stale, said("worker:purge", "purged"), now=time.time())

    assert refusal(await api.admin(f"/sandboxes/{ID}")) == (404, "SANDBOX_NOT_FOUND")
    (event,) = await listed(api, sandbox=ID)
    assert (event["before"], event["after"], event["action"]) == ("stale", "removed", "purged")


async def test_each_filter_leaves_its_own_and_all_of_them_together(api: Api) -> None:
    await api.fill(2)
    await api.allocate("student-1")
    await api.operate("force-release", (await listed(api, action="allocate", since=ago(60)))[0]["sandbox_id"])
    await api.set_mode("drained")

    window = {"since": ago(60)}
    assert {e["action"] for e in await listed(api, actor="bootstrap-admin", **window)} == {
        "force_release",
        "set_mode",
    }
    assert [e["subject"] for e in await listed(api, action="set_mode", **window)] == ["mode"]
    (mode,) = await listed(api, action="set_mode", **window)
    assert await listed(api, request=mode["request_id"], **window) == [mode]
    assert await listed(api, action="set_mode", actor="bootstrap-track", **window) == []
    assert await listed(api, until=ago(60), since=ago(120)) == []


@pytest.mark.parametrize("spelled", ["unix", "iso", "iso with Z", "iso with an offset"])
async def test_times_may_be_spelled_as_people_do(api: Api, spelled: str) -> None:
    at = ago(3 * HOUR)
    written = await happened(api.core, at)
    await happened(api.core, at - 1)
    await happened(api.core, at + 1)

    def text(offset_s: int = 0) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at + offset_s))

    told = {
        "unix": str(at), "iso": text(), "iso with Z": text() + "Z", "iso with an offset": text(7200) + "+02:00",
    }[spelled]  # fmt: skip

    assert [e["event_id"] for e in await listed(api, since=told, until=told)] == [written]


@pytest.mark.parametrize(
    "text",
    ["", " ", "yesterday", "-1", "1760000000000", "10:04", "2026-13-01", "1.5", "1e9", "١٧٦", "2026-11-21T25:00",
     "1969-12-31", "9999-12-31"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["since", "until"])
async def test_what_is_no_time_is_400_and_told_how_to_say_it(api: Api, name: str, text: str) -> None:
    answer = await api.admin("/events", **{name: text})

    assert refusal(answer) == (400, "INVALID_REQUEST")
    assert f"query.{name}: " in error_of(answer)["message"]
    assert "2026-11-21T10:04:00Z" in error_of(answer)["message"]


def test_an_instant_is_read_as_utc() -> None:
    spelled = [
        "1795255440",
        "2026-11-21T10:04",
        "2026-11-21 10:04:00.9",
        "2026-11-21T10:04:00Z",
        "2026-11-21T12:04+02:00",
    ]
    assert {instant_of(text) for text in spelled} == {1_795_255_440}
    assert instant_of("2026-11-21") == 1_795_219_200
    assert [instant_of(text) for text in ("0", "9999999999")] == [0, 9_999_999_999]


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "1001"}, {"sandbox": "a b"}, {"actor": ""}, {"action": "x" * 129},
              {"request": "a/b"}, {"cursor": "x" * 2049}]
)  # fmt: skip
async def test_a_bad_filter_is_400_in_the_envelope(api: Api, query: dict[str, str]) -> None:
    answer = await api.admin("/events", **query)
    assert refusal(answer) == (400, "INVALID_REQUEST")
    assert next(iter(query)) in error_of(answer)["message"]


async def test_the_bounds_of_limit_are_good(api: Api) -> None:
    await api.fill(1)
    for limit in (1, 1000):
        assert (await api.admin("/events", limit=limit)).status_code == 200


def _flipped(cursor: str, at: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[at] ^= 1
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def test_a_cursor_that_was_tampered_with_or_is_for_other_filters_is_refused(api: Api) -> None:
    for second in range(3):
        await happened(api.core, ago(second), actor="ada", action="expire", request_id="r-9")
    window = {"since": str(ago(HOUR))}
    mine = window | {"sandbox": ID, "actor": "ada", "action": "expire", "request": "r-9", "until": str(ago(-HOUR))}
    cursor = (await api.admin("/events", limit=1, **mine)).json()["cursor"]
    everything = (await api.admin("/events", limit=1)).json()["cursor"]
    await api.fill(2, first=5)
    sandboxes = (await api.admin("/sandboxes", limit=1)).json()["cursor"]

    assert (await api.admin("/events", limit=5, cursor=cursor, **mine)).json()["count"] == 2
    for name in mine:
        other = {k: v for k, v in mine.items() if k != name}
        assert refusal(await api.admin("/events", cursor=cursor, **other)) == (400, "INVALID_CURSOR"), name
    wrong = [
        _flipped(cursor, 0),
        _flipped(cursor, 16),
        _flipped(cursor, -1),
        cursor[:-4],
        "AAAA",
        everything,
        sandboxes,
    ]
    for bad in wrong:
        assert refusal(await api.admin("/events", cursor=bad, **mine)) == (400, "INVALID_CURSOR")
    assert refusal(await api.admin("/sandboxes", cursor=everything)) == (400, "INVALID_CURSOR")


async def test_a_filter_cannot_be_spelled_so_that_it_passes_for_another(api: Api) -> None:
    for second in range(3):
        await happened(api.core, ago(second), actor="x", action="x", request_id="x")
    cursor = (await api.admin("/events", limit=1, actor="x")).json()["cursor"]

    for other in ({"request": "x"}, {"sandbox": "x"}, {"actor": "x", "request": "x"}, {"action": "extend"}):
        assert refusal(await api.admin("/events", cursor=cursor, **other)) == (400, "INVALID_CURSOR"), other


# Two tenants with equal ids, students, requests, actors and times.


@pytest.fixture
async def umbrella(ministack: str, table_name: str) -> AsyncIterator[Api]:
    """Another tenant's process on the same table, with the same tokens."""
    async with an_api(ministack, table_name, BROKER_TENANT="umbrella") as other:
        yield other


FILTERS: list[dict[str, Any]] = [
    {}, {"sandbox": ID}, {"actor": "olga"}, {"action": "allocate"}, {"request": "req-1"},
    {"sandbox": ID, "actor": "olga", "action": "allocate", "request": "req-1"},
]  # fmt: skip


@pytest.mark.parametrize("filters", FILTERS, ids=str)
async def test_another_tenants_equal_events_are_in_no_list(
    api: Api, umbrella: Api, filters: dict[str, Any]
) -> None:
    at, window = ago(5), {"since": ago(HOUR)}
    mine = {await happened(api.core, at - n, holder="mine") for n in range(3)}
    theirs = {await happened(api.core, at - n, tenant="umbrella", holder="theirs") for n in range(3)}

    for running, own in ((api, mine), (umbrella, theirs)):
        for limit in (1, 100):
            found = await listed(running, limit=limit, **window, **filters)
            assert {e["event_id"] for e in found} == own
            assert {e["holder"] for e in found} == ({"mine"} if own is mine else {"theirs"})


@pytest.mark.parametrize("filters", FILTERS, ids=str)
async def test_another_tenants_cursor_is_refused(api: Api, umbrella: Api, filters: dict[str, Any]) -> None:
    window = {"since": ago(HOUR)}
    for n in range(3):
        for tenant in ("acme", "umbrella"):
            await happened(api.core, ago(1 + n), tenant=tenant)
    cursor = (await api.admin("/events", limit=1, **window, **filters)).json()["cursor"]

    assert (await api.admin("/events", limit=1, cursor=cursor, **window, **filters)).status_code == 200
    foreign = await umbrella.admin("/events", limit=1, cursor=cursor, **window, **filters)
    assert refusal(foreign) == (400, "INVALID_CURSOR")


async def test_what_another_tenant_does_is_told_to_it_alone(api: Api, umbrella: Api) -> None:
    await api.fill(1)
    await umbrella.fill(1, external_id="identity/accounts/foreign")
    headers = ADMIN | {"X-Request-ID": "req-same"}
    for running in (api, umbrella):
        await running.allocate("student-1")
        await running.http.post("/v1/admin/sync", headers=headers, params={"wait": 0})

    for running, other in ((api, umbrella), (umbrella, api)):
        window = {"since": ago(HOUR), "request": "req-same"}
        (own,), (foreign,) = await listed(running, **window), await listed(other, **window)
        assert own["subject"] != foreign["subject"]
        assert len(await listed(running, sandbox=ID, action="allocate")) == 1


# The walk through hours, by a clock that the test holds.


@pytest.fixture
async def core(ministack: str, table_name: str) -> AsyncIterator[Broker]:
    async with a_broker(ministack, table_name) as broker:
        await broker.tenants.ensure("acme", shards=4, now=NOW)
        yield broker


def audit(broker: Broker, clock: Clock | None = None) -> Audit:
    return Audit(broker.event_log, broker.tenants, broker.keys, Cursors("secret"), clock=clock or Clock(NOW))


async def test_a_quiet_month_is_walked_in_pages_of_bounded_work(proxy: StoreProxy, table_name: str) -> None:
    async with a_broker(proxy.url, table_name) as broker:
        await broker.tenants.ensure("acme", shards=4, now=NOW)
        last = await happened(broker, NOW - EVENT_TTL_S + 1)
        found, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            proxy.counts.reset()
            page = await audit(broker).page("acme", Sought(), limit=1000, cursor=cursor)
            found += page.events
            cursor = page.cursor
            pages += 1
            assert proxy.counts.calls["Query"] <= 84
            assert proxy.counts.calls["BatchGetItem"] <= 1

    assert [event.event_id for event in found] == [last]
    assert pages == 37


async def test_events_of_a_process_whose_clock_is_ahead_are_shown_at_once(core: Broker) -> None:
    ahead = await happened(core, NOW + 30)

    assert [e.event_id for e in (await audit(core).page("acme", Sought(), limit=1, cursor=None)).events] == [ahead]
    assert (await audit(core).page("acme", Sought(until=NOW), limit=1, cursor=None)).events == []


async def test_each_event_once_while_others_are_written_and_shards_are_added(
    ministack: str, table_name: str, core: Broker
) -> None:
    """Another process raises the count in between: this one asks the new shards from its next page on."""
    written = [await happened(core, NOW - 100 * n, n) for n in range(40)]
    late: list[str] = []
    seen: list[str] = []
    cursor = None
    async with a_broker(ministack, table_name, DDB_SHARDS="9") as other:
        while True:
            page = await audit(core).page("acme", Sought(since=NOW - DAY), limit=7, cursor=cursor)
            seen += [event.event_id for event in page.events]
            if (cursor := page.cursor) is None:
                break
            if len(seen) == 14:
                await other.tenants.ensure("acme", shards=9, now=NOW)
                late = [await happened(other, NOW - DAY + n, n, shards=9) for n in range(20)]
            await happened(other, NOW, 3, shards=9)

    assert len(seen) == len(set(seen))
    assert set(seen) >= set(written) | set(late)
    assert late


async def test_the_thirty_days_end_as_the_clock_goes_on(core: Broker) -> None:
    clock = Clock(NOW)
    await happened(core, NOW - 3)
    for later, count in ((EVENT_TTL_S - 4, 1), (EVENT_TTL_S - 3, 0)):
        clock.now = NOW + later
        for where in ({"sandbox_id": ID}, {"until": NOW}):
            page = await audit(core, clock).page("acme", Sought(**where), limit=5, cursor=None)
            assert len(page.events) == count, (later, where)


async def test_a_span_that_ends_before_it_begins_is_refused_with_both_times(api: Api) -> None:
    answer = await api.admin("/events", since="2026-11-21T10:15", until="2026-11-21T10:00")

    assert refusal(answer) == (400, "INVALID_REQUEST")
    for words in ("query.since", "2026-11-21T10:15:00Z", "2026-11-21T10:00:00Z"):
        assert words in error_of(answer)["message"]
    assert (await api.admin("/events", since="2026-11-21T10:15", until="2026-11-21T10:15")).status_code == 200


async def test_an_action_that_there_is_not_is_refused_with_those_that_there_are(api: Api) -> None:
    answer = await api.admin("/events", action="explode")

    assert refusal(answer) == (400, "INVALID_REQUEST")
    for action in Action:
        assert f"'{action}'" in error_of(answer)["message"]


async def test_a_key_is_told_by_its_name_too_but_no_tenant_is_told_what_others_call_theirs(api: Api) -> None:
    await a_tenant(api, "north")
    platform = (await made_key(api, "acme", Role.ADMIN)).key
    made = await made_key(api, "north", Role.ADMIN)
    own, theirs = made.key, bearer(made.token)
    for actor in (platform, own):
        cause = Cause(actor=actor.credential, action=Action.REVOKE_KEY, request_id="r", reason="x", tenant="acme")
        key = (await made_key(api, "north", Role.TRACK)).key
        await api.core.keys.change(
            "north", key.id, lambda k: k.revoke(by="x", reason="x", now=NOW), cause, now=time.time()
        )

    async def named(headers: dict[str, str], **query: str) -> dict[str, set[str | None]]:
        params = {"action": "revoke_key"} | query
        rows = (await api.http.get("/v1/admin/events", headers=headers, params=params)).json()["events"]
        assert {row["subject_name"] for row in rows} <= {"a test's", None}
        return {row["actor"]: row["actor_name"] for row in rows}

    assert await named(theirs) == {platform.credential: None, own.credential: "a test's"}
    assert await named(ADMIN, tenant="north") == {platform.credential: "a test's", own.credential: "a test's"}


async def test_what_was_done_to_another_tenants_things_tells_its_facts_to_the_platform_alone(api: Api) -> None:
    """It is among the events of who did it, and their viewers are not the platform."""
    north = {"name": "north", "provider": {"base_url": "https://csp.example.org", "secret": "north/secret"}}
    created = await api.http.post("/v1/admin/tenants", headers=ADMIN, json=north | {"reason": "CHG-812"})
    assert created.status_code == 201
    await api.http.patch("/v1/admin/tenants/acme", headers=ADMIN, json={"max_live": 7, "reason": "CHG-813"})
    for tenant in ("north", "acme"):
        params, body = {"tenant": tenant}, {"role": "viewer", "name": f"{tenant}-people"}
        made = await api.http.post("/v1/admin/keys", headers=ADMIN, params=params, json=body)
        assert made.status_code == 201, made.text
        path = f"/v1/admin/keys/{made.json()['id']}/revoke"
        ended = await api.http.post(path, headers=ADMIN, params=params, json={"reason": "CHG-815"})
        assert ended.status_code == 200, ended.text
    viewer = bearer((await made_key(api, "acme", Role.VIEWER)).token)

    answers = [await api.http.get("/v1/admin/events", headers=headers) for headers in (viewer, ADMIN)]
    seen, all_of_it = [{row["event_id"]: row for row in answer.json()["events"]} for answer in answers]
    differ = {id_ for id_, row in all_of_it.items() if seen[id_] != row}
    told = [row for id_, row in all_of_it.items() if id_ in differ]

    assert "north/secret" in answers[1].text
    assert "north-people" in answers[1].text
    assert not {word for word in ("north/secret", "north-people", "csp.example") if word in answers[0].text}
    assert sorted(row["action"] for row in told) == ["create_key", "create_tenant", "revoke_key"]
    assert all(seen[id_]["before"] is seen[id_]["after"] is None for id_ in differ)
    assert all(word in answers[0].text for word in ("acme-people", "max_live")), "its own are told as ever"
