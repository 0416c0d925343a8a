"""A provider that lies: ids that swap, double or move. No account is handed out twice, or deleted while held."""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from broker.errors import NoSandboxAvailable
from broker.sandbox import State
from broker.wiring import Broker
from tests.allocation.students import allocate, release
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, a_leader, worker_settings
from worker.duties import Worker
from worker.provider.client import ProviderError
from worker.provider.door import open_provider

A, B = "identity/accounts/aaaa", "identity/accounts/bbbb"


def an_entry(csp_id: Any, external_id: str, **changes: Any) -> dict[str, Any]:
    entry = {"id": external_id, "csp_id": csp_id, "name": f"lab-{csp_id}", "account_type": "sandbox"}
    return entry | {"state": "active"} | changes


class Liar:
    """Lists what it is told to list, at most `cap` entries a page, and notes what it is asked to delete."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.cap = 1000
        self.endless = False
        self.deleted: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.deleted.append(request.url.path.rpartition("/")[2])
            return httpx.Response(204)
        first, limit = int(request.url.params["_offset"]), int(request.url.params["_limit"])
        if self.endless:
            return _json(self.entries[:1] * limit)
        return _json(self.entries[first : first + min(limit, self.cap)])


def _json(results: list[Any]) -> httpx.Response:
    """ASCII JSON, which may hold what UTF-8 cannot."""
    return httpx.Response(200, content=json.dumps({"results": results}).encode())


@pytest.fixture
def liar() -> Liar:
    return Liar()


@asynccontextmanager
async def a_worker_of(liar: Liar, core: Broker, clock: Clock, tenant: str = "acme") -> AsyncIterator[Worker]:
    settings = worker_settings(BROKER_TENANT=tenant, CSP_BASE_URL="http://liar")
    transport = httpx.MockTransport(liar)
    async with open_provider(settings, core.metrics, transport=transport) as door, a_leader(core) as leadership:
        yield Worker(settings, core, door, leadership, clock=clock)


@pytest.fixture
async def worker(liar: Liar, core: Broker, clock: Clock) -> AsyncIterator[Worker]:
    async with a_worker_of(liar, core, clock) as running:
        yield running


@pytest.mark.parametrize("again", [2, "0001"])
async def test_one_account_under_two_ids_is_one_sandbox(
    worker: Worker, core: Broker, liar: Liar, again: int | str
) -> None:
    liar.entries = [an_entry(1, A), an_entry(again, A)]

    outcome = await worker.sync(RUN)
    held = await allocate(core, "student-1")

    assert (outcome["added"], outcome["owned_elsewhere"]) == (1, 1)
    assert held.external_id == A
    with pytest.raises(NoSandboxAvailable):
        await allocate(core, "student-2")


async def test_one_account_under_two_paths_is_one_sandbox(worker: Worker, liar: Liar) -> None:
    """A deletion names the last part alone."""
    liar.entries = [an_entry(1, A), an_entry(2, "elsewhere/aaaa")]

    assert (await worker.sync(RUN))["added"] == 1


async def test_swapped_ids_delete_nothing_under_a_holder(worker: Worker, core: Broker, liar: Liar) -> None:
    liar.entries = [an_entry(1, A), an_entry(2, B)]
    await worker.sync(RUN)
    mine, yours = await allocate(core, "student-1"), await allocate(core, "student-2")
    liar.entries = [an_entry(1, B), an_entry(2, A)]

    outcome = await worker.sync(RUN)
    await release(core, mine.sandbox_id, "student-1")
    await worker.cleaner.sweep(RUN)

    assert outcome["identity_changed"] == 2
    assert liar.deleted == [mine.external_id.rpartition("/")[2]]
    assert (await allocate(core, "student-2")).external_id == yours.external_id


async def test_a_tombstone_whose_account_returned_under_another_id_is_not_deleted_again(
    worker: Worker, core: Broker, liar: Liar, clock: Clock
) -> None:
    liar.entries = [an_entry(1, A)]
    await worker.sync(RUN)
    await release(core, (await allocate(core, "student-1")).sandbox_id, "student-1")
    await worker.cleaner.sweep(RUN)
    liar.entries = [an_entry(1, B), an_entry(9, A)]
    clock.now += 7200

    await worker.sync(RUN)
    await worker.cleaner.sweep(RUN)

    assert liar.deleted == ["aaaa"]


async def test_the_purge_of_a_stale_id_leaves_the_account_to_whom_it_belongs(
    worker: Worker, core: Broker, liar: Liar, clock: Clock
) -> None:
    liar.entries = [an_entry(1, A)]
    await worker.sync(RUN)
    liar.entries = []
    await worker.sync(RUN, confirmed=True)
    clock.now += 25 * 3600
    assert (await worker.purge(RUN))["purged"] == 1
    liar.entries = [an_entry(9, A)]
    await worker.sync(RUN)

    async with a_worker_of(liar, core, clock, tenant="rival") as rival:
        outcome = await rival.sync(RUN)

    assert outcome["owned_elsewhere"] == 1


async def test_no_deletion_goes_out_for_an_account_that_is_another_sandboxs(
    worker: Worker, core: Broker, liar: Liar
) -> None:
    """Whatever led to it: the lease looks at the owner item first, and gives up where an operator sees it."""
    liar.entries = [an_entry(1, A)]
    await worker.sync(RUN)
    held = await allocate(core, "student-1")
    await release(core, held.sandbox_id, "student-1")
    await core.client.call(
        "put_item",
        TableName=core.client.table.name,
        Item={"pk": {"S": "OWN#csp#aaaa"}, "sk": {"S": "-"}, "tenant": {"S": "rival"}, "sandbox_id": {"S": "7"}},
    )

    await worker.cleaner.sweep(RUN)

    row = await core.sandboxes.get("acme", held.sandbox_id)
    assert liar.deleted == []
    assert row is not None
    assert row.state is State.DELETION_FAILED
    assert "PROVIDER_ACCOUNT_OWNED" in (row.last_error or "")


async def test_a_provider_that_caps_the_page_size_makes_nobody_stale(
    worker: Worker, core: Broker, liar: Liar
) -> None:
    liar.entries = [an_entry(n, f"identity/accounts/u{n}") for n in range(1, 31)]
    await worker.sync(RUN)
    liar.cap = 7

    outcome = await worker.sync(RUN)

    assert outcome["unchanged"] == 30
    assert await core.sandboxes.count("acme", State.AVAILABLE) == 30


async def test_a_listing_that_never_ends_is_an_error(worker: Worker, liar: Liar) -> None:
    liar.entries = [{}]
    liar.endless = True

    with pytest.raises(ProviderError, match="ENDLESS_LISTING"):
        await worker.sync(RUN)


@pytest.mark.parametrize("odd", [{"csp_id": "a/b c"}, {"csp_id": " 7"}, {"created_at": "\ud800"}], ids=str)
async def test_one_odd_account_stops_no_sync(
    worker: Worker, core: Broker, liar: Liar, odd: dict[str, Any]
) -> None:
    liar.entries = [an_entry(1, A), an_entry(2, B) | odd, an_entry(3, "identity/accounts/cccc")]

    outcome = await worker.sync(RUN)

    assert outcome["added"] >= 2
    for sandbox in [row async for row in core.sandboxes.walk("acme", State.AVAILABLE)]:
        assert sandbox.id.isdigit()


async def test_an_id_in_another_path_or_spelling_is_the_same_account(
    worker: Worker, core: Broker, liar: Liar
) -> None:
    """Whatever the spelling, a deletion would name the same account; and one such change stops no sync."""
    liar.entries = [an_entry(1, "identity/accounts/aaaa"), an_entry(2, B)]
    await worker.sync(RUN)
    liar.entries = [an_entry(1, "accounts/AAAA"), an_entry(2, B), an_entry(3, "identity/accounts/AaAa")]

    outcome = await worker.sync(RUN)

    assert (outcome["updated"], outcome["owned_elsewhere"], outcome["added"]) == (1, 1, 0)
    assert await core.sandboxes.count("acme", State.AVAILABLE) == 2


async def test_a_field_that_changes_between_two_reads_of_an_entry_is_no_shift(
    worker: Worker, core: Broker, liar: Liar
) -> None:
    liar.entries = [an_entry(n, f"identity/accounts/u{n}") for n in range(1, 11)]
    await worker.sync(RUN)
    liar.entries = liar.entries[3:]
    seen = itertools.count()
    original = Liar.__call__

    class Ticking(Liar):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            self.entries = [entry | {"last_seen_at": next(seen)} for entry in self.entries]
            return original(self, request)

    liar.__class__ = Ticking

    assert (await worker.sync(RUN))["stale"] == 3


async def test_a_listing_that_never_stands_still_is_a_failed_sync(
    worker: Worker, core: Broker, liar: Liar
) -> None:
    """So that the alert for syncs that are overdue tells of it."""
    liar.entries = [an_entry(n, f"identity/accounts/u{n}") for n in range(1, 5)]
    await worker.sync(RUN)
    original = Liar.__call__

    class Shuffling(Liar):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            self.entries = self.entries[::-1]
            return original(self, request)

    liar.__class__ = Shuffling

    with pytest.raises(ProviderError, match="LISTING_SHIFTED"):
        await worker.sync(RUN)


async def test_a_page_of_more_entries_than_were_asked_for_is_refused(worker: Worker, liar: Liar) -> None:
    """Millions of empty objects fit into a body that is not too large."""
    liar.entries = [an_entry(1, A)]

    def crammed(self: Liar, request: httpx.Request) -> httpx.Response:
        return _json([{}] * 2000)

    liar.__class__ = type("Crammed", (Liar,), {"__call__": crammed})

    with pytest.raises(ProviderError, match="WRONG_SHAPE"):
        await worker.sync(RUN)


async def test_a_deletion_that_is_confirmed_again_and_again_and_never_happens_is_unexplained(
    worker: Worker, core: Broker, liar: Liar, clock: Clock
) -> None:
    liar.entries = [an_entry(1, A), an_entry(2, B)]
    await worker.sync(RUN)
    await release(core, (await allocate(core, "student-1")).sandbox_id, "student-1")
    for _ in range(3):
        await worker.cleaner.sweep(RUN)
        clock.now += 3601
        await worker.sync(RUN)

    state = await core.sync_states.read("acme")
    assert state is not None
    assert [what for what in state.unexplained if "goes on listing" in what]
