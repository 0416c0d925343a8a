"""J1: each process exports its own memory, processor time and open files, at a cost that does not grow."""

import os

import pytest
from prometheus_client.exposition import generate_latest

from broker.metrics import Metrics

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="process metrics come from Linux' /proc"
)

EXPORTED = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}


def numbers(*, of_worker: bool) -> dict[str, float]:
    lines = generate_latest(Metrics(of_worker=of_worker).registry).decode().splitlines()
    samples = [line.split() for line in lines if line.startswith("process_")]
    return {name: float(value) for name, value in samples}


@pytest.mark.parametrize("of_worker", [False, True], ids=["api", "worker"])
def test_a_scrape_tells_of_the_process_in_six_numbers(of_worker: bool) -> None:
    told = numbers(of_worker=of_worker)

    assert set(told) == EXPORTED
    assert told["process_resident_memory_bytes"] > 10_000_000
    assert told["process_cpu_seconds_total"] > 0
    assert 0 < told["process_open_fds"] <= told["process_max_fds"]


def test_open_files_are_counted_and_make_no_more_series() -> None:
    before = numbers(of_worker=False)
    opened = [os.dup(0) for _ in range(50)]
    try:
        after = numbers(of_worker=False)
    finally:
        for number in opened:
            os.close(number)

    assert after["process_open_fds"] == before["process_open_fds"] + 50
    assert set(after) == set(before)
