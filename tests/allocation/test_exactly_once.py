"""A3, A4: one sandbox a student, one student a sandbox, over several processes and a store in trouble."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, attempt, codes, fill, insist, winners
from tests.audit import audit
from tests.conftest import a_broker


@pytest.fixture
async def processes(proxy: StoreProxy, table_name: str) -> AsyncIterator[list[Broker]]:
    """Two cores that share nothing but the store, behind the proxy."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(a_broker(proxy.url, table_name)) for _ in range(2)]


async def test_three_hundred_students_on_two_hundred_sandboxes_get_two_hundred_distinct_ones(
    processes: list[Broker], proxy: StoreProxy
) -> None:
    await fill(processes[0], 200)
    proxy.faults.change({"latency_ms": 4, "jitter_ms": 4})

    answers = await asyncio.gather(*(attempt(processes[n % 2], f"student-{n}") for n in range(300)))

    assert len({won.sandbox_id for won in winners(answers)}) == len(winners(answers)) == 200
    assert codes(answers) == {"NO_SANDBOXES_AVAILABLE"}
    assert await audit(processes[0]) == {"allocated": 200}


@pytest.mark.parametrize(
    "faults",
    [
        {"index_lag_s": 1.0},
        {"conflict_rate": 0.2},
        {"lose_answer_rate": 0.1},
        {"throttle_rate": 0.1},
        {"throttle_in_reasons_rate": 0.1, "throttle_in_reasons_slot": 1},
        {"reset_rate": 0.1},
        {"internal_error_rate": 0.1},
        {"index_lag_s": 0.5, "conflict_rate": 0.1, "lose_answer_rate": 0.05, "throttle_rate": 0.05},
    ],
    ids=lambda faults: "+".join(faults),
)
async def test_a_store_in_trouble_hands_out_nothing_twice_and_loses_nothing(
    processes: list[Broker], proxy: StoreProxy, faults: dict[str, float]
) -> None:
    await fill(processes[0], 40)
    await proxy.settle()
    proxy.faults.change({"latency_ms": 2, **faults})

    answers = await asyncio.gather(*(insist(processes[n % 2], f"student-{n}") for n in range(60)))

    assert len({won.sandbox_id for won in winners(answers)}) == len(winners(answers)) == 40
    assert codes(answers) == {"NO_SANDBOXES_AVAILABLE"}
    proxy.faults.change({name: 0 for name in faults})
    assert await audit(processes[0]) == {"allocated": 40}


async def test_one_student_a_hundred_times_at_once_gets_one_sandbox(
    processes: list[Broker], proxy: StoreProxy
) -> None:
    await fill(processes[0], 20)
    proxy.faults.latency_ms = 5

    answers = await asyncio.gather(*(allocate(processes[n % 2], "student-1") for n in range(100)))

    assert sum(answer.created for answer in answers) == 1
    assert len({(a.sandbox_id, a.allocated_at, a.expires_at, a.name) for a in answers}) == 1
    assert await audit(processes[0]) == {"allocated": 1, "available": 19}


async def test_one_sandbox_goes_to_exactly_one_of_twenty_students(processes: list[Broker]) -> None:
    await fill(processes[0], 1)

    answers = await asyncio.gather(*(attempt(processes[n % 2], f"student-{n}") for n in range(20)))

    assert len(winners(answers)) == 1
    assert codes(answers) == {"NO_SANDBOXES_AVAILABLE"}


async def test_repeats_that_meet_in_one_process_cost_one_transaction(
    processes: list[Broker], proxy: StoreProxy
) -> None:
    await fill(processes[0], 5)
    proxy.counts.reset()

    await asyncio.gather(*(allocate(processes[0], "student-1") for _ in range(50)))

    assert proxy.counts.calls["TransactWriteItems"] == 1


async def test_a_caller_who_hangs_up_neither_loses_nor_blocks_the_allocation(processes: list[Broker]) -> None:
    await fill(processes[0], 2)
    gone = asyncio.create_task(allocate(processes[0], "student-1"))
    await asyncio.sleep(0)
    gone.cancel()

    again = await allocate(processes[0], "student-1")

    assert await audit(processes[0]) == {"allocated": 1, "available": 1}
    assert again == await allocate(processes[0], "student-1")
