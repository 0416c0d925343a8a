"""`list` and `show`: what there is, however much."""

import time

from broker.sandbox import State
from tests.api.service import Api
from tests.api.test_admin_lists import in_state, put
from tests.builders import a_sandbox, an_allocated_sandbox
from tests.cli.shell import Shell


async def test_all_goes_on_page_by_page_and_a_limit_stops_with_a_word(shell: Shell, api: Api) -> None:
    await put(api, [a_sandbox(number=n) for n in range(2100)])

    every, some, edge = await shell.run_each(
        ["list", "--all"], ["list", "--limit", "1500", "--json"], ["list", "--limit", "2100"]
    )

    ids = [row[0] for row in every.rows[1:]]
    assert (len(ids), len(set(ids)), every.err) == (2100, 2100, "")
    assert (some.json["count"], len(some.json["sandboxes"])) == (1500, 1500)
    assert some.json["cursor"]
    assert "These are the first 1500" not in edge.err
    few = await shell.run("list", "--limit", "3")
    assert len(few.rows) == 4
    assert "These are the first 3: --limit shows more, --all shows all." in few.err


async def test_status_and_track_narrow_it(shell: Shell, api: Api) -> None:
    await put(api, [in_state(state, 10 * n + k) for n, state in enumerate(State) for k in range(2)])

    held, lab, odd = await shell.run_each(
        ["list", "--status", "allocated"],
        ["list", "--track", "lab-even", "--status", "allocated"],
        ["list", "--status", "held"],
    )

    assert len(held.rows) == 3
    assert len(lab.rows) == 2
    assert (odd.code, "is not one of" in odd.err) == (2, True)


async def test_each_status_says_what_one_wants_to_know_of_it(shell: Shell, api: Api) -> None:
    now = int(time.time())
    await put(
        api,
        [
            an_allocated_sandbox(number=1, track="lab-101", expires_at=now + 3599, missing_since=now - 7200),
            a_sandbox(
                number=2, state=State.PENDING_DELETION, attempt=2, next_attempt_at=now + 600, last_error="HTTP_500"
            ),
            a_sandbox(number=3, state=State.DELETION_FAILED, attempt=8, last_error="HTML"),
            a_sandbox(number=4, state=State.QUARANTINED, reason="INC-4711"),
            a_sandbox(number=5),
        ],
    )

    listed = await shell.run("list")

    about = {line.split()[0]: line for line in listed.out.splitlines()}
    assert "not listed by the provider for 2h00m (missing_since)" in about["2009001"]
    assert "student-1 of lab-101, ends in 59m" in about["2009001"]
    assert "attempt 3 in " in about["2009002"]
    assert "last_error HTTP_500" in about["2009002"]
    assert "8 attempts; last_error HTML" in about["2009003"]
    assert "reason: INC-4711" in about["2009004"]
    assert about["2009005"].split()[2] == "available"


SUGGESTED = {
    State.AVAILABLE: ["quarantine"],
    State.ALLOCATED: ["force-release"],
    State.DELETION_FAILED: ["retry", "abandon"],
    State.QUARANTINED: ["reinstate", "discard"],
    State.STALE: [],
}


async def test_show_tells_all_and_suggests_what_the_state_allows(shell: Shell, api: Api) -> None:
    await put(api, [in_state(state, n) for n, state in enumerate(SUGGESTED)])
    failed = a_sandbox(number=9, state=State.DELETION_FAILED, attempt=8, last_error="HTML", reason="INC-4711")
    await put(api, [failed])

    shown = await shell.run_each(
        *(["show", in_state(state, n).id] for n, state in enumerate(SUGGESTED)), ["show", failed.id]
    )

    for done, (state, moves) in zip(shown, SUGGESTED.items(), strict=False):
        hints = [
            line.partition("sandbox-broker ")[2].split()[0] for line in done.out.splitlines() if "you can" in line
        ]
        assert (done.code, hints) == (0, moves), state
    for words in (failed.id, failed.name, failed.external_id, "deletion_failed", "HTML", "INC-4711"):
        assert words in shown[-1].out
