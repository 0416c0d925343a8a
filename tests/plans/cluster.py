"""What ECS does beside the emulator that only keeps its books: real processes, as the services there want them."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.engine import ROOT, free_port
from tests.terraform.workspace import client

CLUSTER = "sandbox-broker"
UP_S = 60.0
PATIENT = {"BOOT_TIMEOUT_SEC": "60", "BOOT_BUDGET_MS": "30000", "STORE_TIMEOUT_SEC": "10"}
"""The emulator is slow, and the machine is shared."""
CANARY = "10.40.0.10"
PROVIDER_TOKEN = "provider-token"
LIKE_A_CONTAINER = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED", "PATH", "HOME")


@dataclass
class Cluster:
    """One API and one worker at the most, on the table that their task definitions name."""

    url: str  # of the emulated AWS
    folder: Path  # of the processes' output
    api_port: int = field(default_factory=free_port)
    provider_port: int = field(default_factory=free_port)
    worker_port: int = field(default_factory=free_port)
    running: dict[str, tuple[object, subprocess.Popen[bytes]]] = field(default_factory=dict)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def start_provider(self, sandboxes: int) -> None:
        arguments = ["--port", str(self.provider_port), "--sandboxes", str(sandboxes), "--delete-latency-s", "0"]
        self._start("provider", "simulator", arguments, {"CSP_API_TOKEN": PROVIDER_TOKEN}, None)
        self._until(f"http://127.0.0.1:{self.provider_port}/_simulator/faults", "provider")

    def follow(self) -> None:
        """Bring the processes in line with the services."""
        services = self._services()
        if services:
            self._follow_canary()
        for name in ("worker", "api"):
            wanted = services.get(name)
            if name in self.running and self.running[name][0] != wanted:
                self._stop(name)
            if wanted is not None and name not in self.running:
                self._run(name, wanted)

    def _follow_canary(self) -> None:
        """The canary's tasks are no processes here: they are targets that are healthy."""
        ecs, elb = client(self.url, "ecs"), client(self.url, "elbv2")
        groups = elb.describe_target_groups()["TargetGroups"]
        [group] = [g["TargetGroupArn"] for g in groups if g["TargetGroupName"].endswith("-canary")]
        services = ecs.describe_services(cluster=CLUSTER, services=["api-canary"])["services"]
        if any(service["status"] == "ACTIVE" and service["desiredCount"] for service in services):
            elb.register_targets(TargetGroupArn=group, Targets=[{"Id": CANARY}])

    def _services(self) -> dict[str, Any]:
        """Of each service that runs: its table and the secrets as they are now."""
        ecs = client(self.url, "ecs")
        if CLUSTER not in str(ecs.list_clusters()["clusterArns"]):
            return {}
        found = {}
        for service in ecs.describe_services(cluster=CLUSTER, services=["api", "worker"])["services"]:
            if service["desiredCount"] == 0 or service["status"] != "ACTIVE":
                continue
            task = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
            [container] = task["containerDefinitions"]
            environment = {one["name"]: one["value"] for one in container["environment"]}
            secrets = {one["name"]: self._secret(one["valueFrom"]) for one in container.get("secrets", [])}
            found[service["serviceName"]] = {"DDB_TABLE_NAME": environment["DDB_TABLE_NAME"], **secrets}
        return found

    def _secret(self, arn: str) -> str:
        value = client(self.url, "secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
        return str(value)

    def _run(self, name: str, wanted: dict[str, str]) -> None:
        ports = {"API_PORT": str(self.api_port), "WORKER_PORT": str(self.worker_port)}
        provider = {"CSP_BASE_URL": f"http://127.0.0.1:{self.provider_port}", "CSP_API_TOKEN": PROVIDER_TOKEN}
        here = {"BROKER_ENV": "development", "DDB_ENDPOINT_URL": self.url, "AWS_REGION": "eu-central-1", **PATIENT}
        mine = {"api": {"API_HOST": "127.0.0.1", "DRAIN_NOTICE_SEC": "0"}, "worker": provider}[name]
        module = {"api": "app", "worker": "worker"}[name]
        self._start(name, module, [], {**here, **ports, **mine, **wanted, "WORKER_HOST": "127.0.0.1"}, wanted)
        port = self.api_port if name == "api" else self.worker_port
        self._until(f"http://127.0.0.1:{port}/readyz", name)

    def _start(self, name: str, module: str, arguments: list[str], more: dict[str, str], key: object) -> None:
        kept = {variable: os.environ[variable] for variable in LIKE_A_CONTAINER if variable in os.environ}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], cwd=ROOT, env=kept | more, stdout=log, stderr=log
            )
        self.running[name] = (key, process)

    def _until(self, url: str, name: str) -> None:
        ends_at = time.monotonic() + UP_S
        while time.monotonic() < ends_at:
            assert self.running[name][1].poll() is None, self.log(name)
            try:
                if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{name} is not up: {self.log(name)}")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-3000:]

    def _stop(self, name: str) -> None:
        _, process = self.running.pop(name)
        process.terminate()
        process.wait(60)

    def close(self) -> None:
        for name in list(self.running):
            self._stop(name)
