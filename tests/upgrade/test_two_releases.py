"""K7: the previous release's API beside this one on one table: what one writes, the other reads and ends."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.store import table
from tests.allocation.students import fill
from tests.api.process import ROOT, Process
from tests.api.service import ADMIN, TRACK
from tests.audit import audit, items_of
from tests.conftest import a_broker
from tests.upgrade.releases import an_api

_students = itertools.count(1)


@dataclass(frozen=True)
class Release:
    """The API of one release."""

    process: Process

    def ask(
        self, method: str, path: str, *, student: str = "", body: Any = None, **headers: str
    ) -> httpx.Response:
        sent = (TRACK | {"X-Instruqt-Sandbox-ID": student} if student else ADMIN) | headers
        url = self.process.url + path
        return httpx.request(method, url, headers=sent, json=body, timeout=20, trust_env=False)

    def allocate(self, student: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/v1/allocate", student=student, **named)

    def release(self, held: dict[str, Any], student: str) -> httpx.Response:
        return self.ask("POST", f"/v1/sandboxes/{held['sandbox_id']}/mark-for-deletion", student=student)


@dataclass(frozen=True)
class Two:
    """Both releases on one table, which the previous one took over when it was new."""

    store_url: str
    table_name: str
    old: Release
    new: Release

    def pair(self, order: str) -> tuple[Release, Release]:
        return (self.old, self.new) if order == "old_first" else (self.new, self.old)

    def within(self, what: Any) -> Any:
        """Run something on the table itself."""

        async def run() -> Any:
            async with a_broker(self.store_url, self.table_name) as core:
                return await what(core)

        return asyncio.run(run())


@pytest.fixture(scope="module")
def two(previous: Path, ministack: str) -> Iterator[Two]:
    name = "broker-test-two-releases"

    async def made() -> None:
        async with a_broker(ministack, name):
            pass

    asyncio.run(made())
    with _serving(previous, ministack, name) as old, _serving(ROOT, ministack, name) as new:
        both = Two(ministack, name, Release(old), Release(new))
        both.within(lambda core: fill(core, 80))
        yield both
        both.within(audit)


def _serving(code: Path, url: str, name: str) -> AbstractContextManager[Process]:
    return an_api(code, url, name, RATE_LIMIT_PER_STUDENT="1000000/second")


@pytest.fixture
def student() -> str:
    return f"student-{next(_students)}"


ORDERS = pytest.mark.parametrize("order", ["old_first", "new_first"])
FACTS = ("sandbox_id", "name", "external_id", "allocated_at", "expires_at")


def facts(answer: httpx.Response) -> list[Any]:
    return [answer.json()[name] for name in FACTS]


@ORDERS
def test_what_one_release_allocated_the_other_replays_shows_and_releases(
    two: Two, student: str, order: str
) -> None:
    first, second = two.pair(order)

    held = first.allocate(student)
    replayed = second.allocate(student)
    seen = second.ask("GET", f"/v1/sandboxes/{held.json()['sandbox_id']}", student=student)
    released = second.release(held.json(), student)
    again = first.release(held.json(), student)
    anew = first.allocate(student)

    assert [a.status_code for a in (held, replayed, seen, released, again, anew)] == [201, 200, 200, 200, 200, 201]
    assert facts(held) == facts(replayed)
    assert seen.json()["status"] == "allocated"
    assert released.json() == again.json()
    assert anew.json()["sandbox_id"] != held.json()["sandbox_id"]


@ORDERS
def test_a_claim_by_key_means_the_same_to_both(two: Two, student: str, order: str) -> None:
    first, second = two.pair(order)

    held = first.allocate(student, Idempotency_Key="k1", X_Sandbox_Name_Prefix="lab")
    replayed = second.allocate(student, Idempotency_Key="k1", X_Sandbox_Name_Prefix="lab")
    other_wish = second.allocate(student, Idempotency_Key="k1", X_Sandbox_Name_Prefix="lab-a")
    second.release(held.json(), student)
    late = first.allocate(student, Idempotency_Key="k1", X_Sandbox_Name_Prefix="lab")

    assert [a.status_code for a in (held, replayed, other_wish, late)] == [201, 200, 409, 410]
    assert facts(held) == facts(replayed)
    assert late.json()["error"]["code"] == "ALLOCATION_ENDED"


def test_an_allocation_of_the_older_release_can_be_extended_and_the_older_one_tells_the_new_end(
    two: Two, student: str
) -> None:
    held = two.old.allocate(student).json()

    path, named = f"/v1/sandboxes/{held['sandbox_id']}", {"generation": held.get("generation")}
    extended = two.new.ask("POST", f"{path}/extend", student=student, body=named | {"for_s": 18_000})
    beaten = two.new.ask("POST", f"{path}/heartbeat", student=student, body=named)
    replayed = two.old.allocate(student)

    assert (extended.status_code, beaten.status_code) == (200, 200)
    assert extended.json()["expires_at"] > held["expires_at"]
    assert replayed.json()["expires_at"] == extended.json()["expires_at"]


def test_what_the_older_release_does_not_know_survives_what_it_does(two: Two, student: str) -> None:
    """It extends, moves and ends by UpdateItem: the generation and the sign of life are this release's."""
    held = two.new.allocate(student).json()
    path = f"/v1/sandboxes/{held['sandbox_id']}"
    two.new.ask("POST", f"{path}/heartbeat", student=student, body={"generation": held["generation"]})

    released = two.old.release(held, student)
    moved = two.within(lambda core: core.sandboxes.get("acme", held["sandbox_id"]))

    assert released.status_code == 200
    assert moved.state == "pending_deletion"
    assert moved.generation == held["generation"]
    assert moved.heartbeat_at is not None


@ORDERS
def test_an_operator_s_word_at_one_release_is_heard_by_the_other(two: Two, order: str) -> None:
    first, second = two.pair(order)
    why = {"reason": "INC-4711"}

    drained = first.ask("POST", "/v1/admin/mode", body={"mode": "drained", **why})
    heard = _until_allocate_says(second, 503)
    opened = second.ask("POST", "/v1/admin/mode", body={"mode": "open", **why})
    served = _until_allocate_says(first, 201)
    id_ = second.ask("GET", "/v1/admin/sandboxes?status=available&limit=1").json()["sandboxes"][0]["sandbox_id"]
    apart = first.ask("POST", f"/v1/admin/sandboxes/{id_}/quarantine", body=why)
    back = second.ask("POST", f"/v1/admin/sandboxes/{id_}/reinstate", body=why)

    assert (drained.status_code, opened.status_code) == (200, 200)
    assert heard.json()["error"]["code"] == "BROKER_DRAINED"
    assert served.status_code == 201
    assert (apart.status_code, back.json()["status"]) == (200, "available")


def _until_allocate_says(release: Release, status: int) -> httpx.Response:
    """A mode is in force everywhere after about two seconds; until then somebody may still be served."""
    for _ in range(100):
        answer = release.allocate(f"newcomer-{next(_students)}")
        if answer.status_code == status:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"never {status}: {answer.text}")


@ORDERS
def test_a_job_that_one_release_queues_the_other_shows_and_cancels(two: Two, order: str) -> None:
    first, second = two.pair(order)

    queued = first.ask("POST", "/v1/admin/sync?wait=0").json()["job_id"]
    seen = second.ask("GET", f"/v1/admin/jobs/{queued}")
    cancelled = second.ask("POST", f"/v1/admin/jobs/{queued}/cancel")
    after = first.ask("GET", f"/v1/admin/jobs/{queued}")

    assert seen.json()["state"] == "queued"
    assert cancelled.status_code == 200
    assert after.json()["state"] == "cancelled"


def test_the_audit_log_tells_what_the_older_release_did(two: Two, student: str) -> None:
    held = two.old.allocate(student).json()
    two.old.release(held, student)

    events = two.new.ask("GET", f"/v1/admin/events?sandbox={held['sandbox_id']}").json()["events"]
    modes = two.new.ask("GET", "/v1/admin/events?limit=200")

    assert [event["after"] for event in events][:2] == ["pending_deletion", "allocated"]  # the newest come first
    assert modes.status_code == 200


def test_the_tenant_that_the_older_release_made_is_listed_and_can_be_limited(two: Two) -> None:
    listed = two.new.ask("GET", "/v1/admin/tenants").json()["tenants"]

    assert [tenant["name"] for tenant in listed] == ["acme"]


def test_items_carry_their_schema_version(two: Two, student: str) -> None:
    two.new.allocate(student)
    two.old.allocate(student, Idempotency_Key="k2")

    items = two.within(items_of)

    assert {item["pk"]["S"].partition("#")[0] for item in items} >= {"SBX", "OWN", "CLM", "EVT", "TEN", "META"}
    assert {table.decode(item).get("v") for item in items} == {table.ITEM_VERSION}
