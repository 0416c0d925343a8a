"""B7: every mutation leaves who made it, of what, before -> after, in which request and when: exactly once."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from app.schemas_events import EventOut
from broker.job import JobState
from broker.key import Key
from broker.role import Role
from broker.sandbox import State
from broker.store import table
from broker.store.event_log import Event, event_from
from tests.api.keys import a_tenant
from tests.api.service import ADMIN, TRACK, Api
from tests.api.test_jobs import a_worker, put_jobs
from tests.api.test_roles import routes_of
from tests.audit import items_of
from tests.builders import TEST_CAUSE, a_job, a_running_job, a_sandbox

ID = a_sandbox().id
KEY = "aaaabbbbcccc"
JOB = a_job().id
STUDENT = TRACK | {"X-Instruqt-Sandbox-ID": "student-1", "X-Instruqt-Track-ID": "lab-101"}
WHY = "INC-4711: odd network"
REQUEST = "req-4711"

Prepare = Callable[[Api], Awaitable[None]]


def sandboxes(state: State) -> Prepare:
    async def prepare(api: Api) -> None:
        await api.fill(1, state=state)

    return prepare


async def allocated(api: Api) -> None:
    await api.fill(1)
    await api.allocate("student-1", X_Instruqt_Track_ID="lab-101")


async def allocated_before(api: Api) -> None:
    """Before there were generations: then none needs to be named."""
    await allocated(api)
    await api.core.client.call(
        "update_item",
        TableName=api.core.client.table.name,
        Key=table.sandbox_key("acme", ID),
        UpdateExpression="REMOVE generation",
    )


async def a_live_key(api: Api) -> None:
    facts = {"tenant": "acme", "role": Role.TRACK, "name": "scripts", "pepper": "x", "digest": "y"}
    key = Key(id=KEY, created_by="ada", created_at=int(time.time()), version=1, **facts)
    await api.core.keys.create(key, TEST_CAUSE, now=time.time())


async def a_second_tenant(api: Api) -> None:
    await a_tenant(api, "north")


async def a_second_tenant_drained(api: Api) -> None:
    await a_second_tenant(api)
    await api.http.post("/v1/admin/tenants/north/drain", headers=ADMIN, json={"reason": "before"})


def a_job_that_is(state: JobState) -> Prepare:
    async def prepare(api: Api) -> None:
        make = a_job if state is JobState.QUEUED else a_running_job
        await put_jobs(api, make(state=state))

    return prepare


async def nothing(_: Api) -> None:
    """There is nothing to prepare."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A call that changes something, and what its event says. `again`: so many more events when it is repeated."""

    prepare: Prepare = nothing
    headers: dict[str, str] = field(default_factory=lambda: ADMIN)
    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] | None = field(default_factory=lambda: {"reason": WHY})
    actor: str = "bootstrap-admin"
    action: str
    sandbox_id: str | None = None
    subject: str | None = None  # of the answer's facts
    tenant: str = "acme"  # whose event it is
    before: Any
    after: Any
    reason: str | None = WHY
    holder: str | None = None
    track: str | None = None
    longer_s: int | None = None  # so much later ends the allocation than it was to
    again: int = 0


def moved(action: str, before: State, after: State) -> Mutation:
    prepare = allocated if before is State.ALLOCATED else sandboxes(before)
    held = {"holder": "student-1", "track": "lab-101"} if before is State.ALLOCATED else {}
    return Mutation(
        prepare=prepare, path={"sandbox_id": ID}, action=action, sandbox_id=ID, before=before, after=after, **held
    )


def asked(kind: str, params: dict[str, str] | None = None, **more: Any) -> Mutation:
    after = {"state": "queued", "kind": kind, "params": params or {}}
    query = {"wait": "0"} | more.pop("query", {})
    return Mutation(action="request_job", subject="job:{job_id}", before=None, after=after, query=query, **more)


def of_a_job(action: str, state: JobState, after: dict[str, Any]) -> Mutation:
    told = {"kind": "sync", "params": {}} | after
    before = {"state": state}
    return Mutation(
        prepare=a_job_that_is(state), path={"job_id": JOB}, action=action, subject="job:{job_id}",
        before=before, after=told,
    )  # fmt: skip


BY_STUDENT: dict[str, Any] = {
    "headers": STUDENT, "body": None, "reason": None, "actor": "bootstrap-track",
    "sandbox_id": ID, "holder": "student-1", "track": "lab-101",
}  # fmt: skip
MANY = {"reason": WHY, "ids": [ID, "2009002"]}
MUTATIONS: dict[tuple[str, str], list[Mutation]] = {
    ("POST", "/v1/allocate"): [
        Mutation(
            prepare=sandboxes(State.AVAILABLE), action="allocate",
            before="available", after="allocated", **BY_STUDENT,
        )
    ],
    ("POST", "/v1/sandboxes/{sandbox_id}/mark-for-deletion"): [
        Mutation(
            prepare=allocated, path={"sandbox_id": ID}, action="release",
            before="allocated", after="pending_deletion", **BY_STUDENT,
        )
    ],
    ("POST", "/v1/admin/sync"): [
        asked("sync"), asked("sync", {"confirm": "true"}, body={"reason": WHY, "confirm": True}),
    ],
    ("POST", "/v1/admin/cleanup"): [asked("cleanup")],
    ("POST", "/v1/admin/bulk-delete"): [
        asked("bulk_delete", {"status": "stale"}, query={"status": "stale"}, again=1)
    ],
    ("POST", "/v1/admin/bulk/{move}"): [
        asked(f"bulk_{move.replace('-', '_')}", {"ids": "2 ids"}, path={"move": move}, body=MANY, again=1)
        for move in ("retry", "quarantine", "force-release")
    ],
    ("POST", "/v1/admin/jobs/{job_id}/cancel"): [
        of_a_job("cancel_job", JobState.QUEUED, {"state": "cancelled", "cancel_requested_by": "bootstrap-admin"}),
        of_a_job("cancel_job", JobState.RUNNING, {"state": "running", "cancel_requested_by": "bootstrap-admin"}),
    ],
    ("POST", "/v1/admin/jobs/{job_id}/requeue"): [
        of_a_job("requeue_job", state, {"state": "queued"})
        for state in (JobState.DEAD, JobState.CANCELLED, JobState.TIMED_OUT)
    ],
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/quarantine"): [
        moved("quarantine", State.AVAILABLE, State.QUARANTINED)
    ],
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/reinstate"): [
        moved("reinstate", State.QUARANTINED, State.AVAILABLE)
    ],
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/discard"): [
        moved("discard", State.QUARANTINED, State.PENDING_DELETION)
    ],
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/force-release"): [
        moved("force_release", State.ALLOCATED, State.PENDING_DELETION)
    ],
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/retry"): [
        moved("retry", State.DELETION_FAILED, State.PENDING_DELETION)
    ],
    ("POST", "/v1/admin/sandboxes/{sandbox_id}/abandon"): [
        moved("abandon", State.DELETION_FAILED, State.DELETED)
    ],
    ("POST", "/v1/admin/mode"): [
        Mutation(
            action="set_mode", subject="mode", body={"reason": WHY, "mode": "drained"},
            before={"mode": "open"}, after={"mode": "drained"},
        )
    ],
    ("POST", "/v1/sandboxes/{sandbox_id}/extend"): [
        Mutation(
            prepare=allocated_before, path={"sandbox_id": ID}, action="extend",
            before="allocated", after="allocated", longer_s=3 * 3600, again=0,
            **BY_STUDENT | {"body": {"generation": None, "for_s": 7 * 3600}},
        )
    ],
    ("POST", "/v1/admin/keys"): [
        Mutation(
            action="create_key", subject="key:{id}", body={"name": "scripts", "role": "track"}, reason=None,
            before=None, after={"tenant": "acme", "role": "track", "name": "scripts"}, again=1,
        )
    ],
    ("POST", "/v1/admin/keys/{key_id}/revoke"): [
        Mutation(
            prepare=a_live_key, action="revoke_key", subject="key:{id}", path={"key_id": KEY},
            before={"revoked_at": None, "revoked_reason": None}, after={"revoked_at": ANY, "revoked_reason": WHY},
        )
    ],
    ("POST", "/v1/admin/tenants"): [
        Mutation(
            action="create_tenant", subject="tenant", tenant="north",
            body={"reason": WHY, "name": "north", "max_live": 3},
            before=None, after={"max_live": 3, "prefixes": [], "drained": {}},
        )
    ],
    ("PATCH", "/v1/admin/tenants/{tenant}"): [
        Mutation(
            action="change_tenant", subject="tenant", path={"tenant": "acme"}, body={"reason": WHY, "lease_s": 60},
            before={"lease_s": None}, after={"lease_s": 60},
        )
    ],
    ("POST", "/v1/admin/tenants/{tenant}/drain"): [
        Mutation(
            prepare=a_second_tenant, action="drain_tenant", subject="tenant", tenant="north",
            path={"tenant": "north"},
            before={"drained": {}, "drained_by_platform": None},
            after={"drained": {"": WHY}, "drained_by_platform": True},
        )
    ],
    ("POST", "/v1/admin/tenants/{tenant}/resume"): [
        Mutation(
            prepare=a_second_tenant_drained, action="resume_tenant", subject="tenant", tenant="north",
            path={"tenant": "north"},
            before={"drained": {"": "before"}, "drained_by_platform": True},
            after={"drained": {}, "drained_by_platform": None},
        )
    ],
    ("POST", "/v1/admin/pools"): [
        Mutation(
            action="drain_pool", subject="tenant", body={"reason": WHY, "prefix": "lab-", "state": "drained"},
            before={"drained": {}}, after={"drained": {"lab-": WHY}},
        )
    ],
}  # fmt: skip
"""By route. A new route that changes something needs an entry here, and with it an event."""
OTHERWISE = {
    ("POST", "/v1/sandboxes/{sandbox_id}/heartbeat"),  # a sign of life changes nothing that anyone asks for later
    ("POST", "/v1/admin/keys/{key_id}/rotate"),  # two keys, two events: below
}
CASES = [
    pytest.param(method, path, mutation, id=f"{path}-{number}")
    for (method, path), mutations in MUTATIONS.items()
    for number, mutation in enumerate(mutations)
]


async def call(api: Api, method: str, path: str, mutation: Mutation) -> httpx.Response:
    headers = mutation.headers | {"X-Request-ID": REQUEST}
    concrete = path.format(**mutation.path)
    return await api.http.request(method, concrete, headers=headers, params=mutation.query, json=mutation.body)


async def caused(api: Api) -> list[dict[str, Any]]:
    """What the route tells of the request."""
    since = int(time.time()) - 60
    answer = await api.admin("/events", request=REQUEST, since=since, until=since + 3600)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["events"]
    return rows


async def written(api: Api) -> list[tuple[str, Event]]:
    """What the table holds of it, by no query of ours: with its tenant."""
    items = [item for item in await items_of(api.core) if item["pk"]["S"].startswith("EVT#")]
    events = [(str(item["tenant"]["S"]), event_from(item)) for item in items]
    return [(tenant, event) for tenant, event in events if event.request_id == REQUEST]


async def test_every_route_that_changes_something_has_an_entry_in_this_table(api: Api) -> None:
    reads = {"GET", "HEAD", "OPTIONS"}
    writes = {route for route in routes_of(api.app) if route[0] not in reads}
    assert writes - OTHERWISE == set(MUTATIONS)
    assert writes >= OTHERWISE


@pytest.mark.parametrize(("method", "path", "mutation"), CASES)
async def test_each_mutation_leaves_exactly_its_event(
    api: Api, method: str, path: str, mutation: Mutation
) -> None:
    await mutation.prepare(api)
    began = int(time.time())

    answer = await call(api, method, path, mutation)

    assert answer.status_code in (200, 201, 202), answer.text
    (tenant, event), *others = sorted(await written(api), key=lambda told: told[0] != mutation.tenant)
    assert tenant == mutation.tenant
    assert [told_to for told_to, _ in others] == ["acme"] * (tenant != "acme"), "and to who did it"
    if tenant == "acme":
        names = {event.subject: "scripts"} if event.subject and event.subject.startswith("key:") else {}
        assert await caused(api) == [EventOut.of(event, names).model_dump()]
    assert began <= event.at <= time.time()
    assert (event.actor, event.action, event.request_id) == (mutation.actor, mutation.action, REQUEST)
    assert (event.before, event.after, event.reason) == (mutation.before, mutation.after, mutation.reason)
    assert (event.holder, event.track) == (mutation.holder, mutation.track)
    subject = mutation.subject and mutation.subject.format(**answer.json())
    assert (event.sandbox_id, event.subject) == (mutation.sandbox_id, subject)
    assert isinstance(event.version, int)
    if mutation.longer_s is None:
        assert event.expires_at_before is None
    else:
        assert event.expires_at is not None
        assert event.expires_at_before is not None
        assert abs(event.expires_at - event.expires_at_before - mutation.longer_s) < 60


@pytest.mark.parametrize(("method", "path", "mutation"), CASES)
async def test_a_repeat_that_changes_nothing_leaves_nothing(
    api: Api, method: str, path: str, mutation: Mutation
) -> None:
    await mutation.prepare(api)

    await call(api, method, path, mutation)
    await call(api, method, path, mutation)

    assert len(await written(api)) == 1 + mutation.again + (mutation.tenant != "acme")


async def test_a_rotation_leaves_one_event_of_each_key(api: Api) -> None:
    await a_live_key(api)

    made = await api.http.post(
        f"/v1/admin/keys/{KEY}/rotate", headers=ADMIN | {"X-Request-ID": REQUEST}, json={"overlap_s": 60}
    )

    new = made.json()["id"]
    told = {event.subject: event for _, event in await written(api)}
    assert set(told) == {f"key:{KEY}", f"key:{new}"}
    assert told[f"key:{KEY}"].after["replaced_by"] == new
    assert told[f"key:{new}"].after["replaces"] == KEY
    assert {(event.actor, event.action) for event in told.values()} == {("bootstrap-admin", "rotate_key")}
    assert made.json()["token"] not in str(told)


async def test_a_heartbeat_leaves_none(api: Api) -> None:
    await api.fill(1)
    held = (await api.allocate("student-1")).json()

    answer = await api.http.post(
        f"/v1/sandboxes/{ID}/heartbeat",
        headers=STUDENT | {"X-Request-ID": REQUEST},
        json={"generation": held["generation"]},
    )

    assert answer.status_code == 200
    assert await written(api) == []


@pytest.mark.parametrize("path", ["/bulk-delete", "/bulk/quarantine"])
async def test_saying_what_would_be_done_is_no_event(api: Api, path: str) -> None:
    await api.fill(1)
    asked = {"dry_run": True} | ({"status": "stale"} if path == "/bulk-delete" else {})
    sent: dict[str, Any] = {"params": asked, "headers": ADMIN | {"X-Request-ID": REQUEST}}

    answer = await api.http.post(f"/v1/admin{path}", json=MANY if "quarantine" in path else None, **sent)

    assert answer.json()["dry_run"] is True
    assert await written(api) == []


async def test_what_is_refused_leaves_nothing(api: Api) -> None:
    await api.fill(1, state=State.STALE)
    await put_jobs(api, a_running_job(state=JobState.DONE))
    refused = 0
    for (method, path), mutations in MUTATIONS.items():
        if "{sandbox_id}" in path or "{job_id}" in path or path.endswith("/allocate"):
            answer = await call(api, method, path, mutations[0])
            refused += answer.status_code in (403, 404, 409)
    assert refused == 11
    assert await written(api) == []


async def test_a_jobs_end_is_an_event_of_the_request_that_asked_for_it(api: Api) -> None:
    async with a_worker(api):
        headers = ADMIN | {"X-Request-ID": REQUEST}
        answer = await api.http.post("/v1/admin/sync", headers=headers, params={"wait": 20})

    assert answer.json()["state"] == "done"
    end, start = await caused(api)
    assert (start["actor"], start["after"]["state"]) == ("bootstrap-admin", "queued")
    assert (end["actor"], end["action"], end["subject"]) == ("worker:jobs", "end_job", start["subject"])
    assert (end["before"]["state"], end["after"]["state"], end["after"]["result"]) == (
        "running", "done", {"added": 3},
    )  # fmt: skip
