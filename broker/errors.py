"""Every way the broker says no. The codes are public API; the texts are not. No HTTP here."""

from typing import Any, ClassVar


class BrokerError(Exception):
    """Something a caller is told. Subclasses fix the code; fields say the rest.

    Attributes:
        retry_after_s: seconds after which a repeat makes sense, None where it never does.
        details: facts for the caller that are safe to show to this tenant.
    """

    code: ClassVar[str]

    def __init__(
        self, message: str, *, retry_after_s: int | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details


class MissingSandboxId(BrokerError):
    code = "MISSING_SANDBOX_ID"

    def __init__(self) -> None:
        super().__init__("Send X-Instruqt-Sandbox-ID (or the older X-Track-ID): it names the student.")


class InvalidInput(BrokerError):
    """A header, path part, query or body that breaks the contract; `where` names it."""

    code = "INVALID_REQUEST"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}", details={"where": where, "why": why})


class InvalidCursor(BrokerError):
    code = "INVALID_CURSOR"

    def __init__(self) -> None:
        super().__init__("This cursor was not issued for this list. Start again without one.")


class Unauthenticated(BrokerError):
    code = "UNAUTHENTICATED"

    def __init__(self) -> None:
        super().__init__("Send a valid token: 'Authorization: Bearer <token>'.")


class RoleMissing(BrokerError):
    code = "FORBIDDEN"

    def __init__(self, *, needed: str, held: str) -> None:
        super().__init__(f"This needs the role {needed}; the token has {held}.", details={"needed": needed})


class RateLimited(BrokerError):
    code = "RATE_LIMITED"

    def __init__(self, scope: str, *, limit: str, retry_after_s: int) -> None:
        super().__init__(
            f"Too many requests for this {scope} (limit {limit}).",
            retry_after_s=retry_after_s,
            details={"scope": scope, "limit": limit},
        )


class PlatformOnly(BrokerError):
    """What concerns all tenants is for the default tenant's people."""

    code = "PLATFORM_ONLY"

    def __init__(self, what: str = "What concerns every tenant is") -> None:
        super().__init__(f"{what} for operators and admins of the default tenant.")


class TenantNotFound(BrokerError):
    code = "TENANT_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__(
            "No such tenant. Operators of the default tenant see which there are: `sandbox-broker tenants list`."
        )


class TenantExists(BrokerError):
    code = "TENANT_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is a tenant named '{name}' already.", details={"tenant": name})


class KeysNotConfigured(BrokerError):
    code = "KEYS_NOT_CONFIGURED"

    def __init__(self) -> None:
        super().__init__(
            "API keys are off. Set API_KEY_PEPPER (a secret of 32 or more characters) for every API process."
        )


class KeyNotFound(BrokerError):
    code = "KEY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__(
            "No such key. `sandbox-broker keys list` shows a tenant's; what has ended is forgotten after 30 days."
        )


class KeyLimitReached(BrokerError):
    code = "KEY_LIMIT"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This tenant has {limit} live keys already. Revoke what nobody uses: `last_used_at` says which.",
            details={"limit": limit},
        )


class KeyNotRotatable(BrokerError):
    """It has ended, or was rotated before; `replaced_by` is then its successor."""

    code = "KEY_NOT_ROTATABLE"

    def __init__(self, *, state: str, replaced_by: str | None) -> None:
        instead = "create a new one" if replaced_by is None else f"{replaced_by} has replaced it: rotate that one"
        super().__init__(
            f"This key is {state if replaced_by is None else 'rotated'}: {instead}.",
            details={"state": state, "replaced_by": replaced_by},
        )


class NoSandboxAvailable(BrokerError):
    code = "NO_SANDBOXES_AVAILABLE"

    def __init__(self, prefix: str, *, retry_after_s: int, drained: tuple[str, ...] = ()) -> None:
        named = f" whose name starts with '{prefix}'" if prefix else ""
        super().__init__(
            f"No sandbox{named} is available right now.",
            retry_after_s=retry_after_s,
            details={"drained_pools": list(drained)} if drained else None,
        )


class PoolDrained(BrokerError):
    """Operators have stopped this pool, or with the prefix "" all of the tenant's; `reason` is theirs."""

    code = "POOL_DRAINED"

    def __init__(self, prefix: str, *, reason: str, retry_after_s: int = 30) -> None:
        what = f"Nothing new is handed out of the pool '{prefix}'" if prefix else "Nothing new is handed out"
        super().__init__(
            f"{what} right now: {reason}",
            retry_after_s=retry_after_s,
            details={"pool": prefix, "reason": reason},
        )


class QuotaExceeded(BrokerError):
    code = "QUOTA_EXCEEDED"

    def __init__(self, limit: int, *, retry_after_s: int = 10) -> None:
        full = f"This tenant may hold {limit} at once, and holds as many or more. Below that there is room again."
        super().__init__(
            full if limit else "This tenant may hold no sandboxes.",
            retry_after_s=retry_after_s,
            details={"limit": limit},
        )


class IdempotencyKeyReused(BrokerError):
    code = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used with another prefix or track. Use a new key.")


class AllocationEnded(BrokerError):
    code = "ALLOCATION_ENDED"

    def __init__(self, *, ended_by: str, ended_at: int) -> None:
        super().__init__(
            "The allocation of this Idempotency-Key has ended. Use a new key for a new sandbox.",
            details={"ended_by": ended_by, "ended_at": ended_at},
        )


class AllocationExpired(BrokerError):
    code = "ALLOCATION_EXPIRED"

    def __init__(self, *, ended_by: str, ended_at: int) -> None:
        super().__init__(
            f"This allocation has ended ({ended_by.replace('_', ' ')}): nothing is left to do with it.",
            details={"ended_by": ended_by, "ended_at": ended_at},
        )


class StaleGeneration(BrokerError):
    """Who asks held this sandbox once: what is allocated now is another allocation."""

    code = "STALE_GENERATION"

    def __init__(self) -> None:
        super().__init__(
            "This generation is not the present allocation's: the one it was answered to is over. "
            "POST /v1/allocate answers what this student holds now, with its generation."
        )


class ExtensionLimit(BrokerError):
    code = "EXTENSION_LIMIT"

    def __init__(self, *, max_expires_at: int, left_s: int) -> None:
        more = f"{left_s} s more at most" if left_s > 0 else "no longer than it is"
        super().__init__(
            f"This allocation can be held {more}. It ends at {max_expires_at} (Unix seconds) at the latest.",
            details={"max_expires_at": max_expires_at},
        )


class HolderLimitReached(BrokerError):
    code = "HOLDER_LIMIT"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This student already holds {limit} sandboxes. Release one first.", details={"limit": limit}
        )


class NotSandboxOwner(BrokerError):
    code = "NOT_SANDBOX_OWNER"

    def __init__(self) -> None:
        super().__init__("This sandbox is not held by the student that the headers name.")


class SandboxNotFound(BrokerError):
    code = "SANDBOX_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("No such sandbox.")


class JobNotFound(BrokerError):
    code = "JOB_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("No such job.")


class JobWrongState(BrokerError):
    code = "JOB_WRONG_STATE"

    def __init__(self, *, state: str, wanted: str) -> None:
        super().__init__(f"The job is {state}: there is nothing to {wanted}.", details={"state": state})


class JobFailed(BrokerError):
    """Someone waits for a job, and it ended otherwise than done."""

    code = "JOB_FAILED"

    def __init__(self, *, job_id: str, state: str, error: str | None) -> None:
        super().__init__(
            f"The job ended {state}. GET /v1/admin/jobs/{job_id} says more; a requeue runs it again.",
            details={"job_id": job_id, "state": state, "error": error},
        )


class AllocationInProgress(BrokerError):
    """The outcome is still open: another attempt for this student, or too much contention."""

    code = "ALLOCATION_IN_PROGRESS"

    def __init__(self, *, retry_after_s: int = 1) -> None:
        super().__init__("An allocation is under way. Repeat the request.", retry_after_s=retry_after_s)


class StoreUnavailable(BrokerError):
    """The store did not answer, or not in time; whether a write happened is unknown."""

    code = "STORE_UNAVAILABLE"

    def __init__(self, why: str, *, retry_after_s: int = 2) -> None:
        super().__init__(
            "The store cannot be reached. Nothing is lost: repeat the request.", retry_after_s=retry_after_s
        )
        self.why = why

    def __str__(self) -> str:
        return f"{self.code}: {self.why}"


class StoreThrottled(BrokerError):
    """The store refused the call for its rate; nothing was written."""

    code = "STORE_THROTTLED"

    def __init__(self, *, retry_after_s: int = 1) -> None:
        super().__init__("The store is throttling. Repeat the request.", retry_after_s=retry_after_s)


class WrongState(BrokerError):
    """An operator asked for a move that starts from another state than the sandbox is in."""

    code = "SANDBOX_WRONG_STATE"

    def __init__(self, state: str, *, needs: str, why: str | None = None) -> None:
        super().__init__(
            why or f"The sandbox is {state}; this needs one that is {needs}.",
            details={"state": state, "needs": [needs]},
        )


class BrokerDrained(BrokerError):
    """Operators have stopped new allocations; `reason` is theirs."""

    code = "BROKER_DRAINED"

    def __init__(self, mode: str, *, reason: str, retry_after_s: int = 30) -> None:
        super().__init__(
            f"The broker hands out nothing new right now: {reason}",
            retry_after_s=retry_after_s,
            details={"mode": mode, "reason": reason},
        )


class DeadlineExceeded(BrokerError):
    """A request took too long; whether it wrote is unknown to who asked, and a repeat finds out."""

    code = "DEADLINE_EXCEEDED"

    def __init__(self, *, retry_after_s: int = 2) -> None:
        super().__init__(
            "The answer took too long. Nothing is lost: repeat the request.", retry_after_s=retry_after_s
        )


class NotReady(BrokerError):
    code = "NOT_READY"

    def __init__(self, why: str, *, retry_after_s: int = 2) -> None:
        super().__init__(f"The broker is {why}. Repeat the request.", retry_after_s=retry_after_s)


class ForeignTable(Exception):
    """The table is not the broker's own, or of a schema that this release does not know."""


class WriteConflict(Exception):
    """Someone else moved the item first; `item` is what the store holds now, if it said."""

    def __init__(self, item: Any = None) -> None:
        super().__init__("lost the race for a conditional write")
        self.item = item


class ProviderAccountOwned(Exception):
    """Another sandbox, of whatever tenant, already has this provider account (PROVIDER_ACCOUNT_OWNED)."""

    code: ClassVar[str] = "PROVIDER_ACCOUNT_OWNED"

    def __init__(self, external_id: str) -> None:
        super().__init__(f"{self.code}: {external_id} belongs to another sandbox")
        self.external_id = external_id


class LeadershipLost(Exception):
    """Another worker leads by now, or this one's term is over: whatever this was about, it writes nothing."""


class LeaseLost(Exception):
    """Someone else runs this job by now, or nobody does: whatever this was about, it writes nothing."""


class IllegalMove(Exception):
    """A transition that the table of moves does not hold: a bug of ours, never a caller's."""
