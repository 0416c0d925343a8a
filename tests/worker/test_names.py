"""B3 at the name servers: providers whose names nobody resolves hold up their own tenants alone."""

import asyncio
import gc
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.sandbox import State
from broker.tenant import Provider, Tenant
from local.store_proxy import StoreProxy
from tests.allocation.students import allocate, release
from tests.builders import TEST_CAUSE
from tests.conftest import a_broker
from tests.worker.conftest import TOKEN, a_provider, until
from tests.worker.conftest import Provider as Simulator
from tests.worker.test_process import a_worker_process
from worker import names
from worker.names import AT_ONCE, THREAD, NamesLoop

HANGING = 40
"""More than any pool of threads that they could share: libuv's has 4 here, asyncio's 32 at the most."""

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int (*lookup)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    const char *end = name ? strrchr(name, '.') : 0;
    while (end && !strcmp(end, ".hangs")) pause();
    return ((lookup)dlsym(RTLD_NEXT, "getaddrinfo"))(name, service, hints, found);
}
"""


@pytest.fixture
def shim(tmp_path: Path) -> str:
    """A library that has every lookup of a name under `.hangs` hang for ever."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed (Debian: gcc libc6-dev)")
    source, library = tmp_path / "names.c", tmp_path / "names.so"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return str(library)


def by_name(url: str) -> str:
    return url.replace("127.0.0.1", "localhost")


@pytest.mark.timeout(300)
async def test_names_that_hang_hold_up_no_other_tenant_nor_the_store_nor_the_end(
    shim: str, proxy: StoreProxy, ministack: str, table_name: str
) -> None:
    """The deletion needs new connections, and a lookup, to both: the store's are cut, the provider's are idle."""
    teams = [f"team-{n}" for n in range(HANGING)]
    async with a_provider() as healthy, a_broker(ministack, table_name) as core:
        for team in teams:
            provider = Provider(base_url=f"https://{team}.hangs", secret="env:CSP_API_TOKEN_TEAM")
            await core.tenants.create(Tenant(name=team, provider=provider), TEST_CAUSE, now=1)
        async with (
            a_worker_process(
                by_name(proxy.url),
                table_name,
                Simulator(by_name(healthy.url), healthy.simulation, healthy.http),
                LD_PRELOAD=shim,
                UV_THREADPOOL_SIZE="4",
                CSP_API_TOKEN_TEAM=TOKEN,
                CSP_READ_ATTEMPTS="1",
                SYNC_INTERVAL_SEC="20",
                GAUGES_INTERVAL_SEC="30",
            ) as worker,
            httpx.AsyncClient(base_url=worker.url) as http,
        ):

            async def all_hang() -> bool:
                await asyncio.sleep(0.5)
                metrics = (await http.get("/metrics", timeout=60)).text
                return all(f'kind="TIMEOUT",tenant="{team}"' in metrics for team in teams)

            async def filled() -> bool:
                return await core.sandboxes.count("acme", State.AVAILABLE) == 10

            await until(filled, within_s=80)
            await until(all_hang, within_s=80)
            proxy.faults.change({"reset_next": 10})
            held = await allocate(core, "student-1")
            await release(core, held.sandbox_id, "student-1")

            async def deleted() -> bool:
                row = await core.sandboxes.get("acme", held.sandbox_id)
                return row is not None and row.state is State.DELETED

            await until(deleted, within_s=80)
            code = await worker.stop()

    assert code == 0


@dataclass
class Resolver:
    """Stands for the system's: knows every name but "nobody", those that hang only once they are let go."""

    hanging: set[str] = field(default_factory=lambda: {"hangs"})
    asked: list[str] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, host: bytes, port: int, *_: Any) -> list[Any]:
        name = host.decode()
        self.asked.append(name)
        number = len(self.asked)
        if name in self.hanging:
            self.let_go.wait()
        if name == "nobody":
            raise socket.gaierror(socket.EAI_NONAME, name)
        return [(name, port, number)]

    async def until_asked(self, times: int) -> None:
        async def asked() -> bool:
            return len(self.asked) >= times

        await until(asked)

    def end(self) -> None:
        """Let go of all, and wait for their threads."""
        self.let_go.set()
        for thread in threading.enumerate():
            if thread.name == THREAD:
                thread.join()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """In place of the system's; a lookup stays fresh for as long as the test says nothing else."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setattr(names, "FRESH_S", 1000.0)
    yield resolver
    resolver.end()


def run(test: Callable[[NamesLoop], Coroutine[Any, Any, None]]) -> None:
    """On the loop that the worker has."""
    with asyncio.Runner(loop_factory=NamesLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, NamesLoop)
        runner.run(asyncio.wait_for(test(loop), 30))


def lookups_running() -> int:
    return [thread.name for thread in threading.enumerate()].count(THREAD)


async def ask_in_vain(loop: NamesLoop, name: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await loop.getaddrinfo(name, 443)


def test_who_asks_for_a_name_that_is_looked_up_shares_the_answer(resolver: Resolver) -> None:
    async def test(loop: NamesLoop) -> None:
        given_up, *asking = [asyncio.create_task(loop.getaddrinfo(name, 443)) for name in ["hangs", b"hangs"] * 5]
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        resolver.let_go.set()
        assert await asyncio.gather(*asking) == [[("hangs", 443, 1)]] * 9
        assert await loop.getaddrinfo("hangs", 443) == [("hangs", 443, 2)], "nothing is kept"

    run(test)


def test_a_name_that_hangs_holds_two_threads_and_up_no_other_name(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "FRESH_S", 0.0)

    async def test(loop: NamesLoop) -> None:
        for _ in range(5):
            await ask_in_vain(loop, "hangs")
        assert lookups_running() == AT_ONCE
        await resolver.until_asked(AT_ONCE)
        assert await loop.getaddrinfo("answers", 443) == [("answers", 443, 3)]

    run(test)
    resolver.end()
    assert resolver.asked == ["hangs", "hangs", "answers"]


def test_a_lookup_that_lasts_is_joined_by_a_second_one_whose_answer_is_enough(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(loop: NamesLoop) -> None:
        first = asyncio.create_task(loop.getaddrinfo("hangs", 443))
        await ask_in_vain(loop, "hangs")
        await resolver.until_asked(1)
        assert lookups_running() == 1, "the first one is fresh"
        resolver.hanging.clear()  # for those that begin now
        monkeypatch.setattr(names, "FRESH_S", 0.0)
        assert await loop.getaddrinfo("hangs", 443) == [("hangs", 443, 2)]
        resolver.let_go.set()
        assert await first == [("hangs", 443, 1)]

    run(test)


def test_a_name_that_nobody_has_is_an_error_for_all_who_asked_and_asked_for_anew(resolver: Resolver) -> None:
    async def test(loop: NamesLoop) -> None:
        for _ in range(2):
            asking = [loop.getaddrinfo("nobody", 443) for _ in range(3)]
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert [type(answer) for answer in answers] == [socket.gaierror] * 3

    run(test)
    assert resolver.asked == ["nobody", "nobody"]


@pytest.mark.parametrize("host", ["127.0.0.1", b"127.0.0.1", "::1"], ids=["text", "bytes", "ipv6"])
def test_an_address_is_looked_up_nowhere(host: str | bytes, resolver: Resolver) -> None:
    async def test(loop: NamesLoop) -> None:
        [found] = await loop.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
        assert found[4][:2] == (host if isinstance(host, str) else host.decode(), 443)

    run(test)
    assert resolver.asked == []


def test_without_a_thread_to_ask_in_it_is_an_error_and_the_next_one_asks_again(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test(loop: NamesLoop) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_more)
            with pytest.raises(OSError, match="can't start new thread"):
                await loop.getaddrinfo("answers", 443)
        assert await loop.getaddrinfo("answers", 443) == [("answers", 443, 1)]

    run(test)


def test_an_error_that_nobody_waited_for_is_no_complaint_of_the_loop(resolver: Resolver) -> None:
    resolver.hanging.add("nobody")
    complaints: list[object] = []

    async def test(loop: NamesLoop) -> None:
        loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
        await ask_in_vain(loop, "nobody")
        await resolver.until_asked(1)
        resolver.end()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()

    run(test)
    assert complaints == []


def test_an_answer_that_comes_after_the_end_disturbs_nobody(resolver: Resolver) -> None:
    """Its thread's error would fail this test."""
    run(lambda loop: ask_in_vain(loop, "hangs"))

    resolver.end()
    assert resolver.asked == ["hangs"]
