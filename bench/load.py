"""The load generator: a process of its own, plain HTTP/1.1 over kept connections, every sample kept.

Closed loop (without `arrivals`): each connection asks again as soon as it was answered.
Open loop: requests arrive when `arrivals` says, whatever became of those before; a request that finds no free
connection waits for one, and its latency counts from its arrival. What was not sent in the end is counted.

`python -m bench.load` reads a Job as a line of JSON, connects, says "ready", waits for a line, and answers with an
Outcome as JSON.
"""

import asyncio
import json
import resource
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import uvloop

LATE_S: Final = 30.0
"""How long after the last arrival answers are waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to ask, how often and when."""

    ports: list[int]  # on 127.0.0.1; connections go round robin, and so do requests where connections are free
    connections: int
    request: str  # with {name} for what `values` gives, and {n} for the request's number
    seconds: float = 0.0  # closed loop: ask for so long; 0: until `count`
    count: int = 0  # closed loop: so many requests at the most; 0: no bound
    arrivals: list[float] | None = None  # open loop: seconds from the start, in order
    first: int = 0  # number of the first request
    values: list[dict[str, str]] | None = None  # of each request in turn; it bounds their number
    keep: str | None = None  # a field of the JSON answer, kept of each
    late_s: float = LATE_S


@dataclass(slots=True)
class Outcome:
    """What became of it. `latencies_s`, `ended_s` (from the start), `statuses`, `kept` and `numbers` (each
    request's {n}) stand in one order.
    """

    asked: int = 0
    unsent: int = 0  # arrived, and found no connection in time
    unanswered: int = 0  # sent, and not answered in time or cut off
    latencies_s: list[float] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # where something is kept
    codes: dict[str, int] = field(default_factory=dict)  # of errors: how many answers had which code
    seconds: float = 0.0  # from the start to the last answer
    cpu_s: float = 0.0  # of the generator itself
    lag_s: float = 0.0  # how late it sent a request for which a connection was free, at the worst

    @property
    def busy(self) -> float:
        """Share of a core that the generator used: near 1 it measures itself."""
        return self.cpu_s / self.seconds if self.seconds else 0.0

    def count(self, low: int, high: int | None = None) -> int:
        """Answers with a status from `low` to `high`, or of `low` alone."""
        return sum(low <= status <= (high or low) for status in self.statuses)

    def served_s(self) -> list[float]:
        """The latencies of answers of 201 alone, in order: a refusal is quick, or late, and no service."""
        pairs = zip(self.latencies_s, self.statuses, strict=True)
        return sorted(latency_s for latency_s, status in pairs if status == 201)

    def last_served_s(self) -> float:
        """When the last 201 came, from the start; 0 without any."""
        pairs = zip(self.ended_s, self.statuses, strict=True)
        return max((ended_s for ended_s, status in pairs if status == 201), default=0.0)


class Connection(asyncio.Protocol):
    """One kept connection with at most one request on it."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._data = bytearray()
        self._needed = 0  # bytes of the whole answer, 0 while its head is not complete
        self._body_at = 0
        self._transport: asyncio.Transport | None = None
        self.began_s = 0.0
        self.number = 0  # of its request
        self.busy = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._load.lost(self)

    @property
    def lost(self) -> bool:
        return self._transport is None

    def send(self, request: bytes, began_s: float) -> None:
        if self._transport is None:
            raise ConnectionError("closed")
        self.began_s = began_s
        self.busy = True
        self._data.clear()
        self._needed = 0
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._needed:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            self._body_at = end + 4
            self._needed = self._body_at + _length(bytes(self._data[:end]))
        if len(self._data) >= self._needed and self.busy:
            self.busy = False
            self._load.answered(self, int(self._data[9:12]), bytes(self._data[self._body_at : self._needed]))


def _length(head: bytes) -> int:
    """The length of the body. Raises ValueError where the head does not say: chunks are not read here."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without a length: {head!r}")


class Load:
    """One run of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._free: deque[Connection] = deque()
        self._arrived: deque[float] = deque()  # arrivals that wait for a connection
        self._next = 0
        self._bodies: list[bytes] = []
        self._done = asyncio.Event()
        self._began = 0.0
        self._in_flight = 0
        self.outcome = Outcome()

    async def connect(self) -> None:
        for number in range(self._job.connections):
            port = self._job.ports[number % len(self._job.ports)]
            _, connection = await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", port)
            self._free.append(connection)

    async def run(self) -> Outcome:
        """Carry it out; returns when all is answered, or given up."""
        cpu_s = _cpu_s()
        self._began = time.perf_counter()
        if self._job.arrivals is None:
            for connection in list(self._free):
                self._free.popleft()
                self._ask_again(connection)
            limit_s = self._job.seconds + self._job.late_s
        else:
            self._dispatch()
            limit_s = (self._job.arrivals[-1] if self._job.arrivals else 0.0) + self._job.late_s
        self._look_for_the_end()
        try:
            async with asyncio.timeout(limit_s):
                await self._done.wait()
        except TimeoutError:
            self.outcome.unanswered += self._in_flight
        self.outcome.cpu_s = _cpu_s() - cpu_s
        return self._finished()

    def _finished(self) -> Outcome:
        outcome = self.outcome
        outcome.seconds = max(outcome.ended_s, default=0.0)
        if self._job.arrivals is not None:
            outcome.unsent = len(self._job.arrivals) - outcome.asked
        if self._job.keep is not None:
            outcome.kept = [_kept(body, self._job.keep) for body in self._bodies]
        return outcome

    def _now_s(self) -> float:
        return time.perf_counter() - self._began

    def _request(self) -> bytes:
        number = self._next
        self._next += 1
        values = self._job.values[number] if self._job.values is not None else {}
        return self._job.request.format(n=self._job.first + number, **values).encode()

    def _exhausted(self) -> bool:
        """Closed loop: whether nothing more is to be asked."""
        job = self._job
        return bool(
            (job.seconds and self._now_s() >= job.seconds)
            or (job.count and self._next >= job.count)
            or (job.values is not None and self._next >= len(job.values))
        )

    def _ask(self, connection: Connection, began_s: float) -> None:
        self.outcome.asked += 1
        self._in_flight += 1
        connection.number = self._job.first + self._next
        connection.send(self._request(), began_s)

    def _ask_again(self, connection: Connection) -> None:
        if not self._exhausted() and not connection.lost:
            self._ask(connection, self._now_s())

    def _dispatch(self) -> None:
        """Open loop: whatever is due by now is sent, or waits for a connection; then sleep until the next."""
        arrivals = self._job.arrivals or []
        now = self._now_s()
        due = self.outcome.asked + len(self._arrived)
        if self._free and due < len(arrivals):
            self.outcome.lag_s = max(self.outcome.lag_s, now - arrivals[due])
        while due < len(arrivals) and arrivals[due] <= now:
            self._arrived.append(arrivals[due])
            due += 1
        self._send_arrived()
        if due < len(arrivals):
            self._loop.call_later(max(0.0, arrivals[due] - self._now_s()), self._dispatch)

    def _send_arrived(self) -> None:
        while self._arrived and self._free:
            connection = self._free.popleft()
            if not connection.lost:
                self._ask(connection, self._arrived.popleft())

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        now = self._now_s()
        outcome = self.outcome
        outcome.latencies_s.append(now - connection.began_s)
        outcome.ended_s.append(now)
        outcome.statuses.append(status)
        if status >= 400:
            code = f"{status} {_code(body)}"
            outcome.codes[code] = outcome.codes.get(code, 0) + 1
        if self._job.keep is not None:
            self._bodies.append(body)
            outcome.numbers.append(connection.number)
        self._in_flight -= 1
        if self._job.arrivals is None:
            self._ask_again(connection)
        else:
            self._free.append(connection)
            self._send_arrived()
        self._look_for_the_end()

    def lost(self, connection: Connection) -> None:
        if connection.busy:
            connection.busy = False
            self.outcome.unanswered += 1
            self._in_flight -= 1
        self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        if self._in_flight:
            return
        if self._job.arrivals is None or self.outcome.asked >= len(self._job.arrivals):
            self._done.set()


def _kept(body: bytes, name: str) -> Any:
    try:
        return json.loads(body).get(name)
    except ValueError:
        return None


def _code(body: bytes) -> str:
    """What an error of the broker is called; of another's answer nothing is known."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "without a code"


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    load = Load(job)
    await load.connect()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(asdict(await load.run())), flush=True)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_main())
