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
from cli.validation.check import MISSHAPEN, Check, bad, good, misshapen

EXTENDED_S: Final = 600
TOO_MANY: Final = 429
ENDED_BY: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OVER: Final = ("pending_deletion", "deleted")
_DRAINED: Final = ("BROKER_DRAINED", "POOL_DRAINED")


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
    prefix: str = ""
    asked: bool = False  # an allocation may have come to be, even where no answer came
    held: Body | None = None
    second: Body | None = None  # what a student must never get

    def allocate(self) -> str:
        self.asked = True
        self.held = self.api.post("/v1/allocate")
        if not str(self.held["name"]).startswith(self.prefix):
            raise _Astray(f"{self._id} is named {self.held['name']}", "Roll back: it does not heed the prefix.")
        return f"{self._id} for {self.student}"

    def repeat(self) -> str:
        again = self.api.post("/v1/allocate")
        if again["sandbox_id"] != self._id:
            self.second = again
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

    def give_back(self) -> list[str]:
        """What is left to a person, for each sandbox that may be. No Ctrl-C ends it half-way."""
        if not self.asked:
            return []
        try:
            if self.held is None:  # the answer was lost: a repeat tells what came of it
                self.held = self.api.post("/v1/allocate")
        except Refused as error:
            return [] if _says_that_none_is_held(error) else [self._unknown]
        except Unreachable:
            return [self._unknown]
        return [left for body in (self.held, self.second) if body is not None and (left := self._returned(body))]

    def _returned(self, body: Body) -> str | None:
        """What is left to do where it could not be given back."""
        if not isinstance(id_ := body.get("sandbox_id"), str):
            return self._unknown
        left = f"{PROGRAM} force-release {id_} --reason 'left by validate'"
        try:
            self.api.post(f"/v1/sandboxes/{id_}/mark-for-deletion")
        except Refused as error:
            return f"{left} ({error.code})"
        except Unreachable:
            return left
        return None

    @property
    def _unknown(self) -> str:
        return f"{self.student} may hold a sandbox: it expires by itself, or ask again once the API answers."

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

    What was taken is given back also where a step fails, where nobody reads on, and at a signal of ENDED_BY.
    """
    student = f"validate-{secrets.token_hex(6)}"
    headers = {"X-Instruqt-Sandbox-ID": student} | ({"X-Sandbox-Name-Prefix": prefix} if prefix else {})
    api = Api(connection, say=say, headers=headers)
    way = _Walk(api, student, prefix)
    try:
        for name, step in _STEPS.items():
            check = _step(way, name, step)
            yield check
            if not check.ok:
                break
    finally:
        with _undisturbed():
            left = way.give_back()
        for what in left:
            say(what)
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
    except MISSHAPEN as error:
        return misshapen(name, error)


def _says_that_none_is_held(error: Refused) -> bool:
    """Of an allocation: who holds one is answered with it, whatever the mode. Trouble and haste say nothing."""
    return error.code in _DRAINED or (400 <= error.status < 500 and error.status != TOO_MANY)


def _todo(error: Refused) -> str:
    match error.code:
        case "NO_SANDBOXES_AVAILABLE":
            return f"Fill the pool, or take another --prefix: {PROGRAM} sync"
        case "UNAUTHENTICATED" | "FORBIDDEN":
            return "BROKER_API_TOKEN must hold the tracks' token of this deployment."
        case code if code in _DRAINED:
            return f"Open it first: {PROGRAM} status"
    return f"{PROGRAM} status"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not keep us from giving back."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDED_BY}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
