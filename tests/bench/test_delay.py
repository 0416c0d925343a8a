"""The delay proxy delays, and does nothing else."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from local.engine import ROOT, free_port
from tests.bench.answering import Server, answering

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def delayed(server: Server, delay_s: float) -> AsyncIterator[int]:
    """The proxy as the bench runs it, on its own event loop: they differ in what they forgive."""
    port = free_port()
    command = [
        "-m",
        "bench.delay",
        "--upstream",
        str(server.port),
        "--port",
        str(port),
        "--ms",
        str(delay_s * 1000),
    ]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT)
    try:
        async with asyncio.timeout(30):
            while not await _listens(port):  # noqa: ASYNC110  another process
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes = REQUEST) -> bytes:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2])
    return await reader.readexactly(length)


async def empty(_: bytes) -> bytes:
    return b"{}"


async def test_each_request_takes_so_much_longer_on_one_kept_connection() -> None:
    async with answering(empty) as server, delayed(server, 0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(4):
            began = time.perf_counter()
            await ask(reader, writer)
            assert time.perf_counter() - began >= 0.05
        writer.close()
    assert server.connections == 2  # and the look whether it listens


async def test_a_request_that_follows_others_takes_as_long_as_they_do() -> None:
    async def one(port: int, after_s: float) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(after_s)
        began = time.perf_counter()
        await ask(reader, writer)
        writer.close()
        return time.perf_counter() - began

    async with answering(empty) as server, delayed(server, 0.2) as port:
        took = await asyncio.gather(*(one(port, 0.03 * n) for n in range(10)))
    assert min(took) >= 0.2


async def test_what_is_sent_before_the_way_to_the_engine_is_open_goes_through_it() -> None:
    async with answering(empty) as server, delayed(server, 0) as port:
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(15):
                assert await ask(reader, writer) == b"{}"
            writer.close()


async def test_no_connection_waits_for_another() -> None:
    """Thirty requests a second away, one after the other, would take thirty."""
    all_here = asyncio.Barrier(30)

    async def once_all_are_here(_: bytes) -> bytes:
        await all_here.wait()
        return b"{}"

    async def one(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await ask(reader, writer)
        writer.close()
        return answer

    async with answering(once_all_are_here) as server, delayed(server, 1.0) as port:
        async with asyncio.timeout(15):
            answers = await asyncio.gather(*(one(port) for _ in range(30)))
    assert answers == [b"{}"] * 30


async def test_what_is_sent_arrives_whole_and_in_order() -> None:
    async def echo(line: bytes) -> bytes:
        return line

    path = b"/" + b"0123456789" * 5_000
    async with answering(echo) as server, delayed(server, 0.01) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET " + path + b" HTTP/1.1\r\n\r\n"
        for start in range(0, len(request) - 7_000, 7_000):
            writer.write(request[start : start + 7_000])
            await writer.drain()
            await asyncio.sleep(0)
        answer = await ask(reader, writer, request[(len(request) - 7_000 - 1) // 7_000 * 7_000 + 7_000 :])
        writer.close()
    assert answer == b"GET " + path + b" HTTP/1.1"


async def test_a_caller_that_goes_while_its_request_is_on_the_way_stops_nobody_else() -> None:
    async with answering(empty) as server, delayed(server, 0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            _, gone = await asyncio.open_connection("127.0.0.1", port)
            await ask(reader, writer)  # by then both are connected through
            gone.write(REQUEST)
            await gone.drain()
            gone.transport.abort()
            async with asyncio.timeout(15):
                assert await ask(reader, writer) == b"{}"
        writer.close()


async def test_where_nobody_listens_behind_it_the_connection_ends() -> None:
    async with delayed(Server(port=free_port()), 0.0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        async with asyncio.timeout(15):
            assert await reader.read() == b""
        writer.close()
