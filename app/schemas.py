"""The bodies of answers. Their names are public API: clients in the field rely on them."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from broker.allocation import Allocation
from broker.lifecycle import Release
from broker.sandbox import Sandbox, State

_ID = Field(description="The sandbox's id, always a string.", examples=["2009521"])
_NAME = Field(description="The account's name at the provider.", examples=["lab-adventure-0087"])
_EXTERNAL = Field(
    description="The account's own id at the provider.",
    examples=["identity/accounts/7f9c24e5-2f36-4b1c-9d6e-0a1b2c3d4e5f"],
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

    @classmethod
    def of(cls, allocation: Allocation) -> Self:
        return cls(
            sandbox_id=allocation.sandbox_id,
            name=allocation.name,
            external_id=allocation.external_id,
            allocated_at=allocation.allocated_at,
            expires_at=allocation.expires_at,
        )


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
    attempt: int = Field(0, description="Deletions tried.")
    next_attempt_at: int | None = Field(None, description="When deletion is tried next.")
    last_error: str | None = Field(None, description="Why the last deletion failed.")
    missing_since: int | None = Field(None, description="Since when the provider no longer lists it.")


def _value(sandbox: Sandbox, name: str) -> Any:
    return getattr(sandbox, {"sandbox_id": "id", "status": "state"}.get(name, name))


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


class AliveOut(BaseModel):
    status: Literal["ok"]


class ReadyOut(BaseModel):
    """`degraded`: it serves, and its store is in trouble; `details` say which."""

    status: Literal["booting", "ready", "degraded", "draining"]
    details: dict[str, str] | None = None


class MetaOut(BaseModel):
    """What runs here. Secrets are left out of `configuration`."""

    service: str
    version: str
    configuration: dict[str, Any]


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
