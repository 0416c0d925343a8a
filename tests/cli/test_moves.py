"""C5: sandboxes moved by hand, by their ids."""

import asyncio
import getpass
import json
from collections.abc import Callable

import pytest

from broker.sandbox import State
from tests.api.service import Api, an_api
from tests.api.test_admin_lists import put
from tests.builders import a_sandbox
from tests.cli.conftest import served
from tests.cli.shell import Done, Shell
from tests.provider.sockets import request_of, serving

MOVES = {
    "retry": (State.DELETION_FAILED, "pending_deletion"),
    "abandon": (State.DELETION_FAILED, "deleted"),
    "quarantine": (State.AVAILABLE, "quarantined"),
    "reinstate": (State.QUARANTINED, "available"),
    "discard": (State.QUARANTINED, "pending_deletion"),
}
IDS = [a_sandbox(number=n).id for n in range(1, 4)]
WHY = ["--reason", "INC-4711: odd network"]


@pytest.fixture
async def failed(api: Api) -> None:
    """Three sandboxes whose deletion failed."""
    await api.fill(3, state=State.DELETION_FAILED)


@pytest.mark.parametrize("move", MOVES)
async def test_each_move_is_made_for_every_id_and_keeps_its_reason(shell: Shell, api: Api, move: str) -> None:
    start, end = MOVES[move]
    await api.fill(3, state=start)

    done = await shell.run(move, *IDS, *WHY)

    assert done.code == 0, done.err
    assert done.rows[1:] == [[id_, end] for id_ in IDS]
    for id_ in IDS:
        stored = (await api.admin(f"/sandboxes/{id_}")).json()
        assert (stored["status"], stored["reason"]) == (end, "INC-4711: odd network")


async def test_a_forced_release_ends_the_students_allocation(shell: Shell, api: Api) -> None:
    await api.fill(1)
    await api.allocate("student-1")

    done = await shell.run("force-release", IDS[0], *WHY)

    assert (done.code, done.rows[1]) == (0, [IDS[0], "pending_deletion"])
    assert (await api.release(IDS[0])).status_code == 410


async def test_what_fails_is_told_the_rest_goes_on_and_it_is_1(shell: Shell, api: Api) -> None:
    await api.fill(1, first=1, state=State.DELETION_FAILED)
    await api.fill(1, first=3, state=State.DELETION_FAILED)
    await api.fill(1, first=2)

    done = await shell.run("retry", *IDS, "unknown")

    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[1].split() == [IDS[0], "pending_deletion"]
    assert "not moved" in lines[2]
    assert "(SANDBOX_WRONG_STATE, request cli-" in lines[2]
    assert lines[3].split() == [IDS[2], "pending_deletion"]
    assert "(SANDBOX_NOT_FOUND, request cli-" in lines[4]
    assert "2 of 4 not moved." in done.err


@pytest.mark.usefixtures("failed")
async def test_json_holds_the_apis_own_bodies_one_for_each_id(shell: Shell, api: Api) -> None:
    done = await shell.run("retry", IDS[0], "unknown", "--json")

    moved, refused = done.json["results"]
    assert done.code == 1
    assert moved == {"id": IDS[0], "sandbox": (await api.admin(f"/sandboxes/{IDS[0]}")).json()}
    assert (refused["id"], refused["error"]["code"]) == ("unknown", "SANDBOX_NOT_FOUND")


@pytest.mark.usefixtures("failed")
async def test_an_id_that_is_given_twice_is_moved_once(shell: Shell, api: Api) -> None:
    done = await shell.run("retry", IDS[0], IDS[0])

    route = 'method="POST",route="/v1/admin/sandboxes/{sandbox_id}/retry"'
    assert (done.code, len(done.rows)) == (0, 2)
    assert (await api.metrics())[f'broker_http_requests_total{{{route},status="200"}}'] == 1


@pytest.mark.usefixtures("failed")
async def test_a_retry_may_go_without_a_reason_and_then_names_who_did_it(shell: Shell, api: Api) -> None:
    """The worker's log says `sandbox-broker retry <sandbox_id>`, which is to work as written."""
    done = await shell.run("retry", IDS[0])

    assert done.code == 0, done.err
    stored = (await api.admin(f"/sandboxes/{IDS[0]}")).json()
    assert stored["reason"] == f"retried from a shell by {getpass.getuser()}"


@pytest.mark.parametrize("reason", ["no", "x" * 201, "a\nb c", "   ", None])
def test_every_other_move_needs_a_reason_that_the_api_will_take_or_nothing_is_sent(
    misused: Callable[..., Done], reason: str | None
) -> None:
    for move in ("quarantine", "reinstate", "discard", "force-release", "abandon"):
        done = misused(move, *IDS, *([] if reason is None else ["--reason", reason]))
        assert (done.code, "--reason" in done.err) == (2, True)


@pytest.mark.parametrize("odd", ["..", ".", "../mode", "a b", "", "x" * 129, "2009001?x=1", "2009001#"])
def test_an_id_that_would_lead_elsewhere_is_2(misused: Callable[..., Done], odd: str) -> None:
    for command in (["quarantine", IDS[0], odd, *WHY], ["show", odd], ["jobs", "cancel", odd]):
        done = misused(*command)
        assert done.code == 2
        assert "an id has 1 to 128 of the characters" in done.err


async def test_an_api_that_goes_away_in_the_middle_is_3_and_says_what_was_not_tried(api: Api) -> None:
    await api.fill(1, state=State.DELETION_FAILED)
    body = json.dumps((await api.operate("retry", IDS[0])).json()).encode()
    calls = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        await request_of(reader)
        calls += 1
        if calls == 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)

    async with serving(once) as port:
        done = await Shell(f"http://127.0.0.1:{port}").run("retry", *IDS, *WHY, "--json")

    results = done.json["results"]
    assert (done.code, calls) == (3, 2)
    assert "Whether it was done is unknown" in done.err
    assert [row.get("error", {}).get("code") for row in results] == [None, "UNREACHABLE", "NOT_TRIED"]


async def test_many_ids_wait_their_turn_where_the_api_limits_requests(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, RATE_LIMIT_PER_CREDENTIAL="3/2 second") as api:
        await put(api, [a_sandbox(number=n, state=State.DELETION_FAILED) for n in range(1, 9)])
        async with served(api.app) as url:
            done = await Shell(url).run("retry", *(a_sandbox(number=n).id for n in range(1, 9)))

    assert done.code == 0, done.err
    assert [row[1] for row in done.rows[1:]] == ["pending_deletion"] * 8
    assert "Too many requests for this credential (limit 3 per 2 seconds). Going on in" in done.err
