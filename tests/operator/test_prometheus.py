"""Rules and dashboard as Prometheus' own tool reads them, and the rules at work on series (promtool)."""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kmsd.observe.alert_rules import PATIENCE, Rule, check_rule, rules
from kmsd.observe.dashboard import dashboard
from kmsd.observe.health_checks import CHECKS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus-alerts.yml"
LABELS = {"job": "kmsd", "instance": "party-1"}


def promtool(*arguments: object) -> None:
    """Raises AssertionError with promtool's words when it is not content."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    pairs = ",".join(f'{key}="{value}"' for key, value in {**LABELS, **labels}.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


def fires(rule: Rule, at: str, *, of: Sequence[dict[str, str]]) -> dict[str, Any]:
    """An expectation: at this time these alerts of the rule fire, and no others of it."""
    annotations = {
        "summary": rule.title,
        "description": rule.remedy,
        "runbook": f"docs/operating.md#{rule.name.lower()}",
    }
    return {
        "eval_time": at,
        "alertname": rule.name,
        "exp_alerts": [
            {"exp_labels": {**labels, "severity": rule.severity.value}, "exp_annotations": annotations} for labels in of
        ],
    }


def run(tmp_path: Path, *tests: dict[str, Any]) -> None:
    file = tmp_path / "tests.yml"
    for test in tests:
        test.setdefault("interval", "15s")
    file.write_text(
        yaml.safe_dump(
            {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": list(tests)}, sort_keys=False
        )
    )
    promtool("test", "rules", file)


def by_name(name: str) -> Rule:
    return next(rule for rule in rules() if rule.name == name)


def test_the_rules_are_rules() -> None:
    promtool("check", "rules", "--lint-fatal", RULES)


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    """Each as a recording rule, with Grafana's variables filled in."""
    found = []
    for row in json.loads(dashboard())["panels"]:
        for panel in (row, *row.get("panels", [])):
            for target in panel.get("targets", []):
                expression = re.sub(r"\$(job|instance)", ".*", target["expr"]).replace("$__rate_interval", "5m")
                assert "$" not in expression
                found.append({"record": f"panel:{len(found)}", "expr": expression})
    assert len(found) > 100
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": found}]}))
    promtool("check", "rules", file)


def test_a_failing_check_alerts_after_its_patience_and_not_before(tmp_path: Path) -> None:
    tests = []
    for check in CHECKS:
        rule = check_rule(check)
        labels = {"check": check.name, "severity": check.severity.value}
        minutes = int(PATIENCE[check.severity].removesuffix("m"))
        tests.append(
            {
                "name": check.name,
                # healthy for a minute, failing for ten, healthy again
                "input_series": [series("kms_connector_check_failing", "0x3 1x40 0x8", **labels)],
                "alert_rule_test": [
                    fires(rule, "45s", of=[]),
                    fires(rule, f"{minutes}m30s", of=[]),
                    fires(rule, f"{minutes + 2}m", of=[{**LABELS, "check": check.name}]),
                    fires(rule, "12m", of=[]),
                ],
            }
        )
    run(tmp_path, *tests)


def test_a_flap_is_no_alert(tmp_path: Path) -> None:
    """A database that restarts within a minute wakes nobody."""
    failing = series(
        "kms_connector_check_failing", "0 1 1 0 0 1 1 0 0 1 1 0 0x20", check="database", severity="critical"
    )
    quiet = [fires(by_name("KmsdDatabase"), f"{15 * step}s", of=[]) for step in range(20)]
    run(tmp_path, {"input_series": [failing], "alert_rule_test": quiet})


def test_a_daemon_that_is_gone_is_noticed(tmp_path: Path) -> None:
    gone, nobody = by_name("KmsdGone"), by_name("KmsdNobodySends")
    run(
        tmp_path,
        {
            "input_series": [series("kms_connector_build_info", "1x8 stale", version="1", python="3.12")],
            "alert_rule_test": [fires(gone, "2m", of=[]), fires(gone, "6m", of=[{}])],
        },
        {
            # one of two sends, then none
            "input_series": [
                series("kms_connector_tx_sender_lane_held", "1x20 0x40"),
                series("kms_connector_tx_sender_lane_held", "0x60", instance="party-1-b"),
            ],
            "alert_rule_test": [fires(nobody, "5m", of=[]), fires(nobody, "10m", of=[{"job": "kmsd"}])],
        },
        {
            # a take-over is no alert
            "input_series": [
                series("kms_connector_tx_sender_lane_held", "1x20 0x40"),
                series("kms_connector_tx_sender_lane_held", "0x22 1x38", instance="party-1-b"),
            ],
            "alert_rule_test": [fires(nobody, f"{minute}m", of=[]) for minute in range(1, 15)],
        },
    )


def test_what_only_time_shows(tmp_path: Path) -> None:
    failures = {"kind": "public_decryption", "reason": "access denied"}
    waits = {"kind": "keygen", "queue": "request"}
    run(
        tmp_path,
        {
            "input_series": [series("kms_connector_failures", "0x10 1x200", **failures)],
            "alert_rule_test": [
                fires(by_name("KmsdRequestsFail"), "2m", of=[]),
                fires(by_name("KmsdRequestsFail"), "5m", of=[{"job": "kmsd", **failures}]),
                fires(by_name("KmsdRequestsFail"), "30m", of=[]),
            ],
        },
        {
            "input_series": [
                series("kms_connector_queue_oldest_age_seconds", "0+15x300", **waits, state="under_process"),
                series(
                    "kms_connector_queue_oldest_age_seconds",
                    "9999x300",
                    kind="user_decryption",
                    queue="request",
                    state="pending",
                ),
                series(
                    "kms_connector_queue_oldest_age_seconds", "9999x300", kind="crsgen", queue="request", state="failed"
                ),
            ],
            "alert_rule_test": [
                fires(by_name("KmsdCeremonyWaits"), "50m", of=[]),
                fires(by_name("KmsdCeremonyWaits"), "70m", of=[{"job": "kmsd", **waits}]),
            ],
        },
        {
            "input_series": [series("kms_connector_sibling_restarts", "0x4 1x4 3x40", sibling="worker")],
            "alert_rule_test": [
                fires(by_name("KmsdRestartsParts"), "1m30s", of=[]),
                fires(by_name("KmsdRestartsParts"), "5m", of=[{**LABELS, "sibling": "worker"}]),
            ],
        },
        {
            "input_series": [series("kms_connector_results_rejected", "0x4 2x40", event_type="keygen_request")],
            "alert_rule_test": [
                fires(by_name("KmsdResultsRejected"), "5m", of=[{"job": "kmsd", "event_type": "keygen_request"}])
            ],
        },
    )
