"""The Grafana dashboard as it is imported: `make dashboard` writes what this prints to sandbox-broker.json."""

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from monitoring.grafana import students, worker
from monitoring.grafana.panel import Panel, Row

WIDTH: Final = 24
"""Columns of Grafana's grid."""
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
ROWS: Final = (
    *(students.NOW, students.STUDENTS, students.LATENCY, students.STORE, students.POOL),
    *(worker.DELETIONS, worker.PROVIDER, worker.SYNC, worker.JOBS, worker.PROCESSES),
)
TENANTS: Final = 'label_values({__name__=~"broker_pool_sandboxes|worker_deletions_pending"}, tenant)'


def dashboard(rows: Sequence[Row] = ROWS) -> dict[str, Any]:
    """All of it. Ids follow from the order, so that a change in Git shows what changed."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        across = min(len(row.panels), row.across)
        width = WIDTH // across
        for number, panel in enumerate(row.panels):
            line, column = divmod(number, across)
            place = {"h": row.height, "w": width, "x": column * width, "y": y + line * row.height}
            panels.append(_panel(panel, len(panels) + 1, place))
        y += row.height * -(-len(row.panels) // across)
    return {
        "uid": "sandbox-broker",
        "title": "Sandbox Broker",
        "description": "From top to bottom: is anything wrong, do students get sandboxes, and which part is it?",
        "tags": ["sandbox-broker"],
        "editable": True,
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    every = {"selected": True, "text": "All", "value": "$__all"}
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "tenant",
            "label": "Tenant",
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": TENANTS, "refId": "tenants"},
            "refresh": 2,  # whenever the range of time changes: tenants come and go
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",  # also what has no tenant
            "current": every,
        },
    ]


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    thresholds: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        thresholds.append({"color": "red", "value": panel.red_from})
    if panel.green_from is not None:
        thresholds = [{"color": "red", "value": None}, {"color": "green", "value": panel.green_from}]
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "textMode": panel.shows}
    elif panel.kind == "table":
        options = {"showHeader": True}
    hidden = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.normal,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [_target(panel, n, expr, legend) for n, (expr, legend) in enumerate(panel.queries)],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "noValue": panel.none,
                "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
                "thresholds": {"mode": "absolute", "steps": thresholds},
            },
            "overrides": [],
        },
        "options": options,
        **({"transformations": [hidden]} if panel.kind == "table" else {}),
    }


def _target(panel: Panel, number: int, expr: str, legend: str) -> dict[str, Any]:
    """One query. A table and a stat show the present alone."""
    now = {"instant": True, "range": False} if panel.kind != "timeseries" else {"instant": False, "range": True}
    table = {"format": "table"} if panel.kind == "table" else {}
    return {"refId": "ABCDEFGH"[number], "expr": expr, "legendFormat": legend, **now, **table}


def text() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
