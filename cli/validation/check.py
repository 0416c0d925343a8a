"""One thing that was looked at: what was found, whether it is good, and what to do where it is not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from rich.table import Column
from rich.text import Text

from cli.api import Body
from cli.errors import Refused, Unreachable
from cli.show import clean, emit_line, emit_table, trouble, wide

LOOK_THERE: Final = "Is BROKER_URL right? Are the tasks healthy, the balancer's targets, the DNS?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`ok` is None where it was not looked at, or is only to be known."""

    name: str
    ok: bool | None
    found: str
    todo: str = ""

    def body(self) -> Body:
        return {"check": self.name, "ok": self.ok, "found": self.found, "todo": self.todo or None}


def good(name: str, found: str) -> Check:
    return Check(name=name, ok=True, found=found)


def bad(name: str, found: str, todo: str) -> Check:
    return Check(name=name, ok=False, found=found, todo=todo)


def noted(name: str, found: str, todo: str = "") -> Check:
    return Check(name=name, ok=None, found=found, todo=todo)


def asked(name: str, look: Callable[[], Check]) -> Check:
    """The check, also where the broker says no or nothing."""
    try:
        return look()
    except Unreachable as error:
        return bad(name, error.message, LOOK_THERE)
    except Refused as error:
        return bad(name, error.message, str(error).removeprefix(error.message).strip())
    except MISSHAPEN as error:
        return misshapen(name, error)


MISSHAPEN: Final = (AttributeError, KeyError, TypeError, ValueError)
"""What it means to read an answer that lacks what every release of the broker says, or says it otherwise."""


def misshapen(name: str, error: Exception) -> Check:
    found = f"it answers, and not as the broker does ({type(error).__name__}: {error})"
    return bad(name, found, "Is it this release, and nothing between that answers in its place?")


def passed(checks: Iterable[Check]) -> bool:
    return all(check.ok is not False for check in checks)


def report(stage: str, checks: list[Check]) -> Body:
    return {"stage": stage, "ok": passed(checks), "checks": [check.body() for check in checks]}


def show(stage: str, checks: list[Check]) -> None:
    """A line for each check, what to do below those that need it, and one line that sums up."""
    rows = [(_mark(check), check.name, _told(check)) for check in checks]
    emit_table([Column("", no_wrap=True), Column("CHECK", no_wrap=True), wide("FOUND")], rows)
    failed = sum(check.ok is False for check in checks)
    emit_line()
    emit_line(f"{stage}: {failed} of {len(checks)} checks failed." if failed else f"{stage}: all is well.")


def _mark(check: Check) -> Text:
    if check.ok is None:
        return Text("–")
    return Text("✓", style="green") if check.ok else trouble("✗")


def _told(check: Check) -> Text:
    if check.ok is False:
        return trouble(f"{check.found} -> {check.todo}" if check.todo else check.found)
    return Text(clean(f"{check.found} {check.todo}".strip()))
