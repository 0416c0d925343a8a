"""One JSON line an event, to standard output, written by a thread so that a slow reader stalls no request."""

import atexit
import json
import logging
import queue
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Final, TextIO

from broker import tracing
from broker.masking import Masker

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request or job run in whose course something is logged."""

_masker: Final = Masker()
"""The mask of this process's log, which is one as the log is."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class JsonFormatter(logging.Formatter):
    """Time, level, event, the facts given as `extra`, the request id; masked."""

    def __init__(self, masker: Masker, *, process: str) -> None:
        super().__init__()
        self._masker = masker
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        facts = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "at": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "event": record.getMessage(),
            **facts,
        }
        if record.name not in ("app", "worker", "broker"):
            line["logger"] = record.name
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(self._masker.facts(line))


class _WithRequest(QueueHandler):
    """Takes request id and trace id along: the writing thread has no context of its own."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        if not hasattr(record, "request_id") and (current := request_id.get()) is not None:
            record.request_id = current
        if (span := tracing.current.get()) is not None:
            record.trace_id = span.trace_id
        return record


class _Lines(logging.StreamHandler[TextIO]):
    """Writes lines out once no further one waits: in a burst many at once."""

    def __init__(self, waiting: queue.SimpleQueue[logging.LogRecord]) -> None:
        super().__init__(sys.stdout)
        self._waiting = waiting

    def flush(self) -> None:
        if self._waiting.empty():
            super().flush()

    def handleError(self, record: logging.LogRecord) -> None:
        """A line that cannot be written leaves nothing behind that could: those before it wait for its flush."""
        super().handleError(record)
        with suppress(OSError, ValueError):  # nobody reads any more
            self.flush()


def hide(secrets: Iterable[str]) -> None:
    """Never show these in this process's log from now on: a rotated secret is told here before it is used."""
    _masker.learn(secrets)


def shown(value: Any) -> Any:
    """What of it may leave this process, in its log or elsewhere: the same with its secrets masked."""
    return _masker.value(value)


def configure(process: str, *, level: str, secrets: Iterable[str]) -> None:
    """Send everything that this process logs through the one JSON handler. Call once, at the start."""
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    out = _Lines(lines)
    hide(secrets)
    out.setFormatter(JsonFormatter(_masker, process=process))
    listener = QueueListener(lines, out)
    listener.start()
    atexit.register(listener.stop)
    logging.root.handlers[:] = [_WithRequest(lines)]
    logging.root.setLevel(level)
    for chatty in ("httpx", "httpcore", "botocore", "aiobotocore", "apscheduler", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for named in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # they speak through the root
        logging.getLogger(named).handlers[:] = []
        logging.getLogger(named).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the request log says more
    logging.captureWarnings(capture=True)
