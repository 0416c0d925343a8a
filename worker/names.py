"""Name resolution in which no name waits for another one: neither a provider's for another's, nor the store's."""

import asyncio
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, Final

import uvloop

AT_ONCE: Final = 2
"""Lookups of one name, each in a thread of its own: so many threads are held by a name that hangs, and no more."""
FRESH_S: Final = 1.0
"""A lookup that has lasted this long is joined by a second one: where an answer of the name server was lost, the
system waits five seconds before it asks again."""
THREAD: Final = "name lookup"

Addresses = list[Any]  # as socket.getaddrinfo() has them


@dataclass(frozen=True, slots=True)
class Name:
    """What getaddrinfo() is asked: equal ones have one answer."""

    host: bytes
    port: bytes | str | int | None
    family: int
    type: int
    proto: int
    flags: int


@dataclass(frozen=True, slots=True)
class _Lookup:
    began_at: float  # of the monotonic clock
    found: "asyncio.Future[Addresses]"


class NamesLoop(uvloop.Loop):
    """uvloop, but with getaddrinfo() in threads of each name's own in place of a pool that all names share.

    It is the system's getaddrinfo() as everywhere: with its hosts file, search domains and name servers. Who asks
    for a name that is being looked up waits for that answer. The threads themselves are never waited for: none
    keeps the process from ending, and which are left when it does end with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lookups: dict[Name, list[_Lookup]] = {}

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Addresses:
        """The addresses of a name; its caller sets the deadline.

        Raises:
            OSError: there are none, or no thread can be had to ask.
        """
        if not host or _is_address(host):
            return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        encoded = host.encode("idna") if isinstance(host, str) else host
        return await self._look_up(Name(encoded, port, family, type, proto, flags))

    async def _look_up(self, name: Name) -> Addresses:
        """Whichever of the lookups under way ends first."""
        lookups = self._lookups.setdefault(name, [])
        fresh_from = time.monotonic() - FRESH_S
        if len(lookups) < AT_ONCE and all(lookup.began_at < fresh_from for lookup in lookups):
            self._begin(name, lookups)
        ended, _ = await asyncio.wait([lookup.found for lookup in lookups], return_when=asyncio.FIRST_COMPLETED)
        return ended.pop().result()

    def _begin(self, name: Name, lookups: list[_Lookup]) -> None:
        lookup = _Lookup(time.monotonic(), self.create_future())
        lookups.append(lookup)
        lookup.found.add_done_callback(lambda _: self._end(name, lookup))
        try:
            threading.Thread(target=self._ask, args=(name, lookup), name=THREAD, daemon=True).start()
        except RuntimeError as error:
            lookup.found.set_exception(socket.gaierror(socket.EAI_AGAIN, str(error)))

    def _ask(self, name: Name, lookup: _Lookup) -> None:
        """In a thread, for as long as it takes."""
        try:
            addresses = socket.getaddrinfo(name.host, name.port, name.family, name.type, name.proto, name.flags)
            settle = partial(lookup.found.set_result, addresses)
        except Exception as error:  # noqa: BLE001  the thread's edge: it is raised where the answer is waited for
            settle = partial(lookup.found.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed, nobody waits
            self.call_soon_threadsafe(settle)

    def _end(self, name: Name, lookup: _Lookup) -> None:
        lookup.found.exception()  # perhaps nobody waited so long
        lookups = self._lookups[name]
        lookups.remove(lookup)
        if not lookups:
            del self._lookups[name]


def _is_address(host: str | bytes) -> bool:
    try:
        ip_address(host if isinstance(host, str) else host.decode())
    except ValueError:
        return False
    return True
