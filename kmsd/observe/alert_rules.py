"""Prometheus alert rules and their documentation, made from the health checks and from one small table.

Each health check is one alert over `kms_connector_check_failing`. What the daemon cannot say about itself (that it is
gone, that no daemon of several sends), and what only a look back over time shows, stands in `OVER_TIME`.
"""

import json
from collections.abc import Iterator, Sequence

import attrs

from kmsd.observe.health_checks import CHECKS, Check, Severity
from kmsd.observe.metric_table import METRICS

PATIENCE = {Severity.CRITICAL: "1m", Severity.WARNING: "5m"}
"""How long a check must fail before its alert fires: a restart of a dependency is no alert."""
HEADER = "# Made by `python -m kmsd.documents` from the health checks and the table of metrics; do not edit.\n"


@attrs.frozen
class Rule:
    """One alert. `expression` in PromQL over `metrics`; `patience` as in `for:`; `remedy` says what to do."""

    name: str
    severity: Severity
    expression: str
    metrics: tuple[str, ...]
    patience: str
    title: str
    remedy: str

    def __attrs_post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS or metric not in self.expression:
                raise ValueError(f"{self.name}: {metric} is no metric of the rule")


OVER_TIME: Sequence[Rule] = (
    Rule(
        "KmsdGone",
        Severity.CRITICAL,
        "absent(kms_connector_build_info)",
        ("kms_connector_build_info",),
        "2m",
        "Prometheus hears of no kmsd",
        "Is the daemon running (`systemctl status kmsd`)? Exit status 78 is a configuration error, and its last line "
        "says which; otherwise see the log's last lines and the scrape configuration. Nothing is lost while it is "
        "away: it catches up by itself.",
    ),
    Rule(
        "KmsdNobodySends",
        Severity.CRITICAL,
        "max by (job) (kms_connector_tx_sender_lane_held) == 0",
        ("kms_connector_tx_sender_lane_held",),
        "2m",
        "No daemon holds the wallet's lock",
        "A daemon with the role `sender` must be running, and reach the database and the key. `kmsd health` names "
        "what it waits for. A stand-by takes over within 15 seconds of its predecessor's end.",
    ),
    Rule(
        "KmsdRequestsFail",
        Severity.WARNING,
        "sum by (job, kind, reason) (increase(kms_connector_failures[15m])) > 0",
        ("kms_connector_failures",),
        "0m",
        "Requests or responses were given up",
        "`kmsd list --state failed` and `kmsd show ID` say why, in words. `kmsd retry ID` tries one again.",
    ),
    Rule(
        "KmsdResultsRejected",
        Severity.WARNING,
        "sum by (job, event_type) (increase(kms_connector_results_rejected[1h])) > 0",
        ("kms_connector_results_rejected",),
        "0m",
        "A result of the Core failed a check",
        "The Core's answer did not belong to the request, or was not signed by the expected key: see its version, its "
        "key and `kms_signer_address`. Rejected results are kept in the table `kmsd_rejected_results`.",
    ),
    Rule(
        "KmsdCeremonyWaits",
        Severity.WARNING,
        'max by (job, kind, queue) (kms_connector_queue_oldest_age_seconds{kind!~".*_decryption",state!="failed"})'
        " > 3600",
        ("kms_connector_queue_oldest_age_seconds",),
        "0m",
        "A key ceremony has not ended for an hour",
        "`kmsd list` names it, `kmsd show ID` says what it waits for. Ceremonies never fail by themselves: when the "
        "Core's log says that it is hopeless, `kmsd fail ID --reason '…'`.",
    ),
    Rule(
        "KmsdRestartsParts",
        Severity.WARNING,
        "sum by (job, instance, sibling) (increase(kms_connector_sibling_restarts[15m])) > 1",
        ("kms_connector_sibling_restarts",),
        "0m",
        "A part of the daemon failed unexpectedly and was started again",
        "This is a bug: nothing is lost, but please report the traceback in the log. After 5 failures in 10 minutes "
        "the daemon ends and its supervisor starts it anew.",
    ),
)
"""Alerts that need more than one look at one daemon."""


def check_rule(check: Check) -> Rule:
    """The alert of a health check."""
    return Rule(
        "Kmsd" + "".join(map(str.capitalize, check.name.split("_"))),
        check.severity,
        f'kms_connector_check_failing{{check="{check.name}"}} == 1',
        ("kms_connector_check_failing",),
        PATIENCE[check.severity],
        check.title,
        check.remedy,
    )


def rules() -> list[Rule]:
    """Every alert, most grave first within its group."""
    return [*OVER_TIME, *map(check_rule, CHECKS)]


def alert_rules() -> str:
    """`deploy/prometheus-alerts.yml`."""
    lines = [HEADER.rstrip(), "groups:"]
    for group, members in (("kmsd", OVER_TIME), ("kmsd-health-checks", list(map(check_rule, CHECKS)))):
        lines += [f"  - name: {group}", "    rules:"]
        for rule in members:
            lines += _rule_lines(rule)
    return "\n".join(lines) + "\n"


def _rule_lines(rule: Rule) -> Iterator[str]:
    yield f"      - alert: {rule.name}"
    yield f"        expr: {json.dumps(rule.expression)}"
    yield f"        for: {rule.patience}"
    yield f"        labels: {{severity: {rule.severity.value}}}"
    yield "        annotations:"
    yield f"          summary: {json.dumps(rule.title)}"
    yield f"          description: {json.dumps(rule.remedy, ensure_ascii=False)}"
    yield f"          runbook: docs/operating.md#{rule.name.lower()}"


def alerts_markdown() -> str:
    """The alerts as sections of `docs/operating.md`."""
    lines: list[str] = []
    for rule in rules():
        after = "at once" if rule.patience.startswith("0") else f"after {rule.patience}"
        lines += [f"#### {rule.name}", "", f"{rule.title}. *{rule.severity.value}, {after}.* {rule.remedy}", ""]
    return "\n".join(lines).rstrip() + "\n"
