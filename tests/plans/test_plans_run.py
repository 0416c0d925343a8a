"""K3, K5: every command of both plans runs as written, in order, against an emulated AWS with real processes.

One shell a plan, one apply for both: the rollback plan goes on where the deployment plan has ended. What ECS would
do, Cluster does with real processes; students come in between, over HTTP.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.engine import ROOT
from tests.plans.blocks import Block, Ran, Shell, blocks
from tests.plans.cluster import CLUSTER, Cluster
from tests.terraform.workspace import REGION, client, given, plugins

pytestmark = pytest.mark.timeout(1500)  # one apply of everything, and ten of parts; the machine is shared

DEPLOYMENT, ROLLBACK = ROOT / "DEPLOYMENT_PLAN.md", ROOT / "ROLLBACK_PLAN.md"
BY_HAND = {
    ("DEPLOYMENT_PLAN.md", "Before you begin"): "export BROKER_URL=",  # the test's API is elsewhere
    ("DEPLOYMENT_PLAN.md", "A1"): "terraform.tfvars.example",  # the reader's own values
    ("DEPLOYMENT_PLAN.md", "A2"): "docker build",  # no Docker, no registry
    ("DEPLOYMENT_PLAN.md", "A3"): "provider-token",  # a value that only the provider has
    ("DEPLOYMENT_PLAN.md", "B2"): "docker build",
    ("ROLLBACK_PLAN.md", "Rollback plan"): "export BROKER_URL=",
}
"""The blocks that are not run here, and what is in them that cannot be."""
SANDBOXES = 24


@dataclass
class Rehearsal:
    """A clone, an emulated AWS, the processes that run there, and a shell."""

    folder: Path
    url: str
    cluster: Cluster
    shell: Shell
    told: list[str] = field(default_factory=list)  # how long each block took

    def run(self, block: Block) -> Ran:
        ran = self.shell.run(block.text)
        self.told.append(f"{block.heading:24} {ran.took_s:6.1f} s")
        assert ran.code == 0, f"{block.heading} ended with {ran.code}:\n{block.text}\n{ran.out[-4000:]}"
        if "A3" not in block.heading and "A1" not in block.heading:
            self.cluster.follow()
        return ran

    def say(self, commands: str) -> Ran:
        """Commands of the test's own, in the same shell."""
        return self.shell.run(commands)

    def services(self) -> dict[str, Any]:
        found = client(self.url, "ecs").describe_services(cluster=CLUSTER, services=["api", "worker"])["services"]
        return {service["serviceName"]: service for service in found}

    def images(self) -> dict[str, str]:
        ecs = client(self.url, "ecs")
        tasks = {name: service["taskDefinition"] for name, service in self.services().items()}
        found = {
            name: ecs.describe_task_definition(taskDefinition=task)["taskDefinition"]["containerDefinitions"][0]
            for name, task in tasks.items()
        }
        return {name: container["image"].rpartition(":")[2] for name, container in found.items()}

    def weights(self) -> list[int]:
        """Of the stable lane and the canary's."""
        elb = client(self.url, "elbv2")
        [balancer] = elb.describe_load_balancers()["LoadBalancers"]
        [https] = [
            one
            for one in elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
            if one["Port"] == 443
        ]
        groups = https["DefaultActions"][0]["ForwardConfig"]["TargetGroups"]
        stable = [group["Weight"] for group in groups if "-stable/" in group["TargetGroupArn"]]
        return stable + [group["Weight"] for group in groups if "-canary/" in group["TargetGroupArn"]]

    def wait_for_weights(self, wanted: list[int]) -> None:
        ends_at = time.monotonic() + 60
        while self.weights() != wanted:
            assert time.monotonic() < ends_at, self.weights()
            time.sleep(0.2)

    def alarm(self, name: str, state: str) -> None:
        watch = client(self.url, "cloudwatch")
        watch.set_alarm_state(AlarmName=f"sandbox-broker-{name}", StateValue=state, StateReason="a test")

    def allocate(self, student: str) -> httpx.Response:
        secrets = client(self.url, "secretsmanager")
        token = secrets.get_secret_value(SecretId="sandbox-broker/api-token")["SecretString"]
        headers = {"Authorization": f"Bearer {token}", "X-Instruqt-Sandbox-ID": student}
        return httpx.post(f"{self.cluster.api_url}/v1/allocate", headers=headers, timeout=30, trust_env=False)

    def items(self, table: str) -> list[dict[str, Any]]:
        pages = client(self.url, "dynamodb").get_paginator("scan").paginate(TableName=table)
        return [item for page in pages for item in page["Items"]]

    def set_items(self, table: str, wanted: list[dict[str, Any]]) -> None:
        """As a restore would have brought them back: the emulator copies what is there now."""
        dynamodb = client(self.url, "dynamodb")
        for item in self.items(table):
            dynamodb.delete_item(TableName=table, Key={name: item[name] for name in ("pk", "sk")})
        for item in wanted:
            dynamodb.put_item(TableName=table, Item=item)


@pytest.fixture(scope="module")
def rehearsal(aws_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    folder = tmp_path_factory.mktemp("clone")
    for entry in ROOT.iterdir():
        if entry.name not in ("terraform", ".git"):
            (folder / entry.name).symlink_to(entry)
    shutil.copytree(
        ROOT / "terraform", folder / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*state*")
    )
    own = {name: value for name, value in given(aws_url).items() if name != "image_tag"}
    (folder / "terraform" / "terraform.tfvars").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in own.items())
    )
    logs = tmp_path_factory.mktemp("logs")
    cluster = Cluster(aws_url, logs)
    shell = Shell(folder, environment(folder, aws_url, cluster))
    try:
        cluster.start_provider(SANDBOXES)
        yield Rehearsal(folder, aws_url, cluster, shell)
    finally:
        shell.close()
        cluster.close()


def environment(folder: Path, aws_url: str, cluster: Cluster) -> dict[str, str]:
    """That of a person's shell, with the emulator for AWS, and nobody to say yes to terraform."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))}
    return kept | {
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
        "CHECKPOINT_DISABLE": "1",
        "TF_INPUT": "0",
        "TF_CLI_ARGS_init": f"-backend=false -plugin-dir={plugins()}",
        "TF_CLI_ARGS_apply": "-auto-approve -no-color -parallelism=40",
        "BROKER_URL": cluster.api_url,
        "BROKER_ENV": "development",
        "DDB_ENDPOINT_URL": aws_url,
        "CANARY_STEP_SEC": "0",
        "CANARY_TERRAFORM": str(folder / "terraform"),
    }


def of(plan: Path, *headings: str) -> list[Block]:
    return [block for block in blocks(plan) if block.heading in headings and not block.by_hand]


def weights_said(ran: Ran) -> list[int]:
    return [int(weight) for weight in re.findall(r"^canary: (?:back to )?(\d+) %", ran.out, re.MULTILINE)]


@pytest.mark.parametrize("plan", [DEPLOYMENT, ROLLBACK], ids=lambda plan: plan.name)
def test_a_plan_names_no_machine_and_leaves_out_only_what_is_argued(plan: Path) -> None:
    found = blocks(plan)
    left_out = {(plan.name, block.heading): block.text for block in found if block.by_hand}

    assert set(left_out) == {key for key in BY_HAND if key[0] == plan.name}
    assert len(left_out) == sum(block.by_hand for block in found)
    for key, text in left_out.items():
        assert text.startswith("# By hand: ")
        assert BY_HAND[key] in text
    for block in found:
        assert "--endpoint" not in block.text
        assert not re.search(r"(^|[\s=\"'])/(tmp|home|root|usr|opt)\b|localhost|127\.0\.0\.1", block.text)


@pytest.fixture(scope="module")
def deployed(request: pytest.FixtureRequest) -> Rehearsal:
    """Plan A, as it is written; then students come."""
    if not os.environ.get("BROKER_TEST_PLANS"):
        pytest.skip("many minutes of terraform: `make plans` runs it")
    rehearsal: Rehearsal = request.getfixturevalue("rehearsal")
    for block in of(DEPLOYMENT, "Before you begin", "A1", "A3", "A4"):
        rehearsal.run(block)
    return rehearsal


def test_the_deployment_plan_leads_from_nothing_to_a_new_release(deployed: Rehearsal) -> None:
    """And a canary that gets into trouble on the way goes back to 0 by itself."""
    first = deployed.images()
    for block in of(DEPLOYMENT, "B1", "B3"):
        deployed.run(block)
    worker_first = deployed.images()
    apply, canary = of(DEPLOYMENT, "B4")
    deployed.run(apply)

    stranger = deployed.say("BROKER_ADMIN_TOKEN=another bin/canary && echo reached || echo ended with $?")
    deployed.alarm("api-crashes", "ALARM")
    refused = deployed.say("bin/canary && echo reached || echo ended with $?")
    weights_refused = deployed.weights()
    deployed.alarm("api-crashes", "OK")
    deployed.say("CANARY_STEP_SEC=600 CANARY_LOOK_SEC=1 bin/canary > canary.out 2>&1 & canary=$!")
    deployed.wait_for_weights([90, 10])
    deployed.alarm("api-crashes", "ALARM")
    gone_wrong = deployed.say("wait $canary && echo reached || echo ended with $?; cat canary.out")
    weights_back = deployed.weights()
    deployed.alarm("api-crashes", "OK")
    reached = deployed.run(canary)
    weights_reached = deployed.weights()
    for block in of(DEPLOYMENT, "B5", "Look at it"):
        ran = deployed.run(block)
    sys.stdout.write("\n".join(["", *deployed.told, ""]))

    assert (first, worker_first) == ({"api": "0.1.0", "worker": "0.1.0"}, {"api": "0.1.0", "worker": "0.2.0"})
    assert ("ended with 1" in stranger.out, weights_said(stranger)) == (True, [])
    assert ("ended with 1" in refused.out, weights_said(refused), weights_refused) == (True, [], [100, 0])
    assert "ended with 1" in gone_wrong.out, gone_wrong.out
    assert "back to 0 %: in alarm: sandbox-broker-api-crashes" in gone_wrong.out
    assert weights_back == [100, 0]
    assert (weights_said(reached)[:5], weights_reached) == ([10, 25, 50, 75, 100], [0, 100])
    assert deployed.images() == {"api": "0.2.0", "worker": "0.2.0"}
    assert deployed.weights() == [100, 0]
    assert "post: all is well" in ran.out


def test_the_rollback_plan_leads_back_and_gives_no_sandbox_to_two_students(deployed: Rehearsal) -> None:
    deployed.told.clear()
    [capture] = of(ROLLBACK, "R0")
    deployed.run(capture)
    [folder] = deployed.folder.glob("incident-*")
    kept = {path.name for path in folder.iterdir()}
    stateless = deployed.say("CANARY_TERRAFORM=$PWD bin/canary back")
    for block in of(ROLLBACK, "R1", "R2", "R3"):
        deployed.run(block)
    released = (deployed.folder / "terraform" / "release.auto.tfvars").read_text()
    back = deployed.images()
    mode, freeze, resume = of(ROLLBACK, "R4")
    deployed.run(mode)
    in_maintenance = deployed.allocate("student-too-late")
    deployed.run(freeze)
    frozen = set(deployed.cluster.running)
    deployed.run(resume)

    early = {f"early-{n}": deployed.allocate(f"early-{n}").json()["sandbox_id"] for n in range(2)}
    then = [item for item in deployed.items(CLUSTER) if not item["pk"]["S"].startswith("WRK#")]  # ten minutes old
    since = {f"since-{n}": deployed.allocate(f"since-{n}").json()["sandbox_id"] for n in range(4)}
    stop, restore, hold, switch, look, sync, clear, open_ = of(ROLLBACK, *"1234567")
    for block in (stop, restore):
        deployed.run(block)
    name = deployed.say("echo $NEW_TABLE").out.strip()
    deployed.set_items(name, then)
    for block in (hold, switch):
        deployed.run(block)
    switched = deployed.run(look)
    for block in (sync, clear, open_):
        deployed.run(block)
    again = {student: deployed.allocate(student).json()["sandbox_id"] for student in early}
    answers = [deployed.allocate(f"new-{n}") for n in range(SANDBOXES)]
    new = {answer.json()["sandbox_id"] for answer in answers if answer.status_code == 201}
    for block in of(ROLLBACK, "R6"):
        deployed.run(block)
    sys.stdout.write("\n".join(["", *deployed.told, ""]))

    assert {"status.json", "events.json", "services.json", "alarms.json", "table.json", "log-api.json"} <= kept
    assert not {name for name in kept if name.endswith(".err")}, {
        p.name: p.read_text() for p in folder.glob("*.err")
    }
    assert stateless.code == 0, stateless.out
    assert back == {"api": "0.1.0", "worker": "0.1.0"}
    assert released.splitlines() == ['image_tag = "0.1.0"', 'worker_image_tag = "0.1.0"']
    assert (in_maintenance.status_code, frozen) == (503, {"provider", "api"})
    assert "held after a restore" in switched.out
    assert again == early
    assert new
    assert not new & (set(early.values()) | set(since.values()))
    listed = json.loads((folder / "kept.json").read_text())["kept"]
    assert {one["holder"]: one["sandbox_id"] for one in listed} == since
