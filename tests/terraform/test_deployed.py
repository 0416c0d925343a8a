"""K1, K2, K6, H5: applied once to moto; what the plan after that has, and what AWS then says.

The plan after the apply knows every value, which the first one cannot: ARNs of secrets, the containers of a task.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from broker.boot import Boot
from broker.metrics import Metrics
from broker.settings import ApiSettings, CoreSettings, WorkerSettings
from broker.store import table
from broker.store.allowed import ALLOWED, Guard
from broker.wiring import open_broker, table_of
from local.engine import ROOT
from tests.containers.dockerfile import read
from tests.terraform.policies import Grant, grants, statements
from tests.terraform.workspace import ACCOUNT, REGION, Planned, Workspace, client, given

pytestmark = pytest.mark.timeout(900)  # the apply waits for moto, and for a machine that is shared

PROCESSES = {"api": ApiSettings, "worker": WorkerSettings}
TASKS = {"api": 'aws_ecs_task_definition.api["stable"]', "worker": "aws_ecs_task_definition.worker[0]"}
SERVICES = {"api": 'aws_ecs_service.api["stable"]', "worker": "aws_ecs_service.worker[0]"}
GIVEN_AS_SECRETS = {"BROKER_API_TOKEN", "BROKER_ADMIN_TOKEN", "API_KEY_PEPPER"}
LEFT_OUT = {
    "DDB_ENDPOINT_URL": "AWS's own",
    "CSP_API_TOKEN": "kept in Secrets Manager: CSP_API_TOKEN_SECRET",
    "CSP_API_TOKEN_FILE": "the same",
    "NIOSXAAS_PASSWORD": "kept in Secrets Manager: NIOSXAAS_PASSWORD_SECRET",
    "NIOSXAAS_PASSWORD_FILE": "the same",
    "NIOSXAAS_PASSWORD_SECRET": "where NIOSXAAS_ENABLED is set",
    "NIOSXAAS_BASE_URL": "unset, it is CSP_BASE_URL",
    "CLEANUP_CONCURRENCY_MIN": "unset, it follows CLEANUP_CONCURRENCY",
    "CSP_DELETES_PER_SEC_MIN": "unset, it follows CSP_DELETES_PER_SEC",
    "BOOT_FAILURE_COUNT": "the supervisor's to say",
    "BOOT_STATE_DIR": "nothing here can be written to; the table has the record",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "where a collector is named",
    "OTEL_EXPORTER_OTLP_HEADERS": "the collector knows us by our security groups",
    "OTEL_SERVICE_NAME": "unset, it is sandbox-broker-api and sandbox-broker-worker",
    "OTEL_TRACES_SAMPLER": "unset, the caller decides, and else everything is recorded",
    "OTEL_TRACES_SAMPLER_ARG": "the same",
}
BUILT = {"BROKER_ENV", "AWS_REGION", "TRUSTED_PROXIES", "CSP_BASE_URL", "CSP_API_TOKEN_SECRET"}
TABLE_ARN = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/sandbox-broker"
ON_ITS_INDEXES = {Grant("dynamodb:Query", f"{TABLE_ARN}/index/{index}") for index in ("StatusIndex", "TrackIndex")}


@dataclass(frozen=True)
class Deployed:
    terraform: Workspace
    variables: dict[str, Any]
    url: str
    plan: Planned  # the one after the apply

    def secret(self, name: str) -> str:
        """Its ARN."""
        return str(client(self.url, "secretsmanager").describe_secret(SecretId=f"sandbox-broker/{name}")["ARN"])


@pytest.fixture(scope="module")
def deployed(terraform: Workspace, aws_url: str) -> Deployed:
    variables = given(
        aws_url,
        deletion_protection=False,  # or it could not be destroyed
        tenant_provider_secrets=["south"],
        alarm_emails=["oncall@example.org"],
        pool_low={"default": 20, "south": 5},
    )
    terraform.apply(variables)
    return Deployed(terraform, variables, aws_url, terraform.plan(variables, "again"))


def _environment(deployed: Deployed, process: str) -> dict[str, str]:
    container = deployed.plan.container(TASKS[process])
    return {entry["name"]: entry["value"] for entry in container["environment"]}


def test_a_second_plan_changes_nothing(deployed: Deployed):
    changes = {c["address"]: c["change"]["actions"] for c in deployed.plan.document["resource_changes"]}
    assert {address: actions for address, actions in changes.items() if actions != ["no-op"]} == {}
    assert len(changes) > 100


# Health and times (K2)


@pytest.mark.parametrize("lane", ["stable", "canary"])
def test_the_load_balancer_asks_for_health_as_k2_says_and_lets_requests_end_within_the_drain(
    deployed: Deployed, lane: str
):
    group = deployed.plan[f'aws_lb_target_group.api["{lane}"]']
    [health] = group["health_check"]
    numbers = [health[name] for name in ("interval", "timeout", "healthy_threshold", "unhealthy_threshold")]
    environment = _environment(deployed, "api")
    assert numbers == [30, 5, 2, 3]
    assert (health["path"], health["matcher"], group["target_type"]) == ("/readyz", "200", "ip")
    assert float(environment["REQUEST_TIMEOUT_SEC"]) < int(group["deregistration_delay"])
    assert int(group["deregistration_delay"]) <= float(environment["GRACEFUL_SHUTDOWN_TIMEOUT_SEC"])


@pytest.mark.parametrize("process", PROCESSES)
def test_a_container_is_asked_for_health_and_stopped_as_k2_says(deployed: Deployed, process: str):
    container = deployed.plan.container(TASKS[process])
    health = container["healthCheck"]
    drain_s = float(_environment(deployed, process)["GRACEFUL_SHUTDOWN_TIMEOUT_SEC"])
    assert (health["retries"], health["startPeriod"], health["interval"], health["timeout"]) == (3, 60, 30, 5)
    assert (container["stopTimeout"], drain_s) == (35, 30)


@pytest.mark.parametrize(("process", "file"), [("api", "Dockerfile"), ("worker", "Dockerfile.worker")])
def test_a_container_is_asked_as_its_image_says_and_runs_as_its_user(deployed: Deployed, process: str, file: str):
    image = read((ROOT / file).read_text())[-1]
    options, command = image.healthcheck()
    container = deployed.plan.container(TASKS[process])
    health = container["healthCheck"]
    assert health["command"] == ["CMD", *command]
    assert options == {
        "interval": f"{health['interval']}s",
        "timeout": f"{health['timeout']}s",
        "start-period": f"{health['startPeriod']}s",
        "retries": str(health["retries"]),
    }
    assert container["user"] == image.last("USER") == "10001:10001"
    assert [mapping["containerPort"] for mapping in container["portMappings"]] == [int(image.last("EXPOSE"))]


@pytest.mark.parametrize("process", PROCESSES)
def test_a_container_has_no_privileges_and_nothing_to_write_to(deployed: Deployed, process: str):
    container = deployed.plan.container(TASKS[process])
    assert container["readonlyRootFilesystem"] is True
    assert container["privileged"] is False
    assert container["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    assert container["image"].endswith(f".amazonaws.com/sandbox-broker/{process}:0.1.0")


# Services (K1)


def test_two_workers_never_overlap_by_design(deployed: Deployed):
    worker = deployed.plan[SERVICES["worker"]]
    assert worker["desired_count"] == 1
    assert (worker["deployment_minimum_healthy_percent"], worker["deployment_maximum_percent"]) == (0, 100)
    assert worker["availability_zone_rebalancing"] == "DISABLED"
    scaled = [target["resource_id"] for target in deployed.plan.of("aws_appautoscaling_target").values()]
    assert scaled == ["service/sandbox-broker/api"]


def test_the_api_is_replaced_without_a_gap(deployed: Deployed):
    api = deployed.plan[SERVICES["api"]]
    assert (api["deployment_minimum_healthy_percent"], api["deployment_maximum_percent"]) == (100, 200)
    assert api["alarms"] == [{"alarm_names": ["sandbox-broker-api-crashes"], "enable": True, "rollback": True}]
    assert api["desired_count"] == 2


@pytest.mark.parametrize("process", PROCESSES)
def test_a_release_that_does_not_start_goes_back_and_has_no_public_address(deployed: Deployed, process: str):
    service = deployed.plan[SERVICES[process]]
    assert service["deployment_circuit_breaker"] == [{"enable": True, "rollback": True}]
    assert service["enable_execute_command"] in (None, False)
    [network] = service["network_configuration"]
    assert network["assign_public_ip"] is False
    subnets = {
        subnet["id"] for address, subnet in deployed.plan.resources.items() if f"aws_subnet.{process}[" in address
    }
    assert set(network["subnets"]) == subnets
    assert set(network["security_groups"]) == {deployed.plan[f"aws_security_group.{process}"]["id"]}


def test_the_api_has_two_to_ten_tasks_by_its_load(deployed: Deployed):
    target = deployed.plan['aws_appautoscaling_target.api["stable"]']
    policy = deployed.plan['aws_appautoscaling_policy.api["stable"]']
    [tracking] = policy["target_tracking_scaling_policy_configuration"]
    [metric] = tracking["predefined_metric_specification"]
    assert (target["min_capacity"], target["max_capacity"]) == (2, 10)
    assert (policy["policy_type"], tracking["target_value"]) == ("TargetTrackingScaling", 50)
    assert metric["predefined_metric_type"] == "ECSServiceAverageCPUUtilization"


# Settings


@pytest.mark.parametrize("process", PROCESSES)
def test_every_setting_is_passed_or_left_out_for_a_reason(deployed: Deployed, process: str):
    passed = set(_environment(deployed, process))
    secrets = {s["name"] for s in deployed.plan.container(TASKS[process]).get("secrets", [])}
    names = _names(PROCESSES[process])
    assert passed - names == set()
    assert names - passed - secrets - set(LEFT_OUT) == set()
    assert secrets == (GIVEN_AS_SECRETS if process == "api" else set())


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_passed_is_what_the_broker_would_take_by_itself(
    deployed: Deployed, process: str, monkeypatch: pytest.MonkeyPatch
):
    environment = _environment(deployed, process)
    secrets = {name: f"{name.lower()}-7c1f0b8e55aa4d90a1c3d27be4f6" for name in GIVEN_AS_SECRETS}
    for name, value in {**environment, **secrets}.items():
        monkeypatch.setenv(name, value)
    effective = PROCESSES[process]().effective()
    for name in BUILT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BROKER_ENV", "development")
    for name in set(environment) - BUILT:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CSP_BASE_URL", "https://csp.example.org")
    monkeypatch.setenv("CSP_API_TOKEN_SECRET", "some")
    plain = PROCESSES[process]().effective()
    assert {n: v for n, v in effective.items() if n not in BUILT} == {
        n: v for n, v in plain.items() if n not in BUILT
    }
    assert (effective["BROKER_ENV"], effective["AWS_REGION"]) == ("production", REGION)


def test_a_collector_turns_tracing_on_in_both_processes(deployed: Deployed):
    collector = {"endpoint": "https://otel.example.internal:4318", "security_group_id": "sg-0a1b2c3d4e5f67890"}
    settings = {"OTEL_TRACES_SAMPLER": "always_on"}
    variables = deployed.variables | {"collector": collector, "settings": settings}
    traced = deployed.terraform.plan(variables, "traced", "-refresh=false")
    for process in PROCESSES:
        passed = {pair["name"]: pair["value"] for pair in traced.container(TASKS[process])["environment"]}
        assert _environment(deployed, process)["TRACING"] == "off"
        assert (passed["TRACING"], passed["OTEL_EXPORTER_OTLP_ENDPOINT"]) == ("otlp", collector["endpoint"])
        assert passed["OTEL_TRACES_SAMPLER"] == "always_on"


def test_a_callers_address_is_believed_from_the_load_balancers_subnets_alone(deployed: Deployed):
    public = {
        subnet["cidr_block"] for a, subnet in deployed.plan.resources.items() if a.startswith("aws_subnet.public")
    }
    assert set(_environment(deployed, "api")["TRUSTED_PROXIES"].split(",")) == public


def _names(settings: type[CoreSettings]) -> set[str]:
    aliases = {field.alias for field in settings.model_fields.values() if field.alias}
    return aliases | {"AWS_REGION"}


# Who may do what (H5)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_code_of_a_process_may_call_what_its_own_guard_lets_pass_and_nothing_else(
    deployed: Deployed, process: str
):
    """The API the table alone; the worker the providers' secrets, too."""
    resources = {
        "dynamodb": [TABLE_ARN],
        "secretsmanager": [deployed.secret(name) for name in ("provider-token", "south/csp")],
    }
    assert _granted(deployed, "task", process) == ON_ITS_INDEXES | {
        Grant(f"{service}:{action}", resource)
        for service, actions in ALLOWED[process].items()
        for action in actions
        for resource in resources[service]
    }


@pytest.mark.parametrize(
    ("process", "secrets"),
    [("api", ["api-token", "admin-token", "key-pepper"]), ("worker", [])],
    ids=["api", "worker"],
)
def test_ecs_may_start_a_process_and_nothing_else(deployed: Deployed, process: str, secrets: list[str]):
    repository = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/sandbox-broker/{process}"
    log = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/sandbox-broker/{process}:log-stream:{process}/*"
    assert _granted(deployed, "execution", process) == {
        Grant("ecr:GetAuthorizationToken", "*"),  # IAM knows no resource for it
        Grant("ecr:BatchCheckLayerAvailability", repository),
        Grant("ecr:BatchGetImage", repository),
        Grant("ecr:GetDownloadUrlForLayer", repository),
        Grant("logs:CreateLogStream", log),
        Grant("logs:PutLogEvents", log),
    } | {Grant("secretsmanager:GetSecretValue", deployed.secret(name)) for name in secrets}


def test_roles_have_these_policies_alone_and_each_task_its_own_two(deployed: Deployed):
    roles = deployed.plan.of("aws_iam_role")
    assert len(roles) == 5
    for role in roles.values():
        iam = client(deployed.url, "iam")
        assert len(iam.list_role_policies(RoleName=role["name"])["PolicyNames"]) == 1
        assert iam.list_attached_role_policies(RoleName=role["name"])["AttachedPolicies"] == []
        [trust] = statements(role["assume_role_policy"])
        assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": ACCOUNT}
    used = [deployed.plan[TASKS[p]][kind] for p in PROCESSES for kind in ("task_role_arn", "execution_role_arn")]
    assert len(set(used)) == 4
    assert used == [
        roles[f'aws_iam_role.{kind}["{process}"]']["arn"]
        for process in PROCESSES
        for kind in ("task", "execution")
    ]


def test_no_policy_of_a_role_has_a_wildcard_but_two(deployed: Deployed):
    wild = {
        (grant.action, grant.resource)
        for policy in deployed.plan.of("aws_iam_role_policy").values()
        for grant in grants(policy["policy"])
        if "*" in grant.action or "*" in re.sub(r":log-stream:(api/|worker/)?\*$", "", grant.resource)
    }
    assert wild == {("ecr:GetAuthorizationToken", "*")}


def test_an_endpoint_lets_through_what_the_roles_may_and_no_more(deployed: Deployed):
    endpoints = deployed.plan.of("aws_vpc_endpoint")
    through = {grant for endpoint in endpoints.values() for grant in grants(endpoint["policy"])}
    layers = Grant("s3:GetObject", f"arn:aws:s3:::prod-{REGION}-starport-layer-bucket/*")
    granted = {g for kind in ("task", "execution") for p in PROCESSES for g in _granted(deployed, kind, p)}
    assert through == granted | {layers}
    services = {
        endpoint["service_name"].removeprefix(f"com.amazonaws.{REGION}.") for endpoint in endpoints.values()
    }
    assert services == {"dynamodb", "s3", "secretsmanager", "logs", "ecr.api", "ecr.dkr"}


def _granted(deployed: Deployed, kind: str, process: str) -> set[Grant]:
    """As AWS has it."""
    answer = client(deployed.url, "iam").get_role_policy(
        RoleName=f"sandbox-broker-{process}-{kind}", PolicyName=kind
    )
    return grants(json.dumps(answer["PolicyDocument"]))


# Network


def test_nothing_can_be_reached_from_outside_but_the_load_balancer(deployed: Deployed):
    groups = {group["id"]: address for address, group in deployed.plan.of("aws_security_group").items()}
    doors = {
        (groups[rule["security_group_id"]], rule["cidr_ipv4"], rule["from_port"], rule["to_port"])
        for rule in deployed.plan.of("aws_vpc_security_group_ingress_rule").values()
        if not rule["referenced_security_group_id"]
    }
    alb = "aws_security_group.alb"
    assert doors == {(alb, "0.0.0.0/0", 80, 80), (alb, "0.0.0.0/0", 443, 443)}
    assert [lb["internal"] for lb in deployed.plan.of("aws_lb").values()] == [False]
    assert not any(subnet["map_public_ip_on_launch"] for subnet in deployed.plan.of("aws_subnet").values())
    [unused] = deployed.plan.of("aws_default_security_group").values()
    assert (unused["ingress"], unused["egress"]) == ([], [])


def test_each_group_reaches_what_it_needs_on_one_port(deployed: Deployed):
    groups = {group["id"]: a.rpartition(".")[2] for a, group in deployed.plan.of("aws_security_group").items()}
    lists = {deployed.plan[f"aws_vpc_endpoint.{name}"]["prefix_list_id"]: name for name in ("dynamodb", "s3")}
    reached: set[tuple[str, str, int]] = set()
    for rule in deployed.plan.of("aws_vpc_security_group_egress_rule").values():
        assert (rule["from_port"], rule["ip_protocol"]) == (rule["to_port"], "tcp")
        to = rule["cidr_ipv4"] or groups.get(rule["referenced_security_group_id"]) or lists[rule["prefix_list_id"]]
        reached.add((groups[rule["security_group_id"]], to, rule["from_port"]))
    both = {(process, to, 443) for process in PROCESSES for to in ("endpoints", "dynamodb", "s3")}
    assert reached == both | {("alb", "api", 8080), ("worker", "0.0.0.0/0", 443)}


def test_the_api_has_no_way_out_and_the_worker_has_one_in_each_zone(deployed: Deployed):
    tables = {route_table["id"]: a for a, route_table in deployed.plan.of("aws_route_table").items()}
    ways = {
        (tables[route["route_table_id"]], "nat" if route["nat_gateway_id"] else "internet")
        for route in deployed.plan.of("aws_route").values()
    }
    assert ways == {
        ("aws_route_table.public", "internet"),
        (f'aws_route_table.worker["{REGION}a"]', "nat"),
        (f'aws_route_table.worker["{REGION}b"]', "nat"),
    }
    assert all(
        route_table["route"] == [] or "api" not in a
        for a, route_table in deployed.plan.of("aws_route_table").items()
    )


def test_http_is_sent_to_https_and_https_is_modern(deployed: Deployed):
    [redirect] = deployed.plan["aws_lb_listener.http"]["default_action"]
    https = deployed.plan["aws_lb_listener.https"]
    [to] = redirect["redirect"]
    assert (redirect["type"], to["protocol"], to["port"], to["status_code"]) == (
        "redirect",
        "HTTPS",
        "443",
        "HTTP_301",
    )
    assert (https["protocol"], https["ssl_policy"]) == ("HTTPS", "ELBSecurityPolicy-TLS13-1-2-2021-06")
    assert len(deployed.plan.of("aws_lb_listener")) == 2
    assert deployed.plan["aws_lb.main"]["drop_invalid_header_fields"] is True
    assert deployed.plan["aws_lb.main"]["idle_timeout"] < 75  # the API's keep-alive


def test_metrics_are_not_for_the_internet(deployed: Deployed):
    rule = deployed.plan["aws_lb_listener_rule.metrics"]
    [condition], [action] = rule["condition"], rule["action"]
    assert condition["path_pattern"][0]["values"] == ["/metrics"]
    assert action["fixed_response"][0]["status_code"] == "404"


def test_a_classroom_behind_one_address_is_let_through_and_a_flood_is_not(deployed: Deployed):
    acl = deployed.plan["aws_wafv2_web_acl.main"]
    rules = {rule["name"]: rule for rule in acl["rule"]}
    [limit] = rules["address"]["statement"][0]["rate_based_statement"]
    [answer] = rules["address"]["action"][0]["block"][0]["custom_response"]
    managed = {
        rule["statement"][0]["managed_rule_group_statement"][0]["name"]
        for rule in acl["rule"]
        if rule["statement"][0]["managed_rule_group_statement"]
    }
    assert (limit["limit"], limit["evaluation_window_sec"], limit["aggregate_key_type"]) == (20 * 1000, 300, "IP")
    assert answer["response_code"] == 429  # the setup scripts wait and ask again
    assert managed == {"AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet"}
    assert all(rule["override_action"] == [] or rule["override_action"][0]["none"] for rule in acl["rule"])
    associated = deployed.plan["aws_wafv2_web_acl_association.alb"]
    assert (associated["resource_arn"], associated["web_acl_arn"]) == (
        deployed.plan["aws_lb.main"]["arn"],
        acl["arn"],
    )


# What is kept


def test_the_table_is_the_one_that_the_broker_would_create(deployed: Deployed):
    expected = table.definition(table_of(CoreSettings()))
    found = client(deployed.url, "dynamodb").describe_table(TableName="sandbox-broker")["Table"]
    keys = ("IndexName", "KeySchema", "Projection")
    indexes = {index["IndexName"]: {key: index[key] for key in keys} for index in found["GlobalSecondaryIndexes"]}
    for index in (*indexes.values(), *expected["GlobalSecondaryIndexes"]):
        index["Projection"]["NonKeyAttributes"] = sorted(index["Projection"].get("NonKeyAttributes", []))
    assert found["KeySchema"] == expected["KeySchema"]
    assert indexes == {index["IndexName"]: index for index in expected["GlobalSecondaryIndexes"]}
    assert _by_name(found["AttributeDefinitions"]) == _by_name(expected["AttributeDefinitions"])
    assert found["BillingModeSummary"]["BillingMode"] == expected["BillingMode"]


def _by_name(attributes: list[dict[str, str]]) -> dict[str, str]:
    return {attribute["AttributeName"]: attribute["AttributeType"] for attribute in attributes}


def test_the_table_can_be_restored_is_encrypted_and_forgets_what_is_past(deployed: Deployed):
    dynamodb = client(deployed.url, "dynamodb")
    backups = dynamodb.describe_continuous_backups(TableName="sandbox-broker")["ContinuousBackupsDescription"]
    ttl = dynamodb.describe_time_to_live(TableName="sandbox-broker")["TimeToLiveDescription"]
    found = dynamodb.describe_table(TableName="sandbox-broker")["Table"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    assert (ttl["TimeToLiveStatus"], ttl["AttributeName"]) == ("ENABLED", "ttl")
    assert found["SSEDescription"]["Status"] == "ENABLED"


@pytest.fixture
def _aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.mark.usefixtures("_aws_credentials")
async def test_the_broker_takes_the_table_for_its_own(deployed: Deployed):
    settings = CoreSettings(environment="development", endpoint_url=deployed.url, region=REGION)
    guard = Guard("api", table_name=settings.table_name)
    async with open_broker(settings, metrics=Metrics(), boot=Boot(), guard=guard) as core:
        assert await core.client.get(table.meta_key()) is not None


def test_terraform_knows_no_value_of_a_secret(deployed: Deployed):
    kinds = {resource["type"] for resource in deployed.terraform.state()}
    listed = client(deployed.url, "secretsmanager").list_secrets()["SecretList"]
    names = {secret["Name"].removeprefix("sandbox-broker/") for secret in listed}
    assert "aws_secretsmanager_secret" in kinds
    assert not any("secret_version" in kind or "random" in kind for kind in kinds)
    assert names == {"api-token", "admin-token", "key-pepper", "provider-token", "south/csp"}
    assert all(not secret.get("SecretVersionsToStages") for secret in listed)


def test_an_image_cannot_be_overwritten_and_is_scanned(deployed: Deployed):
    repositories = deployed.plan.of("aws_ecr_repository").values()
    assert len(repositories) == 2
    for repository in repositories:
        assert repository["image_tag_mutability"] == "IMMUTABLE"
        assert repository["image_scanning_configuration"] == [{"scan_on_push": True}]
        assert repository["encryption_configuration"][0]["encryption_type"] == "AES256"


def test_every_log_is_kept_for_a_time_and_each_process_writes_its_own(deployed: Deployed):
    groups = {
        group["name"]: group["retention_in_days"]
        for group in deployed.plan.of("aws_cloudwatch_log_group").values()
    }
    names = [
        "/sandbox-broker/api",
        "/sandbox-broker/worker",
        "/sandbox-broker/refused",
        "aws-waf-logs-sandbox-broker",
    ]
    assert groups == dict.fromkeys(names, 90)
    for process in PROCESSES:
        options = deployed.plan.container(TASKS[process])["logConfiguration"]["options"]
        assert options["awslogs-group"] == f"/sandbox-broker/{process}"


# Alarms (K6)

BROKER, ELB = "sandbox-broker", "AWS/ApplicationELB"
K6 = {
    # alarm: namespace, metric, statistic, comparison and threshold, period (s), periods, what no data means
    "api-no-healthy-task": (ELB, "HealthyHostCount", "Maximum", "<", 1, 60, 2, "breaching"),
    "worker-no-task": ("ECS/ContainerInsights", "RunningTaskCount", "Maximum", "<", 1, 60, 2, "breaching"),
    "boot-slow": (BROKER, "BootMs", "Maximum", ">", 10_000, 60, 1, "notBreaching"),
    "boot-failed": (BROKER, "BootFailures", "Sum", ">", 0, 60, 1, "notBreaching"),
    "api-memory": ("AWS/ECS", "MemoryUtilization", "Maximum", ">", 80, 60, 3, "notBreaching"),
    "worker-memory": ("AWS/ECS", "MemoryUtilization", "Maximum", ">", 80, 60, 3, "notBreaching"),
    "health-failures": (BROKER, "HealthFailures", "Sum", ">", 5, 300, 1, "notBreaching"),
    "access-denied": (BROKER, "AccessDenied", "Sum", ">", 0, 300, 1, "notBreaching"),
    "pool-low-default": (BROKER, "PoolAvailable", "Minimum", "<", 20, 300, 1, "notBreaching"),
    "pool-low-south": (BROKER, "PoolAvailable", "Minimum", "<", 5, 300, 1, "notBreaching"),
    # and beyond K6
    "worker-silent": (BROKER, "PoolCounts", "Sum", "<", 1, 300, 1, "breaching"),
    "api-unhealthy-task": (ELB, "UnHealthyHostCount", "Maximum", ">", 0, 60, 5, "notBreaching"),
    "api-crashes": (BROKER, "Crashes", "Sum", ">", 5, 60, 1, "notBreaching"),
    "api-unreachable": (ELB, "HTTPCode_ELB_5XX_Count", "Sum", ">", 20, 300, 1, "notBreaching"),
    "credentials-refused": (BROKER, "CredentialsRefused", "Sum", ">", 100, 300, 1, "notBreaching"),
    "alert-fired": (BROKER, "AlertsFired", "Sum", ">", 0, 60, 1, "notBreaching"),
    "table-writes": ("AWS/DynamoDB", "ConsumedWriteCapacityUnits", "Sum", ">", 192_000, 60, 1, "notBreaching"),
    "table-reads": ("AWS/DynamoDB", "ConsumedReadCapacityUnits", "Sum", ">", 576_000, 60, 1, "notBreaching"),
    "statusindex-writes": (
        "AWS/DynamoDB",
        "ConsumedWriteCapacityUnits",
        "Sum",
        ">",
        192_000,
        60,
        1,
        "notBreaching",
    ),
    "trackindex-writes": (
        "AWS/DynamoDB",
        "ConsumedWriteCapacityUnits",
        "Sum",
        ">",
        192_000,
        60,
        1,
        "notBreaching",
    ),
    "table-throttled": ("AWS/DynamoDB", "WriteThrottleEvents", "Sum", ">", 0, 60, 1, "notBreaching"),
    "statusindex-throttled": ("AWS/DynamoDB", "WriteThrottleEvents", "Sum", ">", 0, 60, 1, "notBreaching"),
    "trackindex-throttled": ("AWS/DynamoDB", "WriteThrottleEvents", "Sum", ">", 0, 60, 1, "notBreaching"),
}
SIGN = {"GreaterThanThreshold": ">", "LessThanThreshold": "<"}


def _alarms(deployed: Deployed) -> dict[str, dict[str, Any]]:
    alarms = deployed.plan.of("aws_cloudwatch_metric_alarm").values()
    return {alarm["alarm_name"].removeprefix("sandbox-broker-"): alarm for alarm in alarms}


@pytest.mark.parametrize("name", K6)
def test_an_alarm_goes_off_when_it_should_and_says_what_to_do(deployed: Deployed, name: str):
    alarm = _alarms(deployed)[name]
    fields = ("namespace", "metric_name", "statistic", "comparison_operator", "threshold", "period")
    values = [alarm[field] for field in (*fields, "evaluation_periods", "treat_missing_data")]
    values[3] = SIGN[values[3]]
    topic = deployed.plan["aws_sns_topic.alarms"]["arn"]
    assert tuple(values) == K6[name]
    assert alarm["alarm_actions"] == alarm["ok_actions"] == [topic]
    told, _, book = alarm["alarm_description"].partition("\nRunbook: ")
    assert re.search(r"aws |sandbox-broker |First: the dashboard|[a-z_]{8,}", told)
    assert book.startswith("docs/runbooks/")
    assert (ROOT / book).is_file()


def test_there_are_no_other_alarms(deployed: Deployed):
    assert set(_alarms(deployed)) == set(K6)


def test_every_metric_of_an_alarm_exists_with_the_dimensions_that_it_asks_for(deployed: Deployed):
    """Of our own metrics by the filters, of AWS's by what they are known to come with."""
    filtered = {
        transformation["name"]: set(transformation["dimensions"] or {})
        for metric_filter in deployed.plan.of("aws_cloudwatch_log_metric_filter").values()
        for transformation in metric_filter["metric_transformation"]
        if transformation["namespace"] == BROKER
    }
    known = {
        "HealthyHostCount": [{"LoadBalancer", "TargetGroup"}],
        "UnHealthyHostCount": [{"LoadBalancer", "TargetGroup"}],
        "HTTPCode_ELB_5XX_Count": [{"LoadBalancer"}],
        "RunningTaskCount": [{"ClusterName", "ServiceName"}],
        "MemoryUtilization": [{"ClusterName", "ServiceName"}],
        "ConsumedReadCapacityUnits": [{"TableName"}],
        "ConsumedWriteCapacityUnits": [{"TableName"}, {"TableName", "GlobalSecondaryIndexName"}],
        "WriteThrottleEvents": [{"TableName"}, {"TableName", "GlobalSecondaryIndexName"}],
    }
    for name, alarm in _alarms(deployed).items():
        dimensions, metric = set(alarm["dimensions"] or {}), alarm["metric_name"]
        allowed = [filtered[metric]] if alarm["namespace"] == BROKER else known[metric]
        assert dimensions in allowed, name
    assert deployed.plan["aws_ecs_cluster.main"]["setting"] == [{"name": "containerInsights", "value": "enabled"}]


def test_a_filter_reads_the_log_of_each_process_that_its_line_comes_from(deployed: Deployed):
    read_from: dict[str, set[str]] = {}
    for metric_filter in deployed.plan.of("aws_cloudwatch_log_metric_filter").values():
        read_from.setdefault(metric_filter["name"], set()).add(metric_filter["log_group_name"].rpartition("/")[2])
    both = {"api", "worker"}
    assert {name for name, processes in read_from.items() if processes == both} == {
        "BootMs", "BootFailures", "AccessDenied", "Errors",
    }  # fmt: skip
    assert {name for name, processes in read_from.items() if processes == {"api"}} == {
        "HealthFailures", "Crashes", "CredentialsRefused",
    }  # fmt: skip


def test_the_bill_is_watched_and_alarms_reach_somebody(deployed: Deployed):
    budget = deployed.plan["aws_budgets_budget.month"]
    told = {(n["notification_type"], n["threshold"]) for n in budget["notification"]}
    [subscription] = deployed.plan.of("aws_sns_topic_subscription").values()
    [statement] = statements(deployed.plan["aws_sns_topic_policy.alarms"]["policy"])
    assert (budget["limit_amount"], told) == ("500", {("ACTUAL", 80), ("FORECASTED", 100)})
    assert (subscription["protocol"], subscription["endpoint"]) == ("email", "oncall@example.org")
    assert set(statement["Principal"]["Service"]) == {"cloudwatch.amazonaws.com", "budgets.amazonaws.com"}


def test_the_dashboard_shows_metrics_that_exist(deployed: Deployed):
    widgets = json.loads(deployed.plan["aws_cloudwatch_dashboard.main"]["dashboard_body"])["widgets"]
    metrics = [metric for widget in widgets for metric in widget["properties"].get("metrics", [])]
    own = {metric[1] for metric in metrics if metric[0] == BROKER}
    filters = {f["name"] for f in deployed.plan.of("aws_cloudwatch_log_metric_filter").values()}
    assert own <= filters
    assert any('MetricName="PoolAvailable"' in str(metric) for metric in metrics)
    places = [(widget["x"], widget["y"]) for widget in widgets]
    assert len(set(places)) == len(places) == 9


# The end. This test comes last: nothing is there after it.


def test_all_of_it_can_be_destroyed(deployed: Deployed):
    deployed.terraform.apply(deployed.variables, destroy=True)
    assert deployed.terraform.state() == []
    assert client(deployed.url, "dynamodb").list_tables()["TableNames"] == []
    assert client(deployed.url, "iam").list_roles()["Roles"] == []
    assert client(deployed.url, "elbv2").describe_load_balancers()["LoadBalancers"] == []
