"""An HTTP server that answers what a test lists, in order: for what a healthy broker does not say on demand."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

ALLOCATION = {
    "sandbox_id": "2009521",
    "name": "lab-adventure-0087",
    "external_id": "identity/accounts/7f9c24e5-2f36-4b1c-9d6e-0a1b2c3d4e5f",
    "allocated_at": 1_760_000_000,
    "expires_at": 1_760_014_400,
    "generation": 1_759_990_017,
}
RELEASE = {"sandbox_id": "2009521", "status": "pending_deletion", "released_at": 1_760_000_100}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `hangs_s` passes before it; `breaks` ends the connection in the middle of the body."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    hangs_s: float = 0
    breaks: bool = False


def allocation(**changes: Any) -> Answer:
    return Answer(201, json.dumps(ALLOCATION | changes, ensure_ascii=False).encode())


def refusal(status: int, code: str, message: str = "A text for people.", **headers: str) -> Answer:
    """The broker's envelope. `Retry_After="2"` is the header Retry-After."""
    error = {"code": code, "message": message, "request_id": "req-4711"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"error": error}).encode(), {"X-Request-ID": "req-4711", **named})


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float  # monotonic


class StandIn:
    """The last answer repeats."""

    def __init__(self, answers: list[Answer]) -> None:
        self.requests: list[Request] = []
        self.url = ""
        self.closed = threading.Event()
        self._answers = answers

    def next(self) -> Answer:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def waits(self) -> list[float]:
        """Seconds between the requests."""
        times = [request.at for request in self.requests]
        return [later - earlier for earlier, later in pairwise(times)]


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            stand_in.requests.append(Request(self.command, self.path, headers, body, time.monotonic()))
            answer = stand_in.next()
            if answer.hangs_s:
                stand_in.closed.wait(answer.hangs_s)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) + 100 * answer.breaks))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, *_: object) -> None:
        """A client that hung up is what some tests are about."""


@contextmanager
def standing_in(*answers: Answer) -> Iterator[StandIn]:
    stand_in = StandIn(list(answers))
    with _Server(("127.0.0.1", 0), _handler(stand_in)) as server:
        stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield stand_in
        finally:
            stand_in.closed.set()
            server.shutdown()
            thread.join()
