"""Percentiles, processor time, memory: the arithmetic that figures stand on."""

import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bench.load import Outcome
from bench.processes import CpuWatch, family, memory_mb
from bench.samples import median, percentile
from bench.verdict import wrong

BURNER = """
import mmap, sys, time
held = []
for line in sys.stdin:
    word, amount = line.split()
    before = time.process_time()
    if word == "burn":
        while time.process_time() - before < float(amount):
            sum(range(1000))
    elif word == "hold":
        held.append(bytearray(int(amount) * 1024 * 1024))
    elif word == "reserve":
        held.append(mmap.mmap(-1, int(amount) * 1024 * 1024))
    else:
        held.clear()
    print(time.process_time() - before, flush=True)
"""
PARENT = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {BURNER!r}]))"
TICKS_S = 0.05
"""The kernel tells hundredths of a second; and the burner's own bookkeeping is a little beside its burning."""


@dataclass
class Burner:
    """A process that does as it is told, below one that only waits, as a supervisor does."""

    popen: "subprocess.Popen[str]"

    def told(self, word: str, amount: float) -> float:
        """Processor seconds of it, as the process itself counts."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(f"{word} {amount:g}\n")
        self.popen.stdin.flush()
        return float(self.popen.stdout.readline())


@pytest.fixture
def burner() -> Iterator[Burner]:
    popen = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with popen:
        process = Burner(popen)
        process.told("burn", 0.01)
        yield process
        assert popen.stdin is not None
        popen.stdin.close()
        popen.wait(10)


def test_processor_time_is_that_of_the_block_and_of_all_below_the_process(burner: Burner) -> None:
    burner.told("burn", 0.3)
    with CpuWatch(it=[burner.popen.pid]) as watch:
        burned_s = burner.told("burn", 0.4)
    burner.told("burn", 0.2)
    assert burned_s >= 0.4
    assert watch.used_s["it"] == pytest.approx(burned_s, abs=TICKS_S)


def test_processor_time_is_kept_apart_by_name_and_summed_over_processes(burner: Burner) -> None:
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()  # it is up, and waits
        with CpuWatch(idle=[sleeper.pid], both=[sleeper.pid, burner.popen.pid]) as watch:
            burned_s = burner.told("burn", 0.3)
        sleeper.communicate(b"\n")
    assert watch.used_s["idle"] <= TICKS_S
    assert watch.used_s["both"] == pytest.approx(burned_s, abs=2 * TICKS_S)


def test_processor_time_is_no_wall_time(burner: Burner) -> None:
    with CpuWatch(it=[burner.popen.pid]) as watch:
        time.sleep(0.3)
    assert watch.used_s["it"] <= TICKS_S


def test_memory_is_what_is_used_by_all_below_the_process_and_its_peak_stays(burner: Burner) -> None:
    before_mb = memory_mb(burner.popen.pid)
    burner.told("reserve", 300)  # and not touched
    burner.told("hold", 60)
    assert 55 <= memory_mb(burner.popen.pid) - before_mb <= 75
    burner.told("drop", 0)
    assert memory_mb(burner.popen.pid) - before_mb <= 15
    assert memory_mb(burner.popen.pid, peak=True) - before_mb >= 55
    assert len(family(burner.popen.pid)) == 2


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [
        (1, 50, 1),
        (2, 50, 1),
        (2, 51, 2),
        (100, 99, 99),
        (100, 99.1, 100),
        (1000, 99.9, 999),
        (10, 0, 1),
        (7, 100, 7),
    ],
)
def test_a_percentile_is_the_smallest_sample_that_so_many_do_not_exceed(
    count: int, percent: float, expected: int
) -> None:
    assert percentile(range(1, count + 1), percent) == expected


def test_a_percentile_agrees_with_its_definition_on_samples_of_any_kind() -> None:
    source = random.Random(3)
    for _ in range(50):
        samples = sorted(source.expovariate(1) for _ in range(source.randint(1, 300)))
        percent = source.randint(1, 99)
        found = percentile(samples, percent)
        assert 100 * sum(sample <= found for sample in samples) >= percent * len(samples)
        assert 100 * sum(sample < found for sample in samples) < percent * len(samples)


def test_of_nothing_there_is_no_percentile() -> None:
    assert math.isnan(percentile([], 50))
    assert math.isnan(median([]))


@pytest.mark.parametrize(("values", "expected"), [([3, 1, 2], 2), ([4, 1, 2, 3], 2.5), ([5], 5)])
def test_a_median_is_in_the_middle_in_whatever_order(values: list[float], expected: float) -> None:
    assert median(values) == expected


def an_outcome(*answers: tuple[int, str | None], **more: int) -> Outcome:
    """What a load was answered, and with which sandboxes."""
    statuses, kept = [status for status, _ in answers], [id_ for _, id_ in answers]
    return Outcome(asked=len(answers) + more.get("unanswered", 0), statuses=statuses, kept=kept, **more)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (an_outcome((201, "1"), (201, "2")), []),
        (an_outcome((201, "1"), (409, None), (409, None)), ["load: of 3 requests 2 answers were 409"]),
        (an_outcome((200, "1")), ["load: of 1 requests 1 answers were 200"]),
        (an_outcome((201, "1"), unanswered=1, unsent=2), ["load: of 4 requests 3 did not come"]),
        (an_outcome((201, "1"), (201, "1")), ["load: a sandbox was handed out twice"]),
        (an_outcome((201, "from before")), ["load: a sandbox was handed out twice"]),
    ],
    ids=["all well", "refused", "replayed", "missing", "twice at once", "twice in two blocks"],
)
def test_answers_that_may_not_be_counted_are_told(outcome: Outcome, said: list[str]) -> None:
    taken = {"from before"}
    assert wrong(outcome, "load", taken) == said
    got = [id_ for id_, status in zip(outcome.kept, outcome.statuses, strict=True) if status == 201]
    assert taken == {"from before", *got}
