"""The delay proxy delays, and does nothing else."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.delay import serve
from local.engine import free_port
from tests.bench.answering import Server, answering

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def delayed(server: Server, delay_s: float) -> AsyncIterator[int]:
    port = free_port()
    proxy = await serve(port, upstream_port=server.port, delay_s=delay_s)
    try:
        yield port
    finally:
        proxy.close()


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
    assert server.connections == 1


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


async def test_where_nobody_listens_behind_it_the_connection_ends() -> None:
    async with delayed(Server(port=free_port()), 0.0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        async with asyncio.timeout(15):
            assert await reader.read() == b""
        writer.close()
