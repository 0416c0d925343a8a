"""I4: the Grafana dashboard asks for what we export, in words of Prometheus, and is what its generator writes."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from monitoring.grafana.dashboard import dashboard, text
from tests.cli.test_hints import hints, spoken
from tests.monitoring.exported import asked, families, grouped, labels, matched
from tests.monitoring.promtool import ROOT, needs_promtool, promtool
from tests.monitoring.test_alert_rules import OF_THE_SCRAPER, rules

FILE = ROOT / "monitoring" / "grafana" / "sandbox-broker.json"
OF_PROMETHEUS = {"alertname", "severity"}
IN_NO_PANEL = {
    "process_virtual_memory_bytes": "what is reserved says nothing of what is used: the panel shows the resident",
}


@cache
def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(FILE.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """As Prometheus gets them for all tenants, by panel and letter."""
    return {
        f"{panel['title']}, {target['refId']}": filled(target["expr"])
        for panel in panels()
        for target in panel["targets"]
    }


def filled(expression: str) -> str:
    """With what Grafana puts in the place of its variables."""
    return expression.replace("$__rate_interval", "1m").replace("$tenant", ".*")


def test_the_file_is_what_the_generator_writes() -> None:
    assert FILE.read_text() == text(), "run `make dashboard`"


@needs_promtool
def test_every_expression_parses(tmp_path: Path) -> None:
    recorded = [
        {"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(expressions().values())
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))

    done = promtool("check", "rules", str(tmp_path / "rules.yml"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(recorded) > 50
    assert not [e for e in expressions().values() if "$" in e], "a variable that Grafana does not know"


def test_every_expression_asks_for_metrics_and_labels_that_we_export() -> None:
    known = labels()
    for place, expression in expressions().items():
        families_asked = asked(expression)
        assert families_asked or "ALERTS" in expression, place
        assert families_asked <= set(families()), place
        assert [m for m in matched(expression) if m[1] not in known[m[0]]] == [], place
        kept = set().union(
            *(known[family] for family in families_asked), OF_THE_SCRAPER, OF_PROMETHEUS, {"tenant"}
        )
        assert grouped(expression) <= kept, place


def test_a_legend_names_only_labels_that_the_expression_keeps() -> None:
    for panel in panels():
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = grouped(target["expr"]) or OF_THE_SCRAPER
            assert named <= kept, panel["title"]


def test_who_chooses_a_tenant_sees_that_tenant_alone() -> None:
    """Each selector of what is counted by tenant asks for the chosen one."""
    by_tenant = {family for family, own in labels().items() if "tenant" in own}
    for place, expression in expressions().items():
        filtered = {family for family, label, _ in matched(expression) if label == "tenant"}
        assert asked(expression) & by_tenant <= filtered, place


def test_every_metric_is_in_a_panel_or_there_is_a_reason_why_not() -> None:
    shown = set().union(*map(asked, expressions().values()))

    assert shown | set(IN_NO_PANEL) == set(families())
    assert not shown & set(IN_NO_PANEL)


def test_every_panel_says_what_is_normal_and_names_only_alerts_and_commands_that_exist() -> None:
    for panel in panels():
        said = panel["description"]
        assert said.startswith("Normal: "), panel["title"]
        assert set(re.findall(r"alert ([A-Z]\w+)", said)) <= set(rules()), panel["title"]
        for hint in hints(said, "sandbox-broker"):
            assert spoken(hint), panel["title"]


def test_what_is_wrong_comes_first_and_no_panel_lies_on_another() -> None:
    first = panels()[0]
    cells = [
        (x, y)
        for panel in json.loads(FILE.read_text())["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert "ALERTS" in first["targets"][0]["expr"]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_it_can_be_imported_anywhere() -> None:
    """Data source and tenant are variables; there is no id of somebody's Grafana in it."""
    written = dashboard()
    sources = {panel["datasource"]["uid"] for panel in panels()}

    assert sources == {"${datasource}"}
    assert [variable["name"] for variable in written["templating"]["list"]] == ["datasource", "tenant"]
    assert "id" not in written
    ids = [panel["id"] for panel in written["panels"]]
    assert len(ids) == len(set(ids))
