"""J6: off, nothing of it is there; on, it says what it needs, and tells no secret."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from broker import tracing
from broker.logs import hide
from broker.metrics import Metrics
from broker.otlp import HELD, LASTS_S, trace_of
from broker.process import start_tracing
from broker.settings import ApiSettings, CoreSettings, WorkerSettings, problems_of
from broker.tracing import Life
from local.engine import ROOT
from tests.api.process import environment
from tests.api.service import ADMIN_TOKEN, API_TOKEN
from tests.tracing.collector import Collector
from tests.tracing.in_process import collected, traced
from tests.unit.test_masking import KINDS, OWN

COLLECTOR = "https://collector.example.org:4318"
IMPORTS = """
import json, sys
import {before}
before = set(sys.modules)
import {module}
from broker.metrics import Metrics
from broker.process import start_tracing
from broker.settings import CoreSettings
assert callable(start_tracing(CoreSettings(), Metrics()))
added = set(sys.modules) - before
print(json.dumps(sorted(m for m in added if m.startswith(("opentelemetry", "broker.otlp", "google")))))
"""


@pytest.mark.parametrize(
    ("before", "module"), [("json", "worker.main"), ("fastapi.telemetry._asgi", "app.main")], ids=["worker", "api"]
)
def test_off_nothing_of_it_is_imported_but_what_the_framework_needs(before: str, module: str) -> None:
    code = IMPORTS.format(before=before, module=module)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == []


def test_on_without_its_packages_a_process_says_what_to_install(tmp_path: Path) -> None:
    """As where `pip install` was without the extra: the finder knows no SDK."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "app.main"], cwd=ROOT, capture_output=True, text=True,
        env=environment(TRACING="otlp", PYTHONPATH=str(tmp_path)),
    )  # fmt: skip
    assert ended.returncode == 78
    assert ended.stderr == (
        "configuration: TRACING: is otlp, and what sends spans is not installed: pip install "
        "'sandbox-broker[tracing]' (which is opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http), "
        "or set TRACING=off\n"
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-5"),
    ],
)
def test_a_variable_that_the_sdk_cannot_use_is_told_in_a_sentence_and_ends_the_process(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    code = start_tracing(CoreSettings(**ON), Metrics())
    said = capsys.readouterr().err
    assert code == 78
    assert said.startswith("configuration: TRACING: a variable of OpenTelemetry's makes no sense: ")
    assert tracing.tracer is None


def api(**changes: Any) -> ApiSettings:
    return ApiSettings(**({"BROKER_API_TOKEN": API_TOKEN, "BROKER_ADMIN_TOKEN": ADMIN_TOKEN} | changes))


ON = {"TRACING": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "other switch": ({"TRACING": "on"}, "TRACING: must be off or otlp"),
    "plain http": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example.org:4318"},
        "OTEL_EXPORTER_OTLP_ENDPOINT: is plain http to another machine: set BROKER_ENV=development, or use https",
    ),
    "with the path": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{COLLECTOR}/v1/traces/"},
        "OTEL_EXPORTER_OTLP_ENDPOINT: must be without /v1/traces, which is added to it",
    ),
    "no URL": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        f"OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL such as {COLLECTOR}, without /v1/traces",
    ),
    "bad port": ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:x"}, "OTEL_EXPORTER_OTLP_ENDPOINT: is no URL"),
    "password": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://me:hunter2@collector.example.org"},
        "OTEL_EXPORTER_OTLP_ENDPOINT: must hold neither user nor password: OTEL_EXPORTER_OTLP_HEADERS can",
    ),
    "sampler": (
        {"OTEL_TRACES_SAMPLER": "sometimes"},
        "OTEL_TRACES_SAMPLER: must be one of always_on, always_off, traceidratio, parentbased_always_on, "
        "parentbased_always_off, parentbased_traceidratio",
    ),
    "no share": (
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"},
        "OTEL_TRACES_SAMPLER_ARG: must be a share from 0 to 1, such as 0.1",
    ),
    "share over 1": (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10"},
        "OTEL_TRACES_SAMPLER_ARG: must be a share from 0 to 1, such as 0.1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_on_what_makes_no_sense_is_refused_by_name(case: str) -> None:
    changes, problem = REFUSED[case]
    with pytest.raises(ValidationError) as refused:
        api(**(ON | changes))
    lines = problems_of(refused.value)
    if "OTEL_TRACES_SAMPLER" in changes and case == "sampler":
        lines = lines[:1]
    assert lines == [problem]


@pytest.mark.parametrize("case", [name for name in REFUSED if name != "other switch"])
def test_off_what_a_platform_sets_for_everybody_is_none_of_our_business(case: str) -> None:
    changes, _ = REFUSED[case]
    assert not api(**(changes | {"TRACING": "off"})).traced


@pytest.mark.parametrize(
    "url", ["http://localhost:4318", "http://127.0.0.1:4318", "http://[::1]:4318/", COLLECTOR]
)
def test_a_collector_beside_the_process_may_be_asked_in_plain_http(url: str) -> None:
    assert api(**(ON | {"OTEL_EXPORTER_OTLP_ENDPOINT": url})).traced


def test_the_collectors_headers_are_secrets_of_the_configuration() -> None:
    settings = api(**ON, OTEL_EXPORTER_OTLP_HEADERS="x-team=7c1f0b8e55aa, Authorization=Basic%20bGFiOmxhYg==")
    assert {"7c1f0b8e55aa", "Basic bGFiOmxhYg=="} <= set(settings.secrets())
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in settings.effective()


@pytest.mark.parametrize("settings", [ApiSettings, WorkerSettings], ids=["api", "worker"])
def test_it_is_off_unless_somebody_says_otherwise(settings: type[CoreSettings]) -> None:
    assert settings.model_fields["tracing"].default == "off"


def test_no_kind_of_secret_leaves_in_an_attribute_a_name_or_an_event(collector: Collector) -> None:
    hide([OWN])
    shown = [(text, secret) for kind in KINDS.values() for text, secret in kind]
    with traced(collected(collector), Metrics()):
        for number, (text, _) in enumerate(shown):
            with tracing.root(f"secretive {number} {text}", {"broker.why": text, "broker.number": number}) as span:
                assert span is not None
                span.note({"broker.nested": f"it said {text}"})
                span.mark(text)
                tracing.mark(OWN)
                with tracing.call(span, "call", {}, expected=(ValueError,)), pytest.raises(ValueError, match=r"."):
                    raise ValueError(text)
        with tracing.root("named", {"authorization": "4711", "x-api-key": "0815-secret"}):
            pass
    arrived = {span["facts"].get("broker.number") for span in collector.spans()}
    sent = collector.raw().decode("utf-8", errors="replace")

    assert set(range(len(shown))) <= arrived
    assert [secret for _, secret in shown if secret in sent] == []
    assert OWN not in sent
    assert collector.spans(name="named")[0]["facts"] == {"authorization": "***", "x-api-key": "***"}


def test_a_life_is_one_trace_in_every_process_and_no_two_are_the_same() -> None:
    lives = [
        Life("sandbox", "acme", "1"), Life("sandbox", "acme", "2"), Life("sandbox", "acme1", ""),
        Life("sandbox", "north", "1"), Life("job", "acme", "1"),
    ]  # fmt: skip
    assert len({trace_of(life) for life in lives}) == len(lives)
    assert f"{trace_of(lives[0]):032x}" == "73b6617bde51b99443946bf158ec423f"


def test_a_run_that_is_seldom_worth_it_is_told_where_it_failed_lasted_or_was_kept(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("broker.otlp.time.monotonic", lambda: now[0])

    def a_run(name: str, *, lasts_s: float = 0.0, parts: int = 1, keep: bool = False, fails: bool = False) -> None:
        with tracing.root(name, {}, seldom_worth_it=True) as span:
            assert span is not None
            for _ in range(parts):
                with tracing.call(span, f"part of {name}", {}):
                    now[0] += lasts_s / parts
            if keep:
                span.keep()
            if fails:
                raise KeyError(name)

    metrics = Metrics()
    with traced(collected(collector), metrics):
        a_run("nothing")
        a_run("just in time", lasts_s=LASTS_S)
        a_run("kept", keep=True)
        a_run("slow", lasts_s=LASTS_S + 0.1)
        with pytest.raises(KeyError):
            a_run("failed", fails=True)
        a_run("large", parts=HELD + 1)
    names = {span["name"] for span in collector.spans()}

    assert {"kept", "part of kept", "slow", "part of slow", "failed", "part of failed", "large"} <= names
    assert not names & {"nothing", "part of nothing", "just in time", "part of just in time"}
    assert metrics.registry.get_sample_value("broker_spans_total", {"outcome": "queue_full"}) == 0


def test_what_is_not_recorded_costs_its_parts_nothing(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with traced(collected(collector), Metrics()), tracing.root("unwanted", {}) as span:
        seen = (span, tracing.current.get())
    assert seen == (None, None)
    assert collector.spans(name="unwanted") == []


@pytest.mark.parametrize("share", ["0.0", "1.0"])
def test_a_life_is_recorded_as_a_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, collector: Collector, share: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
    life = Life("sandbox", f"share-{share}", "4711")
    with traced(collected(collector), Metrics()):
        tracing.tell(life, "allocated")
        with tracing.root("delete", {}, life=life):
            pass
    told = [span["name"] for span in collector.spans(trace=f"{trace_of(life):032x}")]
    assert told == ([] if share == "0.0" else ["allocated", "delete"])
