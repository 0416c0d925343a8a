"""J5: the Prometheus rules are valid, fire and resolve as they say, and ask for metrics that exist."""

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.errors import STATUS
from broker import errors
from broker.sandbox import State
from tests.monitoring.exported import asked, families, grouped, labels, matched
from tests.monitoring.promtool import ROOT, needs_promtool, promtool

RULES = ROOT / "monitoring" / "alerts.yml"
OF_THE_SCRAPER = {"job", "instance", "le"}


@cache
def rules() -> dict[str, dict[str, Any]]:
    """By the alert's name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@needs_promtool
def test_the_rules_are_valid() -> None:
    done = promtool("check", "rules", str(RULES))

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_fire_and_resolve_as_they_say(tmp_path: Path) -> None:
    for source in (RULES, Path(__file__).with_name("alerts_test.yml")):
        shutil.copy(source, tmp_path)

    done = promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    text = Path(__file__).with_name("alerts_test.yml").read_text()
    fires = set(re.findall(r"alertname: (\w+), exp_alerts: \[\{", text))
    silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\] ", text))

    assert fires == set(rules())
    assert silent == set(rules())


@pytest.mark.parametrize("alert", rules(), ids=str)
def test_a_rule_asks_for_metrics_and_labels_that_we_export(alert: str) -> None:
    expression = rules()[alert]["expr"]
    known = labels()

    assert asked(expression), "the pattern finds none"
    assert asked(expression) <= set(families())
    assert {(family, label) for family, label, _ in matched(expression) if label not in known[family]} == set()
    assert grouped(expression) <= set().union(*(known[f] for f in asked(expression))) | OF_THE_SCRAPER


def test_a_rule_matches_values_that_come_about() -> None:
    """One that waits for an outcome that was renamed is silent for ever."""
    codes = {error.code.lower() for error in STATUS}
    possible = {
        "broker_allocations_total": codes | {"created", "replayed"},
        "broker_releases_total": codes | {"released", "repeated"},
        "broker_store_errors_total": set(vars(errors)),
        "broker_pool_sandboxes": set(State),
    }
    asked_for = [
        (family, one)
        for rule in rules().values()
        for family, label, value in matched(rule["expr"])
        if label in ("outcome", "kind", "status") and family in possible
        for one in value.split("|")
    ]

    assert len(asked_for) >= 10
    assert [(family, one) for family, one in asked_for if one not in possible[family]] == []


def test_no_metric_has_a_label_that_is_the_scrapers() -> None:
    """Prometheus would call it `exported_job`, and a rule that asks for `job` would be silent for ever."""
    assert [name for name, own in labels().items() if own & OF_THE_SCRAPER] == []


def test_every_alert_says_what_to_do_first() -> None:
    for name, rule in rules().items():
        assert set(rule["annotations"]) == {"summary", "action", "runbook"}, name
        assert rule["labels"]["severity"] in ("critical", "warning")
