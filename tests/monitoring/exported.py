"""Which metrics the two processes export, and which of them an expression asks for."""

import re
from functools import cache
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from app.pool_gauges import PoolGauges
from broker.metrics import Metrics

_ASKED = re.compile(r"\b(?:broker|worker|process)_[a-z0-9_]+")
_LABELLED = re.compile(r"(\b(?:broker|worker|process)_[a-z0-9_]+)\{([^}]*)\}")
_MATCHED = re.compile(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"')
_BY = re.compile(r"\b(?:by|on) \(([^)]*)\)")
_HISTOGRAM = ("_bucket", "_sum", "_count")


def registry() -> CollectorRegistry:
    """With everything that API and worker put into theirs; nothing of it asks a store."""
    metrics = Metrics()
    metrics.registry.register(metrics.peers)  # the one that only an API shows
    PoolGauges(cast("Any", None), cast("Any", None), metrics, tenant="acme")
    return metrics.registry


@cache
def families() -> dict[str, Metric]:
    """By the name that a query uses; a histogram by the name that it was given."""
    return {f"{m.name}_total" if m.type == "counter" else m.name: m for m in registry().collect()}


@cache
def labels() -> dict[str, set[str]]:
    """The labels that each family was declared with; those of a process have none."""
    declared = [c for c in registry()._collector_to_names if hasattr(c, "_labelnames")]
    ours = {c._name + ("_total" if c._type == "counter" else ""): set(c._labelnames) for c in declared}
    return {name: ours.get(name, set()) for name in families()}


def asked(expression: str) -> set[str]:
    """The families that an expression names; a histogram's samples stand for it."""
    known = families()
    return {_family(name, known) for name in _ASKED.findall(re.sub(r'"[^"]*"', '""', expression))}


def matched(expression: str) -> list[tuple[str, str, str]]:
    """What its selectors match: family, label, value or pattern."""
    known = families()
    return [
        (_family(name, known), label, value)
        for name, inside in _LABELLED.findall(expression)
        for label, value in _MATCHED.findall(inside)
    ]


def grouped(expression: str) -> set[str]:
    """The labels that it keeps."""
    return {label.strip() for inside in _BY.findall(expression) for label in inside.split(",")}


def _family(name: str, known: dict[str, Metric]) -> str:
    for ending in _HISTOGRAM:
        if name.endswith(ending) and name.removesuffix(ending) in known:
            return name.removesuffix(ending)
    return name
