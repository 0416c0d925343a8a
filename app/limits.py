"""Rate limits: per student, under a ceiling per credential; strangers by their address alone.

They count per process: with N API tasks behind a balancer the whole allows up to N times as much.
Fixed windows that begin with a key's first request; memory is bounded by an LRU.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final

from limits import RateLimitItem, parse
from limits.storage import Storage
from slowapi import Limiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth import Authenticator, Credential, bearer_token
from app.ceilings import TenantCeilings
from app.errors import broker_error
from app.headers import header, student_of
from app.key_ring import KeyRing, Refusal
from broker.errors import BrokerError, RateLimited
from broker.key import Token
from broker.metrics import Metrics
from broker.role import Role

MAX_KEYS: Final = 100_000
EXEMPT: Final = frozenset({"/healthz", "/readyz", "/metrics"})
STRANGERS: Final = "100/second"
"""How many API keys that this process has never seen are looked up: a flood of them is no flood for the store."""


class LruStorage(Storage):
    """Fixed-window counters that forget the least recently used: a flood of keys costs time, not memory."""

    STORAGE_SCHEME = ["lru"]  # noqa: RUF012  limits' own protocol

    def __init__(self, uri: str | None = None, *, wrap_exceptions: bool = False, **options: str) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions, **options)
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self.max_keys = MAX_KEYS

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        count, ends_at = self._live(key)
        count += amount
        self._counts[key] = (count, ends_at or time.monotonic() + expiry)
        self._counts.move_to_end(key)
        if len(self._counts) > self.max_keys:
            self._counts.popitem(last=False)
        return count

    def get(self, key: str) -> int:
        return self._live(key)[0]

    def get_expiry(self, key: str) -> float:
        return self._live(key)[1] or time.monotonic()

    def _live(self, key: str) -> tuple[int, float]:
        count, ends_at = self._counts.get(key, (0, 0.0))
        return (count, ends_at) if ends_at > time.monotonic() else (0, 0.0)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        count = len(self._counts)
        self._counts.clear()
        return count

    def clear(self, key: str) -> None:
        self._counts.pop(key, None)

    def __len__(self) -> int:
        return len(self._counts)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the limits say of a request: its headers, and the refusal if there is one."""

    headers: dict[str, str]
    refused: RateLimited | None


class RateLimits:
    """Counts requests. The ceiling is asked first, so that whoever rotates headers makes no new keys."""

    def __init__(self, *, per_student: str, per_credential: str, per_address: str) -> None:
        limiter = Limiter(key_func=lambda: "", storage_uri="lru://")
        self._strategy = limiter.limiter
        self._per_student = parse(per_student)
        self._per_credential = parse(per_credential)
        self._per_address = parse(per_address)
        self._strangers = parse(STRANGERS)

    def check(
        self,
        credential: Credential | None,
        *,
        student: str | None,
        address: str,
        per_tenant: RateLimitItem | None = None,
    ) -> Verdict:
        """Count one request, and say whether it may pass. `per_tenant`: for the tenant's credentials together."""
        if credential is None:
            return self._hit(self._per_address, "address", ["address", _network(address)])
        ceiling = self._hit(self._per_credential, "credential", ["credential", credential.name])
        if ceiling.refused is None and per_tenant is not None:
            whole = self._hit(per_tenant, "tenant", ["tenant", credential.tenant])
            ceiling = ceiling if whole.refused is None else whole
        if ceiling.refused is not None or credential.role is not Role.TRACK:
            return ceiling  # an operator who watches a job's progress is no student
        who = student if student is not None else f"address/{_network(address)}"
        return self._hit(self._per_student, "student", ["student", credential.name, who])

    def stranger(self, address: str) -> Verdict:
        """Count, before anything is read for it, a request with an API key that this process has never seen."""
        verdict = self.check(None, student=None, address=address)
        if verdict.refused is not None:
            return verdict
        whole = self._hit(self._strangers, "process", ["strangers"])
        return verdict if whole.refused is None else whole

    def pardon(self, address: str) -> None:
        """It was no stranger after all, or nobody can tell: its address has nothing to pay for."""
        self._strategy.hit(self._per_address, "address", _network(address), cost=-1)

    def _hit(self, limit: RateLimitItem, scope: str, key: list[str]) -> Verdict:
        passed = self._strategy.hit(limit, *key)
        window = self._strategy.get_window_stats(limit, *key)
        wait_s = max(1, round(window.reset_time - time.monotonic() + 0.5))
        headers = {
            "X-RateLimit-Limit": str(limit.amount),
            "X-RateLimit-Remaining": str(max(0, window.remaining)),
            "X-RateLimit-Reset": str(wait_s),
        }
        return Verdict(headers, None if passed else RateLimited(scope, limit=_spoken(limit), retry_after_s=wait_s))


def _spoken(limit: RateLimitItem) -> str:
    """
    >>> [_spoken(parse(text)) for text in ("3/10 seconds", "100/second")]
    ['3 per 10 seconds', '100 per 1 second']
    """
    return f"{limit}s" if limit.multiples > 1 else str(limit)


def _network(address: str) -> str:
    """An IPv6 caller owns a /64, so that is what is counted."""
    try:
        parsed = ip_address(address)
        mapped = getattr(parsed, "ipv4_mapped", None)  # ::ffff:1.2.3.4, on a socket that serves both
        if parsed.version == 4 or mapped is not None:
            return str(mapped or parsed)
    except ValueError:
        return "unknown"
    return str(ip_network(f"{address}/64", strict=False))


class RateLimitMiddleware:
    """Finds out who is calling and counts the request before any route sees it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        key_ring: KeyRing,
        limits: RateLimits,
        ceilings: TenantCeilings,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._key_ring = key_ring
        self._limits = limits
        self._ceilings = ceilings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in EXEMPT:
            await self._app(scope, receive, send)
            return
        verdict = await self._verdict(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_raw(verdict.headers)]
            await send(message)

        if verdict.refused is None:
            await self._app(scope, receive, with_headers)
            return
        self._metrics.rate_limited.labels(verdict.refused.details["scope"]).inc()  # type: ignore[index]
        scope["state"]["outcome"] = verdict.refused.code
        await broker_error(verdict.refused)(scope, receive, with_headers)

    async def _verdict(self, scope: Scope) -> Verdict:
        """Who it is, left in the request's state, and whether the request may pass."""
        state, text = scope["state"], bearer_token(header(scope, b"authorization"))
        credential = self._authenticator.identify(text)
        if credential is None and text and (token := Token.parse(text)) is not None:
            answer = self._key_ring.look(token)
            if answer is None:
                answer, verdict = await self._asked(token, state, _address(scope))
                if verdict is not None:
                    return verdict
            if isinstance(answer, Refusal):
                state["facts"] = {"refused_key": token.id, "why": answer.value}
            else:
                credential = answer
        state["credential"] = credential
        per_tenant = None
        if credential is not None and not credential.platform:  # who set a ceiling too low must be able to undo it
            per_tenant = await self._ceilings.of(credential.tenant)
        return self._limits.check(
            credential, student=student_of(scope), address=_address(scope), per_tenant=per_tenant
        )

    async def _asked(
        self, token: Token, state: dict[str, Any], address: str
    ) -> tuple[Credential | Refusal | None, Verdict | None]:
        """What a read says of the key; or, where that is the end of it, the verdict.

        A stranger pays before the read, and gets it back where the read shows that it is none.
        """
        stranger = self._key_ring.is_stranger(token)
        verdict = self._limits.stranger(address) if stranger else Verdict({}, None)
        if verdict.refused is not None:
            return None, verdict
        try:
            answer = await self._key_ring.ask(token)
        except BrokerError as error:
            state["credential_failure"] = error
            answer = None
        if not stranger:
            return answer, verdict if answer is None else None
        if isinstance(answer, Refusal):
            state["facts"] = {"refused_key": token.id, "why": answer.value}
            return None, verdict
        self._limits.pardon(address)
        return answer, verdict if answer is None else None


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def _address(scope: Any) -> str:
    return scope["client"][0] if scope.get("client") else "unknown"
