"""The golden path: a student who does not exist gets a sandbox, looks at it, extends it and gives it back."""

import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cli.api import Api, Body
from cli.connection import Connection
from cli.errors import PROGRAM, CliError, Refused, Unreachable
from cli.show import say
from cli.validation.check import Check, bad, good

EXTENDED_S: Final = 600
_OVER: Final = ("pending_deletion", "deleted")


class _Astray(Exception):
    """A step answered, and not as it should."""

    def __init__(self, found: str, todo: str) -> None:
        super().__init__(found)
        self.found = found
        self.todo = todo


@dataclass(slots=True)
class _Walk:
    """One student's way. What it took is given back, whatever happens."""

    api: Api
    student: str
    asked: bool = False  # an allocation may have come to be, even where no answer came
    held: Body | None = None

    def allocate(self) -> str:
        self.asked = True
        self.held = self.api.post("/v1/allocate")
        return f"{self.held['sandbox_id']} for {self.student}"

    def repeat(self) -> str:
        again = self.api.post("/v1/allocate")
        if again["sandbox_id"] != self._id:
            raise _Astray(f"a repeat got {again['sandbox_id']}", "Roll back: a student must never get two.")
        return "a repeat gets the same one"

    def look(self) -> str:
        return self._status("allocated")

    def extend(self) -> str:
        held = self.held or {}
        for_s = max(0, held["expires_at"] - held["allocated_at"]) + EXTENDED_S
        try:
            extended = self.api.post(
                f"/v1/sandboxes/{self._id}/extend", {"generation": held.get("generation"), "for_s": for_s}
            )
        except Refused as error:
            if error.code != "EXTENSION_LIMIT":
                raise
            return "refused by its limit, as MAX_EXTENSION_HOURS says"
        if extended["expires_at"] <= held["expires_at"]:
            raise _Astray("it does not last longer", "Roll back, and look at the API's log.")
        return f"{extended['expires_at'] - held['expires_at']} s more"

    def release(self) -> str:
        released = self.api.post(f"/v1/sandboxes/{self._id}/mark-for-deletion")
        if released["status"] != "pending_deletion":
            raise _Astray(f"it is {released['status']}", f"{PROGRAM} show {self._id}")
        return "given back"

    def deletion(self) -> str:
        said = self._status(*_OVER)
        self.held, self.asked = None, False
        return said

    def give_back(self) -> str | None:
        """What is left to a person, None where nothing is. No Ctrl-C ends it half-way."""
        if not self.asked:
            return None
        try:
            if self.held is None:  # the answer was lost: a repeat tells what came of it
                self.held = self.api.post("/v1/allocate")
            self.api.post(f"/v1/sandboxes/{self._id}/mark-for-deletion")
        except Refused as error:
            return None if self.held is None else f"{self._left} ({error.code})"
        except Unreachable:
            return self._left
        return None

    @property
    def _left(self) -> str:
        if self.held is None:
            return f"{self.student} may hold a sandbox: it expires by itself, or ask again once the API answers."
        return f"{PROGRAM} force-release {self._id} --reason 'left by validate'"

    @property
    def _id(self) -> str:
        return str((self.held or {})["sandbox_id"])

    def _status(self, *wanted: str) -> str:
        seen = self.api.get(f"/v1/sandboxes/{self._id}")
        if seen["status"] not in wanted:
            raise _Astray(f"it is {seen['status']}, not {wanted[0]}", f"{PROGRAM} show {self._id}")
        return str(seen["status"])


def walk(connection: Connection, *, prefix: str) -> Iterator[Check]:
    """A check for each step, up to the first that fails. It takes one sandbox of the pool for good.

    What was taken is given back also where a step fails, where nobody reads on, and at Ctrl-C and SIGTERM.
    """
    student = f"validate-{secrets.token_hex(6)}"
    headers = {"X-Instruqt-Sandbox-ID": student} | ({"X-Sandbox-Name-Prefix": prefix} if prefix else {})
    api = Api(connection, say=say, headers=headers)
    way = _Walk(api, student)
    try:
        for name, step in _STEPS.items():
            check = _step(way, name, step)
            yield check
            if not check.ok:
                break
    finally:
        with _undisturbed():
            left = way.give_back()
        if left is not None:
            say(left)
        api.close()


_STEPS: Final[dict[str, Callable[[_Walk], str]]] = {
    "allocate": _Walk.allocate,
    "repeat": _Walk.repeat,
    "look": _Walk.look,
    "extend": _Walk.extend,
    "return": _Walk.release,
    "deletion": _Walk.deletion,
}


def _step(way: _Walk, name: str, step: Callable[[_Walk], str]) -> Check:
    try:
        return good(name, step(way))
    except _Astray as astray:
        return bad(name, astray.found, astray.todo)
    except Refused as error:
        return bad(name, f"{error.message} ({error.code}, request {error.request_id})", _todo(error))
    except CliError as error:
        return bad(name, str(error), "See the API's log for this request.")


def _todo(error: Refused) -> str:
    match error.code:
        case "NO_SANDBOXES_AVAILABLE":
            return f"Fill the pool, or take another --prefix: {PROGRAM} sync"
        case "UNAUTHENTICATED" | "FORBIDDEN":
            return "BROKER_API_TOKEN must hold the tracks' token of this deployment."
        case "BROKER_DRAINED" | "POOL_DRAINED":
            return f"Open it first: {PROGRAM} status"
    return f"{PROGRAM} status"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not keep us from giving back."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
