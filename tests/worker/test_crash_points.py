"""kill -9 at every step of a deletion, then another worker: nothing lost, nothing harmed.

| the worker dies | the account | the sandbox after the next worker | attempts |
|---|---|---|---|
| before its lease reaches the store | untouched | deleted | 1 |
| with its lease written | untouched | deleted | 2 |
| while the provider deletes | deleted behind its back | deleted, by a 404 | 2 |
| with the provider's yes, before it is written | deleted | deleted, by a 404 | 2 |
| with the outcome written | deleted | deleted already | 1 |
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from broker.sandbox import State
from local.store_proxy import StoreProxy
from local.store_proxy.mishaps import Dropped
from tests.allocation.students import allocate, release
from tests.audit import audit
from tests.conftest import a_broker
from tests.worker.conftest import Provider, a_provider, until
from tests.worker.test_process import Process, a_worker_process

QUICK = {"LEADER_LEASE_SEC": "1", "CLEANUP_LEASE_SEC": "1", "CLEANUP_POLL_SEC": "0.1"}


def takes_the_lease(body: dict[str, Any]) -> bool:
    return any("OWN#" in str(item.get("ConditionCheck", "")) for item in body["TransactItems"])


def writes_the_outcome(body: dict[str, Any]) -> bool:
    return "'deleted'" in str(body)


@contextmanager
def death(
    proxy: StoreProxy, worker: Process, point: str, chosen: Callable[[dict[str, Any]], bool]
) -> Iterator[asyncio.Event]:
    """Kill the worker at this point of the chosen transaction; the event tells when."""
    dead = asyncio.Event()

    async def kill(body: dict[str, Any]) -> None:
        if chosen(body) and not dead.is_set():
            worker.process.kill()
            await worker.process.wait()
            dead.set()
            if point == "before":
                raise Dropped(reset=True)

    add = proxy.before if point == "before" else proxy.after
    with add("TransactWriteItems", kill):
        yield dead


@pytest.mark.parametrize(
    ("point", "chosen", "attempts", "requests"),
    [
        ("before", takes_the_lease, 1, 1),
        ("after", takes_the_lease, 2, 1),
        ("before", writes_the_outcome, 2, 2),
        ("after", writes_the_outcome, 1, 1),
    ],
    ids=["before the lease", "leased", "deleted at the provider", "written"],
)
async def test_a_worker_that_dies_at_the_store_is_recovered_from(
    proxy: StoreProxy,
    ministack: str,
    table_name: str,
    point: str,
    chosen: Callable[[dict[str, Any]], bool],
    attempts: int,
    requests: int,
) -> None:
    async with a_provider() as provider, a_broker(ministack, table_name) as core:
        async with a_worker_process(proxy.url, table_name, provider, **QUICK) as first:
            await first.event("job done", job="sync")
            held = await allocate(core, "student-1")
            with ExitStack() as stack:
                dead = stack.enter_context(death(proxy, first, point, chosen))
                await release(core, held.sandbox_id, "student-1")
                async with asyncio.timeout(30):
                    await dead.wait()
        account = await recovered(ministack, table_name, provider, held.sandbox_id, attempts)

    assert account["delete_requests"] == requests


async def test_a_worker_that_dies_while_the_provider_deletes_is_recovered_from(
    ministack: str, table_name: str
) -> None:
    async with a_provider(delete_latency_s=1) as provider, a_broker(ministack, table_name) as core:
        async with a_worker_process(ministack, table_name, provider, **QUICK) as first:
            await first.event("job done", job="sync")
            held = await allocate(core, "student-1")
            await release(core, held.sandbox_id, "student-1")

            async def asked() -> bool:
                return bool((await account_of(provider, held.sandbox_id))["delete_requests"])

            await until(asked)
            first.process.kill()
            await first.process.wait()
        account = await recovered(ministack, table_name, provider, held.sandbox_id, 2)

    assert account["delete_requests"] == 2


async def account_of(provider: Provider, sandbox_id: str) -> dict[str, Any]:
    return next(a for a in await provider.accounts() if str(a["csp_id"]) == sandbox_id)


async def recovered(
    store_url: str, table_name: str, provider: Provider, sandbox_id: str, attempts: int
) -> dict[str, Any]:
    """Let another worker take over; the account as the provider knows it in the end."""
    async with a_broker(store_url, table_name) as core:

        async def row() -> Any:
            return await core.sandboxes.get("acme", sandbox_id)

        async def deleted() -> bool:
            return (await row()).state is State.DELETED

        async with a_worker_process(store_url, table_name, provider, **QUICK) as second:
            await second.event("leading")
            await until(deleted)
        buried = await row()
        account = await account_of(provider, sandbox_id)
        assert (buried.attempt, account["deletes_done"]) == (attempts, 1)
        assert await audit(core) == {"available": 9, "deleted": 1}
    return account
