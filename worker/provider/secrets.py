"""Secrets read at call time: from the environment, a file, or Secrets Manager. A new value needs no restart."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Final, Protocol

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from broker import logs
from broker.metrics import Metrics
from broker.store.allowed import Guard
from worker.provider.errors import ProviderError

log = logging.getLogger("worker")

READ_S: Final = 5.0
REMEMBER_S: Final = 60.0
MAX_FILE_BYTES: Final = 65_536
_HEADER_TEXT: Final = re.compile(r"[\x21-\x7e]+")


class Unreadable(Exception):
    """The secret cannot be had where it is kept. The text never holds what was found there.

    Attributes:
        kind: of the ProviderError that every call ends in.
    """

    def __init__(self, why: str, *, kind: str = "SECRET_UNREADABLE") -> None:
        super().__init__(why)
        self.kind = kind


class Source(Protocol):
    """Where a secret is kept. `place` tells one place from another, whatever lies there."""

    place: str

    async def stamp(self) -> Hashable:
        """Another value when the secret may have changed. Cheap: asked before every call."""

    async def read(self) -> str:
        """The secret as it is now.

        Raises:
            Unreadable: it is not there, or nobody answers.
        """


class GivenSource:
    """The value from the environment: it lasts as long as the process."""

    def __init__(self, value: str, *, place: str = "") -> None:
        self._value = value
        self.place = place

    async def stamp(self) -> Hashable:
        return None

    async def read(self) -> str:
        return self._value


class NoSource:
    """There is no secret to be had, and no call to be made, until somebody mends the tenant's connection."""

    place = "nowhere"

    def __init__(self, kind: str, why: str) -> None:
        self._kind = kind
        self._why = why

    async def stamp(self) -> Hashable:
        return None

    async def read(self) -> str:
        raise Unreadable(self._why, kind=self._kind)


class FileSource:
    """A file that something else renews: an agent's, or a mounted one."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self.place = f"file:{path}"

    async def stamp(self) -> Hashable:
        return await asyncio.to_thread(self._stamp)

    async def read(self) -> str:
        return await asyncio.to_thread(self._read)

    def _stamp(self) -> Hashable:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_FILE_BYTES).decode().strip("\r\n")
        except OSError as error:
            raise Unreadable(type(error).__name__) from error
        except UnicodeDecodeError:
            raise Unreadable("no UTF-8 text") from None  # its cause would show what was found


class ManagedSource:
    """AWS Secrets Manager: `id` or `id#key`, where the secret is JSON. Asked once a minute at the most."""

    def __init__(
        self,
        reference: str,
        *,
        region: str,
        session: aioboto3.Session | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place = reference
        self._id, _, self._key = reference.partition("#")
        self._region = region
        self._clock = clock
        self._session = (
            session or Guard("worker", table_name=None).session()
        )  # remembers the credentials, and is not small

    async def stamp(self) -> Hashable:
        return int(self._clock() // REMEMBER_S)

    async def read(self) -> str:
        config = AioConfig(connect_timeout=2, read_timeout=READ_S, retries={"total_max_attempts": 1})
        try:
            async with self._session.client("secretsmanager", region_name=self._region, config=config) as manager:
                answer = await manager.get_secret_value(SecretId=self._id)
        except ClientError as error:
            raise Unreadable(str(error.response.get("Error", {}).get("Code"))) from error
        except (BotoCoreError, OSError, ValueError) as error:
            raise Unreadable(type(error).__name__) from error
        text = answer.get("SecretString")
        if not isinstance(text, str):
            raise Unreadable("no text")
        return _at_key(text, self._key) if self._key else text


def _at_key(text: str, key: str) -> str:
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("no JSON, and a key was asked for") from None  # its cause would show what was found
    value = said.get(key) if isinstance(said, dict) else None
    if not isinstance(value, str):
        raise Unreadable("no text under the key that was asked for")
    return value


class Secret:
    """One secret, remembered until its source may have another, or until the provider refuses it."""

    def __init__(
        self, source: Source, *, variable: str, for_header: bool, metrics: Metrics, tenant: str | None = None
    ) -> None:
        self._source = source
        self._tenant = tenant  # whose connection it is, where a tenant brings its own
        self._trouble: Unreadable | None = None
        self._variable = variable
        self._for_header = for_header
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._value: str | None = None
        self._stamp: Hashable = None
        self._doubted = False
        self._doubted_value: str | None = None

    async def get(self) -> str:
        """The secret as it is now; the last one known where its source is silent.

        Raises:
            ProviderError: SECRET_UNREADABLE, or what else the source says: there is none, and never was. No call
                can be made.
        """
        try:
            async with asyncio.timeout(2 * READ_S), self._lock:  # one reads, the others find what it read
                await self._refresh()
        except (Unreadable, TimeoutError) as error:
            self._make_do(error)
        if self._value is not None:
            return self._value
        if self._trouble is None or self._tenant is None:
            raise ProviderError("SECRET_UNREADABLE", self._variable)
        # not `secret: what`: that is how a secret itself would stand in a log, and is masked there
        raise ProviderError(self._trouble.kind, f"{self._trouble} ({self._variable})")

    def describe(self) -> str | None:
        """For people: what is wrong with it, None where nothing is known to be."""
        return None if self._trouble is None else f"{self._trouble.kind}: {self._trouble}"

    def refused(self, value: str) -> None:
        """The provider did not take `value`: read anew before the next call, once for a value and a reading."""
        if value == self._value and value != self._doubted_value:
            self._doubted = True
            self._doubted_value = value

    async def _refresh(self) -> None:
        stamp = await self._source.stamp()
        if self._value is not None and stamp == self._stamp and not self._doubted:
            return
        try:
            async with asyncio.timeout(READ_S):
                value = self._usable(await self._source.read())
        except (Unreadable, TimeoutError):
            self._is_of(stamp)  # what is known serves until there may be another
            raise
        logs.hide([value])  # before anybody can use it
        if self._value not in (None, value):
            log.info("a secret has a new value", extra={"variable": self._variable})
        self._value = value
        self._trouble = None
        self._is_of(stamp)
        self._metrics.secret_reads.labels(self._variable, "ok").inc()

    def _usable(self, value: str) -> str:
        if not value or (self._for_header and not _HEADER_TEXT.fullmatch(value)):
            raise Unreadable("empty, or with characters that a header cannot carry")
        return value

    def _is_of(self, stamp: Hashable) -> None:
        if not self._doubted:
            self._doubted_value = None
        self._doubted = False
        self._stamp = stamp

    def _make_do(self, error: Exception) -> None:
        self._metrics.secret_reads.labels(self._variable, "failed").inc()
        why = str(error) or type(error).__name__
        self._trouble = error if isinstance(error, Unreadable) else Unreadable(why)
        facts = {"variable": self._variable, "why": why} | ({"tenant": self._tenant} if self._tenant else {})
        if self._value is None:
            log.error("a secret cannot be read: no call can be made", extra=facts)
        else:
            log.warning("a secret cannot be read: the last known value serves on", extra=facts)
