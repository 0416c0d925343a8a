"""Keys: distinct facts have distinct keys, whatever a tenant puts into an id."""

import re

from hypothesis import given
from hypothesis import strategies as st

from broker.job import JobState
from broker.sandbox import State
from broker.store import table
from broker.store.job_items import job_from, job_item
from broker.store.table import encode, instant, key, sandbox_from, sandbox_item, shard_of, update_of
from tests.builders import NOW, a_job, a_running_job, a_sandbox, an_allocated_sandbox

parts = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)


@given(st.lists(parts, min_size=1, max_size=4), st.lists(parts, min_size=1, max_size=4))
def test_distinct_tuples_give_distinct_keys(one: list[str], other: list[str]) -> None:
    assert (key(*one) == key(*other)) == (one == other)


@given(parts, parts, st.none() | parts, parts, parts, st.none() | parts)
def test_distinct_claims_give_distinct_keys(
    tenant: str, holder: str, idempotency: str | None, tenant2: str, holder2: str, idempotency2: str | None
) -> None:
    same = (tenant, holder, idempotency) == (tenant2, holder2, idempotency2)

    one, other = table.claim_key(tenant, holder, idempotency), table.claim_key(tenant2, holder2, idempotency2)

    assert (one == other) == same


@given(parts, parts, parts, st.integers(0, 63))
def test_a_track_and_a_sandboxs_history_never_share_a_partition(
    tenant: str, track: str, sandbox_id: str, shard: int
) -> None:
    assert table.track_partition(tenant, track, shard) != table.history_partition(tenant, sandbox_id)


@given(parts, parts, st.sampled_from(State), st.sampled_from(JobState), st.integers(0, 63))
def test_jobs_and_sandboxes_never_share_a_partition(
    tenant: str, other: str, state: State, job_state: JobState, shard: int
) -> None:
    assert table.job_partition(tenant, job_state) != table.status_partition(other, state, shard)


@given(parts, parts, parts, parts)
def test_distinct_jobs_have_distinct_keys(tenant: str, job_id: str, tenant2: str, job_id2: str) -> None:
    same = (tenant, job_id) == (tenant2, job_id2)

    assert (table.job_key(tenant, job_id) == table.job_key(tenant2, job_id2)) == same


@given(st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1))
def test_instants_sort_as_numbers(one: int, other: int) -> None:
    assert (instant(one) < instant(other)) == (one < other)


@given(st.text(min_size=1, max_size=20), st.integers(1, 64))
def test_a_shard_is_stable_and_in_range(identity: str, shards: int) -> None:
    assert shard_of(identity, shards) == shard_of(identity, shards)
    assert 0 <= shard_of(identity, shards) < shards


def test_shards_share_the_load() -> None:
    counts = [0] * 4
    for n in range(4000):
        counts[shard_of(str(2_009_000 + n), 4)] += 1

    assert all(900 < count < 1100 for count in counts)


def test_a_sandbox_survives_its_item() -> None:
    for sandbox in (a_sandbox(), an_allocated_sandbox(track="k8s", claim_key="k", ended_by=None)):
        assert sandbox_from(sandbox_item(sandbox, 4)) == sandbox


def test_a_job_survives_its_item() -> None:
    done = a_running_job(params={"status": "stale"}, reason="why").finish({"removed": 3}, now=NOW + 9)
    for job in (a_job(), a_running_job(total=0), done):
        assert job_from(job_item(job)) == job


def test_a_job_that_only_a_newer_release_knows_is_not_read() -> None:
    for newer in ({"kind": "rebalance"}, {"state": "paused"}, {"priority": "urgent"}):
        assert job_from(job_item(a_job()) | encode(newer)) is None


def test_every_state_of_a_job_sorts_by_what_it_waits_for() -> None:
    sorts = {JobState.QUEUED: NOW + 300, JobState.RUNNING: NOW + 7}
    for state in JobState:
        job = a_job(state=state, started_at=NOW + 7, finished_at=NOW + 9)
        assert table.job_sort_key(job) == f"{instant(sorts.get(state, NOW + 9))}#{job.id}"


def test_an_item_of_a_newer_release_is_read_without_what_it_added() -> None:
    item = sandbox_item(a_sandbox(), 4) | encode({"region": 9}) | {"odd": {"L": []}, "flag": {"BOOL": True}}

    assert sandbox_from(item) == a_sandbox()


def test_an_update_touches_what_changed_and_nothing_else() -> None:
    before = a_sandbox()
    change = update_of(sandbox_item(before, 4), sandbox_item(before.go_stale(now=before.since), 4))

    assert set(change["ExpressionAttributeNames"].values()) == {"state", "version", "gsi1pk", "gsi1sk"}
    assert not re.search("REMOVE", change["UpdateExpression"])


def test_every_state_sorts_by_what_it_waits_for() -> None:
    held = an_allocated_sandbox()
    sorts = {
        State.AVAILABLE: a_sandbox().name,
        State.ALLOCATED: instant(held.expires_at or 0),
        State.PENDING_DELETION: instant(42),
    }
    for state in State:
        sandbox = a_sandbox(state=state, expires_at=held.expires_at, next_attempt_at=42)
        assert table.status_sort_key(sandbox) == sorts.get(state, instant(sandbox.since))
