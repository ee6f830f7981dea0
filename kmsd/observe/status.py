"""What `/healthz` and `/status` say: documents made of facts in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from kmsd.observe.health import Dependency
from kmsd.observe.health_checks import View, connected, evaluate, words_of
from kmsd.observe.metric_table import METRICS, MetricType
from kmsd.redact import KNOWN


def healthz(view: View) -> Mapping[str, Any]:
    """The reference's body (reference-connector.md 1.8), with each dependency's age and detail, and what fails."""
    findings = evaluate(view)
    gating = [finding for finding in findings if finding.check.gates]
    now = view.health.now()
    return {
        "healthy": not gating,
        **connected(view),
        "details": KNOWN(words_of(findings)),
        "dependencies": {KNOWN(name): _dependency(known, now) for name, known in view.health.dependencies.items()},
        "failing": [
            {
                "check": finding.check.name,
                "title": finding.check.title,
                "severity": finding.check.severity.value,
                "words": KNOWN(finding.words),
                "remedy": finding.check.remedy,
            }
            for finding in findings
        ],
        "alerts": [
            {"key": alert.key, "words": KNOWN(alert.words), "age_seconds": round(now - alert.since, 1)}
            for alert in view.health.alerts
        ],
    }


def gauges(view: View, names: Sequence[str] = ()) -> Mapping[str, Any]:
    """Gauges and counters by name, each a list of `[labels, value]`; histograms give their number of observations."""
    view.metrics.refresh()
    return {
        name: [[list(labels), value] for labels, value in view.metrics.series(name).items()]
        for name in names or [name for name, metric in METRICS.items() if metric.type is not MetricType.HISTOGRAM]
    }


def _dependency(known: Dependency, now: float) -> Mapping[str, Any]:
    return {
        "up": known.up,
        "last_ok_age_seconds": None if known.last_ok is None else round(now - known.last_ok, 1),
        "last_report_age_seconds": None if known.last_report is None else round(now - known.last_report, 1),
        "for_seconds": None if known.changed is None else round(now - known.changed, 1),
        "faults": known.faults,
        "detail": KNOWN(known.detail),
    }
