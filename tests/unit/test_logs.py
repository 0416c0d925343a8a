"""J3: one JSON line an event, with the request's id and facts."""

import json
import logging
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.logs import JsonFormatter
from broker.masking import MASK, Masker

ROOT = Path(__file__).resolve().parents[2]
FORMATTER = JsonFormatter(Masker(["own-secret-value"]), process="api")


def line(name: str = "app", message: str = "request", *args: Any, **facts: Any) -> dict[str, Any]:
    record = logging.LogRecord(name, logging.INFO, __file__, 1, message, args, None)
    record.created, record.msecs = 1_760_000_000.042, 42.0
    vars(record).update(facts)
    text = FORMATTER.format(record)
    assert "\n" not in text
    said: dict[str, Any] = json.loads(text)
    return said


def test_a_line_says_when_how_bad_who_and_what() -> None:
    assert line("app", "allocated %s", "2009521") == {
        "at": "2025-10-09T08:53:20.042Z",
        "level": "info",
        "process": "api",
        "event": "allocated 2009521",
    }


def test_facts_stand_beside_it_with_their_types() -> None:
    said = line(tenant="acme", ms=4.2, counts={"done": 3}, list=[1, "a"], none=None)
    assert said["tenant"] == "acme"
    assert said["ms"] == 4.2
    assert said["counts"] == {"done": 3}
    assert said["list"] == [1, "a"]
    assert said["none"] is None


def test_other_loggers_are_named_and_ours_are_not() -> None:
    assert line("uvicorn.error")["logger"] == "uvicorn.error"
    for ours in ("app", "worker", "broker"):
        assert "logger" not in line(ours)


def test_line_breaks_and_other_scripts_stay_one_line_of_json() -> None:
    assert line("app", "a\nb\r日本\u2028c")["event"] == "a\nb\r日本\u2028c"


def test_facts_that_json_does_not_know_are_texts() -> None:
    said = line(path=Path("/a"), bytes=b"x", object=object)
    assert said["path"] == "/a"
    assert isinstance(said["bytes"], str)


@pytest.mark.parametrize("field", ["event", "fact", "traceback"])
def test_a_secret_is_masked_in_every_part(field: str) -> None:
    if field == "event":
        said = line("app", "got %s", "own-secret-value")
    elif field == "fact":
        said = line(why={"deep": ["own-secret-value"]})
    else:
        try:
            _fail()
        except ValueError:
            record = logging.LogRecord("app", logging.ERROR, __file__, 1, "crashed", (), sys.exc_info())
        said = json.loads(FORMATTER.format(record))
        assert "ValueError" in said["traceback"]
    text = json.dumps(said)
    assert "own-secret-value" not in text
    assert MASK in text


def _fail() -> None:
    raise ValueError("own-secret-value")


PROGRAM = """
import asyncio, logging, sys, threading, warnings
from broker import logs
logs.configure("api", level="INFO", secrets=["own-secret-value"])
log = logging.getLogger("app")

async def handle(name):
    logs.request_id.set(name)
    await asyncio.sleep(0.01)
    log.info("handled", extra={"n": name})
    await asyncio.to_thread(log.info, "in a thread")

async def main():
    await asyncio.gather(handle("req-1"), handle("req-2"))

asyncio.run(main())
log.info("outside")
log.info("explicit", extra={"request_id": "given"})
log.debug("not shown")
logging.getLogger("botocore").info("chatter")
logging.getLogger("uvicorn.error").info("from uvicorn %s", "own-secret-value")
logging.getLogger("uvicorn.access").info("access line")
warnings.warn("look out")
for n in range(5000):
    log.info("burst", extra={"n": n})
"""


@pytest.fixture(scope="module")
def process_lines() -> list[dict[str, Any]]:
    """All that a process says which ends right after it spoke."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr == ""
    return [json.loads(text) for text in ended.stdout.splitlines()]


def test_a_process_writes_each_line_with_the_id_of_its_own_request(process_lines: list[dict[str, Any]]) -> None:
    handled = {said["request_id"]: said["n"] for said in process_lines if said["event"] == "handled"}
    assert handled == {"req-1": "req-1", "req-2": "req-2"}
    threads = {said["request_id"] for said in process_lines if said["event"] == "in a thread"}
    assert threads == {"req-1", "req-2"}
    by_event = {said["event"]: said for said in process_lines}
    assert "request_id" not in by_event["outside"]
    assert by_event["explicit"]["request_id"] == "given"


def test_nothing_that_was_said_is_lost_at_the_end(process_lines: list[dict[str, Any]]) -> None:
    assert [said["n"] for said in process_lines if said["event"] == "burst"] == list(range(5000))


def test_libraries_speak_through_the_same_door_and_not_too_much(process_lines: list[dict[str, Any]]) -> None:
    events = [said["event"] for said in process_lines]
    assert f"from uvicorn {MASK}" in events
    assert any("look out" in event for event in events)
    for unwanted in ("not shown", "chatter", "access line"):
        assert unwanted not in events


WITH_A_BROKEN_LINE = """
import logging, sys, threading
from broker import logs

class Late:
    def __str__(self):
        all_said.wait()
        return "late"

all_said = threading.Event()
logs.configure("api", level="INFO", secrets=[])
log = logging.getLogger("app")
log.info("%s", Late())
log.info("whole")
log.info("broken %d", "no number")
all_said.set()
sys.stdin.read()
"""


def test_a_line_that_cannot_be_written_keeps_back_none_before_it() -> None:
    """They were to be written out with it, as it was waiting already."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(
        [sys.executable, "-c", WITH_A_BROKEN_LINE], cwd=ROOT, env=environment, **pipes
    ) as process:
        came, _, _ = select.select([process.stdout], [], [], 30)
        said = os.read(process.stdout.fileno(), 10_000) if came and process.stdout else b""
        process.kill()
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["late", "whole"]
