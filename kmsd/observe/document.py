"""`docs/metrics.md`, made from the table of metrics and the table of health checks."""

from kmsd.observe.health_checks import CHECKS, Check
from kmsd.observe.metric_table import GROUPS, LABEL_VALUES, Metric


def metrics_markdown() -> str:
    """Text of `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Made from `kmsd/observe/metric_table.py` by `python -m kmsd.documents`; a test says when it is out of step.",
        "",
        "Served as Prometheus text at `/metrics`. Every series whose label values are known beforehand (from below or",
        "from the configuration) is there from the start as zero: absent never means zero. Instants are Unix seconds.",
    ]
    for title, group in GROUPS.items():
        lines += ["", f"## {title}", "", "| name | type | labels | meaning |", "|---|---|---|---|"]
        lines += [_row(name, metric) for name, metric in group.items()]
    lines += ["", "## Label values", "", "| label | values |", "|---|---|"]
    lines += [
        f"| `{label}` | {', '.join(f'`{value}`' for value in values)} |" for label, values in LABEL_VALUES.items()
    ]
    lines += [
        "",
        "## Health checks",
        "",
        "Each is `kms_connector_check_failing{check,severity}`, 1 while it fails, and an alert rule in",
        "`deploy/prometheus-alerts.yml`. While a gating check fails `/healthz` answers 503.",
        "",
        "| check | severity | gates | while it fails | what to do |",
        "|---|---|---|---|---|",
        *map(_check_row, CHECKS),
    ]
    return "\n".join(lines) + "\n"


def _check_row(check: Check) -> str:
    gates = "yes" if check.gates else ""
    return f"| `{check.name}` | {check.severity.value} | {gates} | {check.title} | {check.remedy} |"


def _row(name: str, metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    buckets = f" Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}." if metric.buckets else ""
    return f"| `{name}` | {metric.type.value} | {labels} | {metric.help}{buckets} |"
