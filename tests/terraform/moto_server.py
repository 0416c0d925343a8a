"""AWS as moto has it, with what the provider asks for and moto lacks: `python moto_server.py PORT`."""

import json
import sys
from typing import Any

from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse
from moto.budgets.responses import BudgetsResponse
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.utils import get_service_model
from moto.ec2.models.security_groups import SecurityGroupRule
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

FORGOTTEN = {
    "availabilityZoneRebalancing": "availability_zone_rebalancing",
    "deploymentConfiguration": "deployment_configuration",
    "healthCheckGracePeriodSeconds": "health_check_grace_period_seconds",
}
"""What moto takes for a service and does not tell again: every plan would want to set it once more."""

_create_service = EC2ContainerServiceResponse.create_service


def _create_service_whole(response: EC2ContainerServiceResponse) -> Any:
    answer = _create_service(response)
    service = response.ecs_backend.services[f"{_cluster(response)}:{response._get_param('serviceName')}"]
    for parameter, attribute in FORGOTTEN.items():
        if (value := response._get_param(parameter)) is not None:
            setattr(service, attribute, value)
    service.running_count, service.pending_count = service.desired_count, 0  # here tasks start at once
    return answer


def _cluster(response: EC2ContainerServiceResponse) -> str:
    return str(response._get_param("cluster")).rpartition("/")[2]


def _subscribers(response: BudgetsResponse) -> str:
    """Of the notification that is asked for."""
    budget = response.backend.budgets[response._get_param("AccountId")][response._get_param("BudgetName")]
    asked = response._get_param("Notification")
    found = [
        one.subscribers for one in budget.notifications if all(one.details.get(k) == v for k, v in asked.items())
    ]
    return json.dumps({"Subscribers": found[0] if found else []})


TAGS: dict[str, dict[str, str]] = {}
"""Of what moto keeps no tags of, by its ARN."""

_register = ApplicationAutoScalingResponse.register_scalable_target


def _registered(response: ApplicationAutoScalingResponse) -> str:
    answer: str = _register(response)
    TAGS.setdefault(json.loads(answer)["ScalableTargetARN"], {}).update(response._get_param("Tags") or {})
    return answer


def _tags(response: ApplicationAutoScalingResponse) -> str:
    return json.dumps({"Tags": TAGS.get(response._get_param("ResourceARN"), {})})


def _tag(response: ApplicationAutoScalingResponse) -> str:
    TAGS.setdefault(response._get_param("ResourceARN"), {}).update(response._get_param("Tags"))
    return "{}"


def _budget_tags(response: BudgetsResponse) -> str:
    """Those that everything here has: moto remembers none of a budget."""
    name = response._get_param("ResourceARN").rpartition("/")[2].removesuffix("-month")
    return json.dumps({"ResourceTags": [{"Key": "Service", "Value": name}]})


_describe_alarms = CloudWatchResponse.describe_alarms


def _described_alarms(response: CloudWatchResponse) -> Any:
    """Where a prefix and a state are asked for, moto forgets the state."""
    answer: Any = _describe_alarms(response)
    if state := response._get_param("StateValue"):
        answer.result["MetricAlarms"] = [one for one in answer.result["MetricAlarms"] if one.state_value == state]
    return answer


_make_rule = SecurityGroupRule.__init__


def _make_whole_rule(rule: SecurityGroupRule, *arguments: Any, **named: Any) -> None:
    """Moto keeps the description of a network's rule alone, and that of no group's and no prefix list's."""
    _make_rule(rule, *arguments, **named)
    ends = [end for end in (*arguments, *named.values()) if isinstance(end, dict)]
    rule.told = next((end["Description"] for end in ends if "Description" in end), None)  # type: ignore[attr-defined]


def serve(port: int) -> None:
    """Until the process is ended. Threads are fine here: nothing is contested."""
    scaling: Any = ApplicationAutoScalingResponse
    scaling.list_tags_for_resource, scaling.tag_resource, scaling.register_scalable_target = (
        _tags,
        _tag,
        _registered,
    )
    budgets: Any = BudgetsResponse
    budgets.describe_subscribers_for_notification, budgets.list_tags_for_resource = _subscribers, _budget_tags
    services: Any = EC2ContainerServiceResponse
    services.create_service = _create_service_whole
    alarms: Any = CloudWatchResponse
    alarms.describe_alarms = _described_alarms
    # The AWS CLI asks CloudWatch in JSON, which moto's own older copy of the API does not know yet.
    get_service_model("cloudwatch").metadata |= {"protocols": ["query", "json"], "jsonVersion": "1.0"}
    rules: Any = SecurityGroupRule
    rules.__init__ = _make_whole_rule
    rules.description = property(lambda rule: rule.told)
    run_simple("127.0.0.1", port, DomainDispatcherApplication(create_backend_app), threaded=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
