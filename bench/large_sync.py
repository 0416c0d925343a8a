"""What a sync costs as the listing grows: bounded memory in the worker, nothing written for what did not change.

Everything is a process: the engine, the provider, the worker whose memory is read from /proc (Linux). Times are
the local engine's; DynamoDB's differ.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from local.engine import answers, engine, free_port

ROOT = Path(__file__).resolve().parent.parent
SHARDS = "64"
SIZES = (1_000, 10_000, 50_000, 100_000)


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def samples(port: int, name: str, **labels: str) -> float:
    """A series of the worker's metrics; 0 where there is none yet."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        text = page.read().decode()
    for line in text.splitlines():
        if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.rpartition(" ")[2])
    return 0.0


def peak_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def measure(size: int) -> tuple[float, float, float, float, float]:
    """First and second sync of a listing of `size` accounts: seconds and transactions of each, peak MB."""
    sim_port, worker_port = free_port(), free_port()
    with engine() as url:
        environment = {
            "BROKER_ENV": "development",
            "DDB_ENDPOINT_URL": url,
            "DDB_SHARDS": SHARDS,
            "STORE_TIMEOUT_SEC": "30",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "CSP_BASE_URL": f"http://127.0.0.1:{sim_port}",
            "CSP_API_TOKEN": "bench-token-0a1b2c3d4e5f",
            "SIM_PORT": str(sim_port),
            "SIM_SANDBOXES": str(size),
            "WORKER_PORT": str(worker_port),
            "SYNC_INTERVAL_SEC": "1",
            "GAUGES_INTERVAL_SEC": "3600",
            "LEADER_LEASE_SEC": "60",
        }
        subprocess.run(
            [sys.executable, "-m", "broker.cli", "create-table"], cwd=ROOT, env=os.environ | environment
        )
        with running("-m", "simulator", **environment), running("-m", "worker.main", **environment) as worker:
            while not answers(worker_port):
                time.sleep(0.1)
            rows = [until_synced(worker_port, number) for number in (1, 2)]
            return *rows[0], *(a - b for a, b in zip(rows[1], rows[0], strict=True)), peak_mb(worker.pid)


def until_synced(port: int, number: int) -> tuple[float, float]:
    """Wait for that many syncs; the seconds and transactions of all of them."""
    while samples(port, "worker_job_runs_total", duty="sync", outcome="ok") < number:
        time.sleep(0.2)
    seconds = samples(port, "worker_job_seconds_sum", duty="sync")
    return seconds, samples(port, "broker_store_call_seconds_count", operation="transact_write_items")


def main() -> int:
    parser = argparse.ArgumentParser("make bench-sync", description=__doc__)
    parser.add_argument(
        "--most", type=int, default=10_000, help="the largest listing; 100000 takes some 20 minutes"
    )
    most = parser.parse_args().most
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ministack")
    print(f"{'accounts':>9} {'first sync':>11} {'writes':>13} {'second':>8} {'writes':>13} {'worker MB':>10}")
    for size in (size for size in SIZES if size <= most):
        first_s, first_writes, second_s, second_writes, megabytes = measure(size)
        print(
            f"{size:>9,} {first_s:>9.1f} s {first_writes:>13,.0f} {second_s:>6.1f} s {second_writes:>13,.0f} "
            f"{megabytes:>10.0f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
