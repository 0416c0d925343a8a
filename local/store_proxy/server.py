"""The proxy itself: its life, and the way of a call through it."""

import asyncio
import socket

from aiohttp import web

from local.store_proxy.answers import Answer, Dropped, Refused, error
from local.store_proxy.call import SCHEMA_CHANGES, Call
from local.store_proxy.conflicts import InFlight
from local.store_proxy.control import PREFIX, Control
from local.store_proxy.counts import CallRecord, Counts
from local.store_proxy.faults import Faults
from local.store_proxy.hooks import Hook, HookHandle, Hooks
from local.store_proxy.index_lag import IndexLag
from local.store_proxy.mishaps import Mishaps
from local.store_proxy.schema import Table, Tables
from local.store_proxy.strictness import complaint
from local.store_proxy.upstream import Unreachable, Upstream

SHUTDOWN_S = 0.5
BACKLOG = 1024


class StoreProxy:
    """Runs between `async with` and its end; `faults` may be changed meanwhile.

    Conflicts and index lag cover what passes through this one proxy: give each engine one at a time.
    """

    def __init__(
        self,
        *,
        upstream_url: str,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults | None = None,
        seed: int = 0,
    ) -> None:
        self.upstream_url = upstream_url
        self.faults = faults or Faults()
        self.counts = Counts()
        self._address = (host, port)
        self._upstream = Upstream(upstream_url)
        self._tables = Tables(self._upstream)
        self._mishaps = Mishaps(self.faults, self.counts, seed=seed)
        self._in_flight = InFlight(self.counts)
        self._lag = IndexLag(self._upstream, self.faults)
        self._control = Control(self.faults, self.counts)
        self._before = Hooks()
        self._after = Hooks()
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        host, port = self._address
        return f"http://{host}:{port}"

    @property
    def calls(self) -> list[CallRecord]:
        """The last 10,000 calls, oldest first."""
        return list(self.counts.recent)

    def before(self, op: str, hook: Hook) -> HookHandle:
        """Run `hook` with the body of each `op` before it counts as in flight and is forwarded.

        What the hook itself sends through the proxy therefore conflicts with nothing of this call. An
        `op` is spelled as in `Counts`. The body is for reading: what is forwarded are the bytes that came.
        """
        return self._before.add(op, hook)

    def after(self, op: str, hook: Hook) -> HookHandle:
        """Run `hook` after each successful `op`, committed and unanswered: its items are still in flight."""
        return self._after.add(op, hook)

    async def settle(self) -> None:
        """Wait until the indexes show what the tables show. Raises RuntimeError while they are frozen."""
        await self._lag.settle()

    async def __aenter__(self) -> "StoreProxy":
        # Bound here and not by aiohttp, so that an ephemeral port is known without asking its internals.
        listener = socket.create_server(self._address, backlog=BACKLOG)
        self._address = listener.getsockname()[:2]
        await self._upstream.open()
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, backlog=BACKLOG).start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        await self._lag.close()
        await self._upstream.close()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        raw = await request.content.read()
        if request.path.startswith(PREFIX):
            answer = self._control.answer(request.method, request.path, raw)
        else:
            try:
                answer = await self._answer(request, raw)
            except Unreachable as failure:
                answer = error("ServiceUnavailable", f"store proxy: {failure}", status=503)
            except Dropped as dropped:
                _drop(request, reset=dropped.reset)
                return web.Response()
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _answer(self, request: web.BaseRequest, raw: bytes) -> Answer:
        call = Call.parse(request.headers, raw)
        if call is None:
            return await self._upstream.send(request.headers, raw, method=request.method, path=request.path_qs)
        tables = await self._tables.of(call.tables, call.scope)
        self.counts.note(call, tables)
        await self._mishaps.on_the_way(call)
        delay_s = self._mishaps.delay_s()
        try:
            answer = await self._serve(call, tables, delay_s)
        except Refused as refused:
            await _pause(delay_s)
            return refused.answer
        if answer.succeeded and self._mishaps.answer_is_lost(call):
            raise Dropped(reset=False)
        return answer

    async def _serve(self, call: Call, tables: dict[str, Table], delay_s: float) -> Answer:
        self._mishaps.on_arrival(call)
        if (message := complaint(call, tables)) is not None:
            self.counts.faults["strictness"] += 1
            raise Refused(error("ValidationException", message))
        await self._before.run(call)
        if not self.faults.real_conflicts:
            return await self._commit(call, tables, delay_s)
        with self._in_flight.hold(call, tables):
            return await self._commit(call, tables, delay_s)

    async def _commit(self, call: Call, tables: dict[str, Table], delay_s: float) -> Answer:
        await _pause(delay_s / 2)
        answer = await self._lag.forward(call, tables)
        if call.op in SCHEMA_CHANGES:
            await self._forget(call)
        if answer.succeeded:
            await self._after.run(call)
        await _pause(delay_s / 2)
        return answer

    async def _forget(self, call: Call) -> None:
        for name in call.tables:
            self._tables.forget(name, call.scope)
            await self._lag.forget(name, call.scope)


async def _pause(delay_s: float) -> None:
    if delay_s > 0:
        await asyncio.sleep(delay_s)


def _drop(request: web.BaseRequest, *, reset: bool) -> None:
    transport = request.transport
    if transport is None:
        return
    if reset:
        transport.abort()
    else:
        transport.close()
