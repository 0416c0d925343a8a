"""`make run`: the whole broker on this machine. No Docker, no AWS account; Ctrl-C stops all of it."""

import argparse
import asyncio
import os
import signal
import sys
import time
from typing import Any, Final
from urllib.request import urlopen

from local.children import Children, StartFailed
from local.engine import EngineFailed, answers, ministack_command
from local.lines import readable
from local.plan import Plan, make_plan

START_S: Final = 60.0
RESTART_S: Final = 2.0
MAX_FALLS: Final = 50
_POLL_S: Final = 0.1
_SYNCED: Final = 'worker_job_last_success_timestamp_seconds{duty="sync",'


class LocalRun:
    """Starts the parts in order, waits until the pool is filled, then tells what happens."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._environment = plan.environment(os.environ)
        self._told = False
        names = ["worker", *(f"worker-{n}" for n in range(2, len(plan.worker_ports) + 1))]
        self._workers = dict(zip(names, plan.worker_ports, strict=True))
        self.children = Children(self._line)

    def _line(self, process: str, line: str) -> None:
        """Boot chatter is kept to itself; afterwards every event is a line."""
        if self._told and (text := readable(process, line)):
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    async def start(self) -> None:
        """Start everything.

        Raises:
            StartFailed, EngineFailed: in one sentence, what is wrong.
        """
        plan, environment, python = self._plan, self._environment, sys.executable
        await self._check_settings()
        if plan.store_port is not None:
            command, engine_environment = ministack_command(plan.store_port)
            await self.children.start("store", command, engine_environment)
            await self._until("the store", lambda: answers(plan.store_port or 0))
        await self._create_table()
        await self.children.start("provider", [python, "-m", "simulator"], environment)
        for name in self._workers:
            await self.start_worker(name)
        for number, port in enumerate(plan.api_ports, start=1):
            name = "api" if len(plan.api_ports) == 1 else f"api-{number}"
            await self.children.start(name, [python, "-m", "app"], {**environment, "API_PORT": str(port)})
        for port in plan.api_ports:
            await self._until("the API", lambda port=port: _get(f"http://127.0.0.1:{port}/readyz") is not None)
        await self._until("the pool", self._filled)

    async def start_worker(self, name: str) -> None:
        environment = {**self._environment, "WORKER_PORT": str(self._workers[name])}
        await self.children.start(name, [sys.executable, "-m", "worker"], environment)

    async def watch(self) -> None:
        """Go on until a part fails. A worker that falls is replaced while another takes its place.

        Raises:
            StartFailed: a part fell that cannot be done without, or workers keep falling.
        """
        falls = 0
        while True:
            fallen = await self.children.until_one_falls()
            falls += 1
            obituary = _obituary(fallen.name, fallen.process.returncode, fallen.tail)
            if fallen.name not in self._workers or falls > MAX_FALLS:
                raise StartFailed(obituary)
            sys.stdout.write(f"         {fallen.name:<9} {obituary} The other takes over; a new one stands by.\n")
            sys.stdout.flush()
            self.children.forget(fallen)
            await asyncio.sleep(RESTART_S)
            await self.start_worker(fallen.name)

    async def _check_settings(self) -> None:
        """Every wrong setting of API and worker, before anything is started."""
        checks = [self._run("-m", module, "--check") for module in ("app", "worker")]
        said = [line for _, lines in await asyncio.gather(*checks) for line in lines]
        if problems := list(dict.fromkeys(line.removeprefix("configuration: ") for line in said)):
            raise StartFailed("; ".join(problems))

    async def _run(self, *arguments: str) -> tuple[int, list[str]]:
        """Run a short command of ours; its exit code and what it said to standard error."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env=self._environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        return process.returncode or 0, errors.decode().strip().splitlines()

    async def _create_table(self) -> None:
        code, errors = await self._run("-m", "broker.cli", "create-table")
        if code:
            raise StartFailed(errors[-1] if errors else "The table was not created.")

    async def _until(self, what: str, ready: Any) -> None:
        ends_at = time.monotonic() + START_S
        while not await asyncio.to_thread(ready):
            if (fallen := self.children.fallen()) is not None:
                raise StartFailed(_obituary(fallen.name, fallen.process.returncode, fallen.tail))
            if time.monotonic() > ends_at:
                raise StartFailed(f"{what[0].upper()}{what[1:]} was not ready within {START_S:.0f} s.")
            await asyncio.sleep(_POLL_S)

    def _filled(self) -> bool:
        pages = (_get(f"http://127.0.0.1:{port}/metrics") for port in self._plan.worker_ports)
        return any(_SYNCED in (page or "") for page in pages)

    def tell(self, took_s: float) -> None:
        """Print the table; from here on events are lines."""
        sys.stdout.write(_table(self._plan, took_s))
        sys.stdout.flush()
        self._told = True


def _get(url: str) -> str | None:
    """The body of a 200, None for anything else."""
    try:
        with urlopen(url, timeout=2) as answer:  # noqa: S310  loopback, http
            return str(answer.read().decode())
    except OSError:  # URLError is one
        return None


def _obituary(name: str, code: int | None, tail: list[str]) -> str:
    said = next((text for line in reversed(tail) if (text := (readable(name, line) or "").strip())), "nothing")
    if code is not None and code < 0:
        return f"The {name} process was killed ({signal.Signals(-code).name})."
    return f"The {name} process ended with code {code}; it last said: {said}"


def _table(plan: Plan, took_s: float) -> str:
    api = f"http://127.0.0.1:{plan.api_ports[0]}"
    rows = [
        ("API", " ".join(f"http://127.0.0.1:{port}" for port in plan.api_ports)),
        ("API docs", f"{api}/v1/docs"),
        ("API metrics", f"{api}/metrics"),
        ("Worker metrics", " ".join(f"http://127.0.0.1:{port}/metrics" for port in plan.worker_ports)),
        ("Provider (simulated)", f"http://127.0.0.1:{plan.sim_port}  ({plan.sandboxes} sandboxes)"),
        ("Store (DynamoDB)", plan.store_url + ("  (in memory)" if plan.store_port else "")),
        ("Track token", _token(plan, "BROKER_API_TOKEN", plan.api_token)),
        ("Admin token", _token(plan, "BROKER_ADMIN_TOKEN", plan.admin_token)),
    ]
    width = max(len(name) for name, _ in rows)
    body = "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
    token = plan.api_token if "BROKER_API_TOKEN" in plan.generated else "$BROKER_API_TOKEN"
    curl = (
        f"  curl -X POST {api}/v1/allocate \\\n"
        f"    -H \"Authorization: Bearer {token}\" -H 'X-Instruqt-Sandbox-ID: student-1'"
    )
    return (
        f"\nThe sandbox broker is up ({took_s:.1f} s).\n\n{body}\n\nPaste this to hold a sandbox:\n\n{curl}\n\n"
        f"Operate it:\n\n  export BROKER_URL={api} BROKER_ADMIN_TOKEN={_exported(plan)}\n"
        "  bin/sandbox-broker status\n\n"
        "Ctrl-C stops everything; a worker that is killed is replaced. What happens from here on:\n\n"
    )


def _exported(plan: Plan) -> str:
    return plan.admin_token if "BROKER_ADMIN_TOKEN" in plan.generated else "$BROKER_ADMIN_TOKEN"


def _token(plan: Plan, name: str, value: str) -> str:
    return value if name in plan.generated else f"as set in {name}"


async def run() -> int:
    """Run until Ctrl-C or SIGTERM (0), or until a part fails (1)."""
    began = time.monotonic()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    local = LocalRun(make_plan(os.environ))
    stopped = asyncio.create_task(stop.wait())
    working = asyncio.create_task(_work(local, began))
    try:
        await asyncio.wait({stopped, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        return 0
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await local.children.stop()


async def _work(local: LocalRun, began: float) -> None:
    await local.start()
    local.tell(time.monotonic() - began)
    await local.watch()


def main() -> int:
    argparse.ArgumentParser(
        "make run",
        description="Run the whole broker on this machine. It takes environment variables, no arguments: "
        "API_PORT, API_PROCESSES, SIM_PORT, SIM_SANDBOXES, WORKER_PORT, DDB_ENDPOINT_URL and every "
        "setting of the README.",
    ).parse_args()
    try:
        code = asyncio.run(run())
    except (StartFailed, EngineFailed) as error:
        sys.stderr.write(f"make run: {error}\n")
        return 1
    sys.stdout.write("\nStopped.\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
