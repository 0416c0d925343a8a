"""What routes ask for: the caller, the student, the wish, and the parts of this process.

What allocate, view and release need takes no Depends: two hundred students call them in one second, and FastAPI's
way to five declared headers and their dependencies costs as much processor time as the allocation's own logic. So
these routes call for it themselves (ADR 17).
"""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from app.access import caller_of
from app.audit import Audit
from app.auth import Credential
from app.dead_letters import DeadLetters
from app.headers import KEY, PREFIX, TRACK, student_of
from app.inventory import Inventory
from app.job_desk import JobDesk
from app.key_desk import KeyDesk
from app.pool_gauges import PoolGauges
from app.readiness import Readiness
from app.schemas import ReleaseIn
from app.spelling import ID_PATTERN
from app.tenant_desk import TenantDesk
from app.wording import refusal_of
from broker.action import Action
from broker.allocation import Wish
from broker.errors import InvalidInput, MissingSandboxId, NotReady
from broker.selection import Selector
from broker.settings import TENANT_PATTERN, ApiSettings
from broker.store.events import Cause
from broker.wiring import Broker

_NO_LETTER: Final = re.compile(r"[\W_]")


@dataclass(frozen=True, slots=True)
class Parts:
    """What this process built once its store answered."""

    broker: Broker
    inventory: Inventory
    gauges: PoolGauges
    desk: JobDesk
    key_desk: KeyDesk | None  # None where keys are off
    selector: Selector
    dead_letters: DeadLetters
    audit: Audit
    tenant_desk: TenantDesk


async def settings_of(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


async def readiness_of(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


async def parts_of(request: Request) -> Parts:
    """The process's parts.

    Raises:
        NotReady: it is still booting, or about to end.
    """
    parts: Parts | None = request.app.state.parts
    if parts is None:
        raise NotReady("booting")
    if request.scope["state"]["late"]:  # by when it came: what was in flight is finished
        raise NotReady("ending this process, others serve", retry_after_s=1)
    return parts


async def holder_of(request: Request) -> str:
    """Who the student is.

    Raises:
        MissingSandboxId: neither header was sent.
    """
    if (holder := student_of(request.scope)) is None:
        raise MissingSandboxId
    return holder


async def wish_of(request: Request) -> Wish:
    """What an allocation asks for.

    Raises:
        MissingSandboxId: it does not say for whom.
    """
    scope = request.scope
    holder = await holder_of(request)
    return Wish(holder=holder, key=KEY.of(scope), prefix=PREFIX.of(scope) or "", track=TRACK.of(scope))


def cause_of(request: Request, credential: Credential, action: Action, *, reason: str | None = None) -> Cause:
    request_id = request.scope["state"]["request_id"]
    return Cause(
        actor=credential.name, action=action, request_id=request_id, reason=reason, tenant=credential.tenant
    )


def note(request: Request, outcome: str, **facts: object) -> None:
    """Facts for the request's one log line. What is noted before a call stands there also when it is refused."""
    request.scope["state"]["outcome"] = outcome
    request.scope["state"].setdefault("facts", {}).update(facts)


def extend_deadline(request: Request, seconds: float) -> None:
    """This request may take `seconds` from now on, where that is longer than what it has left."""
    deadline: asyncio.Timeout = request.scope["state"]["deadline"]
    ends_at = asyncio.get_running_loop().time() + seconds
    deadline.reschedule(max(ends_at, deadline.when() or ends_at))


Caller = Annotated[Credential, Depends(caller_of)]
"""Whoever app/access.py has let in. The names below are for readers: each says whom the table names."""
TrackCaller = Caller
ViewerCaller = Caller
OperatorCaller = Caller
AdminCaller = Caller
PlatformOperator = Caller
PlatformAdmin = Caller


async def tenant_of(
    request: Request,
    caller: Caller,
    core: Annotated[Parts, Depends(parts_of)],
    tenant: Annotated[
        str | None,
        Query(
            pattern=TENANT_PATTERN,
            description="Another tenant's: for operators and admins of the default tenant. Else your own.",
            examples=["north"],
        ),
    ] = None,
) -> str:
    """Whose things are asked for: the caller's own, unless another tenant is named. `admitted` has let that in.

    Raises:
        TenantNotFound: there is none of this name.
    """
    if tenant is None or tenant == caller.tenant:
        return caller.tenant
    note(request, "looked", of_tenant=tenant)
    return (await core.broker.tenants.present(tenant)).name


async def json_or_nothing(request: Request) -> Any:
    """These routes need no body. One that is sent must at least be JSON: else it was meant for something else.

    Raises:
        InvalidInput: it is not.
    """
    if not (body := (await request.body()).strip()):
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("body", "is not valid JSON; this route needs none") from None


async def release_of(request: Request, sent: Any) -> ReleaseIn:
    """What a release says of itself by the JSON that it sent: nothing, where that was none or other.

    Raises:
        InvalidInput: it means to name a generation, and does not: ignored, it would release a later allocation.
        RequestValidationError: its generation is none.
    """
    if sent:
        _names_a_generation_well(json.loads(await request.body(), object_pairs_hook=_Members))
    with _named_as_body(ReleaseIn):
        return ReleaseIn.model_validate(sent if isinstance(sent, dict) else {})


class _Members(tuple[tuple[str, Any], ...]):
    """An object's, as they were sent: one name may come twice."""

    __slots__ = ()


def _names_a_generation_well(sent: Any) -> None:
    """Clients in the field send JSON of any kind; but what is nearly a generation is no such JSON."""
    objects = [sent] if isinstance(sent, _Members) else sent if isinstance(sent, list) else []
    names = [name for members in objects if isinstance(members, _Members) for name, _ in members]
    alike = [name for name in names if _NO_LETTER.sub("", name).casefold() == "generation"]
    if alike and (alike != ["generation"] or isinstance(sent, list)):
        raise InvalidInput("body", 'names a generation otherwise than once, as {"generation": 1760000017}')


Body = TypeVar("Body", bound=BaseModel)


@contextmanager
def _named_as_body(model: type[BaseModel]) -> Iterator[None]:
    """What a model refuses is said of the body."""
    try:
        yield
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{"loc": ("body", *p["loc"]), "msg": refusal_of(model, p)} for p in problems]
        ) from None


def body_of(model: type[Body]) -> Any:
    """A dependency: a JSON body; none is `{}`. It is looked at once the caller is let in.

    Raises:
        RequestValidationError: it is no JSON, or not such a one.
    """

    async def body(request: Request) -> Body:
        with _named_as_body(model):
            return model.model_validate_json((await request.body()).strip() or b"{}")

    return Depends(body)


Holder = Annotated[str, Depends(holder_of)]
Core = Annotated[Parts, Depends(parts_of)]
TenantNamed = Annotated[str, Depends(tenant_of)]
Settings = Annotated[ApiSettings, Depends(settings_of)]
SandboxId = Annotated[
    str, Path(pattern=ID_PATTERN, description="As the allocation answered it.", examples=["2009521"])
]
