"""deploy/ agrees with the daemon: metrics of rules and dashboard, probes, the unit's grace, the documents."""

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from kmsd import documents
from kmsd.config import KEY, Settings
from kmsd.configuring.foreign_keys import MISNAMED, OBSOLETE
from kmsd.observe.alert_rules import OVER_TIME, Rule, rules
from kmsd.observe.dashboard import OVERVIEW, dashboard
from kmsd.observe.health_checks import CHECKS, Severity
from kmsd.observe.metric_table import METRICS, MetricType

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")
GRACE = attrs.fields(Settings).shutdown_grace.default


def metrics_in(expression: str) -> set[str]:
    """Names of our metrics in PromQL, without what a histogram appends."""
    found = set()
    for name in re.findall(r"\b(?:kms_connector|process)_\w+", expression):
        whole = next((name[: -len(part)] for part in HISTOGRAM_PARTS if name.endswith(part)), name)
        found.add(whole if METRICS.get(whole, METRICS.get(name)) else name)
    return found


def panels() -> list[dict[str, Any]]:
    rows = json.loads(dashboard())["panels"]
    return [panel for row in rows for panel in (row, *row.get("panels", [])) if panel["type"] != "row"]


def test_every_check_is_one_alert_and_names_differ() -> None:
    names = [rule.name for rule in rules()]
    assert len(names) == len(set(names)) == len(CHECKS) + len(OVER_TIME)
    for check in CHECKS:
        assert sum(f'check="{check.name}"' in rule.expression for rule in rules()) == 1, check.name


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_a_rule_uses_metrics_that_exist(rule: Rule) -> None:
    assert metrics_in(rule.expression) == set(rule.metrics)
    assert rule.title
    assert rule.remedy.endswith(".")


def test_a_rule_about_no_metric_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no metric"):
        Rule("KmsdX", Severity.WARNING, "kms_connector_nothing > 0", ("kms_connector_nothing",), "1m", "x", "x.")


def test_rules_as_prometheus_reads_them() -> None:
    document = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())
    found = [rule for group in document["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in found] == [rule.name for rule in rules()]
    for rule, one in zip(rules(), found, strict=True):
        assert one["expr"] == rule.expression
        assert one["labels"] == {"severity": rule.severity.value}
        assert one["annotations"]["description"] == rule.remedy


def test_each_alert_has_its_section_in_the_run_book() -> None:
    text = (ROOT / "docs/operating.md").read_text()
    for rule in rules():
        assert f"\n#### {rule.name}\n" in text


def test_the_dashboard_shows_every_metric_and_only_those() -> None:
    shown: set[str] = set()
    for panel in panels():
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            shown |= metrics_in(target["expr"])
            for name in metrics_in(target["expr"]):
                labels = set(METRICS[name].labels) | {"job", "instance", "le"}
                for by in re.findall(r"by \(([^)]*)\)", target["expr"]):
                    assert set(by.split(", ")) <= labels, (panel["title"], by)
                if METRICS[name].type is MetricType.COUNTER:
                    assert "rate(" in target["expr"] or "increase(" in target["expr"], panel["title"]
    assert shown == set(METRICS)
    assert {metric for _, _, _, metric, _, _ in OVERVIEW} <= set(METRICS)


def test_the_dashboards_panels_do_not_overlap() -> None:
    rows = json.loads(dashboard())["panels"]
    for group in (rows, *(row["panels"] for row in rows if row.get("panels"))):
        taken: set[tuple[int, int]] = set()
        for panel in group:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert place["x"] + place["w"] <= 24
            taken |= cells
    ids = [panel["id"] for row in rows for panel in (row, *row.get("panels", []))]
    assert len(ids) == len(set(ids))


def test_kubernetes_restarts_nothing_for_a_dependency() -> None:
    deployment, service, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (kmsd,) = pod["containers"]
    assert kmsd["livenessProbe"]["httpGet"]["path"] == "/liveness"
    assert kmsd["readinessProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["terminationGracePeriodSeconds"] >= GRACE + 10
    assert kmsd["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert service["spec"]["publishNotReadyAddresses"], "an unready pod is the one that must be scraped"
    known = {f"KMS_CONNECTOR_{field.name.upper()}" for field in attrs.fields(Settings)}
    for variable in kmsd["env"]:
        assert not variable["name"].startswith("KMS_CONNECTOR_") or variable["name"] in known, variable


def test_the_unit_stops_no_sooner_than_the_daemon() -> None:
    unit = (DEPLOY / "kmsd.service").read_text()
    values = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert int(values["TimeoutStopSec"].removesuffix("s")) >= GRACE + 10
    assert values["Type"] == "notify"
    assert values["RestartPreventExitStatus"] == "78"
    assert values["SuccessExitStatus"] == "75"


def test_the_image_listens_where_its_health_check_asks() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert "KMS_CONNECTOR_MONITORING_ENDPOINT=0.0.0.0:9100" in text
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["kmsd"\]$', text, re.MULTILINE), "no shell between SIGTERM and the daemon"
    for source in re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE):
        assert (ROOT / source).exists()


def test_a_page_without_its_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/operating.md").write_text("# nothing to fill in\n")
    with pytest.raises(ValueError, match=r"docs/operating\.md has no section"):
        documents.stale(tmp_path)


def test_the_page_about_migrating_names_every_key_that_differs() -> None:
    text = (ROOT / "docs/migrating.md").read_text()
    different = {
        field.name: field.metadata[KEY].reference
        for field in attrs.fields(Settings)
        if KEY in field.metadata and field.metadata[KEY].reference
    }
    for name in [*OBSOLETE, *MISNAMED, *different]:
        assert f"`{name}`" in text, name
    rows = {key: line.split("|") for line in text.splitlines() for key in re.findall(r"^\| `(\w+)`", line)}
    for name in ("key_management_polling", "db_long_event_polling", "events_batch_size", "max_decryption_attempts"):
        cells = [cell.strip() for cell in rows[name]]
        default = attrs.fields_dict(Settings)[name].default
        assert cells[2] == different[name], name
        assert cells[3] == (f"{default:g}s" if isinstance(default, float) else str(default)), name
