"""What the kernel says of processes: processor time and memory, from /proc (Linux)."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all below it: a supervisor's child is what works."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        children = (task / "children").read_text().split()
        pids += [found for child in children for found in family(int(child))]
    return pids


def cpu_s(*pids: int) -> float:
    """Processor time, user and system, of these processes and all below them, since each began."""
    return sum(_cpu_s(member) for pid in pids for member in family(pid))


def _cpu_s(pid: int) -> float:
    # The name stands in parentheses and may hold anything; utime and stime are fields 14 and 15 of the whole.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_mb(pid: int, *, peak: bool = False) -> float:
    """Resident memory of a process and all below it, now; or the sum of what each had at the most."""
    return sum(_memory_mb(member, "VmHWM" if peak else "VmRSS") for member in family(pid))


def _memory_mb(pid: int, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


@dataclass(slots=True)
class CpuWatch:
    """Processor time of named processes over a `with` block: exactly what they used between its begin and end."""

    pids: dict[str, list[int]]
    used_s: dict[str, float]

    def __init__(self, **pids: list[int]) -> None:
        self.pids = pids
        self.used_s = {}

    def __enter__(self) -> Self:
        self.used_s = {name: -cpu_s(*pids) for name, pids in self.pids.items()}
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.used_s = {name: cpu_s(*pids) + self.used_s[name] for name, pids in self.pids.items()}
