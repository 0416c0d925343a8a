"""`status`: the whole broker on one screen, also when parts of it are in trouble."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import typer
from rich.text import Text

from cli.api import Api, Body
from cli.commands.pools import by_whom
from cli.commands.reconcile import belief
from cli.errors import PROGRAM, Refused
from cli.follow import numbers_of
from cli.options import Json, TenantName, api_of
from cli.show import emit_facts, emit_json, since, span, trouble

Facts = Iterator[tuple[str, str | Text]]
_OF_THE_STORE: Final = ("STORE_UNAVAILABLE", "STORE_THROTTLED")


def status(context: typer.Context, tenant: TenantName = None, as_json: Json = False) -> None:
    """Show the broker on one screen.

    Mode, API, worker, provider, alerts, the last sync, jobs, dead letters, sandboxes by status.

    What cannot be shown says why, and the rest is shown nevertheless. Exit 1 then, when an alert is on,
    and when no worker leads or serves the tenant; 3 when there is no API.

    \b
    Examples:
      sandbox-broker status
      sandbox-broker status --tenant north
      watch -n 5 sandbox-broker status
      sandbox-broker status --json | jq .stats
    """
    seen = _asked(api_of(context), tenant)
    if as_json:
        emit_json(seen)
    else:
        emit_facts(_facts(seen))
    if any("error" in part for part in seen.values()) or not _is_well(seen["worker"]):
        raise typer.Exit(1)


def _asked(api: Api, tenant: str | None) -> dict[str, Body]:
    """Every part at once: the API's own bodies, or its refusals. The mode is everybody's.

    Raises:
        Unreachable: there is no API.
    """

    def of(part: str, **query: Any) -> Callable[[], Body]:
        return lambda: api.get(f"/v1/admin/{part}", patient=False, tenant=tenant, **query)

    parts: dict[str, Callable[[], Body]] = {
        "ready": api.ready,
        "worker": of("worker"),
        "pools": of("pools"),
        "mode": lambda: api.get("/v1/admin/mode", patient=False),
        "stats": of("stats"),
        "running": of("jobs", state="running", limit=200),
        "queued": of("jobs", state="queued", limit=200),
        "dead_letters": of("dead-letters"),
        "reconciliation": of("reconciliation"),
    }
    first = {"ready": _part(parts.pop("ready"))}  # alone: without an API there is nothing else to ask
    with ThreadPoolExecutor(len(parts)) as pool:
        return first | dict(zip(parts, pool.map(_part, parts.values()), strict=True))


def _part(ask: Callable[[], Body]) -> Body:
    try:
        return ask()
    except Refused as error:
        if error.status in (401, 403) or error.code == "TENANT_NOT_FOUND":
            raise  # it would be the same for all
        return error.envelope()


def _facts(seen: dict[str, Body]) -> Facts:
    failure, prefixes = seen["worker"].get("sync_failure"), seen["pools"].get("prefixes", ())
    reconciled = partial(_reconciled, failure=failure, prefixes=prefixes)
    for name, told in (_TOLD | {"reconciliation": reconciled}).items():
        if error := seen[name].get("error"):
            yield (
                name.replace("_", " "),
                trouble(f"{error['message']} ({error['code']}, request {error['request_id']})"),
            )
        else:
            yield from told(seen[name])
    if any(part.get("error", {}).get("code") in _OF_THE_STORE for part in seen.values()):
        yield "TO DO", trouble("docs/runbooks/store-throttled.md: the logs' field why says what it is")


def _mode(mode: Body) -> Facts:
    if mode["mode"] == "open":
        yield "mode", "open"
    else:
        yield (
            "mode",
            trouble(f"{mode['mode']} by {mode['by']}: {mode['reason']}. Back: {PROGRAM} mode open --reason '...'"),
        )


def _pools(pools: Body) -> Facts:
    yield "tenant", pools["tenant"]
    for pool in pools["drained"]:
        what = f"{pool['prefix']}*" if pool["prefix"] else "all"
        yield "drained", trouble(f"{what} by {by_whom(pool)}: {pool['reason']}")
    if pools["max_live"] is not None:
        text = f"{pools['held']} of {pools['max_live']} held"
        yield "quota", trouble(text) if pools["held"] >= pools["max_live"] else text


def _ready(ready: Body) -> Facts:
    details = ", ".join(f"{name} {value}" for name, value in (ready.get("details") or {}).items())
    text = f"{ready['status']}{f' ({details})' if details else ''}"
    yield "API", text if ready["status"] == "ready" else trouble(text)


def _is_well(worker: Body) -> bool:
    return worker["status"] == "leading" and worker.get("serves") != "no" and not worker["alerts"]


def _worker(worker: Body) -> Facts:
    heard_s, counted_s = worker["heard_s_ago"], worker["counted_s_ago"]
    counted = "never counted the pool" if counted_s is None else f"counted the pool {span(counted_s)} ago"
    if worker["status"] == "leading" and worker.get("serves") == "no":
        heard = "never heard of it" if heard_s is None else f"not heard of it for {span(heard_s)}"
        yield "worker", trouble(f"{worker['holder']} leads, and does not serve this tenant ({heard}): see its log")
    elif worker["status"] == "leading":
        heard = (
            "has not taken this tenant up yet (within 15 s)" if heard_s is None else f"heard {span(heard_s)} ago"
        )
        release = f", release {worker['version']}" if worker.get("version") else ""
        yield "worker", f"{worker['holder']} leads{release}, {heard}, {counted}"
    elif worker["status"] == "silent":
        heard = "never heard" if heard_s is None else f"not heard for {span(heard_s)}"
        text = f"NO LEADER: {worker['holder']} led, {heard}, and no standby took over. Start a worker; see its log"
        yield "worker", trouble(text)
    else:
        last = f" The last was {worker['holder']}." if worker["holder"] else ""
        yield "worker", trouble(f"NO LEADER: none runs, or none reaches the store.{last} {counted.capitalize()}")
    for name, state in (worker["provider"] or {}).items():
        yield f"provider {name}", trouble(state) if state.startswith(("open", "half")) else state
    for alert in worker["alerts"]:
        yield "ALERT", trouble(f"{alert['alert']}: {alert['todo']}")


def _stats(stats: Body) -> Facts:
    width = max(len(str(count)) for count in stats.values())
    for name, count in stats.items():
        text = f"{count:>{width}}"
        yield name, trouble(f"{text}  {PROGRAM} dead-letters") if name == "deletion_failed" and count else text


def _running(page: Body) -> Facts:
    yield "jobs running", _count(page)
    for job in page["jobs"][:5]:
        yield "", f"{job['kind']} {job['job_id']} {numbers_of(job)}"


def _queued(page: Body) -> Facts:
    yield "jobs queued", _count(page)


def _count(page: Body) -> str:
    return f"{page['count']}{'+' if page['cursor'] else ''}"


def _dead(dead: Body) -> Facts:
    jobs, sandboxes = dead["jobs"]["total"], dead["sandboxes"]["total"]
    text = f"{sandboxes} sandboxes, {jobs} jobs"
    yield "dead letters", trouble(f"{text}: {PROGRAM} dead-letters") if jobs or sandboxes else text


def _reconciled(seen: Body, *, failure: Body | None = None, prefixes: Sequence[str] = ()) -> Facts:
    """The last listing that was read; above it how syncs fail since, if they do."""
    if failure is not None:
        row = f"{failure['times']} in a row" if failure["times"] > 1 else "once"
        text = f"FAILED {since(failure['at'])} ago, {row}, for {since(failure['since'])}: {failure['why']}."
        yield "last sync", trouble(f"{text} To do: {failure['todo']}")
    name = "last sync" if failure is None else "last listing"
    if seen["at"] is None:
        yield name, trouble("none has read a listing yet")
        return
    count: Counter[str] = Counter(seen["accounts"])
    others = f", {count['other_tenants']} other tenants'" if count["other_tenants"] else ""
    others += f", {count['foreign']} in conflict" if count["foreign"] else ""
    text = f"{span(seen['age_s'])} ago, {seen['listed']} accounts{others}, {count['unknown']} unexplained."
    if prefixes and seen["listed"] and seen["listed"] == count["other_tenants"] + count["no_sandbox"]:
        none = f"none of {seen['listed']} listed begins with {' or '.join(prefixes)}"
        yield name, trouble(f"{text} Of this tenant: {none} and is an active sandbox")
        return
    text = f"{text} {belief(seen)}"
    doubtful = count["unknown"] or not seen["believed"]
    yield name, trouble(f"{text} {PROGRAM} reconcile") if doubtful else text


_TOLD: Final[dict[str, Callable[[Any], Facts]]] = {
    "pools": _pools,
    "mode": _mode,
    "ready": _ready,
    "worker": _worker,
    "reconciliation": _reconciled,
    "running": _running,
    "queued": _queued,
    "dead_letters": _dead,
    "stats": _stats,
}
"""In the order in which one reads it; `ready` is what the API says of itself."""
