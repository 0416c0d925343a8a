"""C4, C5: which sandboxes a bulk move is about, and what its dry run says of them."""

from typing import Any

import pytest

from broker.job import Kind
from broker.sandbox import State
from broker.selection import SAMPLE, SOURCES, Selection, Selector
from broker.wiring import Broker
from tests.builders import NOW, TEST_CAUSE, a_sandbox, an_allocated_sandbox

BULK = {kind for kind in Kind if kind.value.startswith("bulk_")}


async def add(broker: Broker, number: int, **changes: Any) -> str:
    build = an_allocated_sandbox if changes.get("state") is State.ALLOCATED else a_sandbox
    sandbox = build(number=number, **changes)
    await broker.sandboxes.add(sandbox, TEST_CAUSE, now=NOW)
    return sandbox.id


async def picked(broker: Broker, kind: Kind, tenant: str = "acme", **params: str) -> list[str]:
    selector = Selector(broker.sandboxes, broker.tenants)
    selection = Selection.of(kind, params)
    ids = sorted([sandbox_id async for sandbox_id in selector.ids(tenant, selection)])
    preview = await selector.preview(tenant, selection)
    if not params.get("ids"):
        assert (preview.total, preview.sample, preview.left_alone) == (len(ids), ids[:SAMPLE], {})
    return ids


def test_every_bulk_move_says_where_it_starts() -> None:
    assert set(SOURCES) == BULK


@pytest.mark.parametrize("kind", sorted(BULK))
async def test_without_more_words_it_is_about_every_sandbox_that_the_move_starts_from(
    broker: Broker, kind: Kind
) -> None:
    ids = {state: await add(broker, number, state=state) for number, state in enumerate(State, 1)}
    await add(broker, 50, state=SOURCES[kind][0], tenant="rival")

    assert await picked(broker, kind) == sorted(ids[state] for state in SOURCES[kind])


async def test_a_status_narrows_it(broker: Broker) -> None:
    stale = await add(broker, 1, state=State.STALE)
    failed = await add(broker, 2, state=State.DELETION_FAILED)

    assert await picked(broker, Kind.BULK_DELETE, status="stale") == [stale]
    assert await picked(broker, Kind.BULK_DELETE, status="deletion_failed") == [failed]


@pytest.mark.parametrize(
    ("kind", "state"), [(Kind.BULK_QUARANTINE, State.AVAILABLE), (Kind.BULK_RETRY, State.DELETION_FAILED)]
)
async def test_a_prefix_is_the_beginning_of_a_name(broker: Broker, kind: Kind, state: State) -> None:
    lab = await add(broker, 1, state=state, name="lab-1")
    for number, name in ((2, "la"), (3, "LAB-1"), (4, "x-lab-1")):
        await add(broker, number, state=state, name=name)

    assert await picked(broker, kind, prefix="lab-") == [lab]


async def test_a_track_is_a_lab_and_a_prefix_narrows_it(broker: Broker) -> None:
    ours = [await add(broker, n, state=State.ALLOCATED, track="k8s", name=f"lab-{n}") for n in (1, 2)]
    await add(broker, 3, state=State.ALLOCATED, track="git")
    await add(broker, 4, state=State.DELETED, track="k8s")

    assert await picked(broker, Kind.BULK_FORCE_RELEASE, track="k8s") == ours
    assert await picked(broker, Kind.BULK_FORCE_RELEASE, track="k8s", prefix="lab-2") == ours[1:]
    assert await picked(broker, Kind.BULK_FORCE_RELEASE, "rival", track="k8s") == []


async def test_given_ids_are_taken_as_they_are_and_a_dry_run_says_which_would_be_left_alone(
    broker: Broker,
) -> None:
    free = await add(broker, 1)
    held = await add(broker, 2, state=State.ALLOCATED)
    foreign = await add(broker, 3, tenant="rival")
    ids = f"{held} {free} unknown {foreign} {free}"

    preview = await Selector(broker.sandboxes, broker.tenants).preview(
        "acme", Selection.of(Kind.BULK_QUARANTINE, {"ids": ids})
    )

    assert await picked(broker, Kind.BULK_QUARANTINE, ids=ids) == sorted(ids.split())
    assert (preview.total, preview.sample) == (1, [free])
    assert preview.left_alone == {"allocated": 1, "not_found": 2}


@pytest.mark.parametrize("count", [SAMPLE, SAMPLE + 1])
async def test_a_dry_run_counts_all_and_shows_up_to_twenty(broker: Broker, count: int) -> None:
    ids = sorted([await add(broker, number) for number in range(1, count + 1)])

    preview = await Selector(broker.sandboxes, broker.tenants).preview(
        "acme", Selection.of(Kind.BULK_QUARANTINE, {})
    )

    assert (preview.total, preview.sample) == (count, ids[:20])
