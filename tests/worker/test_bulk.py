"""C4, C5, F5: bulk moves over real sandboxes; whatever stops them, each sandbox is in a legal state."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from broker.errors import LeaseLost, NotSandboxOwner, SandboxNotFound, StoreThrottled, StoreUnavailable
from broker.job import Job, JobState, Kind, Priority
from broker.sandbox import State
from broker.selection import Selector
from broker.wiring import Broker
from tests.audit import audit
from tests.builders import NOW, TEST_CAUSE, a_job, a_sandbox, said_by
from tests.worker.test_runner import FAST, RUN, stored, until
from worker.job_context import Context, HandedBack, Handler, JobCancelled, Stopped
from worker.job_run import Pace
from worker.jobs.bulk import MAX_TROUBLES, bulk, bulk_handler, cause_of
from worker.runner import Runner

Move = Callable[[Context, str], Awaitable[object]]


async def fill(core: Broker, count: int, state: State = State.STALE) -> list[str]:
    sandboxes = [a_sandbox(number=number, state=state) for number in range(1, count + 1)]
    for sandbox in sandboxes:
        await core.sandboxes.add(sandbox, TEST_CAUSE, now=NOW)
    return [sandbox.id for sandbox in sandboxes]


async def of(ids: list[str]) -> AsyncIterator[str]:
    for id_ in ids:
        yield id_


def removing(core: Broker) -> Move:
    """Removes a stale sandbox, as the real move will."""

    async def remove(context: Context, sandbox_id: str) -> None:
        sandbox = await core.sandboxes.get(context.tenant, sandbox_id)
        if sandbox is None:
            raise SandboxNotFound
        await core.sandboxes.remove(sandbox, cause_of(context), now=NOW)

    return remove


async def run(core: Broker, move: Move, **more: Any) -> tuple[Runner, Job]:
    """A runner that has just started a bulk job."""
    handler = bulk_handler(Selector(core.sandboxes, core.tenants), move)
    handlers: dict[Kind, Handler] = dict.fromkeys(Kind, handler)
    job = await core.jobs.enqueue(
        "acme", Kind.BULK_DELETE, params={"status": "stale"} | more.pop("params", {}),
        priority=Priority.NORMAL, requested_by="operator-1", request_id="req-1",
    )  # fmt: skip
    values: dict[str, Any] = {
        "tenant": "acme", "pace": FAST, "clock": core.jobs._clock, "permissions": core.permissions,
    }  # fmt: skip
    runner = Runner(core.jobs, handlers, core.metrics, **values | more)
    await runner.tick(RUN)
    return runner, job


async def test_every_sandbox_of_the_selection_is_moved_and_no_other(core: Broker) -> None:
    await fill(core, 7)
    kept = a_sandbox(number=50)
    await core.sandboxes.add(kept, TEST_CAUSE, now=NOW)

    runner, job = await run(core, removing(core))
    await runner.idle()

    ended = await stored(core, job)
    assert (ended.state, ended.result) == (JobState.DONE, {"done": 7})
    assert (ended.done, ended.failed, ended.total) == (7, 0, 7)
    assert await audit(core) == Counter(available=1)


async def test_who_asked_for_it_stands_in_the_events(core: Broker) -> None:
    context = Context(a_job(kind=Kind.BULK_DELETE, requested_by="operator-1", request_id="req-1"))

    cause = cause_of(context)

    assert (cause.actor, cause.action, cause.request_id) == ("operator-1", "bulk_delete", "req-1")


async def test_they_are_counted_first_and_walked_once_each_in_the_order_of_their_ids() -> None:
    context = Context(a_job())
    seen: list[str] = []
    totals: set[int | None] = set()

    async def act(sandbox_id: str) -> None:
        seen.append(sandbox_id)
        totals.add(context.so_far.total)

    outcome = await bulk(context, of(["3", "1", "2", "1"]), act)

    assert (seen, totals, outcome) == (["1", "2", "3"], {3}, Counter(done=3))


async def test_one_that_fails_is_counted_by_its_reason_and_the_rest_goes_on(core: Broker) -> None:
    ids = await fill(core, 4)

    async def move(context: Context, sandbox_id: str) -> None:
        if sandbox_id == ids[1]:
            raise NotSandboxOwner
        if sandbox_id == ids[2]:  # someone else is faster
            present = await core.sandboxes.get("acme", sandbox_id)
            assert present is not None
            await core.sandboxes.move(present, present.come_back(now=NOW), TEST_CAUSE, now=NOW)
            await core.sandboxes.remove(present, TEST_CAUSE, now=NOW)
        await removing(core)(context, sandbox_id)

    runner, job = await run(core, move)
    await runner.idle()

    ended = await stored(core, job)
    assert ended.result == {"done": 2, "not_sandbox_owner": 1, "lost_race": 1}
    assert (ended.done, ended.failed, ended.total) == (2, 2, 4)
    assert await audit(core) == Counter(stale=1, available=1)


async def test_ids_are_tried_as_they_were_given(core: Broker) -> None:
    ids = await fill(core, 3)

    runner, job = await run(core, removing(core), params={"ids": f"{ids[2]} unknown {ids[0]}"})
    await runner.idle()

    assert (await stored(core, job)).result == {"done": 2, "sandbox_not_found": 1}
    assert await core.sandboxes.get("acme", ids[1]) is not None


class Slow:
    """A move that lets itself be watched: it is in the middle of a sandbox until it is let go."""

    def __init__(self, core: Broker, *, after: int) -> None:
        self._move = removing(core)
        self._after = after
        self.moved: list[str] = []
        self.in_the_middle = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, context: Context, sandbox_id: str) -> None:
        if len(self.moved) == self._after and not self.go_on.is_set():
            self.in_the_middle.set()
            await self.go_on.wait()
        await self._move(context, sandbox_id)
        self.moved.append(sandbox_id)


async def test_a_cancelled_bulk_job_stops_between_sandboxes_and_leaves_each_in_a_legal_state(
    core: Broker,
) -> None:
    ids = await fill(core, 6)
    slow = Slow(core, after=2)
    runner, job = await run(core, slow, pace=Pace(beat_s=0.05))
    await slow.in_the_middle.wait()
    await core.jobs.request_cancel("acme", job.id, cause=said_by("operator-2"))

    beat = (await stored(core, job)).beat

    async def told() -> bool:
        return (await stored(core, job)).beat > beat + 1

    await until(told)
    slow.go_on.set()
    await runner.idle()

    ended = await stored(core, job)
    assert slow.moved == ids[:3]
    assert (ended.state, ended.done, ended.total) == (JobState.CANCELLED, 3, 6)
    assert await audit(core) == Counter(stale=3)


async def test_a_job_that_is_cut_in_the_middle_of_a_sandbox_finishes_that_one(core: Broker) -> None:
    ids = await fill(core, 6)
    slow = Slow(core, after=2)
    runner, job = await run(core, slow)
    await slow.in_the_middle.wait()
    leaving = asyncio.create_task(runner.drain(2))
    await asyncio.sleep(1.2)  # the drain has cut it by now
    slow.go_on.set()
    await leaving

    assert slow.moved == ids[:3]
    back = await stored(core, job)
    assert (back.state, back.attempt) == (JobState.QUEUED, 0)
    assert await audit(core) == Counter(stale=3)


async def test_a_job_that_is_run_again_goes_on_with_what_is_left(core: Broker) -> None:
    ids = await fill(core, 6)
    slow = Slow(core, after=2)
    first, job = await run(core, slow)
    await slow.in_the_middle.wait()
    leaving = asyncio.create_task(first.drain(2))
    slow.go_on.set()
    await leaving

    handlers: dict[Kind, Handler] = dict.fromkeys(
        Kind, bulk_handler(Selector(core.sandboxes, core.tenants), removing(core))
    )
    second = Runner(
        core.jobs, handlers, core.metrics, permissions=core.permissions, tenant="acme", pace=FAST,
        clock=core.jobs._clock,
    )  # fmt: skip
    await second.tick(RUN)
    await second.idle()

    ended = await stored(core, job)
    assert (ended.state, ended.result) == (JobState.DONE, {"done": len(ids) - len(slow.moved)})
    assert await audit(core) == Counter()


@pytest.mark.parametrize("trouble", [StoreThrottled(), StoreUnavailable("down")])
async def test_a_store_in_trouble_ends_the_attempt_after_a_few_sandboxes_in_a_row(trouble: Exception) -> None:
    tried: list[str] = []

    async def act(sandbox_id: str) -> None:
        tried.append(sandbox_id)
        raise trouble

    with pytest.raises(type(trouble)):
        await bulk(Context(a_job()), of([str(n) for n in range(50)]), act)

    assert len(tried) == MAX_TROUBLES


async def test_trouble_that_passes_is_counted_and_the_rest_goes_on() -> None:
    async def act(sandbox_id: str) -> None:
        if int(sandbox_id) % MAX_TROUBLES:
            raise StoreThrottled

    outcome = await bulk(Context(a_job()), of([f"{n:02d}" for n in range(20)]), act)

    assert outcome == Counter(done=4, store_throttled=16)


@pytest.mark.parametrize("why", [JobCancelled(), HandedBack(), LeaseLost()])
async def test_it_stops_before_the_next_sandbox_whatever_the_reason(why: Stopped | LeaseLost) -> None:
    context = Context(a_job())
    tried: list[str] = []

    async def act(sandbox_id: str) -> None:
        tried.append(sandbox_id)
        context.stop(why)

    with pytest.raises(type(why)):
        await bulk(context, of(["1", "2", "3"]), act)

    assert tried == ["1"]
