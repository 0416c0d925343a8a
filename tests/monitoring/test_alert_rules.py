"""J5: the Prometheus rules are valid, fire and resolve as they say, and ask for metrics that exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "monitoring" / "alerts.yml"
API_ONLY = {"broker_pool_sandboxes", "broker_pool_missing", "broker_pool_snapshot_age_seconds"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


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


def test_every_metric_that_a_rule_asks_for_is_one_of_ours() -> None:
    asked = set(re.findall(r"\b((?:worker|broker)_[a-z_]+)(?=[\[{ )])", RULES.read_text()))
    ours = {sample for metric in Metrics().registry.collect() for sample in _samples(metric.name, metric.type)}

    assert asked - API_ONLY <= ours
    assert asked, "the pattern finds none"


def _samples(name: str, kind: str) -> set[str]:
    return {f"{name}_total"} if kind == "counter" else {name, f"{name}_count", f"{name}_sum", f"{name}_bucket"}


def test_every_alert_says_what_to_do_first() -> None:
    text = RULES.read_text()

    assert text.count("- alert: ") == text.count("summary: ") == text.count("action: ")
