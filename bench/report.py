"""What becomes of results: tables to standard output, then files in a directory that one run has to itself."""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.frame import Bench, Result
from bench.plots import can_draw, draw

LOCK: Final = "lock"


class CannotWrite(Exception):
    """Nothing can be written there; the text is one sentence for a person."""


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """The directory is there, can be written to, and is this run's until the end.

    The kernel drops the lock with the process that holds it, however that ends: a stale one holds nobody up.

    Raises:
        CannotWrite: it cannot be, or another run writes there.
    """
    path = directory / LOCK
    try:
        if directory.exists() and not directory.is_dir():
            raise CannotWrite(f"cannot write to {directory}: it is no directory")
        directory.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+")
    except OSError as error:
        raise CannotWrite(f"cannot write to {directory}: {_reason(error)}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise CannotWrite(
                f"another run (process {lock.read().strip() or 'unknown'}) writes to {directory}: "
                "wait for its end, or name another directory with --out"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


class Report:
    """Tells results one by one, and in the end what they come to."""

    def __init__(self, directory: Path, facts: dict[str, str], *, quick: bool) -> None:
        self._directory = directory
        self._facts = facts
        self._quick = quick
        self._judged = 0
        self._missed: list[str] = []
        self.written = 0  # results

    def tell(self, bench: Bench, result: Result) -> bool:
        """Print it, then write it: a full disk loses nothing. Whether it is sound and written.

        Raises:
            BrokenPipeError: nobody reads standard output any more; it is written all the same.
        """
        try:
            for table in result.tables:
                print(table.text() + "\n", flush=True)
        finally:
            written = self._write(bench, result)
        self._judged += len(result.goals)
        self._missed += [f"{bench.name}: {goal.what}" for goal in result.goals if not goal.met]
        problems = result.problems()
        for problem in problems:
            sys.stderr.write(f"bench: {bench.name}: {problem}\n")
        return written and not problems

    def _write(self, bench: Bench, result: Result) -> bool:
        path = self._directory / f"{bench.name}.json"
        try:
            path.write_text(json.dumps(self._whole(bench, result), indent=1) + "\n")
            for plot in result.plots if can_draw() else []:
                path = self._directory / f"{plot.name}.png"
                sys.stderr.write(f"  plot: {draw(plot, self._directory, quick=self._quick)}\n")
        except OSError as error:
            sys.stderr.write(f"bench: cannot write to {path}: {_reason(error)}\n")
            return False
        self.written += 1
        return True

    def _whole(self, bench: Bench, result: Result) -> dict[str, object]:
        return {
            "bench": bench.name,
            "question": bench.question,
            "quick": self._quick,
            "conditions": self._facts,
            "tables": [table.as_json() for table in result.tables],
            "goals": [{"goal": goal.what, "met": goal.met} for goal in result.goals],
            "problems": result.problems(),
        }

    def close(self) -> None:
        """In the end: which goals were missed. Of tiny sizes that says nothing."""
        if self._quick or not self._judged:
            return
        said = f"goals missed: {len(self._missed)} of {self._judged}" if self._missed else "goals missed: none"
        print("\n".join([said, *(f"  {missed}" for missed in self._missed)]))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
