"""Every way a command ends badly: one sentence for people, and the exit code for scripts."""

from typing import Any, ClassVar, Final

PROGRAM: Final = "sandbox-broker"

TODO: Final[dict[str, str]] = {
    "UNAUTHENTICATED": "BROKER_ADMIN_TOKEN (or --token-file) holds no token of this broker.",
    "FORBIDDEN": "Use a token or key of that role.",
    "NOT_FOUND": f"The broker at this address is of another release than this {PROGRAM}.",
    "SANDBOX_NOT_FOUND": f"By their ids, not their names, those that there are: {PROGRAM} list.",
    "SANDBOX_WRONG_STATE": f"Why it is so: {PROGRAM} show ID.",
    "JOB_NOT_FOUND": f"Those that there are: {PROGRAM} jobs list.",
    "JOB_WRONG_STATE": f"What became of it: {PROGRAM} jobs show ID.",
    "STORE_UNAVAILABLE": f"Whether it is back: {PROGRAM} status.",
    "STORE_THROTTLED": f"Whether it is over: {PROGRAM} status.",
    "NOT_READY": f"Whether it is ready: {PROGRAM} status.",
    "INTERNAL_ERROR": "That is a bug of the broker: its log has the traceback under this request.",
}
"""What to do about the codes of the API, where its own message does not say it."""


OPTIONS: Final[dict[str, str]] = {
    "body.name": "NAME",
    "body.reason": "--reason",
    "body.max_live": "--max-live",
    "body.lease_s": "--lease",
    "body.max_extension_s": "--max-extension",
    "body.requests": "--requests",
    "body.provider.base_url": "--provider-url",
    "body.provider.secret": "--provider-secret",
    "body.prefixes": "--prefix",
    "body.expires_in_days": "--expires-in-days",
    "query.actor": "--actor",
    "query.request": "--request",
    "query.sandbox": "--sandbox",
    "query.tenant": "--tenant",
}
"""What people typed, by where the API found it, in the commands that leave it to the API to check."""


def _option_of(where: str) -> str:
    """
    >>> [_option_of(where) for where in ("body.prefixes.0", "body.reason", "body.unheard_of")]
    ['--prefix', '--reason', 'body.unheard_of']
    """
    return OPTIONS.get(where) or OPTIONS.get(where.rpartition(".")[0]) or where


class CliError(Exception):
    """Ends the command. The message is one sentence or two: what is wrong, and what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Misused(CliError):
    """Asked for wrongly: nothing was sent."""

    exit_code = 2


class Refused(CliError):
    """The API answered, and said no."""

    def __init__(
        self, *, status: int, code: str, message: str, request_id: str | None, retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.details = details

    def __str__(self) -> str:
        todo = TODO.get(self.code)
        return f"{self._in_options()}{f' {todo}' if todo else ''} ({self.code}, request {self.request_id})"

    def _in_options(self) -> str:
        """The message; what the API names by its place in the body or query, by the option that it came from."""
        problems = (self.details or {}).get("problems")
        if self.code != "INVALID_REQUEST" or not isinstance(problems, list):
            return self.message
        return "; ".join(f"{_option_of(str(p['where']))}: {p['why']}" for p in problems)

    def envelope(self) -> dict[str, Any]:
        """The API's own body."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "request_id": self.request_id}
        if self.retry_after_s is not None:
            error["retry_after"] = self.retry_after_s
        return {"error": error | ({"details": self.details} if self.details else {})}


class Unreachable(CliError):
    """No answer of the API: nothing, or something that is not the broker. `passing`: a repeat may help."""

    exit_code = 3

    def __init__(self, message: str, *, request_id: str, passing: bool = True) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.passing = passing

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})"

    def envelope(self) -> dict[str, Any]:
        """Shaped as the API's errors, under a code that the API has not."""
        return {"error": {"code": "UNREACHABLE", "message": self.message, "request_id": self.request_id}}


class ReaderGone(CliError):
    """Whoever read our output has had enough, as in `| head`. Said by the exit code alone, as the shell has it."""

    exit_code = 141

    def __init__(self) -> None:
        super().__init__("")
