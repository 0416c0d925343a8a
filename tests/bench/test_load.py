"""The load generator tells what was, and does not spare the server: open loop, closed loop, what was lost."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from bench.arrivals import at_once, evenly
from bench.load import Job, Load, Outcome
from tests.bench.answering import Server, answering

REQUEST = "GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n"


async def outcome_of(server: Server, **job: Any) -> Outcome:
    values: dict[str, Any] = {"ports": [server.port], "connections": 1, "request": REQUEST, "late_s": 20}
    load = Load(Job(**values | job))
    await load.connect()
    return await load.run()


async def at_leisure(_: bytes) -> bytes:
    await asyncio.sleep(0.02)
    return b"{}"


async def number_of(line: bytes) -> bytes:
    return b'{"path": "%s"}' % line.split()[1]


async def never(_: bytes) -> bytes:
    await asyncio.sleep(3600)
    return b""


@pytest.mark.parametrize(("count", "seconds"), [(1, 1.0), (1000, 2.5)], ids=["one", "many"])
def test_arrivals_are_fixed_beforehand_in_order_within_their_time_and_the_same_for_everybody(
    count: int, seconds: float
) -> None:
    arrivals = evenly(count, seconds, seed=7)
    assert len(arrivals) == count
    assert arrivals == sorted(arrivals)
    assert arrivals[0] >= 0
    assert arrivals[-1] < seconds
    assert arrivals == evenly(count, seconds, seed=7) != evenly(count, seconds, seed=8)


def test_arrivals_fill_their_time_and_are_not_evenly_spaced() -> None:
    arrivals = evenly(10_000, 10.0)
    thirds = [sum(start <= at < start + 2.5 for at in arrivals) for start in (0, 2.5, 5, 7.5)]
    assert all(2200 < count < 2800 for count in thirds)
    assert max(b - a for a, b in pairwise(arrivals)) > 0.004


async def test_in_an_open_loop_a_request_that_waits_for_a_connection_has_waited() -> None:
    async with answering(at_leisure) as server:
        outcome = await outcome_of(server, arrivals=at_once(5))
    assert outcome.latencies_s == outcome.ended_s  # all arrived at 0, whenever they were sent
    assert outcome.ended_s[-1] >= 5 * 0.02
    assert (outcome.asked, outcome.unsent, outcome.unanswered) == (5, 0, 0)


async def test_in_an_open_loop_requests_arrive_whatever_became_of_those_before() -> None:
    all_here = asyncio.Barrier(4)

    async def once_all_are_here(_: bytes) -> bytes:
        await all_here.wait()
        return b"{}"

    async with answering(once_all_are_here) as server:
        outcome = await outcome_of(server, connections=4, arrivals=[0.0, 0.01, 0.02, 0.03])
    assert outcome.count(201) == 4
    assert server.most_in_flight == 4


async def test_nothing_is_sent_before_it_arrives() -> None:
    arrivals = [0.0, 0.05, 0.1]
    async with answering(number_of) as server:
        outcome = await outcome_of(server, connections=3, arrivals=arrivals)
    assert all(latency >= 0 for latency in outcome.latencies_s)
    assert all(ended > at for ended, at in zip(outcome.ended_s, arrivals, strict=True))


async def test_what_was_never_sent_and_what_was_never_answered_is_counted() -> None:
    async with answering(never) as server:
        outcome = await outcome_of(server, arrivals=at_once(5), late_s=0.1)
    assert (outcome.asked, outcome.unsent, outcome.unanswered) == (1, 4, 1)
    assert outcome.statuses == []


async def test_a_connection_that_is_cut_off_is_an_answer_that_did_not_come() -> None:
    async def cut_off_the_second(line: bytes) -> bytes | None:
        return None if line.startswith(b"GET /1 ") else b"{}"

    async with answering(cut_off_the_second) as server:
        outcome = await outcome_of(server, connections=2, count=10, late_s=0.5)
    assert outcome.unanswered == 1
    assert outcome.count(201) == outcome.asked - 1 == 9


async def test_a_closed_loop_keeps_its_connections_busy_one_request_each() -> None:
    async with answering(at_leisure) as server:
        outcome = await outcome_of(server, connections=4, count=20)
    assert (outcome.asked, outcome.count(201)) == (20, 20)
    assert (server.connections, server.most_in_flight) == (4, 4)
    assert all(latency >= 0.02 for latency in outcome.latencies_s)


async def test_a_closed_loop_ends_with_its_time() -> None:
    async with answering(at_leisure) as server:
        outcome = await outcome_of(server, seconds=0.2)
    assert 1 <= outcome.asked <= 10  # one connection, 20 ms each at the least
    assert outcome.ended_s[-2] < 0.2


async def test_each_request_has_a_number_of_its_own_and_its_answer_is_kept() -> None:
    async with answering(number_of) as server:
        outcome = await outcome_of(server, connections=3, first=100, count=7, keep="path")
    assert sorted(outcome.kept) == [f"/{n}" for n in range(100, 107)]
    assert len(outcome.kept) == len(outcome.statuses) == len(outcome.latencies_s)


async def test_requests_are_filled_in_from_values_and_end_with_them() -> None:
    values = [{"sandbox": name} for name in ("a", "b", "c")]
    request = "GET /{sandbox}/{n} HTTP/1.1\r\n\r\n"
    async with answering(number_of) as server:
        await outcome_of(server, request=request, values=values)
    assert server.lines == [b"GET /a/0 HTTP/1.1", b"GET /b/1 HTTP/1.1", b"GET /c/2 HTTP/1.1"]


async def test_requests_go_round_all_ports() -> None:
    async with answering(number_of) as one, answering(number_of) as other:
        await outcome_of(one, ports=[one.port, other.port], connections=4, arrivals=at_once(4))
    assert (len(one.lines), len(other.lines)) == (2, 2)


async def test_other_answers_than_hoped_for_are_told_by_their_status() -> None:
    async with answering(number_of, status=503) as server:
        outcome = await outcome_of(server, count=3)
    assert (outcome.count(201), outcome.count(500, 599)) == (0, 3)


async def test_errors_are_counted_by_status_and_code_and_who_was_served_is_told_from_them() -> None:
    async def refusal(line: bytes) -> bytes:
        return b'{"error": {"code": "DEADLINE_EXCEEDED"}}' if line.startswith(b"GET /0 ") else b"Bad Gateway"

    async with answering(refusal, status=503) as refusing, answering(number_of) as serving:
        refused = await outcome_of(refusing, count=3)
        served = await outcome_of(serving, count=3)
    assert refused.codes == {"503 DEADLINE_EXCEEDED": 1, "503 without a code": 2}
    assert (refused.served_s(), refused.last_served_s()) == ([], 0.0)
    assert served.codes == {}
    assert served.served_s() == sorted(served.latencies_s)
    assert served.last_served_s() == served.seconds


async def test_an_answer_in_pieces_is_one_answer() -> None:
    async def long(_: bytes) -> bytes:
        return b'{"path": "%s"}' % (b"x" * 300_000)

    async with answering(long) as server:
        outcome = await outcome_of(server, count=2, keep="path")
    assert [len(path) for path in outcome.kept] == [300_000, 300_000]


async def test_what_is_kept_of_an_answer_stands_beside_the_number_of_its_request() -> None:
    async def later_the_earlier(line: bytes) -> bytes:
        await asyncio.sleep(0.03 * (3 - int(line.split()[1][1:]) % 3))
        return await number_of(line)

    async with answering(later_the_earlier) as server:
        outcome = await outcome_of(server, connections=3, first=6, count=3, keep="path")
    assert outcome.kept == [f"/{number}" for number in outcome.numbers]
    assert sorted(outcome.numbers) == [6, 7, 8]
    assert outcome.numbers != [6, 7, 8]
