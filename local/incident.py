"""`make incident`: the provider's bad quarter of an hour, replayed against the whole broker.

What happened once: 56 deletions answered 500 within 16 minutes, five more accounts answered HTML, 96 deletions
failed within two days, and each was mended by hand. Here the same storm meets the worker, with all times
divided by `--scale`; it ends with every account deleted, none by hand, and the curve of it as a table.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import httpx
from rich.console import Console
from rich.table import Table

from local.children import StartFailed
from local.engine import EngineFailed, free_port
from local.plan import make_plan
from local.run import LocalRun

STORM_MINUTES: Final = 16.0
HTML_MINUTES: Final = 30.0
HTML_ACCOUNTS: Final = 5
DELETE_S: Final = 7.0
"""What a deletion takes at the real provider: 5 to 10 s."""
GIVE_UP_MINUTES: Final = 240.0
BAR: Final = 30
WIDTH: Final = 110


@dataclass(slots=True)
class Moment:
    """One row of the curve: what happened since the row before, and how things stood."""

    minute: float  # of the incident's own time
    outcomes: dict[str, int] = field(default_factory=dict)  # DELETEs by what was answered
    pending: int = 0
    deleted: int = 0
    breaker: str = "closed"
    rate: float = 0.0  # deletions a second that pacing allows, in the incident's own time


@dataclass(slots=True)
class Report:
    """How it ended. `stuck` is what it is about: the replay itself mends nothing."""

    sandboxes: int
    scale: float
    tries: int = 0
    failures: int = 0
    most_tries: int = 0
    deleted: int = 0
    deleted_twice: int = 0
    stuck: int = 0
    minutes: float = 0.0
    curve: list[Moment] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class Incident:
    """One replay over a running broker."""

    def __init__(
        self, api: str, token: str, admin_token: str, simulator: str, workers: list[str], args: Any
    ) -> None:
        self._api, self._token, self._admin_token = api, token, admin_token
        self._simulator, self._workers = simulator, workers
        self._scale: float = args.scale
        self._count: int = args.sandboxes
        self._storm_s: float = args.storm_minutes * 60 / args.scale
        self._html_s: float = max(args.storm_minutes, HTML_MINUTES) * 60 / args.scale
        self._http = httpx.AsyncClient(timeout=30)
        self._seq = 0
        self.report = Report(sandboxes=args.sandboxes, scale=args.scale)

    async def run(self, tell: Callable[[Moment], None]) -> Report:
        """Hold, begin the storm, release, watch until nothing is left to delete."""
        held = await self._hold()
        bad = [int(id_) for id_ in held[:HTML_ACCOUNTS]]
        await self._simulate("PATCH", "faults", {"html_accounts": bad})
        await self._simulate("POST", "storm", {"seconds": self._storm_s, "kind": "500"})
        began = time.monotonic()
        releasing = asyncio.create_task(self._release(held))
        html = True
        while True:
            await asyncio.sleep(60 / self._scale)
            elapsed_s = time.monotonic() - began
            if html and elapsed_s > self._html_s:
                html = False
                await self._simulate("PATCH", "faults", {"html_accounts": []})
            moment = await self._look(elapsed_s * self._scale / 60)
            self.report.curve.append(moment)
            tell(moment)
            if moment.deleted == self._count or moment.minute > GIVE_UP_MINUTES:
                break
        await releasing
        return await self._sum_up()

    async def _hold(self) -> list[str]:
        answers = [await self._allocate(n) for n in range(self._count)]
        return [answer["sandbox_id"] for answer in answers]

    async def _allocate(self, n: int) -> dict[str, Any]:
        answer = await self._http.post(f"{self._api}/v1/allocate", headers=self._student(n))
        return dict(answer.raise_for_status().json())

    async def _release(self, held: list[str]) -> None:
        """All labs end during the storm, evenly: the five that answer HTML first."""
        for n, sandbox_id in enumerate(held):
            url = f"{self._api}/v1/sandboxes/{sandbox_id}/mark-for-deletion"
            (await self._http.post(url, headers=self._student(n))).raise_for_status()
            await asyncio.sleep(self._storm_s * 0.8 / len(held))

    def _student(self, n: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", "X-Instruqt-Sandbox-ID": f"student-{n}"}

    async def _simulate(self, method: str, path: str, body: dict[str, Any]) -> None:
        answer = await self._http.request(method, f"{self._simulator}/_simulator/{path}", json=body)
        answer.raise_for_status()

    async def _look(self, minute: float) -> Moment:
        moment = Moment(minute=round(minute, 1))
        journal = (await self._http.get(f"{self._simulator}/_simulator/journal?since={self._seq}")).json()
        self._seq = journal["last_seq"]
        moment.outcomes = dict(Counter(_word(c["status"]) for c in journal["results"] if c["method"] == "DELETE"))
        admin = {"Authorization": f"Bearer {self._admin_token}"}
        stats = (await self._http.get(f"{self._api}/v1/admin/stats", headers=admin)).json()
        moment.pending = stats["pending_deletion"] + stats["deletion_failed"]
        moment.deleted = stats["deleted"]
        for worker in self._workers:
            ready = (await self._http.get(f"{worker}/readyz")).json()
            if ready["status"] == "leading":
                moment.breaker = ready["details"]["provider"]["delete"].partition(",")[0]
                metrics = (await self._http.get(f"{worker}/metrics")).text
                moment.rate = _sample(metrics, "worker_pacing_rate") / self._scale
        return moment

    async def _sum_up(self) -> Report:
        report = self.report
        accounts = (await self._http.get(f"{self._simulator}/_simulator/accounts")).json()["results"]
        asked = [account for account in accounts if account["delete_requests"]]
        report.tries = sum(account["delete_requests"] for account in asked)
        report.most_tries = max(account["delete_requests"] for account in asked)
        report.failures = report.tries - sum(account["deletes_done"] for account in asked)
        report.deleted = sum(account["deletes_done"] > 0 for account in asked)
        report.deleted_twice = sum(account["deletes_done"] > 1 for account in asked)
        report.stuck = self._count - report.curve[-1].deleted
        report.minutes = report.curve[-1].minute
        await self._http.aclose()
        return report


def _word(status: int) -> str:
    return {204: "deleted", 404: "gone", 502: "html"}.get(status, str(status))


def _sample(metrics: str, name: str) -> float:
    values = [line.rpartition(" ")[2] for line in metrics.splitlines() if line.startswith(name)]
    return float(values[0]) if values else 0.0


def settings(scale: float) -> dict[str, str]:
    """The worker's and the simulator's times, divided."""
    return {
        "SIM_DELETE_LATENCY_S": str(DELETE_S / scale),
        "CLEANUP_POLL_SEC": "0.1",
        "CLEANUP_RETRY_BASE_SEC": str(10 / scale),
        "CLEANUP_RETRY_CAP_SEC": str(900 / scale),
        "CLEANUP_FAILED_RETRY_HOURS": str(6 / scale),
        "AUTO_EXPIRY_INTERVAL_SEC": str(300 / scale),
        "CSP_BREAKER_OPEN_SEC": str(max(0.1, 15 / scale)),
        "CSP_DELETES_PER_SEC": str(10 * scale),
        "CSP_DELETES_PER_SEC_MIN": str(0.5 * scale),
        "RATE_LIMIT_PER_CREDENTIAL": "100000/second",
        "SYNC_INTERVAL_SEC": "600",
    }


def _row(moment: Moment, count: int) -> list[str]:
    failed = sum(n for word, n in moment.outcomes.items() if word not in ("deleted", "gone"))
    bar = "█" * round(BAR * moment.deleted / count)
    return [
        f"{moment.minute:.1f}",
        str(sum(moment.outcomes.values()) or "·"),
        str(failed or "·"),
        str(moment.outcomes.get("html", "·")),
        str(moment.pending),
        moment.breaker,
        f"{moment.rate:.1f}",
        f"{bar:<{BAR}} {moment.deleted}",
    ]


def show(report: Report, console: Console) -> None:
    table = Table(title=f"The incident, minute by minute (time divided by {report.scale:g})", header_style="bold")
    for name in ("minute", "DELETEs", "failed", "HTML", "waiting", "breaker", "per s", "deleted"):
        table.add_column(name, justify="left" if name in ("breaker", "deleted") else "right", no_wrap=True)
    for moment in report.curve:
        table.add_row(*_row(moment, report.sandboxes))
    console.print(table)
    console.print(
        f"{report.deleted} of {report.sandboxes} deleted after {report.minutes:.0f} minutes; "
        f"{report.tries} DELETEs, {report.failures} of them failed, at most {report.most_tries} for one account."
    )
    verdict = "green" if not report.stuck else "red"
    console.print(f"[bold {verdict}]{report.stuck} stuck, 0 by hand.[/]")


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make incident", description=__doc__.split("\n\n")[1] if __doc__ else None)
    parser.add_argument(
        "--scale", type=float, default=40, help="by what all times are divided [40: 16 min are 24 s]"
    )
    parser.add_argument("--sandboxes", type=int, default=96, help="deletions that are asked for [96]")
    parser.add_argument("--storm-minutes", type=float, default=STORM_MINUTES, help="of HTTP 500 [16]")
    parser.add_argument("--json", action="store_true", help="the report as JSON, for programs")
    args = parser.parse_args(given)
    if (
        not 1 <= args.scale <= 200
        or not HTML_ACCOUNTS <= args.sandboxes <= 2000
        or not 0 < args.storm_minutes <= 120
    ):
        parser.error("--scale must be 1 to 200, --sandboxes 5 to 2000, --storm-minutes above 0 to 120")
    return args


async def replay(args: argparse.Namespace, console: Console) -> Report:
    """Start everything on free ports, replay, stop everything.

    Raises:
        StartFailed, EngineFailed: in one sentence, what is wrong.
    """
    ports = {name: str(free_port()) for name in ("API_PORT", "SIM_PORT", "WORKER_PORT")}
    os.environ.update({**settings(args.scale), **ports, "SIM_SANDBOXES": str(args.sandboxes)})
    plan = make_plan(os.environ)
    local = LocalRun(plan)
    try:
        with console.status("Starting store, provider, workers, API …"):
            await local.start()
        incident = Incident(
            f"http://127.0.0.1:{plan.api_ports[0]}",
            plan.api_token,
            plan.admin_token,
            f"http://127.0.0.1:{plan.sim_port}",
            [f"http://127.0.0.1:{port}" for port in plan.worker_ports],
            args,
        )
        with console.status("The storm begins …") as status:

            def tell(moment: Moment) -> None:
                status.update(
                    f"minute {moment.minute:.0f}: {moment.deleted} deleted, {moment.pending} waiting, "
                    f"breaker {moment.breaker}"
                )

            return await incident.run(tell)
    finally:
        await local.children.stop()


def main() -> int:
    """Run the replay; 0 where nothing is stuck."""
    args = _arguments(None)
    console = Console(stderr=args.json, width=None if sys.stdout.isatty() else WIDTH)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        report = asyncio.run(replay(args, console))
    except (StartFailed, EngineFailed) as error:
        sys.stderr.write(f"make incident: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("make incident: stopped\n")
        return 130
    show(report, console)
    if args.json:
        sys.stdout.write(report.as_json() + "\n")
    return 1 if report.stuck else 0


if __name__ == "__main__":
    sys.exit(main())
