"""What a deployment says of itself, over HTTP: before another release is put over it, and after."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from broker.version import VERSION
from cli.api import CONNECT_S, Api, Body
from cli.connection import Connection
from cli.errors import PROGRAM, Refused, Unreachable
from cli.validation import settings_file
from cli.validation.check import LOOK_THERE, Check, asked, bad, good, noted

CONNECTS: Final = 5
SHARE: Final = 0.8
MEAN_S: Final = 10.0
SCHEMA: Final = "sandbox-broker/1"
ELECTION: Final = "broker"
"""Of this release, as its own /v1/meta says them. Who says neither is of a release before there were tenants with
limits: its workers elect tenant by tenant, beside ours."""
_KEPT_INSIDE: Final = '"request_id":"load-balancer"'
"""In what terraform's load balancer answers to who asks for the metrics from outside."""
_UPGRADE: Final = "docs/upgrade.md has the order"


def before(api: Api) -> Iterator[Check]:
    """What this release would be deployed over."""
    yield asked("API", lambda: _ready(api))
    try:
        meta = _meta(api)
    except Unreachable:
        return
    if meta is None:
        yield _SILENT
        return
    yield _older(meta)
    yield _schema(meta)
    yield asked("election", lambda: _election(api, meta))
    yield asked("mode", lambda: _mode(api))


def after(connection: Connection, api: Api, env_file: Path | None) -> Iterator[Check]:
    """What runs now. Ends where nothing can be reached, or something else answers."""
    connects = _connects(connection)
    yield connects
    if not connects.ok:
        return
    yield asked("API", lambda: _ready(api))
    try:
        meta = _meta(api)
    except Unreachable:
        return
    if meta is None:
        yield _SILENT
    else:
        yield _same(meta)
        yield _configuration(meta, env_file)
    yield asked("worker", lambda: _worker(api))
    yield _metrics(connection)


def reached(checks: list[Check]) -> bool:
    """Whether those of after() went on to the end: it is the broker that answers."""
    return any(check.name == "metrics" for check in checks)


def _connects(connection: Connection) -> Check:
    """Five connections, one after the other: most succeed, and not slowly."""
    took, why = [], ""
    for _ in range(CONNECTS):
        began = time.monotonic()
        try:
            _fetched(connection, "/healthz").raise_for_status()
        except httpx.HTTPError as error:
            why = f", the last: {type(error).__name__}{f' ({error})' if str(error) else ''}"
        else:
            took.append(time.monotonic() - began)
    mean_s = sum(took) / len(took) if took else 0.0
    found = f"{len(took)} of {CONNECTS} connected{f', mean {mean_s:.2f} s' if took else ''}{why}"
    if len(took) / CONNECTS < SHARE:
        return bad("connects", found, LOOK_THERE)
    if mean_s >= MEAN_S:
        return bad("connects", found, f"It must be below {MEAN_S:g} s: look at the balancer and the tasks' CPU.")
    return good("connects", found)


def _fetched(connection: Connection, path: str) -> httpx.Response:
    """Over a connection of its own."""
    timeout = httpx.Timeout(connection.timeout_s, connect=min(CONNECT_S, connection.timeout_s))
    with httpx.Client(timeout=timeout, trust_env=not connection.loopback) as client:
        return client.get(f"{connection.url}{path}")


def _ready(api: Api) -> Check:
    said = api.ready()
    details = ", ".join(f"{name} {value}" for name, value in (said.get("details") or {}).items())
    found = f"{said['status']}{f' ({details})' if details else ''}"
    if said["status"] == "ready":
        return good("API", found)
    todo = "Wait until it is ready." if said["status"] in ("booting", "draining") else f"{PROGRAM} status"
    return bad("API", found, todo)


_SILENT: Final = bad(
    "release", "it does not tell: no /v1/meta", "Set META_ENABLED=true. Is BROKER_URL the broker's?"
)


def _meta(api: Api) -> Body | None:
    """What runs there; None where it does not tell.

    Raises:
        Unreachable: nothing answers, or something else.
    """
    try:
        meta = api.get("/v1/meta")
    except Refused:
        return None
    return meta if isinstance(meta.get("configuration"), dict) else None


def _older(meta: Body) -> Check:
    """An older or equal release may be deployed over."""
    if meta.get("service") != "sandbox-broker":
        return bad("release", "something else answers", "Is BROKER_URL right?")
    live = str(meta.get("version"))
    if _number(live) > _number(VERSION):
        return bad("release", f"{live} runs, and this is {VERSION}", f"That would be a way back: {_UPGRADE}.")
    return good("release", f"{live} runs, this is {VERSION}")


def _same(meta: Body) -> Check:
    live = f"{meta.get('version')}, table {meta.get('table_schema')}"
    if (meta.get("version"), meta.get("table_schema")) != (VERSION, SCHEMA):
        return bad("release", live, f"This is {VERSION}, table {SCHEMA}: was the right image deployed?")
    return good("release", live)


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _schema(meta: Body) -> Check:
    schema = meta.get("table_schema")
    if schema is None:
        return noted(
            "table", "an older release's API, which does not tell its schema; a wrong one ends ours with 78"
        )
    if schema != SCHEMA:
        return bad("table", f"its schema is {schema}, ours {SCHEMA}", f"{_UPGRADE}, release by release.")
    return good("table", str(schema))


def _election(api: Api, meta: Body) -> Check:
    """Workers that elect otherwise than ours must be gone before ours begin."""
    worker = api.get("/v1/admin/worker", patient=False)
    leads = worker["status"] == "leading"
    if meta.get("election") != ELECTION:
        if leads:
            found = f"{worker['holder']} leads by an older release's election"
            return bad("election", found, f"Stop all its workers, then come back: {_UPGRADE}.")
        return noted("election", "an older release's, and nobody leads by it: go on with the API")
    if not leads:
        return noted("election", f"nobody leads ({worker['status']}):", f"{PROGRAM} status")
    return good("election", f"{worker['holder']} leads")


def _mode(api: Api) -> Check:
    mode = api.get("/v1/admin/mode", patient=False)
    if mode["mode"] == "open":
        return good("mode", "open")
    return noted("mode", f"{mode['mode']} by {mode['by']}: {mode['reason']}")


def _worker(api: Api) -> Check:
    worker = api.get("/v1/admin/worker", patient=False)
    if worker["status"] != "leading":
        return bad(
            "worker", f"nobody leads ({worker['status']})", f"Start a worker; see its log, and {PROGRAM} status"
        )
    return good("worker", f"{worker['holder']} leads")


def _metrics(connection: Connection) -> Check:
    try:
        answer = _fetched(connection, "/metrics")
    except httpx.HTTPError as error:
        return bad("metrics", type(error).__name__, "Prometheus will not get them either: look at the API's log.")
    if answer.status_code == httpx.codes.NOT_FOUND and _KEPT_INSIDE in answer.text:
        return noted("metrics", "kept inside: the load balancer answers 404, as terraform/alb.tf has it")
    series = sum(line.startswith("broker_") for line in answer.text.splitlines())
    if answer.status_code != httpx.codes.OK or not series:
        return bad(
            "metrics", f"{answer.status_code}, {series} series of ours", "Does the balancer let /metrics through?"
        )
    return good("metrics", f"{series} series")


def _configuration(meta: Body, env_file: Path | None) -> Check:
    """What is in force is what was declared, defaults included."""
    name = "configuration"
    if env_file is None:
        return noted(name, "not compared:", f"{PROGRAM} validate post --env-file FILE")
    declared = settings_file.effective(settings_file.read(env_file))
    if declared is None:
        return bad(name, f"{env_file} would start no API", f"{PROGRAM} validate ready --env-file {env_file}")
    live: dict[str, Any] = meta["configuration"]
    differ = [
        f"{variable} is {live.get(variable, 'not known there')}, declared {declared.get(variable, 'by nobody')}"
        for variable in sorted(declared.keys() | live.keys())
        if declared.get(variable) != live.get(variable)
    ]
    if differ:
        return bad(name, "; ".join(differ), "Deploy what is declared, or declare what is meant.")
    return good(name, f"{len(declared)} settings in force as declared")
