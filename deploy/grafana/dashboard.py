"""Writes `weft.json`, which Grafana imports: `python deploy/grafana/dashboard.py`.

A panel is a few lines in `panels.py`, and fifty in JSON. Its queries are tried against a real Prometheus by
`tests/integration/test_prometheus.py`, which also holds the file to this script.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panels import ROWS, Panel, Query

WIDTH, HEIGHT = 24, 8
ROUTE_VALUES = "label_values(weft_router_ready_servers, route)"
ENDPOINT_VALUES = "label_values(weft_router_calls_total, endpoint)"
_DATA = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """As Grafana 10 and later take it: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/"""
    return {
        "uid": "weft",
        "title": "Weft",
        "description": "A mesh of Weft: its traffic, latency and tokens, its workers, and its services.",
        "tags": ["weft", "llm"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [_datasource(), _variable("route", ROUTE_VALUES), _variable("endpoint", ENDPOINT_VALUES)]
        },
        "panels": _panels(),
    }


def _datasource() -> dict[str, Any]:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": _DATA,
        "definition": query,
        "query": {"query": query, "refId": f"{name}-values"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        panels.append(
            {"type": "row", "title": row.title, "collapsed": False, "gridPos": _place(0, y, WIDTH, 1), "panels": []}
        )
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            tall = 4 if panel.kind == "stat" and panel.width == 4 else HEIGHT
            if x + panel.width > WIDTH:
                x, y, height = 0, y + height, 0
            panels.append({**_panel(panel), "gridPos": _place(x, y, panel.width, tall)})
            x, height = x + panel.width, max(height, tall)
        y += height
    return [{"id": number, **panel} for number, panel in enumerate(panels, 1)]


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 20 if panel.stacked else 5, "showPoints": "never"}
        if panel.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
    options: dict[str, Any] = {
        "timeseries": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "textMode": "auto"},
        "heatmap": {"calculate": False, "yAxis": {"unit": panel.unit}},
    }[panel.kind]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": _DATA,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": options,
        "targets": [_target(panel, query, number) for number, query in enumerate(panel.queries)],
    }


def _target(panel: Panel, query: Query, number: int) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + number),
        "datasource": _DATA,
        "expr": query.expression,
        "legendFormat": query.legend or "__auto",
        "format": "heatmap" if panel.kind == "heatmap" else "time_series",
    }


FILE = Path(__file__).with_name("weft.json")


def text() -> str:
    """The file's."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
