"""`events` and `history`: who changed what, and who had a sandbox at 10:04?"""

import time
from collections.abc import Callable
from typing import Any, get_args

import pytest

from broker.action import Action
from broker.job import Kind, Priority
from broker.sandbox import EndedBy
from broker.store.events import EVENT_TTL_S, Cause
from cli.commands import events
from cli.instants import instant_of
from cli.show import moment
from tests.api.keys import made_key
from tests.api.service import ADMIN, Api
from tests.builders import a_sandbox
from tests.cli.shell import ESCAPES, Done, Shell
from tests.cli.test_output import HOSTILE, LONG

ID = a_sandbox().id
HOUR = 3600


def by(actor: str, action: str, reason: str | None = None) -> Cause:
    return Cause(actor=actor, action=action, request_id=f"req-{action}", reason=reason)


async def a_life(api: Api, start: int, *, until: str = "removed", error: str = "HTTP_500") -> None:
    """Known from `start` on; held from the first hour to the second; deleted in the third, as far as `until`."""
    new = a_sandbox()
    held = new.allocate(holder="student-1", claim_key=None, track="lab-101", now=start + HOUR, lease_s=9 * HOUR)
    over = held.end(by=EndedBy.FORCE_RELEASE, now=start + 2 * HOUR, reason="INC-4711")
    failed = over.fail_deletion(error=error, now=start + 3 * HOUR, retry_at=None)
    write = api.core.sandboxes
    await write.add(new, by("worker:sync", "added"), now=start)
    if until == "added":
        return
    await write.move(new, held, by("bootstrap-track", "allocate"), now=start + HOUR)
    if until == "held":
        return
    await write.move(held, over, by("bootstrap-admin", "force_release", "INC-4711"), now=start + 2 * HOUR)
    await write.move(over, failed, by("worker:clean", "deletion_failed"), now=start + 3 * HOUR)


@pytest.fixture
def start() -> int:
    return int(time.time()) - 10 * HOUR


async def test_a_life_is_told_the_oldest_first_one_line_each(shell: Shell, api: Api, start: int) -> None:
    await a_life(api, start)

    table, as_json = await shell.run_each(["history", ID], ["history", ID, "--json"])

    assert (table.code, table.err) == (0, "")
    lines = table.out.splitlines()
    assert [line[:20] for line in lines[1:]] == [moment(start + n * HOUR) for n in range(4)]
    for line, words in zip(
        lines[1:],
        [
            ["new -> available", "worker:sync (added)"],
            ["available -> allocated", "bootstrap-track (allocate)", "student-1 of lab-101"],
            ["allocated -> pending_deletion", "bootstrap-admin (force_release)", "student-1", "reason: INC-4711"],
            ["pending_deletion -> deletion_failed", "worker:clean", "error: HTTP_500"],
        ],
        strict=True,
    ):
        assert all(word in line for word in words), line
    assert [e["action"] for e in as_json.json["events"]] == [
        "added",
        "allocate",
        "force_release",
        "deletion_failed",
    ]


HELD = "{id} was held by student-1 of lab-101 at {at}: since {1}, until {2}."
OVER = (
    "Nobody held {id} at {at}: it was pending_deletion since {2}, until {3}; "
    "the last who did was student-1 of lab-101."
)
GIVEN = "; the next who did is student-1 of lab-101, from {1}"
STORIES = {
    "before it was known": (-1, "Nobody held {id} at {at}: it was unknown to the broker, until {0}{next}."),
    "in the pool": (0, "Nobody held {id} at {at}: it was available since {0}, until {1}{next}."),
    "a second before": (HOUR - 1, "Nobody held {id} at {at}: it was available since {0}, until {1}{next}."),
    "in the very second": (HOUR, HELD),
    "while it was held": (HOUR + 999, HELD),
    "in the last second": (2 * HOUR - 1, HELD),
    "in the second of its end": (2 * HOUR, OVER),
    "after it": (2 * HOUR + 1, OVER),
    "long after": (
        9 * HOUR,
        "Nobody held {id} at {at}: it was deletion_failed since {3}, and still is; the last who did was "
        "student-1 of lab-101.",
    ),
}


async def test_who_held_it_then_is_one_sentence(shell: Shell, api: Api, start: int) -> None:
    await a_life(api, start)

    asked = [["history", ID, "--at", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start + after))]
             for after, _ in STORIES.values()]  # fmt: skip
    answers = await shell.run_each(*asked)

    times = [moment(start + n * HOUR) for n in range(4)]
    for done, (story, (after, sentence)) in zip(answers, STORIES.items(), strict=True):
        assert (done.code, done.err) == (0, ""), story
        assert (
            done.out == sentence.format(*times, next=GIVEN.format(*times), id=ID, at=moment(start + after)) + "\n"
        ), story


async def test_who_still_holds_it_is_told_so_and_as_json(shell: Shell, api: Api, start: int) -> None:
    await a_life(api, start, until="held")
    at = str(start + 5 * HOUR)

    told, as_json = await shell.run_each(["history", ID, "--at", at], ["history", ID, "--at", at, "--json"])

    since = moment(start + HOUR)
    assert (
        told.out == f"{ID} was held by student-1 of lab-101 at {moment(int(at))}: since {since}, and still is.\n"
    )
    assert as_json.json == {
        "sandbox_id": ID, "at": int(at), "state": "allocated", "holder": "student-1 of lab-101",
        "since": start + HOUR, "until": None, "last_holder": None, "next_holder": None, "next_since": None,
    }  # fmt: skip


async def test_an_extended_lease_is_one_holding(shell: Shell, api: Api, start: int) -> None:
    """A move within a state tells of it, and neither begins nor ends anything."""
    await a_life(api, start, until="held")
    held = await api.core.operations.look("acme", ID)
    longer = held.described(name="renamed", external_id=held.external_id, attributes={})
    await api.core.sandboxes.move(held, longer, by("bootstrap-track", "extend"), now=start + 3 * HOUR)

    for hours in (2, 5):
        done = await shell.run("history", ID, "--at", str(start + hours * HOUR))
        assert f"since {moment(start + HOUR)}, and still is." in done.out


async def test_what_began_before_the_thirty_days_is_told_by_what_came_after(
    shell: Shell, api: Api, start: int
) -> None:
    long_ago = start - EVENT_TTL_S
    await a_life(api, long_ago, until="held")  # these events are past their time
    held = await api.core.operations.look("acme", ID)
    during = str(start + 5 * HOUR)

    now_held = await shell.run("history", ID, "--at", during)
    over = held.end(by=EndedBy.EXPIRY, now=start + 6 * HOUR)
    await api.core.sandboxes.move(held, over, by("worker:expire", "expire"), now=start + 6 * HOUR)
    then_held, too_old = await shell.run_each(
        ["history", ID, "--at", during], ["history", ID, "--at", str(long_ago + 2 * HOUR)]
    )

    begun = moment(long_ago + HOUR)
    assert now_held.out.endswith(
        f"held by student-1 of lab-101 at {moment(int(during))}: since {begun}, and still is.\n"
    )
    assert "since before what is kept, until " + moment(start + 6 * HOUR) in then_held.out
    assert (too_old.code, too_old.out) == (1, "")
    assert "is not known: nothing is recorded of it then. Events are kept for 30 days" in too_old.err


async def test_what_nobody_ever_heard_of_is_1_and_a_sentence(shell: Shell, api: Api) -> None:
    life, then = await shell.run_each(["history", "unheard-of"], ["history", "unheard-of", "--at", "2h"])

    assert (life.code, life.out, then.code, then.out) == (1, "", 1, "")
    assert "Nothing is recorded of unheard-of in the last 30 days." in life.err
    assert "Who held unheard-of at " in then.err
    for done in (life, then):
        assert "A sandbox goes by its id, not by its name: sandbox-broker list shows both." in done.err


async def test_a_sandbox_that_was_removed_keeps_its_story(shell: Shell, api: Api, start: int) -> None:
    await a_life(api, start, until="added")
    new = await api.core.operations.look("acme", ID)
    stale = new.go_stale(now=start + HOUR)
    await api.core.sandboxes.move(new, stale, by("worker:sync", "stale"), now=start + HOUR)
    await api.core.sandboxes.remove(stale, by("worker:purge", "purged"), now=start + 2 * HOUR)

    life, then = await shell.run_each(["history", ID], ["history", ID, "--at", "1h"])

    assert "stale -> removed" in life.out.splitlines()[-1]
    assert f"it was removed since {moment(start + 2 * HOUR)}, and still is." in then.out


async def test_events_are_filtered_and_the_newest_come_first(shell: Shell, api: Api, start: int) -> None:
    await a_life(api, start)
    await api.set_mode("drained", "INC-4712")
    headers = ADMIN | {"X-Request-ID": "req-sync"}
    await api.http.post("/v1/admin/sync", headers=headers, params={"wait": 0}, json={"reason": "a look"})

    everything, of_one, some, recent, by_request, window = await shell.run_each(
        ["events", "--since", "1d", "--limit", "6"],
        ["events", "--sandbox", ID, "--json"],
        ["events", "--actor", "bootstrap-admin", "--action", "force_release", "--since", "1d"],
        ["events", "--since", "1h"],
        ["events", "--request", "req-sync", "--since", "1h"],
        ["events", "--since", str(start + HOUR), "--until", str(start + 2 * HOUR)],
    )

    lines = everything.out.splitlines()[1:]
    assert len(lines) == 6
    assert "These are the newest 6: --limit shows more, --until goes on from there." in everything.err
    assert "state queued, kind sync" in lines[0]
    assert "reason: a look" in lines[0]
    assert "mode open -> drained" in lines[1]
    assert "(set_mode)" in lines[1]
    assert "new -> available" in lines[-1]
    api_body = (await api.admin("/events", sandbox=ID, limit=50)).json()
    assert of_one.json == api_body
    assert len(some.out.splitlines()) == 2
    assert len(recent.out.splitlines()) == 3
    assert len(by_request.out.splitlines()) == 2
    assert len(window.out.splitlines()) == 3


async def test_pages_are_followed_to_the_limit_and_to_the_end(shell: Shell, api: Api, start: int) -> None:
    """The newest event is ten hours old, behind pages on which there is nothing."""
    await a_life(api, start - 40 * HOUR)

    first, every = await shell.run_each(["events", "--limit", "1"], ["events", "--since", "4d"])

    assert [len(done.out.splitlines()) for done in (first, every)] == [2, 5]
    assert (first.code, every.code, every.err) == (0, 0, "")


async def test_on_a_terminal_it_fits_80_columns_and_obeys_nobody(shell: Shell, api: Api, start: int) -> None:
    await a_life(api, start, error=HOSTILE)
    await api.core.jobs.enqueue(
        "acme", Kind.SYNC, params={"confirm": "true"}, priority=Priority.HIGH, requested_by="olga",
        request_id="r", reason=LONG,
    )  # fmt: skip
    for command in (["events", "--since", "1d"], ["history", ID], ["history", ID, "--at", "9h"]):
        async with shell.on_a_terminal(*command) as terminal:
            assert await terminal.end() == 0, command
            assert max(map(len, terminal.text.splitlines())) <= 80
            assert "…" not in terminal.text
            assert not set(ESCAPES.sub("", terminal.seen)) & {"\x1b", "\x07", "\x9b", "\u202e"}
            assert "\x1b[2J" not in terminal.seen


@pytest.mark.parametrize(
    "command",
    [
        ["events", "--since", "yesterday"],
        ["events", "--until", "2026-13-01"],
        ["events", "--since", "2 h"],
        ["events", "--since", ""],
        ["events", "--limit", "0"],
        ["history"],
        ["history", ".."],
        ["history", ID, "--at", "10:60"],
        ["history", ID, "--at", "4000-01-01"],
        ["history", ID, "--at", "99999999999"],
    ],
    ids=" ".join,
)
def test_what_is_no_time_no_id_or_yet_to_come_is_2_and_nothing_is_sent(
    misused: Callable[..., Done], command: list[str]
) -> None:
    done = misused(*command)
    assert (done.code, done.out) == (2, "")
    assert done.err


def test_times_are_read_as_people_write_them() -> None:
    now = int(time.time())
    for spelled, seconds in (("90s", 90), ("45m", 2700), ("2h", 7200), ("7d", 7 * 86400)):
        assert now - seconds <= instant_of(spelled) <= now - seconds + 5
    same: list[Any] = ["1795255440", "2026-11-21T10:04", "2026-11-21 10:04:00Z", "2026-11-21T11:04+01:00"]
    assert {instant_of(text) for text in same} == {1_795_255_440}


async def test_a_reason_goes_along_with_cancel_and_requeue(shell: Shell, api: Api) -> None:
    asked = await api.http.post("/v1/admin/sync", headers=ADMIN, params={"wait": 0})
    job = asked.json()["job_id"]

    for command in ("cancel", "requeue"):
        done = await shell.run("jobs", command, job, "--reason", f"INC-4711: {command}")
        assert done.code == 0, done.err

    rows = (await api.admin("/events", since=int(time.time()) - 600)).json()["events"]
    assert [row["reason"] for row in rows] == ["INC-4711: requeue", "INC-4711: cancel", None]


async def test_a_time_of_the_day_is_the_last_one_that_was_and_which_is_said(shell: Shell, api: Api) -> None:
    await a_life(api, int(time.time()) - 60 * HOUR, until="held")
    soon = time.gmtime(int(time.time()) + 2 * HOUR)  # so it was yesterday, at this hour

    done = await shell.run("history", ID, "--at", time.strftime("%H:%M", soon))

    when = moment(instant_of(time.strftime("%Y-%m-%dT%H:%M", soon)) - 24 * HOUR)
    assert done.code == 0, done.err
    assert f"was held by student-1 of lab-101 at {when}" in done.out
    assert f"{time.strftime('%H:%M', soon)} is taken for {when}" in done.err


@pytest.mark.parametrize("given", ["24:00", "10:60", "10", "1:2", "10:04:5"])
def test_what_is_no_time_of_the_day_is_none(misused: Callable[..., Done], given: str) -> None:
    assert misused("history", ID, "--at", given).code == (3 if given == "10" else 2)


def test_a_span_that_ends_before_it_begins_is_told_with_both_times(misused: Callable[..., Done]) -> None:
    done = misused("events", "--since", "2026-11-21T10:15", "--until", "2026-11-21T10:00")

    assert done.code == 2
    assert "--since 2026-11-21 10:15:00Z is later than --until 2026-11-21 10:00:00Z" in " ".join(done.err.split())


def test_the_actions_of_the_command_are_those_of_the_broker() -> None:
    assert list(get_args(events.Action)) == list(Action)


async def test_a_key_goes_by_its_name_too(shell: Shell, api: Api) -> None:
    key = (await made_key(api)).key
    await shell.run("keys", "revoke", key.id, "--reason", "INC-4711")

    done = await shell.run("events", "--action", "revoke_key", "--since", "1h")

    assert f"{key.credential} 'a test's'" in done.out


async def test_who_was_given_it_after_the_minute_that_was_asked_for_is_told(
    shell: Shell, api: Api, start: int
) -> None:
    """10:04 is its first second: the student may have come in its eleventh."""
    await a_life(api, start, until="held")
    at = start + HOUR - 11

    told, as_json = await shell.run_each(
        ["history", ID, "--at", str(at)], ["history", ID, "--at", str(at), "--json"]
    )

    assert told.out.endswith(f"; the next who did is student-1 of lab-101, from {moment(start + HOUR)}.\n")
    assert (as_json.json["next_holder"], as_json.json["next_since"]) == ("student-1 of lab-101", start + HOUR)


async def test_who_extended_it_by_how_much_is_told(shell: Shell, api: Api, start: int) -> None:
    await a_life(api, start, until="held")
    held = await api.core.operations.look("acme", ID)
    until = (held.expires_at or 0) + 90 * 60
    extend = by("key:aaaabbbbcccc", "extend")
    await api.core.sandboxes.extend(held, held.extend(until=until), extend, now=start + 2 * HOUR)

    life, as_json = await shell.run_each(["history", ID], ["events", "--sandbox", ID, "--json"])

    last = " ".join(life.out.splitlines()[-1].split())
    change = f"allocated -> allocated, 1h30m longer: until {moment(held.expires_at)} -> {moment(until)}"
    assert change in last
    assert "key:aaaabbbbcccc (extend)" in last
    newest = as_json.json["events"][0]
    assert (newest["expires_at_before"], newest["expires_at"]) == (held.expires_at, until)
