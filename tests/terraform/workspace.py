"""terraform as a test runs it: on a copy, with the provider from a local folder and AWS as moto has it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from local.engine import ROOT, answers, free_port

SOURCE = ROOT / "terraform"
REGION = "eu-central-1"
ACCOUNT = "123456789012"
MOTO = Path(__file__).with_name("moto_server.py")
START_S = 60.0


def plugins() -> Path | None:
    """The folder of the providers: TF_PLUGIN_DIR, or what `terraform init` left in terraform/."""
    named, own = os.environ.get("TF_PLUGIN_DIR"), SOURCE / ".terraform" / "providers"
    if named:
        return Path(named)
    return own if own.is_dir() else None


def missing() -> str | None:
    """Why terraform cannot be run here, if it cannot."""
    if shutil.which("terraform") is None:
        return "terraform is not installed"
    found = plugins()
    if found is None or not any(found.glob("*/hashicorp/aws")):
        return (
            "the AWS provider is not here: run 'terraform init' in terraform/, or set TF_PLUGIN_DIR to its mirror"
        )
    return None


@dataclass(frozen=True)
class Workspace:
    """A folder with a copy of terraform/, initialised."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def must(self, *arguments: str) -> str:
        """What it says, where it succeeds."""
        done = self.run(*arguments)
        assert done.returncode == 0, (
            f"terraform {' '.join(arguments)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done.stdout

    def _given(self, variables: Mapping[str, Any]) -> str:
        values = self.folder / "given.tfvars.json"
        values.write_text(json.dumps(variables))
        return f"-var-file={values}"

    def try_plan(
        self, variables: Mapping[str, Any], out: str = "planned", *more: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run(
            "plan", "-input=false", "-no-color", "-lock=false", *more, self._given(variables), f"-out={out}"
        )

    def apply(self, variables: Mapping[str, Any], *, destroy: bool = False) -> None:
        """Make it so, or, with `destroy`, take it all down."""
        how = ["-destroy"] if destroy else []
        self.must(
            "apply", *how, "-auto-approve", "-input=false", "-no-color", "-parallelism=40", self._given(variables)
        )

    def state(self) -> list[dict[str, Any]]:
        """What terraform keeps of each resource."""
        return list(json.loads((self.folder / "terraform.tfstate").read_text())["resources"])

    def plan(self, variables: Mapping[str, Any], out: str = "planned", *more: str) -> "Planned":
        """`more`: of terraform's own options, such as -refresh=false, which asks for nothing that is there."""
        done = self.try_plan(variables, out, *more)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return Planned(json.loads(self.must("show", "-json", out)))


class Planned:
    """A plan's resources by address, as they would be."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        found = document["planned_values"]["root_module"]["resources"]
        self.resources: dict[str, dict[str, Any]] = {
            resource["address"]: resource.get("values", {}) for resource in found if resource["mode"] == "managed"
        }

    def __getitem__(self, address: str) -> dict[str, Any]:
        return self.resources[address]

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """All of one type, by address."""
        return {a: values for a, values in self.resources.items() if a.startswith(f"{kind}.")}

    def container(self, address: str) -> dict[str, Any]:
        """The one container of a task definition, where all of it is known."""
        [only] = json.loads(self[address]["container_definitions"])
        return dict(only)


@contextmanager
def aws() -> Iterator[str]:
    """moto with what it lacks, as a process; yields its URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(MOTO), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        began = time.monotonic()
        while not answers(port):
            assert process.poll() is None, "moto did not start"
            assert time.monotonic() - began < START_S, "moto did not come up"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def client(url: str, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def workspace(folder: Path, url: str) -> Workspace:
    """Initialised; it finds AWS at `url`. The configuration itself knows nothing of that."""
    for file in SOURCE.glob("*.tf"):
        shutil.copy(file, folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))}
    environment = kept | {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CHECKPOINT_DISABLE": "1",
        "GOGC": "400",  # a fifth of the time went into collecting what ends with the command
    }
    made = Workspace(folder, environment)
    made.must("init", "-input=false", "-backend=false", f"-plugin-dir={plugins()}")
    return made


def given(url: str, **more: Any) -> dict[str, Any]:
    """The variables that have no default, a release, and what a test needs beside them."""
    certificate = client(url, "acm").request_certificate(DomainName="broker.example.org")["CertificateArn"]
    return {
        "region": REGION,
        "certificate_arn": certificate,
        "provider_url": "https://csp.example.org",
        "image_tag": "0.1.0",
        **more,
    }
