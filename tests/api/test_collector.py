"""Garbage in cycles is looked for seldom, and found all the same; the API's process does so."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import collector
from local.engine import free_port
from tests.api.process import environment, run_to_the_end

LOOK = """
import atexit, gc, os, pathlib
found = pathlib.Path(os.environ["LOOK_AT"])
atexit.register(lambda: found.write_text(f"{gc.get_threshold()} {gc.get_freeze_count()}"))
"""


class Knot:
    """In a cycle with itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def calmed() -> Iterator[None]:
    before = gc.get_threshold()
    collector.calm()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def looks_at_all_while(waiting: list[Any], count: int) -> int:
    """How often all that is alive is looked at while so many objects come and stay."""
    seen = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(info)

    gc.callbacks.append(note)
    try:
        waiting += [[] for _ in range(count)]
    finally:
        gc.callbacks.remove(note)
    return len(seen)


def test_what_waits_is_not_looked_at_again_and_again(calmed: None) -> None:
    assert looks_at_all_while([], 1_000_000) == 0


def test_garbage_in_cycles_goes_before_there_is_much_of_it(calmed: None) -> None:
    refs = [weakref.ref(Knot()) for _ in range(5 * collector.YOUNG)]
    assert sum(ref() is not None for ref in refs) <= 2 * collector.YOUNG


def test_the_process_of_the_api_does_so_with_all_its_code_loaded(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOOK)
    variables = environment(
        API_PORT=str(free_port()),
        BOOT_TIMEOUT_SEC="1",
        DDB_ENDPOINT_URL="http://127.0.0.1:1",
        DDB_TABLE_NAME="nowhere",
        PYTHONPATH=str(tmp_path),
        LOOK_AT=str(tmp_path / "found"),
    )
    run_to_the_end("app.main", variables)
    threshold, frozen = (tmp_path / "found").read_text().rsplit(" ", 1)
    assert threshold.startswith(f"({collector.YOUNG}, {collector.MIDDLE}, ")
    assert int(frozen) > 50_000
