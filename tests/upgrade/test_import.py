"""K7: `sandbox-broker import` brings the old broker's table over, beside a broker that runs."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.arrival import OLD_ATTRIBUTES
from broker.importer import Importer
from broker.sandbox import EndedBy, State
from broker.store.adoptions import Adopted, Adoptions
from broker.store.old_table import sandboxes_of
from broker.wiring import Broker
from tests.allocation.students import fill
from tests.api.service import Api, an_api
from tests.audit import audit, items_of
from tests.builders import TEST_CAUSE
from tests.cli.shell import Done, Shell
from tests.upgrade.old_table import OldTable, an_old_table
from tests.worker.conftest import until

BEGAN = int(time.time()) - 600


@pytest.fixture
async def api(ministack: str, table_name: str) -> AsyncIterator[Api]:
    """The new broker, at work while the old table comes over."""
    async with an_api(ministack, table_name) as running:
        yield running


@pytest.fixture
def core(api: Api) -> Broker:
    return api.core


@pytest.fixture
async def old(ministack: str, table_name: str) -> AsyncIterator[OldTable]:
    async with an_old_table(ministack, f"{table_name}-old") as made:
        yield made


@pytest.fixture
def store(ministack: str, table_name: str) -> dict[str, str]:
    """What the shell's environment says of our table."""
    kept = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    return {
        "BROKER_ENV": "development",
        "BROKER_TENANT": "acme",
        "AWS_REGION": "us-east-1",
        "DDB_ENDPOINT_URL": ministack,
        "DDB_TABLE_NAME": table_name,
        "STORE_TIMEOUT_SEC": "20",
        "PYTHONWARNINGS": "",
        **kept,
    }


async def brought(old: OldTable, store: dict[str, str], *options: str) -> Done:
    return await Shell("http://127.0.0.1:1").run("import", old.name, *(options or ("--yes",)), **store)


async def in_many_states(old: OldTable) -> None:
    await old.sandbox(1)
    await old.sandbox(2, "allocated", allocated_to_track="student-2", allocated_at=BEGAN, track_id="lab-101")
    await old.sandbox(3, "pending_deletion", allocated_to_track="student-3", deletion_requested_at=BEGAN)
    await old.sandbox(4, "deletion_failed", deletion_retry_count=3, deletion_error="HTTP 500")
    await old.sandbox(5, "stale")


async def test_every_state_comes_over_and_students_keep_what_they_hold(
    api: Api, core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    await in_many_states(old)
    before = await old.items()

    done = await brought(old, store)
    replayed = await api.allocate("student-2")
    again = await api.release("2009003", "student-3")
    released = await api.release("2009002", "student-2")
    newcomer = await api.allocate("student-9")

    assert (done.code, done.out.splitlines()[-1]) == (0, "import: 5 brought."), done.err
    assert (replayed.status_code, replayed.json()["sandbox_id"]) == (200, "2009002")
    assert replayed.json()["expires_at"] == BEGAN + 4 * 3600
    assert (again.status_code, again.json()["released_at"]) == (200, BEGAN)
    assert released.status_code == 200
    assert newcomer.json()["sandbox_id"] == "2009001"
    failed = await core.sandboxes.get("acme", "2009004")
    assert failed is not None
    assert (failed.state, failed.attempt, failed.last_error) == (State.DELETION_FAILED, 3, "HTTP 500")
    counts = await audit(core)
    assert counts == {"allocated": 1, "pending_deletion": 2, "deletion_failed": 1, "stale": 1}
    assert await old.items() == before
    events = (await api.admin("/events", sandbox="2009004")).json()["events"]
    assert [(e["actor"], e["after"], e.get("before")) for e in events] == [("import", "deletion_failed", None)]


async def test_a_dry_run_shows_what_would_come_and_why_the_rest_would_not_and_brings_nothing(
    core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    await in_many_states(old)
    await rubbish(old)
    await fill(core, 1)

    done = await brought(old, store, "--dry-run", "--yes")
    left = [item for item in await items_of(core) if item["pk"]["S"].startswith(("SBX#", "CLM#"))]

    assert ["available", "1", "1", "0"] in done.rows
    assert ["allocated", "1", "0", "1"] in done.rows
    assert "status 'melted' is unknown" in done.out
    assert "SBX#2009050" in done.out
    assert "no external id" in done.out
    assert done.code == 1  # something would stay behind
    assert len(left) == 1


async def rubbish(old: OldTable) -> None:
    """What a table collects over the years."""
    await old.sandbox(50, "melted")
    await old.sandbox(51, external_id=None)
    await old.sandbox(52, name="")
    await old.sandbox(53, sandbox_id="two words")
    await old.sandbox(54, status=None)
    await old.put("SBX#", name="no id", external_id="x", status="available")
    await old.put("LOCK#sync", "META", owner="worker-1")
    await old.put("SBX#2009001", "HISTORY#1", status="available")


async def test_rubbish_is_told_by_reason_and_what_is_good_comes_all_the_same(
    core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    await rubbish(old)
    await old.sandbox(1)
    await old.sandbox(2, "allocated", allocated_to_track="two words", allocated_at="yesterday")
    await old.sandbox(3, "allocated", allocated_to_track="student-3", allocated_at=f"{BEGAN}000")
    await old.sandbox(4, external_id=f"identity/accounts/{1:032x}")  # the account of another sandbox

    done = await brought(old, store, "--yes", "--json")
    unknown = await core.sandboxes.get("acme", "2009002")
    known = await core.sandboxes.get("acme", "2009003")

    body = done.json
    assert done.code == 1
    assert body["other_items"] == 2
    account = body["left"].pop("another item has this account")
    assert account["ids"] in (["2009001"], ["2009004"])
    assert {why: len(told["ids"]) for why, told in body["left"].items()} == {
        "status 'melted' is unknown": 1,
        "no external id": 1,
        "no name": 1,
        "no usable sandbox id": 1,
        "no status": 1,
        "no sandbox id": 1,
    }
    assert unknown is not None
    assert unknown.state is State.QUARANTINED
    assert "does not say to whom" in (unknown.reason or "")
    assert known is not None
    assert known.allocated_at == BEGAN


async def test_of_two_that_a_student_held_the_newest_is_replayed_and_the_other_one_can_be_released(
    api: Api, core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    await old.sandbox(1, "allocated", allocated_to_track="student-1", allocated_at=BEGAN)
    await old.sandbox(2, "allocated", allocated_to_track="student-1", allocated_at=BEGAN + 60)
    await old.sandbox(3, "allocated", allocated_to_track="student-1", allocated_at=BEGAN + 30)

    done = await brought(old, store)
    replayed = await api.allocate("student-1")
    other = await api.release("2009001", "student-1")

    assert done.code == 0, done.err
    assert "2 of them are second sandboxes of a student" in done.out
    assert replayed.json()["sandbox_id"] == "2009002"
    assert other.status_code == 200
    assert await audit(core) == {"allocated": 2, "pending_deletion": 1}


async def test_a_student_who_has_one_here_already_keeps_it_and_the_old_one_comes_beside_it(
    api: Api, core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    await api.fill(1)
    held = (await api.allocate("student-1")).json()
    await old.sandbox(7, "allocated", allocated_to_track="student-1", allocated_at=BEGAN)

    done = await brought(old, store)
    replayed = (await api.allocate("student-1")).json()

    assert done.code == 0, done.err
    assert "1 came beside what their students hold here" in done.out
    assert replayed == held
    assert await audit(core) == {"allocated": 2}


async def test_what_is_here_already_is_not_touched_and_what_contradicts_it_is_told(
    api: Api, core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    """A sync was first: it found the account free, and the old broker has a student in it."""
    await api.fill(2)
    await old.sandbox(1, "allocated", allocated_to_track="student-1", allocated_at=BEGAN)
    await old.sandbox(2)
    before = await items_of(core)

    done = await brought(old, store)

    assert done.code == 1
    assert "IN USE at the old broker, and not by the same student here: 2009001" in done.err
    assert "sandbox-broker quarantine 2009001" in done.err
    assert await items_of(core) == before


async def test_of_two_items_with_one_account_the_one_that_a_student_is_in_comes(
    core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    """Many of them: which of two is read first is the table's to say."""
    for number in range(1, 9):
        twin = {"external_id": f"IDENTITY/accounts/{number:032X}"}  # spelled otherwise
        await old.sandbox(number)
        await old.sandbox(20 + number, "allocated", allocated_to_track=f"s-{number}", allocated_at=BEGAN, **twin)

    planned = await brought(old, store, "--dry-run", "--json")
    done = await brought(old, store, "--yes", "--json")

    left = {"another item has this account": {"count": 8, "ids": [str(2_009_000 + n) for n in range(1, 9)]}}
    for told in (planned, done):
        assert (told.code, {why: t | {"ids": sorted(t["ids"])} for why, t in told.json["left"].items()}) == (
            1,
            left,
        )
    assert await audit(core) == {"allocated": 8}


async def test_who_is_in_an_account_that_is_free_here_under_another_id_is_told_of(
    api: Api, old: OldTable, store: dict[str, str]
) -> None:
    await api.fill(2)
    account = f"identity/accounts/{1:032x}"
    await old.sandbox(7, "allocated", allocated_to_track="s-1", allocated_at=BEGAN, external_id=account)
    await old.sandbox(8, "available", external_id=f"identity/accounts/{2:032x}")

    done = await brought(old, store)

    assert done.code == 1
    assert "sandbox-broker quarantine 2009001 --reason" in done.err


async def test_run_again_it_brings_nothing_twice(core: Broker, old: OldTable, store: dict[str, str]) -> None:
    await in_many_states(old)

    first = await brought(old, store)
    items = await items_of(core)
    again = await brought(old, store)

    assert (first.code, again.code) == (0, 0)
    assert again.out.splitlines()[-1] == "import: nothing to do."
    assert await items_of(core) == items


async def test_killed_in_the_middle_and_run_again_beside_students_it_brings_the_rest(
    api: Api, core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    for number in range(1, 61):
        holder = {"allocated_to_track": f"student-{number}", "allocated_at": BEGAN}
        await old.sandbox(number, "allocated" if number % 2 else "available", **(holder if number % 2 else {}))

    killed = await Shell("http://127.0.0.1:1").start("import", old.name, "--yes", "--rate", "20", **store)

    async def some() -> bool:
        return await core.sandboxes.count("acme", State.ALLOCATED) > 3

    await until(some, within_s=60)
    killed.kill()
    await killed.wait()
    midway = await audit(core)
    newcomers = [await api.allocate(f"newcomer-{n}") for n in range(3)]
    done = await brought(old, store)

    assert 0 < midway["allocated"] < 30
    assert done.code == 0, done.err
    assert {a.status_code for a in newcomers} <= {201, 409}
    created = sum(a.status_code == 201 for a in newcomers)
    assert await audit(core) == {"allocated": 30 + created, "available": 30 - created}
    kept = await api.allocate("student-7")
    assert (kept.status_code, kept.json()["sandbox_id"]) == (200, "2009007")


async def test_a_file_names_other_attributes(
    core: Broker, old: OldTable, store: dict[str, str], tmp_path: Path
) -> None:
    await old.sandbox(1, "allocated", student="student-1", since="2026-11-21T10:00:00+00:00", until=1_795_300_000)
    mapping = tmp_path / "names.json"
    mapping.write_text(
        json.dumps({"holder": "student", "allocated_at": ["began", "since"], "expires_at": "until"})
    )

    done = await brought(old, store, "--yes", "--mapping", str(mapping))
    held = await core.sandboxes.get("acme", "2009001")

    assert done.code == 0, done.err
    assert held is not None
    assert (held.holder, held.allocated_at, held.expires_at) == ("student-1", 1_795_255_200, 1_795_300_000)


async def test_what_is_no_table_of_the_old_broker_is_refused(
    core: Broker, old: OldTable, store: dict[str, str], tmp_path: Path
) -> None:
    ours = core.client.table.name
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"owner": "student"}')
    shell = Shell("http://127.0.0.1:1")
    own, missing, reversed_, fact = await asyncio.gather(
        shell.run("import", ours, "--yes", **store),
        shell.run("import", "nowhere", "--yes", **store),
        shell.run("import", old.name, "--yes", **(store | {"DDB_TABLE_NAME": old.name})),
        shell.run("import", old.name, "--yes", "--mapping", str(wrong), **store),
    )

    assert [d.code for d in (own, missing, reversed_, fact)] == [78, 78, 78, 78]
    assert "it is a table of this broker, not of the old one" in own.err
    assert "nowhere" in missing.err
    assert old.name in reversed_.err
    assert "'owner' is none of id, name" in fact.err
    assert await old.items() == []


async def test_it_asks_where_somebody_can_answer_and_a_no_changes_nothing(
    core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    await old.sandbox(1)
    shell = Shell("http://127.0.0.1:1")

    nobody = await shell.run("import", old.name, **store)
    async with shell.on_a_terminal("import", old.name, **store) as terminal:
        await terminal.until(r"Do it\? \[y/N\]")
        terminal.type("n\n")
        code = await terminal.end()

    assert nobody.code == 2
    assert (code, await core.sandboxes.count("acme", State.AVAILABLE)) == (1, 0)


async def test_a_pending_deletion_of_the_old_broker_is_an_allocation_that_its_holder_ended(
    core: Broker, old: OldTable, store: dict[str, str]
) -> None:
    await old.sandbox(1, "pending_deletion", allocated_to_track="student-1", deletion_requested_at=BEGAN)
    await old.sandbox(2, "pending_deletion")

    await brought(old, store)
    first = await core.sandboxes.get("acme", "2009001")
    second = await core.sandboxes.get("acme", "2009002")

    assert first is not None
    assert (first.ended_by, first.ended_at, first.attempt) == (EndedBy.RELEASE, BEGAN, 0)
    assert second is not None
    assert (second.ended_by, second.holder) == (None, None)
    assert {first.next_attempt_at, second.next_attempt_at} != {None}


async def test_the_whole_of_a_table_is_read_page_by_page(old: OldTable) -> None:
    for number in range(1, 24):
        await old.sandbox(number)
    await old.put("LOCK#sync")

    pages = sandboxes_of(old.dynamodb, old.name, items_per_s=1_000_000, page_size=5)
    origins = [origin async for origin in pages]

    assert len({origin.pk for origin in origins if origin is not None}) == 23
    assert origins.count(None) == 1


async def test_what_a_sync_adds_between_the_plan_and_the_import_is_told_if_it_contradicts(
    core: Broker, old: OldTable
) -> None:
    await old.sandbox(1, "allocated", allocated_to_track="student-1", allocated_at=BEGAN)
    await old.sandbox(2)
    importer = Importer(
        old.dynamodb,
        core.sandboxes,
        Adoptions(core.client, core.sandboxes, core.claims),
        tenant="acme",
        cause=TEST_CAUSE,
        items_per_s=1_000_000,
    )

    plan = await importer.plan(old.name, mapping=OLD_ATTRIBUTES, lease_s=3600)
    await fill(core, 2)
    steps = [brought async for brought in importer.bring(plan)]

    assert plan.contradicted == []
    assert [sandbox.id for sandbox in steps[-1].contradicted] == ["2009001"]
    assert steps[-1].outcome == {Adopted.EXISTS: 2}
