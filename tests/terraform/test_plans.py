"""What can be said before anything is applied: the form, wrong variables, other shapes of it."""

import shutil
import subprocess
from typing import Any

import boto3
import jmespath
import pytest
from botocore.validate import ParamValidator

from local.engine import ROOT
from tests.terraform.workspace import SOURCE, Planned, Workspace, given

pytestmark = pytest.mark.timeout(600)

needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")

COLLECTOR = "https://otel.example.internal:4318"
WRONG = {
    "certificate_arn": ("arn:aws:acm:us-east-1:123456789012:broker", "must be the ARN of an ACM certificate"),
    "provider_url": ("http://csp.example.org", "must be https on port 443"),
    "name": ("Sandbox_Broker", "must be 3 to 20 of a-z 0-9 -"),
    "worker_image_tag": ("latest", "worker_image_tag must be the tag of one release"),
    "canary_weight": (25, "sends requests to a canary that does not run"),
    "api_tasks": ({"min": 1, "max": 10}, "needs a min of 2 or more"),
    "drain_timeout_sec": (35, "less than stop_timeout_sec: ECS kills what has not drained"),
    "students_behind_one_address": (10, "a lower limit would shut a course out"),
    "allowed_cidrs": (["everyone"], "must hold IPv4 networks"),
    "provider_cidrs": ([], "must hold IPv4 networks"),
    "vpc_cidr": ("10.0.0.0/24", "/22 or larger"),
    "zones": (["a", "a"], "must be two different letters"),
    "tenant_provider_secrets": (["so uth"], "must hold names of tenants"),
    "settings": (
        {"BROKER_API_TOKEN": "a", "LAB_DURATION_HOURS": "8"},
        "what cannot be set here: BROKER_API_TOKEN",
    ),
    "collector": (
        {"endpoint": "http://otel.example.internal:4318", "security_group_id": "sg-0a1b2c3d4e5f67890"},
        "must have an endpoint https://HOST:PORT",
    ),
    "pool_low": ({"default": 0}, "must hold numbers of 1 or more"),
    "alarm_emails": (["oncall"], "must hold e-mail addresses"),
    "monthly_budget_usd": (0, "must be more than 0"),
    "log_retention_days": (42, "CloudWatch knows no others"),
}


@pytest.fixture(scope="module")
def refusals(terraform: Workspace, aws_url: str) -> str:
    """What one plan says to all that is wrong, in one line."""
    values = given(aws_url) | {name: value for name, (value, _) in WRONG.items()}
    done = terraform.try_plan(values)
    assert done.returncode == 1
    return _flat(done.stderr)


@pytest.fixture(scope="module")
def before_a_release(terraform: Workspace, aws_url: str) -> Planned:
    return terraform.plan(given(aws_url, image_tag=None), "before")


@pytest.fixture(scope="module")
def course(terraform: Workspace, aws_url: str) -> Planned:
    """With a canary, a large course, settings and services."""
    return terraform.plan(
        given(
            aws_url,
            canary_image_tag="0.2.0",
            canary_weight=25,
            burst_allocations_per_sec=1280,  # as many as 4 shards take
            students_behind_one_address=5000,
            settings={
                "LAB_DURATION_HOURS": "8",
                "NIOSXAAS_ENABLED": "true",
                "GAUGES_INTERVAL_SEC": "120",
                "OTEL_TRACES_SAMPLER": "always_on",
            },
            collector={"endpoint": COLLECTOR, "security_group_id": "sg-0a1b2c3d4e5f67890"},
        ),
        "course",
    )


@needs_terraform
def test_it_is_formatted():
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", "-recursive", str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_it_is_valid(terraform: Workspace):
    assert "Success" in terraform.must("validate", "-no-color")


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_variable_is_refused_with_what_to_do(refusals: str, name: str):
    assert f"{name} " in refusals
    assert WRONG[name][1] in refusals


def test_a_certificate_of_another_region_is_refused(refusals: str):
    assert "certificate_arn must be of the same region" in refusals


def test_what_other_variables_are_held_against_is_refused_first(terraform: Workspace, aws_url: str):
    wrong = {"region": "Frankfurt", "image_tag": "latest", "stop_timeout_sec": 121}
    wrong |= {"burst_allocations_per_sec": 1281}  # one more than four shards take
    done = terraform.try_plan(given(aws_url) | wrong)
    said = _flat(done.stderr)
    assert done.returncode == 1
    assert "region must be the name of an AWS region" in said
    assert "image_tag must name one release" in said
    assert "stop_timeout_sec must be 120 or less" in said
    assert "burst_allocations_per_sec of 1281 is more than 4 shards take" in said
    assert 'settings = { DDB_SHARDS = "5" } or more' in said


def test_what_is_held_against_another_that_is_wrong_is_refused_by_itself(terraform: Workspace, aws_url: str):
    """A wrong canary keeps its weight from being looked at, wrong settings the burst that hangs on its shards."""
    wrong = {"canary_image_tag": "registry/api:0.2.0", "burst_allocations_per_sec": 0}
    done = terraform.try_plan(given(aws_url) | wrong)
    said = _flat(done.stderr)
    assert done.returncode == 1
    assert "canary_image_tag must be the tag of one release" in said
    assert "burst_allocations_per_sec must be from 1 to 10000" in said


def _flat(text: str) -> str:
    """Without the frame that terraform draws, and its line breaks."""
    return " ".join(word for word in text.split() if word not in "│╷╵")


def test_without_a_release_everything_is_there_and_nothing_runs(before_a_release: Planned):
    kinds = {address.partition(".")[0] for address in before_a_release.resources}
    assert {"aws_ecr_repository", "aws_secretsmanager_secret", "aws_dynamodb_table", "aws_lb"} <= kinds
    assert not {"aws_ecs_service", "aws_ecs_task_definition", "aws_appautoscaling_target"} & kinds
    assert "aws_cloudwatch_metric_alarm" not in kinds  # nobody is woken by what does not run yet


def test_the_table_and_the_load_balancer_are_protected_unless_somebody_says_otherwise(before_a_release: Planned):
    assert before_a_release["aws_dynamodb_table.main"]["deletion_protection_enabled"] is True
    assert before_a_release["aws_lb.main"]["enable_deletion_protection"] is True


def test_a_usual_burst_needs_no_warming(before_a_release: Planned):
    assert before_a_release.of("terraform_data") == {}


def test_a_large_burst_warms_the_table_and_both_indexes(course: Planned):
    table, indexes = _warmed(course, _described())
    assert table == {"WriteUnitsPerSecond": 12_800, "ReadUnitsPerSecond": 12_000}
    assert indexes == {
        index: {"WriteUnitsPerSecond": 4_000, "ReadUnitsPerSecond": 12_000}
        for index in ("StatusIndex", "TrackIndex")
    }
    assert course['aws_cloudwatch_metric_alarm.main["table-writes"]']["threshold"] == 0.8 * 60 * 12_800


def test_what_is_warmer_already_stays_as_it_is(course: Planned):
    """AWS refuses to lower it; traffic has raised it, or a larger course."""
    table, indexes = _warmed(course, _described(table=15_000, StatusIndex=9_000))
    assert table == {"WriteUnitsPerSecond": 15_000, "ReadUnitsPerSecond": 12_000}
    assert {name: warm["WriteUnitsPerSecond"] for name, warm in indexes.items()} == {
        "StatusIndex": 9_000, "TrackIndex": 4_000,
    }  # fmt: skip


def _described(**writes: int) -> dict[str, Any]:
    """What DescribeTable says, so far as it is asked: a new table, or one that takes more writes."""

    def warm(place: str) -> dict[str, Any]:
        units = {"ReadUnitsPerSecond": 12_000, "WriteUnitsPerSecond": writes.get(place, 4_000), "Status": "ACTIVE"}
        return {"WarmThroughput": units}

    indexes = [{"IndexName": name, **warm(name)} for name in ("StatusIndex", "TrackIndex")]
    return {"Table": {**warm("table"), "GlobalSecondaryIndexes": indexes}}


def _warmed(course: Planned, described: dict[str, Any]) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """What the AWS CLI is called with, by the queries of the plan, where a table is described so."""
    [warm] = course.of("terraform_data").values()
    updates = [update["Update"] for update in jmespath.search(warm["input"]["index"], described)]
    return (
        jmespath.search(warm["input"]["table"], described),
        {update["IndexName"]: update["WarmThroughput"] for update in updates},
    )


def test_a_table_that_says_nothing_of_its_warmth_is_warmed(course: Planned):
    table, _ = _warmed(course, {"Table": {"GlobalSecondaryIndexes": []}})
    assert table["WriteUnitsPerSecond"] == 12_800


def test_what_warms_the_table_is_a_call_that_aws_knows(course: Planned):
    table, indexes = _warmed(course, _described())
    call = {
        "TableName": "sandbox-broker",
        "WarmThroughput": table,
        "GlobalSecondaryIndexUpdates": [
            {"Update": {"IndexName": name, "WarmThroughput": warm}} for name, warm in indexes.items()
        ],
    }
    shape = boto3.client("dynamodb", region_name="eu-central-1").meta.service_model.operation_model("UpdateTable")
    assert ParamValidator().validate(call, shape.input_shape).generate_report() == ""


def test_a_canary_runs_beside_the_release_and_gets_its_share(course: Planned):
    services = {a: s["name"] for a, s in course.of("aws_ecs_service").items()}
    assert services == {
        'aws_ecs_service.api["stable"]': "api",
        'aws_ecs_service.api["canary"]': "api-canary",
        "aws_ecs_service.worker[0]": "worker",
    }
    [action] = course["aws_lb_listener.https"]["default_action"]
    assert sorted(group["weight"] for group in action["forward"][0]["target_group"]) == [25, 75]
    assert {t["min_capacity"] for t in course.of("aws_appautoscaling_target").values()} == {2}


def test_a_canary_is_watched_by_numbers_of_its_own(course: Planned):
    """Whose names begin as those that bin/canary looks at do."""
    fields = (
        "namespace", "metric_name", "statistic", "extended_statistic", "comparison_operator", "threshold",
        "period", "evaluation_periods", "treat_missing_data", "evaluate_low_sample_count_percentiles",
    )  # fmt: skip
    alarms = {
        a["alarm_name"]: [a.get(f) for f in fields] for a in course.of("aws_cloudwatch_metric_alarm").values()
    }
    elb, over = "AWS/ApplicationELB", "GreaterThanThreshold"
    assert {name: facts for name, facts in alarms.items() if "canary" in name} == {
        "sandbox-broker-canary-errors": [
            elb, "HTTPCode_Target_5XX_Count", "Sum", None, over, 2, 300, 1, "notBreaching", None
        ],
        "sandbox-broker-canary-slow": [
            elb, "TargetResponseTime", None, "p95", over, 1, 60, 3, "notBreaching", "ignore"
        ],
    }  # fmt: skip


def test_a_larger_class_raises_the_limit_of_an_address(course: Planned):
    rules = {rule["name"]: rule for rule in course["aws_wafv2_web_acl.main"]["rule"]}
    assert rules["address"]["statement"][0]["rate_based_statement"][0]["limit"] == 100_000


def test_services_get_a_secret_of_their_own_and_slow_gauges_a_patient_alarm(course: Planned):
    names = {secret["name"] for secret in course.of("aws_secretsmanager_secret").values()}
    assert "sandbox-broker/services-password" in names
    assert course['aws_cloudwatch_metric_alarm.main["worker-silent"]']["period"] == 600


def test_both_processes_may_call_the_collector_and_nobody_else_does(course: Planned):
    rules = course.of("aws_vpc_security_group_egress_rule")
    ways = {address.partition("[")[2]: rule for address, rule in rules.items() if "collector" in address}
    assert set(ways) == {'"api"]', '"worker"]'}
    for rule in ways.values():
        assert (rule["from_port"], rule["to_port"], rule["ip_protocol"]) == (4318, 4318, "tcp")
        assert rule["referenced_security_group_id"] == "sg-0a1b2c3d4e5f67890"


def test_without_a_collector_there_is_no_way_to_one(before_a_release: Planned):
    assert not [a for a in before_a_release.of("aws_vpc_security_group_egress_rule") if "collector" in a]


def test_nothing_of_this_machine_is_kept():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {".terraform/", ".terraform.lock.hcl", "terraform.tfstate*"} <= set(ignored)
