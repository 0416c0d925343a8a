"""A real Prometheus, on loopback, with the committed configuration at a test's pace."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from local.engine import free_port
from tests.monitoring.promtool import ROOT

INTERVAL = "500ms"
START_S = 60.0

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: apt-get install prometheus)"
)


@dataclass(frozen=True)
class Prometheus:
    """A running one, asked through its HTTP API."""

    http: httpx.AsyncClient

    async def api(self, path: str, **query: str) -> Any:
        """The data of an answer; what it refuses or warns of fails the test."""
        answer = await self.http.get(f"/api/v1/{path}", params=query)
        body = answer.json()
        assert body["status"] == "success", (path, query, body)
        assert not body.get("warnings"), (path, query, body)
        return body["data"]

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series, now."""
        found = await self.api("query", query=expression)
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    async def targets(self) -> dict[str, str]:
        """Health by job."""
        return {t["labels"]["job"]: t["health"] for t in (await self.api("targets"))["activeTargets"]}

    async def firing(self) -> set[str]:
        return {a["labels"]["alertname"] for a in (await self.api("alerts"))["alerts"] if a["state"] == "firing"}


def configured(folder: Path, *, targets: dict[str, str]) -> Path:
    """The committed files in `folder`, with these targets by job; alerts wait a second where they wait minutes."""
    config = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    assert {scrape["job_name"] for scrape in config["scrape_configs"]} == set(targets)
    for scrape in config["scrape_configs"]:
        scrape["static_configs"] = [{"targets": [targets[scrape["job_name"]]]}]
    alerts = (ROOT / "monitoring" / "alerts.yml").read_text()
    (folder / "alerts.yml").write_text(re.sub(r"^( +for:) .*$", r"\1 1s", alerts, flags=re.MULTILINE))
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@asynccontextmanager
async def a_prometheus(folder: Path, *, targets: dict[str, str]) -> AsyncIterator[Prometheus]:
    port = free_port()
    config = configured(folder, targets=targets)
    with (folder / "prometheus.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
            await _ready(http, process, folder)
            yield Prometheus(http)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ready(http: httpx.AsyncClient, process: asyncio.subprocess.Process, folder: Path) -> None:
    async with asyncio.timeout(START_S):
        while True:
            assert process.returncode is None, (folder / "prometheus.log").read_text()
            try:
                if (await http.get("/-/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
