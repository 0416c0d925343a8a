"""The bodies of answers. Their names are public API: clients in the field rely on them."""

from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from broker.allocation import Allocation
from broker.lifecycle import Release
from broker.policy import Explained
from broker.sandbox import Sandbox, State
from broker.store.gauges import PoolGauges
from broker.store.leader import Term
from broker.store.modes import Mode
from broker.store.reports import SILENT_S, SyncFailure, WorkerReport
from broker.store.sync_state import SyncState
from broker.tenant import Tenant

_YEAR_S = 365 * 24 * 3600
_ID = Field(description="The sandbox's id, always a string.", examples=["2009521"])
_NAME = Field(description="The account's name at the provider.", examples=["lab-adventure-0087"])
_EXTERNAL = Field(
    description="The account's own id at the provider.",
    examples=["identity/accounts/7f9c24e5-2f36-4b1c-9d6e-0a1b2c3d4e5f"],
)

_GENERATION = Field(
    description="Tells this allocation from every other one of the sandbox: it grows with each. "
    "Null for one from before there were any.",
    examples=[1_760_000_017],
)


def _instant(what: str) -> Any:
    return Field(description=f"{what} Unix seconds, UTC.", examples=[1_760_000_000])


class AllocationOut(BaseModel):
    """A sandbox that this student holds."""

    sandbox_id: str = _ID
    name: str = _NAME
    external_id: str = _EXTERNAL
    allocated_at: int = _instant("When it was allocated.")
    expires_at: int = _instant("When the allocation ends by itself (a grace period follows).")
    generation: int | None = _GENERATION

    @classmethod
    def held(cls, sandbox: Sandbox) -> Self:
        return cls.model_validate({name: _value(sandbox, name) for name in cls.model_fields})

    @classmethod
    def of(cls, allocation: Allocation) -> Self:
        return cls(
            sandbox_id=allocation.sandbox_id,
            name=allocation.name,
            external_id=allocation.external_id,
            allocated_at=allocation.allocated_at,
            expires_at=allocation.expires_at,
            generation=allocation.generation,
        )


class HeartbeatOut(BaseModel):
    """Noted, and how long the allocation lasts; it is no longer for that."""

    sandbox_id: str = _ID
    generation: int | None = _GENERATION
    heartbeat_at: int = _instant("The last sign of life that was kept: within the last ten seconds.")
    expires_at: int = _instant("When the allocation ends by itself.")

    @classmethod
    def of(cls, sandbox: Sandbox) -> Self:
        return cls.model_validate({name: _value(sandbox, name) for name in cls.model_fields})


class ReleaseOut(BaseModel):
    """What a release answers, the first time and every time after."""

    sandbox_id: str = _ID
    status: str = Field(examples=["pending_deletion"])
    released_at: int = _instant("When it was first released.")

    @classmethod
    def of(cls, release: Release) -> Self:
        return cls(sandbox_id=release.sandbox_id, status=release.status, released_at=release.released_at)


class SandboxOut(BaseModel):
    """A sandbox as its holder sees it."""

    sandbox_id: str = _ID
    name: str = _NAME
    external_id: str = _EXTERNAL
    status: State
    allocated_at: int | None = _instant("When it was allocated.")
    expires_at: int | None = _instant("When the allocation ends, or would have.")
    generation: int | None = _GENERATION
    ended_at: int | None = Field(None, description="When the allocation ended. Unix seconds, UTC.")
    ended_by: str | None = Field(None, description="released, expired or force_released.")

    @classmethod
    def of(cls, sandbox: Sandbox) -> Self:
        return cls.model_validate({name: _value(sandbox, name) for name in cls.model_fields})


class AdminSandboxOut(SandboxOut):
    """A sandbox as operators see it."""

    since: int = _instant("When the present status began.")
    holder: str | None = Field(None, description="The student, by the header that named them.")
    track: str | None = Field(None, description="X-Instruqt-Track-ID of the allocation.")
    heartbeat_at: int | None = Field(None, description="When the holder last gave a sign of life.")
    attempt: int = Field(0, description="Deletions tried.")
    next_attempt_at: int | None = Field(None, description="When deletion is tried next.")
    last_error: str | None = Field(None, description="Why the last deletion failed.")
    missing_since: int | None = Field(None, description="Since when the provider no longer lists it.")
    reason: str | None = Field(None, description="Why an operator last moved it; null once a student got it.")


def _value(sandbox: Sandbox, name: str) -> Any:
    return getattr(sandbox, {"sandbox_id": "id", "status": "state"}.get(name, name))


class HolderIn(BaseModel):
    """What a holder says to be known as the present one."""

    model_config = ConfigDict(extra="forbid")

    generation: int | None = Field(
        strict=True, description="As the allocation answered it.", examples=[1_760_000_017]
    )


class ExtendIn(HolderIn):
    for_s: int = Field(
        strict=True,
        ge=1,
        le=_YEAR_S,
        description="Hold it for at least so many seconds from now.",
        examples=[3600],
    )


class ReleaseIn(BaseModel):
    """Of the JSON that is sent along with a release: all that is looked at.

    It may be any, but for what is nearly a generation: in other letters, twice, or in a list. That is refused.
    """

    generation: int | None = Field(
        None,
        strict=True,
        description="As the allocation answered it: a later allocation is then left alone. Null: not looked at.",
        examples=[1_760_000_017],
    )


class SandboxListOut(BaseModel):
    """One page. `cursor` asks for the next one; null after the last."""

    sandboxes: list[AdminSandboxOut]
    count: int = Field(description="Rows on this page. A page may be short, or empty, before the last.")
    cursor: str | None


class StatsOut(BaseModel):
    """How many sandboxes there are, by status. `total` is the sum of the others, tombstones included."""

    total: int
    available: int
    allocated: int
    pending_deletion: int
    deletion_failed: int
    stale: int
    quarantined: int
    deleted: int

    @classmethod
    def of(cls, counts: dict[State, int]) -> Self:
        return cls(total=sum(counts.values()), **{state.value: count for state, count in counts.items()})


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("may hold printable characters only")
    return text


Reason = Annotated[
    str,
    AfterValidator(_printable),
    Field(
        min_length=3,
        max_length=200,
        description="Why, for the audit log: 3 to 200 printable characters.",
        examples=["INC-4711: the provider lost its network"],
    ),
]


Name = Annotated[
    str,
    AfterValidator(_printable),
    Field(
        min_length=1,
        max_length=64,
        description="What people call it: 1 to 64 printable characters.",
        examples=["kubernetes-101 tracks"],
    ),
]


class ReasonIn(BaseModel):
    """What an operator says when moving a sandbox by hand."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    reason: Reason


class ModeIn(ReasonIn):
    """The mode that the whole broker is to have."""

    mode: Literal["open", "drained", "maintenance"] = Field(
        description="drained: nothing new is handed out. maintenance: nor does the worker begin anything."
    )


class ModeOut(BaseModel):
    """The mode in force. Every process goes by it within about 2 seconds."""

    mode: Literal["open", "drained", "maintenance"]
    reason: str | None = Field(description="Why; null where nobody ever changed it, as are the next two.")
    by: str | None = Field(description="The credential that set it.", examples=["bootstrap-admin"])
    at: int | None = _instant("When it was set.")

    @classmethod
    def of(cls, mode: Mode) -> Self:
        return cls(mode=mode.name.value, reason=mode.reason, by=mode.by, at=mode.at)


class UnexplainedOut(BaseModel):
    """An account of the provider that nothing here explains."""

    what: str = Field(
        description="What is wrong with it.", examples=["2009521: names another account than before"]
    )
    first_seen_at: int = _instant("Since when it is listed so.")


class SuspicionOut(BaseModel):
    """A listing that is not believed: it lacks half of what it should name, or more."""

    times: int = Field(description="How often in a row nearly the same one came, half a sync interval apart.")
    since: int = _instant("When the first one came.")


class ReconciliationOut(BaseModel):
    """What the last complete listing of the provider was to us. All null until a sync has read one."""

    at: int | None = _instant("When it was read.")
    age_s: int | None = Field(description="Seconds since then.")
    listed: int | None = Field(description="Accounts that it named: the sum of `accounts`.")
    accounts: dict[Explained, int] | None = Field(description="Every listed account, by what it is to us.")
    unexplained: list[UnexplainedOut] | None = Field(
        description="The oldest first: up to 50 of `accounts.unknown`, which counts all."
    )
    expected: int | None = Field(description="Sandboxes that it should have named.")
    missing: int | None = Field(description="Of these, not named.")
    believed: bool | None = Field(description="False: what it lacks is not taken for gone; see `suspicion`.")
    suspicion: SuspicionOut | None

    @classmethod
    def of(cls, state: SyncState | None, *, now: int) -> Self:
        if state is None:
            return cls.model_validate(dict.fromkeys(cls.model_fields))
        unexplained = sorted(state.unexplained.items(), key=lambda item: (item[1], item[0]))
        doubted = state.suspicion
        return cls(
            at=state.at,
            age_s=max(0, now - state.at),
            listed=sum(state.accounts.values()),
            accounts=dict(state.accounts),
            unexplained=[UnexplainedOut(what=what, first_seen_at=seen_at) for what, seen_at in unexplained],
            expected=state.expected,
            missing=state.missing,
            believed=doubted is None,
            suspicion=None if doubted is None else SuspicionOut(times=doubted.times, since=doubted.since),
        )


class AlertOut(BaseModel):
    alert: str = Field(description="Its name, as in the metrics and the runbooks.", examples=["DeletionFailures"])
    todo: str = Field(description="What to do.")


class SyncFailureOut(BaseModel):
    """Why nothing new of the provider's listing arrives."""

    kind: str = Field(description="A stable word.", examples=["HTTP_401"])
    why: str = Field(description="The kind, and what is known beside it.", examples=["UNREACHABLE: ConnectError"])
    todo: str = Field(description="What to do; of a refused token, which secret it is.")
    at: int = _instant("When the last one failed.")
    since: int = _instant("When the first of those in a row did.")
    times: int = Field(description="How many in a row.")

    @classmethod
    def of(cls, failure: SyncFailure) -> Self:
        return cls.model_validate(asdict(failure))


class WorkerOut(BaseModel):
    """The leading worker, as it last reported of this tenant; it does so every five seconds.

    `leading`: one leads and is heard. `silent`: one took the lead, and has not been heard for a minute, of this
    tenant nor of the default one: a standby takes over within the lease, so there is none. `none`: nobody leads.
    """

    status: Literal["leading", "silent", "none"]
    holder: str | None = Field(None, description="Host, process and term of who leads or led last.")
    term: int | None = Field(None, description="How many leaders there have been, this one included.")
    leading_since: int | None = Field(None, description="Unix seconds, UTC.")
    version: str | None = Field(None, description="Its release.")
    heard_s_ago: int | None = Field(None, description="Age of its last report, by the clocks of two hosts.")
    serves: Literal["yes", "soon", "no"] | None = Field(
        None,
        description="Whether it serves this tenant. soon: the tenant is new, or the leader, which takes a tenant "
        "up within 15 s. no: it leads and says nothing of this tenant; its log says why. Null: nobody leads.",
    )
    counted_s_ago: int | None = Field(None, description="Age of the pool's numbers in /metrics.")
    provider: dict[str, str] | None = Field(
        None,
        description="Its breaker for each endpoint of the provider, and the pace of deletions.",
        examples=[{"list": "closed", "delete": "open, probe in 9 s"}],
    )
    sync_failure: SyncFailureOut | None = Field(
        None, description="How the last sync failed; null where it succeeded, or none has ended yet."
    )
    alerts: list[AlertOut] = Field(description="Those that are on.")

    @classmethod
    def of(
        cls,
        term: Term | None,
        report: WorkerReport | None,
        counted: PoolGauges | None,
        *,
        default: WorkerReport | None,
        tenant: Tenant,
        now: int,
    ) -> Self:
        """`report` is of the tenant, `default` of the default one, which every leader takes up first."""
        counted_s_ago = None if counted is None else max(0, now - counted.at)
        if term is None:
            return cls(status="none", alerts=[], counted_s_ago=counted_s_ago)
        ages_s = [now - of.at for of in (report, default) if of is not None and of.fence == term.fence]
        if report is not None and report.fence != term.fence:
            report = None  # a former leader's
        heard = min(ages_s, default=now - term.since) <= SILENT_S  # who has just begun reports in a moment
        status = "none" if term.holder is None else "leading" if heard else "silent"
        if report is not None:
            serves = "yes" if now - report.at <= SILENT_S else "no"
        else:
            serves = "soon" if now - max(term.since, tenant.created_at) <= SILENT_S else "no"
        return cls(
            status=status,
            holder=term.holder,
            term=term.fence,
            leading_since=None if term.holder is None else term.since,
            heard_s_ago=None if report is None else max(0, now - report.at),
            serves=serves if status == "leading" else None,
            version=None if report is None else report.version,
            counted_s_ago=counted_s_ago,
            provider=None if report is None else dict(report.provider),
            sync_failure=SyncFailureOut.of(report.sync_failure) if report and report.sync_failure else None,
            alerts=[] if report is None else [AlertOut(alert=a, todo=todo) for a, todo in report.alerts.items()],
        )


class AliveOut(BaseModel):
    status: Literal["ok"]


class ReadyOut(BaseModel):
    """`degraded`: it serves, and its store is in trouble; `details` say which, and the mode unless it is open."""

    status: Literal["booting", "ready", "degraded", "draining"]
    details: dict[str, str] | None = None


class MetaOut(BaseModel):
    """What runs here. Secrets are left out of `configuration`."""

    service: str
    version: str
    table_schema: str = Field(description="What the table is, as this release reads and writes it.")
    election: str = Field(
        description="Whose lease the workers of this release elect by. Others elect beside them."
    )
    configuration: dict[str, Any]
    sources: dict[str, Literal["environment", "default"]] = Field(
        description="Where each value of `configuration` comes from."
    )


class ErrorBody(BaseModel):
    code: str = Field(description="Stable: programs may rely on it.")
    message: str = Field(description="For people; it may change.")
    request_id: str | None
    retry_after: int | None = Field(None, description="Seconds; also in the header Retry-After.")
    details: dict[str, Any] | None = None


class ErrorOut(BaseModel):
    """Every error of this API."""

    error: ErrorBody

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": {"code": "SANDBOX_NOT_FOUND", "message": "No such sandbox.", "request_id": "4f1c0a"}
            }
        }
    )
