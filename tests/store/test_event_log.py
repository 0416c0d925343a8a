"""B7: what was written is read again, newest first, each event once, however it is paged; on every engine."""

from typing import Any

import pytest

from broker.sandbox import State
from broker.store import table
from broker.store.event_log import Event, Part, Sought, place
from broker.store.events import EVENT_TTL_S, Cause
from broker.wiring import Broker
from tests.builders import a_sandbox, an_allocated_sandbox

NOW = 4_000_000_000
"""So late that no engine removes anything for its TTL meanwhile."""
HOUR = 3600
SHARDS = 4


async def happened(broker: Broker, at: float, sandbox: int = 1, **more: Any) -> str:
    """An event of a sandbox; returns the event's id."""
    cause = {name: more.pop(name) for name in ("actor", "action", "request_id", "reason") if name in more}
    named = Cause(**{"actor": "olga", "action": "allocate", "request_id": "req-1"} | cause)
    shards = more.pop("shards", SHARDS)
    after = an_allocated_sandbox(number=sandbox, **more)
    put = broker.events.of(named, after, before=a_sandbox(number=sandbox), now=at, shards=shards)["Put"]
    await broker.client.call("put_item", **put)
    return str(put["Item"]["event_id"]["S"])


async def part(broker: Broker, before: str, limit: int = 100, shards: int = SHARDS, **sought: Any) -> Part:
    return await broker.event_log.part(
        sought.pop("tenant", "acme"), Sought(**sought), before=before, now=NOW, shards=shards, limit=limit
    )


async def parts(broker: Broker, limit: int = 100, *, begin: int = NOW + 1, **sought: Any) -> list[Part]:
    """All parts from an instant on."""
    found: list[Part] = []
    before: str | None = place(begin)
    while before is not None:
        assert len(found) < 200, "it has no end"
        found.append(await part(broker, before, limit, **sought))
        assert found[-1].before is None or found[-1].before < before, "it does not get on"
        assert len(found[-1].events) <= limit
        before = found[-1].before
    return found


async def seen(broker: Broker, limit: int = 100, **sought: Any) -> list[str]:
    return [event.event_id for found in await parts(broker, limit, **sought) for event in found.events]


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_all_hours_and_shards_are_read_once_newest_first(broker: Broker, limit: int) -> None:
    written = [await happened(broker, NOW - n * 700, n) for n in range(30)]

    assert await seen(broker, limit, since=NOW - 30 * 700) == written


@pytest.mark.parametrize("limit", [9, 40])
async def test_many_of_one_second_are_read_once_whatever_the_page(broker: Broker, limit: int) -> None:
    """More than one query of a shard shows: where some shards have told more than others, none is left out."""
    written = [await happened(broker, NOW - 5, n) for n in range(140)]

    assert sorted(await seen(broker, limit, since=NOW - HOUR)) == sorted(written)


@pytest.mark.parametrize("limit", [7, 40])
async def test_where_one_shard_holds_nearly_all_the_others_do_not_run_ahead_of_it(
    broker: Broker, limit: int
) -> None:
    """They have told everything long before it has: so it is when the count was raised within the hour."""
    written = [await happened(broker, NOW - n, n, shards=SHARDS if n > 60 else 1) for n in range(100)]

    assert await seen(broker, limit, since=NOW - HOUR) == written


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_a_sandboxs_history_is_its_own_and_whole_through_all_hours(broker: Broker, limit: int) -> None:
    written = [
        await happened(broker, NOW - n * 40_000, reason=f"why {n}", last_error="HTTP_500") for n in range(7)
    ]
    await happened(broker, NOW - 50, sandbox=2)
    await happened(broker, NOW - 50, tenant="rival")

    found = [event for p in await parts(broker, limit, sandbox_id=a_sandbox().id) for event in p.events]

    assert [event.event_id for event in found] == written
    assert [(event.reason, event.error) for event in found] == [(f"why {n}", "HTTP_500") for n in range(7)]


async def test_a_history_is_one_query_and_goes_on_beyond_a_batch_of_the_store(broker: Broker) -> None:
    written = [await happened(broker, NOW - n) for n in range(230)]

    found = await parts(broker, 1000, sandbox_id=a_sandbox().id)

    assert [(len(p.events), p.queries) for p in found] == [(230, 1)]
    assert [event.event_id for event in found[0].events] == written


async def test_an_event_comes_back_as_it_was_written(broker: Broker) -> None:
    id_ = await happened(
        broker, NOW - 1, actor="ada", action="expire", request_id="r-9", reason="INC-4711", track="lab", version=8
    )
    whole = Event(
        event_id=id_, at=NOW - 1, actor="ada", action="expire", request_id="r-9", sandbox_id=a_sandbox().id,
        before="available", after="allocated", version=8, holder="student-1", track="lab", reason="INC-4711",
        expires_at=an_allocated_sandbox().expires_at,
    )  # fmt: skip

    assert (await part(broker, place(NOW + 1))).events == [whole]
    assert (await part(broker, place(NOW + 1), sandbox_id=a_sandbox().id)).events == [whole]


@pytest.mark.parametrize("by_sandbox", [False, True])
@pytest.mark.parametrize(
    "wanted", [{"actor": "ada"}, {"action": "expire"}, {"request_id": "r-9"}, {"actor": "ada", "action": "expire"}]
)
async def test_filters_leave_what_matches_them_all(
    broker: Broker, wanted: dict[str, str], by_sandbox: bool
) -> None:
    mine = [await happened(broker, NOW - 10 * n, actor="ada", action="expire", request_id="r-9") for n in range(3)]
    for other in ({"actor": "ad"}, {"action": "expired"}, {"request_id": "r-99"}):
        facts = {"actor": "ada", "action": "expire", "request_id": "r-9"} | other
        if any(facts[name] != value for name, value in wanted.items()):
            await happened(broker, NOW - 3, **facts)
        else:
            mine.append(await happened(broker, NOW - 60 - len(mine), **facts))
    where = {"sandbox_id": a_sandbox().id} if by_sandbox else {}

    for limit in (2, 100):
        assert await seen(broker, limit, since=NOW - HOUR, **where, **wanted) == mine


async def test_a_few_that_match_among_many_are_found(broker: Broker) -> None:
    await happened(broker, NOW - 400, sandbox=999, actor="ada")
    for n in range(150):
        await happened(broker, NOW - 1 - n, sandbox=n)

    found = await parts(broker, 1, actor="ada", since=NOW - HOUR)

    assert [e.sandbox_id for p in found for e in p.events] == [a_sandbox(number=999).id]


@pytest.mark.parametrize("by_sandbox", [False, True])
async def test_since_and_until_include_their_seconds(broker: Broker, by_sandbox: bool) -> None:
    written = {
        at: await happened(broker, at) for at in (NOW - 200.001, NOW - 200, NOW - 100.5, NOW - 100, NOW - 99)
    }
    where = {"sandbox_id": a_sandbox().id} if by_sandbox else {}

    found = await part(broker, place(NOW - 100 + 1), since=NOW - 200, **where)

    assert [e.event_id for e in found.events] == [written[at] for at in (NOW - 100, NOW - 100.5, NOW - 200)]


@pytest.mark.parametrize("by_sandbox", [False, True])
async def test_what_is_past_its_thirty_days_is_not_shown_though_the_item_stays(
    broker: Broker, by_sandbox: bool
) -> None:
    first_gone, last_there = NOW - EVENT_TTL_S, NOW - EVENT_TTL_S + 1
    gone, there = [await happened(broker, at) for at in (first_gone + 0.999, last_there)]
    items = {n: await broker.client.get(table.event_key("acme", at=int(at), event_id=n, shards=SHARDS))
             for n, at in ((gone, first_gone), (there, last_there))}  # fmt: skip
    assert [int(item["ttl"]["N"]) for item in items.values() if item] == [NOW, NOW + 1]
    where = {"sandbox_id": a_sandbox().id} if by_sandbox else {}

    assert await seen(broker, since=0, begin=NOW - EVENT_TTL_S + 5 * HOUR, **where) == [there]


async def test_the_walk_ends_at_thirty_days_and_no_later(broker: Broker) -> None:
    oldest = NOW - EVENT_TTL_S + 1
    begin = oldest // HOUR * HOUR + 5 * HOUR

    assert len(await parts(broker, begin=begin)) == 5


@pytest.mark.parametrize("window", [(NOW + 9, NOW + 10), (NOW, NOW - 10), (None, 0), (9_999_999_999, None)])
async def test_a_window_without_a_second_is_empty_and_over(
    broker: Broker, window: tuple[int | None, int | None]
) -> None:
    await happened(broker, NOW - 3)
    since, until = window

    for where in ({}, {"sandbox_id": a_sandbox().id}):
        found = await part(broker, place(NOW + 1 if until is None else until + 1), since=since, **where)
        assert (found.events, found.before) == ([], None)


async def test_what_is_written_between_two_pages_repeats_nothing_and_hides_nothing(broker: Broker) -> None:
    written = [await happened(broker, NOW - 20 * n, n) for n in range(20)]
    for where in ({}, {"sandbox_id": a_sandbox(number=3).id}):
        listed: list[str] = []
        before: str | None = place(NOW + 1)
        while before is not None:
            found = await part(broker, before, 2, since=NOW - HOUR, **where)
            listed += [event.event_id for event in found.events]
            before = found.before
            if len(listed) < 20:
                await happened(broker, NOW + 0.5, 3)
        assert len(set(listed)) == len(listed)
        assert {id_ for id_ in written if not where or id_ == written[3]} <= set(listed)


async def test_more_shards_between_two_pages_repeat_nothing_and_hide_nothing(broker: Broker) -> None:
    written = [await happened(broker, NOW - 100 - n, n, shards=2) for n in range(20)]
    first = await part(broker, place(NOW + 1), 5, shards=2)
    late = [await happened(broker, NOW - 300 - n, n, shards=9) for n in range(20)]
    assert first.before is not None

    listed, before = [event.event_id for event in first.events], first.before
    rest: str | None = before
    while rest is not None:
        found = await part(broker, rest, 5, shards=9, since=NOW - HOUR)
        listed += [event.event_id for event in found.events]
        rest = found.before

    assert listed == written + late


@pytest.mark.parametrize("at", [0, 1, 0.001, 0.999, -1, -0.001])
async def test_the_edges_of_an_hour_hide_nothing(broker: Broker, at: float) -> None:
    edge = NOW // HOUR * HOUR
    written = await happened(broker, edge + at)
    other = [await happened(broker, edge + off) for off in (0.0015, -0.0015)]

    for limit in (1, 100):
        listed = await seen(broker, limit, since=edge - 5)
        assert sorted(listed) == sorted([written, *other])
        assert await part(broker, written, 10, since=edge - 5) == await part(broker, written, 10, since=edge - 5)


async def test_subjects_tell_objects_and_the_words_of_an_older_release(broker: Broker) -> None:
    cause = Cause(actor="olga", action="set_mode", request_id="req-7", reason="INC-4711")
    facts: dict[str, Any] = {"subject": "mode", "tenant": "acme", "version": 3, "shards": SHARDS}
    for n, (before, after) in enumerate([('{"mode": "open"}', '{"mode": "drained"}'), ("drained", "open")]):
        note = broker.events.note(cause, before=before, after=after, now=NOW - n, **facts)["Put"]
        await broker.client.call("put_item", **note)

    new, old = (await part(broker, place(NOW + 1))).events

    assert (new.subject, new.before, new.after) == ("mode", {"mode": "open"}, {"mode": "drained"})
    assert (old.before, old.after, old.sandbox_id) == ({"state": "drained"}, {"state": "open"}, None)


async def test_equal_ids_of_another_tenant_are_read_by_nobody_else(broker: Broker) -> None:
    mine = await happened(broker, NOW - 1)
    theirs = await happened(broker, NOW - 1, tenant="rival")

    for where in ({}, {"sandbox_id": a_sandbox().id}, {"actor": "olga"}, {"request_id": "req-1"}):
        assert await seen(broker, tenant="acme", since=NOW - 9, **where) == [mine]
        assert await seen(broker, tenant="rival", since=NOW - 9, **where) == [theirs]


async def test_an_index_row_whose_event_has_gone_is_passed_over(broker: Broker) -> None:
    """The index lags, and DynamoDB removes what is past its TTL when it likes: the table is what counts."""
    gone, there = [await happened(broker, NOW - n) for n in range(2)]
    key = table.event_key("acme", at=NOW, event_id=gone, shards=SHARDS)
    await broker.client.call("delete_item", TableName=broker.client.table.name, Key=key)

    assert await seen(broker, sandbox_id=a_sandbox().id) == [there]


async def test_a_removed_sandbox_keeps_its_history(broker: Broker) -> None:
    stale = a_sandbox(state=State.STALE)
    cause = Cause(actor="worker:purge", action="purged", request_id="run-1")
    await broker.sandboxes.add(stale, cause, now=NOW - 10)
    await broker.sandboxes.remove(stale, cause, now=NOW - 5)

    assert await broker.sandboxes.get("acme", stale.id) is None
    history = (await part(broker, place(NOW + 1), sandbox_id=stale.id)).events
    assert [(e.at, e.before, e.after) for e in history] == [
        (NOW - 5, "stale", "removed"),
        (NOW - 10, None, "stale"),
    ]
