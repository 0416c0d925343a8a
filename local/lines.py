"""What a child says, as one short line for a person."""

import json
from typing import Any

_SHOWN = (
    "outcome",
    "tenant",
    "of_tenant",
    "job",
    "counts",
    "sandbox_id",
    "holder",
    "track",
    "status",
    "ms",
    "attempt",
    "fence",
    "alert",
    "why",
    "code",
    "todo",
)


def readable(process: str, line: str) -> str | None:
    """The line as a person would want it; None for what nobody needs to see."""
    try:
        event = json.loads(line)
    except ValueError:
        return f"         {process:<9} {line}" if line else None
    if not isinstance(event, dict) or "event" not in event:
        return f"         {process:<9} {line}"
    if event.get("logger", "").startswith("uvicorn") and event.get("level") == "info":
        return None
    clock = str(event.get("at", ""))[11:19]
    facts = " ".join(f"{name}={_short(event[name])}" for name in _SHOWN if event.get(name) is not None)
    mark = "" if event.get("level") == "info" else f"{str(event.get('level')).upper()}: "
    what = event["event"]
    if what == "request":
        what = f"{event.get('method')} {event.get('route')}"
    text = f"{clock} {process:<9} {mark}{what}  {facts}"
    return f"{text}\n{event['traceback']}" if "traceback" in event else text


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{count}" for name, count in value.items()) or "nothing"
    return str(value)
