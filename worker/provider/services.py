"""Services inside a sandbox, deleted before it is: a courtesy that never stands in a deletion's way."""

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from broker.metrics import Metrics
from worker.provider.answers import object_of, parsed, results_of
from worker.provider.breaker import Breaker
from worker.provider.calls import Answer, Calls
from worker.provider.errors import ProviderError
from worker.provider.secrets import Secret

log = logging.getLogger("worker")

SMALL_BODY_BYTES: Final = 65_536
MAX_SERVICES: Final = 2_000
_SERVICES: Final = "/api/universalinfra/v1/universalservices"
_ID: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,100}/){0,4}[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,127}")
"""Its last part becomes part of a path: never empty, never a dot."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")


@dataclass(frozen=True, slots=True)
class ServicesOutcome:
    """What became of a sandbox's services; `text` is for the tombstone, `result` for metrics."""

    result: str
    text: str
    listed: int = 0
    matched: int = 0
    deleted: int = 0


@dataclass(slots=True)
class _Progress:
    """What has been done so far, also when the deadline ends it."""

    listed: int = 0
    matched: int = 0
    deleted: int = 0
    trouble: str | None = None  # the first service's that could not be deleted


class Services:
    """Signs in, switches to the sandbox's account, deletes the services whose names begin with the prefix."""

    def __init__(
        self,
        calls: Calls,
        *,
        email: str,
        password: Secret,
        prefix: str,
        shadow: bool,
        timeout_s: float,
        max_body_bytes: int,
        breaker: Breaker,
        metrics: Metrics,
    ) -> None:
        self._calls = calls
        self._email = email
        self._password = password
        self._prefix = prefix
        self._shadow = shadow
        self._timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes
        self._breaker = breaker
        self._metrics = metrics

    async def clear(self, external_id: str) -> ServicesOutcome:
        """Clear one sandbox, all of it under one deadline. Never raises but when cancelled."""
        outcome = await self._outcome(external_id)
        self._metrics.services.labels(outcome.result).inc()
        return outcome

    async def _outcome(self, external_id: str) -> ServicesOutcome:
        done = _Progress()
        try:
            with self._breaker.guarding(account=external_id), self._calls.counted("services"):
                await self._within_deadline(external_id, done)
        except ProviderError as error:
            if error.kind == "BREAKER_OPEN":
                return ServicesOutcome("skipped", "skipped: BREAKER_OPEN")
            return self._failed(done, error.kind, external_id)
        except Exception:
            log.exception("clearing services crashed, the deletion goes on", extra={"account": external_id})
            return self._failed(done, "CRASHED", external_id)
        text = f"would delete {done.matched} (shadow)" if self._shadow else f"deleted {done.deleted}"
        result = "nothing" if not done.matched else "shadow" if self._shadow else "deleted"
        return ServicesOutcome(result, text, done.listed, done.matched, done.deleted)

    def _failed(self, done: _Progress, kind: str, external_id: str) -> ServicesOutcome:
        text = f"deleted {done.deleted} of {done.matched}, failed: {kind}" if done.deleted else f"failed: {kind}"
        facts = {"account": external_id, "why": kind, "deleted": done.deleted, "matched": done.matched}
        log.warning("services of a sandbox were not all cleared, the deletion goes on", extra=facts)
        return ServicesOutcome("failed", text, done.listed, done.matched, done.deleted)

    async def _within_deadline(self, external_id: str, done: _Progress) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._clear(external_id, done)
        except TimeoutError as error:
            raise ProviderError("TIMEOUT") from error
        if done.trouble is not None:
            raise ProviderError(done.trouble)

    async def _clear(self, external_id: str, done: _Progress) -> None:
        session = await self._session_in(external_id)
        answer = await self._call("GET", _SERVICES, session, max_bytes=self._max_body_bytes)
        services = await asyncio.to_thread(results_of, answer.body)
        done.listed = len(services)
        if done.listed > MAX_SERVICES:
            raise ProviderError("WRONG_SHAPE", f"{done.listed} services")
        ids = list(dict.fromkeys(service.get("id") for service in services if self._matches(service)))
        done.matched = len(ids)
        if self._shadow:
            return
        for id_ in ids:
            try:
                await self._delete(id_, session)
                done.deleted += 1
            except ProviderError as error:  # the others are still worth a try
                done.trouble = done.trouble or error.kind

    def _matches(self, service: Any) -> bool:
        name = service.get("name") if isinstance(service, dict) else None
        return isinstance(name, str) and name.startswith(self._prefix)

    async def _session_in(self, external_id: str) -> str:
        """A session in the sandbox's own account.

        The one that signing in gives is in the user's account, and would delete the services there.
        """
        password = await self._password.get()
        try:
            home = await self._jwt("/v2/session/users/sign_in", None, email=self._email, password=password)
        except ProviderError as error:
            if error.kind not in ("HTTP_401", "HTTP_403"):
                raise
            self._password.refused(password)
            raise ProviderError("SIGN_IN_REFUSED") from error
        inside = await self._jwt("/v2/session/account_switch", home, id=external_id)
        if inside == home:
            raise ProviderError("NOT_SWITCHED")
        return inside

    async def _jwt(self, path: str, session: str | None, **said: str) -> str:
        answer = await self._call("POST", path, session, json=said)
        jwt = object_of(answer.body).get("jwt")
        if not isinstance(jwt, str) or not _TOKEN.fullmatch(jwt):
            raise ProviderError("WRONG_SHAPE", "no jwt")
        return jwt

    async def _delete(self, service_id: Any, session: str) -> None:
        if not isinstance(service_id, str) or not _ID.fullmatch(service_id):
            raise ProviderError("INVALID_SERVICE", "its id is missing or odd")
        name = quote(service_id.rpartition("/")[2], safe="")
        answer = await self._call("DELETE", f"{_SERVICES}/{name}", session, expected=(200, 202, 204, 404))
        if answer.status == 404 and answer.body:
            parsed(answer.body)

    async def _call(
        self,
        method: str,
        path: str,
        session: str | None,
        *,
        expected: tuple[int, ...] = (200, 201),
        max_bytes: int = SMALL_BODY_BYTES,
        **arguments: Any,
    ) -> Answer:
        headers = {"Authorization": f"Bearer {session}"} if session is not None else {}
        return await self._calls.call(
            "services",
            method,
            path,
            expected=expected,
            deadline_s=self._timeout_s,
            max_bytes=max_bytes,
            headers=headers,
            **arguments,
        )
