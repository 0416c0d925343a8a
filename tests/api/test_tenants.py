"""B1: two tenants on one table, with equal sandbox ids, students, tracks and keys."""

from collections.abc import AsyncIterator

import pytest

from broker.sandbox import State
from tests.api.service import ADMIN, Api, an_api, refusal

FOREIGN = "identity/accounts/foreign-{}"


@pytest.fixture
async def acme(ministack: str, table_name: str) -> AsyncIterator[Api]:
    async with an_api(ministack, table_name) as api:
        yield api


@pytest.fixture
async def umbrella(ministack: str, table_name: str) -> AsyncIterator[Api]:
    """Another tenant's process on the same table, with the same tokens."""
    async with an_api(ministack, table_name, BROKER_TENANT="umbrella") as api:
        yield api


async def fill(acme: Api, umbrella: Api, count: int) -> None:
    """Equal sandbox ids and names; the provider accounts differ, as an account has one owner."""
    await acme.fill(count)
    for number in range(1, count + 1):
        await umbrella.fill(1, first=number, external_id=FOREIGN.format(number))


async def test_equal_ids_students_and_keys_are_two_allocations(acme: Api, umbrella: Api) -> None:
    await fill(acme, umbrella, 1)

    for keyed in ({}, {"Idempotency_Key": "k"}):
        ours = await acme.allocate("student-1", **keyed)
        theirs = await umbrella.allocate("student-1", **keyed)
        if not keyed:
            assert [ours.status_code, theirs.status_code] == [201, 201]
            assert ours.json()["sandbox_id"] == theirs.json()["sandbox_id"]
            assert ours.json()["external_id"] != theirs.json()["external_id"]
        else:
            assert refusal(ours) == refusal(theirs) == (409, "NO_SANDBOXES_AVAILABLE")


async def test_an_equal_key_of_another_tenant_neither_replays_nor_blocks(acme: Api, umbrella: Api) -> None:
    await fill(acme, umbrella, 1)
    ours = await acme.allocate("student-1", Idempotency_Key="k", X_Instruqt_Track_ID="a")
    theirs = await umbrella.allocate("student-1", Idempotency_Key="k", X_Instruqt_Track_ID="b")
    assert [ours.status_code, theirs.status_code] == [201, 201]
    assert ours.json()["external_id"] != theirs.json()["external_id"]


async def test_what_another_tenant_holds_is_404_and_stays_held(acme: Api, umbrella: Api) -> None:
    await acme.fill(1)
    held = (await acme.allocate("student-1")).json()["sandbox_id"]

    assert refusal(await umbrella.release(held, "student-1")) == (404, "SANDBOX_NOT_FOUND")
    assert refusal(await umbrella.view(held, "student-1")) == (404, "SANDBOX_NOT_FOUND")

    stored = await acme.core.sandboxes.get("acme", held)
    assert stored is not None
    assert stored.state is State.ALLOCATED


async def test_a_release_of_one_tenant_leaves_the_others_equal_id_alone(acme: Api, umbrella: Api) -> None:
    await fill(acme, umbrella, 1)
    held = (await acme.allocate("student-1")).json()["sandbox_id"]
    assert (await umbrella.allocate("student-1")).json()["sandbox_id"] == held

    assert (await acme.release(held, "student-1")).status_code == 200

    theirs = (await umbrella.view(held, "student-1")).json()
    assert theirs["status"] == "allocated"
    assert (await umbrella.allocate("student-1")).status_code == 200, "the claim is still theirs"


async def test_another_tenants_empty_pool_is_empty(acme: Api, umbrella: Api) -> None:
    await acme.fill(3)
    assert refusal(await umbrella.allocate("student-1")) == (409, "NO_SANDBOXES_AVAILABLE")
    assert (await acme.admin("/stats")).json()["available"] == 3


async def test_lists_and_counts_hold_nothing_of_another_tenant(acme: Api, umbrella: Api) -> None:
    await acme.fill(3)
    await umbrella.fill(1, external_id=FOREIGN.format(1))
    await acme.allocate("student-1", X_Instruqt_Track_ID="lab")
    await umbrella.allocate("student-1", X_Instruqt_Track_ID="lab")

    for query in ({}, {"status": "allocated"}, {"track": "lab"}, {"track": "lab", "status": "allocated"}):
        rows = (await umbrella.admin("/sandboxes", **query)).json()["sandboxes"]
        assert [row["external_id"] for row in rows] == [FOREIGN.format(1)], query
    counts = (await umbrella.admin("/stats")).json()
    assert (counts["total"], counts["allocated"], counts["available"]) == (1, 1, 0)
    assert (await acme.admin("/stats")).json()["total"] == 3


async def test_a_cursor_of_another_tenant_is_refused(acme: Api, umbrella: Api) -> None:
    await fill(acme, umbrella, 3)
    cursor = (await acme.admin("/sandboxes", limit=1)).json()["cursor"]
    assert (await acme.admin("/sandboxes", limit=1, cursor=cursor)).status_code == 200
    assert refusal(await umbrella.admin("/sandboxes", limit=1, cursor=cursor)) == (400, "INVALID_CURSOR")


async def test_another_tenants_job_is_404_in_no_list_and_goes_on(acme: Api, umbrella: Api) -> None:
    asked = await acme.http.post("/v1/admin/sync", headers=ADMIN, params={"wait": 0})
    job = f"/v1/admin/jobs/{asked.json()['job_id']}"

    answers = [await umbrella.http.get(job, headers=ADMIN)]
    answers += [await umbrella.http.post(f"{job}/{do}", headers=ADMIN) for do in ("cancel", "requeue")]

    assert {refusal(answer) for answer in answers} == {(404, "JOB_NOT_FOUND")}
    assert (await umbrella.admin("/jobs")).json()["jobs"] == []
    assert (await acme.http.get(job, headers=ADMIN)).json()["state"] == "queued"
    theirs = await umbrella.http.post("/v1/admin/sync", headers=ADMIN, params={"wait": 0})
    assert theirs.json()["job_id"] != asked.json()["job_id"], "nobody joins another tenant's"


async def test_bulk_moves_and_dead_letters_see_nothing_of_another_tenant(acme: Api, umbrella: Api) -> None:
    await acme.fill(2, state=State.STALE)
    await acme.fill(1, first=9, state=State.DELETION_FAILED)
    stale = {"status": "stale", "dry_run": True}

    theirs = await umbrella.http.post("/v1/admin/bulk-delete", headers=ADMIN, params=stale)
    ours = await acme.http.post("/v1/admin/bulk-delete", headers=ADMIN, params=stale)
    by_id = {"reason": "a test", "ids": ["2009001"]}
    named = await umbrella.http.post(
        "/v1/admin/bulk/quarantine", headers=ADMIN, json=by_id, params={"dry_run": True}
    )

    assert (theirs.json()["total"], ours.json()["total"]) == (0, 2)
    assert named.json()["left_alone"] == {"not_found": 1}
    assert (await umbrella.admin("/dead-letters")).json()["sandboxes"]["total"] == 0
    assert (await acme.admin("/dead-letters")).json()["sandboxes"]["total"] == 1


async def test_a_jobs_cursor_of_another_tenant_is_refused(acme: Api, umbrella: Api) -> None:
    for _ in range(2):
        await acme.http.post("/v1/admin/bulk-delete", headers=ADMIN, params={"status": "stale", "wait": 0})
    cursor = (await acme.admin("/jobs", limit=1)).json()["cursor"]

    assert refusal(await umbrella.admin("/jobs", limit=1, cursor=cursor)) == (400, "INVALID_CURSOR")


async def test_the_tenant_comes_from_the_credential_and_from_no_header(acme: Api) -> None:
    await acme.fill(1)
    answer = await acme.allocate("student-1", X_Tenant="umbrella", X_Tenant_ID="umbrella", Tenant="umbrella")
    assert answer.status_code == 201
    assert await acme.core.sandboxes.get("umbrella", answer.json()["sandbox_id"]) is None


@pytest.mark.parametrize("pair", [("acme", "acme.b"), ("a:b", "a"), ("acme", "ACME"), ("a", "a-")])
async def test_tenants_whose_names_resemble_each_other_stay_apart(
    ministack: str, table_name: str, pair: tuple[str, str]
) -> None:
    async with (
        an_api(ministack, table_name, BROKER_TENANT=pair[0]) as one,
        an_api(ministack, table_name, BROKER_TENANT=pair[1]) as other,
    ):
        await one.fill(2)
        assert (await other.admin("/sandboxes")).json()["sandboxes"] == []
        assert (await other.admin("/stats")).json()["total"] == 0
