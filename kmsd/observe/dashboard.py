"""The Grafana dashboard, made from the table of metrics: it cannot name one that does not exist, nor leave one out.

An overview that is composed by hand stands on top; below it is one folded row for each group of the table, with a
panel for every metric of the group.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from kmsd.observe.metric_table import GROUPS, METRICS, Metric, MetricType

WIDTH = 24
"""Columns of Grafana's grid."""
QUANTILES = (0.5, 0.95, 0.99)
MATCH = '{job=~"$job",instance=~"$instance"}'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = (("_seconds", "s"), ("_bytes", "bytes"), ("_wei", "ETH"))
"""Grafana's unit by a metric's suffix; amounts are divided by 10^18."""

OVERVIEW: tuple[tuple[str, str, str, str, str, int], ...] = (
    # title, kind of panel, expression with {metric}, metric, legend, width
    ("Failing checks", "stat", "sum({}) or vector(0)", "kms_connector_check_failing", "", 4),
    ("Alerts of the daemon", "stat", "sum({}) or vector(0)", "kms_connector_alerts", "", 4),
    ("Oldest waiting request, seconds", "stat", "max({})", "kms_connector_queue_oldest_age_seconds", "", 4),
    ("Oldest unmined transaction, seconds", "stat", "max({})", "kms_connector_tx_sender_oldest_unmined_seconds", "", 4),
    ("Balance, ETH", "stat", "max({}) / 1e18", "kms_connector_tx_sender_balance_wei", "", 4),
    ("Behind the head, blocks", "stat", "max({})", "kms_connector_listener_lag_blocks", "", 4),
    (
        "Requests heard, per second",
        "timeseries",
        "sum by (event_type) (rate({}[$__rate_interval]))",
        "kms_connector_gw_listener_event_received_counter",
        "{{event_type}}",
        8,
    ),
    (
        "Responses accepted, per second",
        "timeseries",
        "sum by (response_type) (rate({}[$__rate_interval]))",
        "kms_connector_tx_sender_gateway_tx_sent_counter",
        "{{response_type}}",
        8,
    ),
    (
        "Given up, per hour",
        "timeseries",
        "sum by (kind, reason) (increase({}[1h])) > 0",
        "kms_connector_failures",
        "{{kind}}: {{reason}}",
        8,
    ),
    (
        "Request to stored response, p95",
        "timeseries",
        "histogram_quantile(0.95, sum by (le, event_type) (rate({}[$__rate_interval])))",
        "kms_connector_worker_decryption_latency_seconds",
        "{{event_type}}",
        8,
    ),
    (
        "Waiting by kind and state",
        "timeseries",
        "sum by (kind, queue, state) ({}) > 0",
        "kms_connector_queue_depth",
        "{{kind}} {{queue}} {{state}}",
        8,
    ),
    (
        "Dependencies that are down",
        "timeseries",
        "min by (dependency) ({}) < 1",
        "kms_connector_dependency_up",
        "{{dependency}}",
        8,
    ),
)
"""What an operator looks at first."""


def dashboard() -> str:
    """`deploy/grafana-dashboard.json`."""
    document = {
        "title": "kmsd",
        "uid": "kmsd",
        "description": "Made by `python -m kmsd.documents` from the table of metrics; do not edit.",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "tags": ["kmsd"],
        "templating": {"list": list(_variables())},
        "panels": _numbered(_panels()),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    for name, label in (("job", "Job"), ("instance", "Instance")):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": DATASOURCE,
            "query": f"label_values(kms_connector_build_info, {name})",
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _panels() -> Iterator[dict[str, Any]]:
    yield {"type": "row", "title": "Overview", "collapsed": False, "panels": [], "gridPos": {"h": 1, "w": WIDTH}}
    for title, kind, expression, metric, legend, width in OVERVIEW:
        yield _panel(title, METRICS[metric].help, kind, [(expression.format(_selected(metric)), legend)], width, metric)
    for title, group in GROUPS.items():
        inside = list(_laid_out(_metric_panel(name, metric) for name, metric in group.items()))
        yield {"type": "row", "title": title, "collapsed": True, "panels": inside, "gridPos": {"h": 1, "w": WIDTH}}


def _metric_panel(name: str, metric: Metric) -> dict[str, Any]:
    labels = " ".join(f"{{{{{label}}}}}" for label in metric.labels) or "{{instance}}"
    selected = _selected(name)
    by = ", ".join(metric.labels) or "instance"
    if metric.type is MetricType.HISTOGRAM:
        by = ", ".join(("le", *metric.labels))
        targets = [
            (f"histogram_quantile({q}, sum by ({by}) (rate({selected}[$__rate_interval])))", f"p{q * 100:.0f} {labels}")
            for q in QUANTILES
        ]
    elif metric.type is MetricType.COUNTER:
        targets = [(f"sum by ({by}) (rate({selected}[$__rate_interval]))", labels)]
    elif name.endswith("_timestamp_seconds"):
        targets = [(f"time() - (max by ({by}) ({selected}) > 0)", labels)]
    else:
        scale = " / 1e18" if name.endswith("_wei") else ""
        targets = [(f"max by ({by}) ({selected}){scale}", labels)]
    title = name.removeprefix("kms_connector_").replace("_", " ")
    return _panel(title, metric.help, "timeseries", targets, 8, name)


def _panel(
    title: str, help: str, kind: str, targets: Iterable[tuple[str, str]], width: int, metric: str
) -> dict[str, Any]:
    unit = next((unit for suffix, unit in UNITS if metric.endswith(suffix)), "short")
    if METRICS[metric].type is MetricType.COUNTER:
        unit = "short"
    return {
        "type": kind,
        "title": title,
        "description": f"{help} ({metric})",
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": "short" if unit == "ETH" else unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(targets)
        ],
        "gridPos": {"h": 4 if kind == "stat" else 8, "w": width},
    }


def _selected(name: str) -> str:
    """The metric's series in PromQL; raises KeyError for one that does not exist."""
    return name + ("_bucket" if METRICS[name].type is MetricType.HISTOGRAM else "") + MATCH


def _laid_out(panels: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Positions from left to right, then down."""
    x = y = height = 0
    for panel in panels:
        place = panel["gridPos"]
        if x + place["w"] > WIDTH:
            x, y, height = 0, y + height, 0
        place |= {"x": x, "y": y}
        x += place["w"]
        height = max(height, place["h"])
        yield panel


def _numbered(panels: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    laid_out = list(_laid_out(panels))
    for number, panel in enumerate([p for row in laid_out for p in (row, *row.get("panels", []))], 1):
        panel["id"] = number
    return laid_out
