"""C1, C2: lists page through everything once; counts are right beyond a page of the store."""

import base64
from typing import Any

import pytest

from broker.sandbox import EndedBy, Sandbox, State
from broker.store import table
from tests.api.service import Api, an_app, api_settings, error_of, refusal
from tests.builders import NOW, a_sandbox

PER_STATE = 5


def in_state(state: State, number: int) -> Sandbox:
    """A sandbox as it stands in that state, on lab `lab-even` or `lab-odd` where it was ever held."""
    facts: dict[str, Any] = {"number": number, "state": state, "version": 7, "since": NOW + number}
    if state not in (State.AVAILABLE, State.STALE, State.QUARANTINED):
        facts |= {"holder": f"s-{number}", "allocated_at": NOW + number, "expires_at": NOW + 3600 + number}
        facts |= {"track": "lab-even" if number % 2 == 0 else "lab-odd"}
    if state in (State.PENDING_DELETION, State.DELETION_FAILED, State.DELETED):
        facts |= {"ended_at": NOW + 99, "ended_by": EndedBy.RELEASE}
    if state is State.PENDING_DELETION:
        facts |= {"next_attempt_at": NOW + number}
    return a_sandbox(**facts)


async def put(api: Api, sandboxes: list[Sandbox], **more: Any) -> None:
    """Straight into the table, 100 at a time: any state, any size."""
    shards = await api.core.tenants.shards("acme")
    name = api.core.client.table.name
    puts = [
        {"Put": {"TableName": name, "Item": table.sandbox_item(sandbox, shards) | more}} for sandbox in sandboxes
    ]
    for first in range(0, len(puts), 100):
        await api.core.client.transact(*puts[first : first + 100])


async def pages(api: Api, **query: Any) -> list[list[dict[str, Any]]]:
    """Every page of a list; fails where it does not end."""
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    for _ in range(500):
        answer = await api.admin("/sandboxes", **query, **cursor)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["count"] == len(body["sandboxes"]) <= query.get("limit", 100)
        found.append(body["sandboxes"])
        if body["cursor"] is None:
            return found
        cursor = {"cursor": body["cursor"]}
    raise AssertionError("the list has no end")


async def ids(api: Api, **query: Any) -> list[str]:
    return [row["sandbox_id"] for page in await pages(api, **query) for row in page]


@pytest.fixture
async def every_state(api: Api) -> list[Sandbox]:
    """Five sandboxes in each state."""
    everything = [in_state(state, 10 * n + k) for n, state in enumerate(State) for k in range(PER_STATE)]
    await put(api, everything)
    return everything


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_every_sandbox_of_every_state_is_listed_once_whatever_the_page(
    api: Api, every_state: list[Sandbox], limit: int
) -> None:
    rows = [row for page in await pages(api, limit=limit) for row in page]
    listed = [(row["sandbox_id"], row["status"]) for row in rows]
    assert sorted(listed) == sorted((s.id, s.state.value) for s in every_state)


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("state", State)
async def test_a_status_lists_its_own_and_all_of_them(
    api: Api, every_state: list[Sandbox], state: State, limit: int
) -> None:
    expected = sorted(s.id for s in every_state if s.state is state)
    assert sorted(await ids(api, status=state.value, limit=limit)) == expected


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("status", [None, State.ALLOCATED, State.DELETED])
async def test_a_track_lists_its_own_in_any_status_or_one(
    api: Api, every_state: list[Sandbox], limit: int, status: State | None
) -> None:
    query = {"status": status.value} if status else {}
    listed = await ids(api, track="lab-odd", limit=limit, **query)
    expected = [s.id for s in every_state if s.track == "lab-odd" and status in (None, s.state)]
    assert sorted(listed) == sorted(expected)
    assert expected, "the test lists something"


async def test_a_track_that_nobody_named_is_an_empty_last_page(api: Api, every_state: list[Sandbox]) -> None:
    answer = (await api.admin("/sandboxes", track="unheard-of")).json()
    assert answer == {"sandboxes": [], "count": 0, "cursor": None}


async def test_an_operator_sees_holder_track_attempts_and_errors(api: Api) -> None:
    failed = in_state(State.PENDING_DELETION, 1).lease(token="t", now=NOW, lease_s=60)
    failed = failed.fail_deletion(error="HTTP 500", now=NOW, retry_at=None)
    await put(api, [failed])
    (row,) = (await api.admin("/sandboxes", status="deletion_failed")).json()["sandboxes"]
    assert row == {
        "sandbox_id": failed.id,
        "name": failed.name,
        "external_id": failed.external_id,
        "status": "deletion_failed",
        "allocated_at": failed.allocated_at,
        "expires_at": failed.expires_at,
        "ended_at": failed.ended_at,
        "ended_by": "released",
        "since": NOW,
        "holder": "s-1",
        "track": "lab-odd",
        "attempt": 1,
        "generation": None,
        "heartbeat_at": None,
        "next_attempt_at": None,
        "last_error": "HTTP 500",
        "missing_since": None,
        "reason": None,
    }


async def test_a_labs_list_shows_the_same_facts_as_any_other(api: Api) -> None:
    failed = in_state(State.PENDING_DELETION, 1).lease(token="t", now=NOW, lease_s=60)
    failed = failed.fail_deletion(error="HTTP 500", now=NOW, retry_at=None)
    await put(api, [failed, in_state(State.PENDING_DELETION, 3)])
    by_track = (await api.admin("/sandboxes", track="lab-odd")).json()["sandboxes"]
    everything = (await api.admin("/sandboxes")).json()["sandboxes"]
    assert {row["sandbox_id"]: row for row in by_track} == {row["sandbox_id"]: row for row in everything}
    assert {row["ended_by"] for row in by_track} == {"released"}


async def test_a_lab_of_more_sandboxes_than_one_batch_of_the_store_is_listed_whole(api: Api) -> None:
    held = [in_state(State.ALLOCATED, 2 * n) for n in range(260)]
    await put(api, held)
    assert sorted(await ids(api, track="lab-even", limit=1000)) == sorted(sandbox.id for sandbox in held)


async def test_a_list_that_pauses_in_the_middle_goes_on_where_it_was(api: Api) -> None:
    """What was listed is not listed again when other rows come and go."""
    await put(api, [in_state(State.STALE, n) for n in range(1, 21)])
    first = (await api.admin("/sandboxes", limit=8)).json()
    await put(api, [in_state(State.STALE, n) for n in range(30, 33)])
    seen = [row["sandbox_id"] for row in first["sandboxes"]]
    cursor = first["cursor"]
    while cursor:
        page = (await api.admin("/sandboxes", limit=8, cursor=cursor)).json()
        seen += [row["sandbox_id"] for row in page["sandboxes"]]
        cursor = page["cursor"]
    assert len(seen) == len(set(seen))
    assert {in_state(State.STALE, n).id for n in range(1, 21)} <= set(seen)


async def first_cursor(api: Api, **query: Any) -> str:
    cursor: str = (await api.admin("/sandboxes", limit=1, **query)).json()["cursor"]
    assert cursor
    return cursor


def _flipped(cursor: str, at: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[at] ^= 1
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest.mark.parametrize(
    "tamper",
    [
        lambda cursor: _flipped(cursor, 0),
        lambda cursor: _flipped(cursor, 15),
        lambda cursor: _flipped(cursor, 16),
        lambda cursor: _flipped(cursor, -1),
        lambda cursor: cursor[:-4],
        lambda cursor: cursor[: len(cursor) // 2],
        lambda cursor: cursor + "AAAA",
        lambda cursor: "A",
        lambda cursor: "AAAA",
        lambda cursor: "not a cursor",
        lambda cursor: "{}",
        lambda cursor: "ünïcode",
        lambda cursor: "A" * 2048,
    ],
)
async def test_a_cursor_that_was_tampered_with_is_400(api: Api, every_state: list[Sandbox], tamper: Any) -> None:
    cursor = await first_cursor(api)
    assert refusal(await api.admin("/sandboxes", limit=1, cursor=tamper(cursor))) == (400, "INVALID_CURSOR")


@pytest.mark.parametrize(
    "other",
    [
        {"status": "allocated"},
        {"track": "lab-odd"},
        {"track": "lab-odd", "status": "allocated"},
        {},
    ],
)
async def test_a_cursor_serves_no_other_filter_than_its_own(
    api: Api, every_state: list[Sandbox], other: dict[str, str]
) -> None:
    for mine in (
        {},
        {"status": "available"},
        {"status": "allocated"},
        {"track": "lab-odd"},
        {"track": "lab-even"},
    ):
        answer = await api.admin("/sandboxes", limit=1, cursor=await first_cursor(api, **mine), **other)
        if mine == other:
            assert answer.status_code == 200
        else:
            assert refusal(answer) == (400, "INVALID_CURSOR"), (mine, other)


async def test_a_filter_cannot_be_spelled_so_that_it_passes_for_another(api: Api) -> None:
    """The list of a track named as a status is not that status's list."""
    held = [
        a_sandbox(number=n, state=State.ALLOCATED, track="available", expires_at=NOW, allocated_at=NOW)
        for n in range(8)
    ]
    await put(api, [*held, *(a_sandbox(number=n) for n in range(10, 18))])
    cursor = await first_cursor(api, track="available")
    for other in ({"status": "available"}, {"track": "available", "status": "available"}):
        assert refusal(await api.admin("/sandboxes", limit=1, cursor=cursor, **other)) == (400, "INVALID_CURSOR")


async def test_a_cursor_is_good_on_another_process_with_the_same_secrets(
    ministack: str, table_name: str, api: Api, every_state: list[Sandbox]
) -> None:
    first = (await api.admin("/sandboxes", limit=10)).json()
    async with an_app(api_settings(ministack, table_name)) as other:
        second = (await other.admin("/sandboxes", limit=1000, cursor=first["cursor"])).json()
    listed = [row["sandbox_id"] for page in (first, second) for row in page["sandboxes"]]
    assert sorted(listed) == sorted(sandbox.id for sandbox in every_state)


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "", "١"])
async def test_a_bad_limit_is_400_in_the_envelope(api: Api, limit: str) -> None:
    answer = await api.admin("/sandboxes", limit=limit)
    assert refusal(answer) == (400, "INVALID_REQUEST")
    assert "limit" in error_of(answer)["message"]


@pytest.mark.parametrize("limit", ["1", "1000"])
async def test_the_bounds_of_limit_are_good(api: Api, limit: str) -> None:
    assert (await api.admin("/sandboxes", limit=limit)).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        {"status": "held"},
        {"status": ""},
        {"track": ""},
        {"track": "a b"},
        {"track": "x" * 129},
        {"cursor": "x" * 2049},
    ],
)
async def test_a_bad_filter_is_400_in_the_envelope(api: Api, query: dict[str, str]) -> None:
    answer = await api.admin("/sandboxes", **query)
    assert refusal(answer) == (400, "INVALID_REQUEST")
    assert next(iter(query)) in error_of(answer)["message"]
    assert "a b" not in answer.text, "values are not repeated: they may be secrets"


async def test_stats_count_every_status_and_their_sum(api: Api, every_state: list[Sandbox]) -> None:
    expected = dict.fromkeys((state.value for state in State), PER_STATE)
    assert (await api.admin("/stats")).json() == expected | {"total": PER_STATE * len(State)}


async def test_stats_of_nothing_are_noughts(api: Api) -> None:
    counts = (await api.admin("/stats")).json()
    assert set(counts) == {state.value for state in State} | {"total"}
    assert set(counts.values()) == {0}


async def test_stats_count_beyond_a_page_of_one_megabyte(api: Api) -> None:
    """1,500 sandboxes of over 4 KB: each shard's count takes several pages of the store."""
    fat = {"attributes": {"M": {"notes": {"S": "x" * 4096}}}}
    await put(api, [a_sandbox(number=n) for n in range(1500)], **fat)
    queries = 'broker_store_call_seconds_count{operation="query"}'
    before = (await api.metrics()).get(queries, 0)

    counts = (await api.admin("/stats")).json()

    assert (counts["available"], counts["total"]) == (1500, 1500)
    asked = (await api.metrics())[queries] - before
    assert asked > len(State) * await api.core.tenants.shards("acme"), "one page a shard: not paged at all"


async def test_a_list_goes_on_beyond_a_page_of_one_megabyte(api: Api) -> None:
    fat = {"attributes": {"M": {"notes": {"S": "x" * 8192}}}}
    await put(api, [a_sandbox(number=n) for n in range(600)], **fat)
    listed = await ids(api, limit=1000)
    assert len(listed) == len(set(listed)) == 600
