"""Health: what is up, alerts, and the table of checks."""

import attrs
import pytest

from kmsd.observe import health as health_module
from kmsd.observe.health import Health
from kmsd.observe.health_checks import CHECKS, STALE, Severity, View, connected, evaluate
from kmsd.observe.metrics import Metrics
from kmsd.observe.status import healthz


@attrs.define
class Clock:
    """A clock that tests move."""

    instant: float = 1_000_000.0

    def now(self) -> float:
        """Unix seconds."""
        return self.instant


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(clock: Clock) -> View:
    names = ["database", "gateway node a", "gateway node b", "core http://c:1", "host chain 5"]
    return View(Health(clock, names), Metrics(), ("listener", "worker", "sender", "gc"))


def failing(view: View) -> set[str]:
    return {finding.check.name for finding in evaluate(view)}


def all_up(view: View) -> None:
    for name in view.health.dependencies:
        view.health.ok(name)


def test_dependencies_keep_their_story(clock: Clock) -> None:
    health = Health(clock)
    assert health.is_up("database")  # nobody asked yet
    health.fault("database", "refused")
    clock.instant += 10
    health.fault("database", "still refused")
    known = health.dependencies["database"]
    assert (known.up, known.faults, known.detail) == (False, 2, "still refused")
    assert known.changed == 1_000_000.0
    assert not health.is_up("database")
    clock.instant += 5
    health.ok("database")
    assert (known.up, known.detail, known.last_ok, known.changed) == (True, "", 1_000_015.0, 1_000_015.0)
    assert health.is_up("database")


def test_alerts_are_raised_once_and_cleared(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    health = Health(clock)
    health.alert("lane", "no funds")
    clock.instant += 5
    health.alert("lane", "no funds")
    health.alert("lane", "still no funds")
    (alert,) = health.alerts
    assert (alert.words, alert.since) == ("still no funds", 1_000_000.0)
    assert len([record for record in caplog.records if "alert lane" in record.message]) == 1
    health.clear("lane")
    health.clear("lane")
    assert health.alerts == ()


def test_names_and_words_are_bounded(clock: Clock) -> None:
    health = Health(clock)
    for number in range(health_module.MAX_DEPENDENCIES + 50):
        clock.instant += 1
        health.fault(f"bucket {number}", "x" * 10_000)
        health.alert(f"alert {number}", "y" * 10_000)
    assert len(health.dependencies) == health_module.MAX_DEPENDENCIES
    assert len(health.alerts) == health_module.MAX_ALERTS
    assert "bucket 0" not in health.dependencies
    assert len(health.dependencies[f"bucket {number}"].detail) == health_module.MAX_WORDS
    health.forget(f"bucket {number}")
    assert f"bucket {number}" not in health.dependencies


def test_everything_up_is_healthy(view: View) -> None:
    all_up(view)
    assert failing(view) == set()
    document = healthz(view)
    assert document["healthy"] is True
    assert document["details"] == ""
    assert connected(view) == {"database_connected": True, "gateway_connected": True, "kms_core_connected": True}


def test_what_nobody_asked_yet_is_not_healthy(view: View) -> None:
    document = healthz(view)
    assert document["healthy"] is False
    assert document["database_connected"] is False
    assert "database: not asked yet" in document["details"]


@pytest.mark.parametrize(
    ("down", "check", "gates"),
    [
        ("database", "database", True),
        ("core http://c:1", "core", True),
        ("gateway node a", "gateway_node", False),
        ("host chain 5", "host_chain", False),
        ("bucket b", "bucket", False),
        ("wallet 0x11", "wallet", False),
    ],
)
def test_a_dependency_that_is_down(view: View, clock: Clock, down: str, check: str, gates: bool) -> None:
    all_up(view)
    view.health.fault(down, "connection refused")
    clock.instant += 7
    assert failing(view) == {check}
    document = healthz(view)
    assert document["healthy"] is not gates
    assert f"{down}: connection refused (for 7 s)" in document["details"]
    assert document["dependencies"][down]["up"] is False
    assert document["failing"][0]["remedy"]


def test_the_gateway_is_down_when_all_of_its_nodes_are(view: View) -> None:
    all_up(view)
    view.health.fault("gateway node a", "x")
    view.health.fault("gateway node b", "y")
    assert failing(view) == {"gateway"}
    assert not connected(view)["gateway_connected"]


def test_a_dependency_that_nobody_heard_of_for_long_is_in_trouble(view: View, clock: Clock) -> None:
    all_up(view)
    clock.instant += STALE + 1
    for name in view.health.dependencies:
        if name != "database":
            view.health.ok(name)
    assert failing(view) == {"database"}
    assert "not heard of for 61 s" in str(healthz(view)["details"])


def test_without_the_worker_the_core_is_nobodys_business(clock: Clock) -> None:
    view = View(Health(clock, ["database", "gateway node a"]), Metrics(), ("listener",))
    all_up(view)
    assert failing(view) == set()
    assert "kms_core_connected" not in healthz(view)


@pytest.mark.parametrize(
    ("check", "metric", "labels", "value"),
    [
        ("core_paused", "kms_connector_core_paused", ("http://c:1",), 1.0),
        ("lane_paused", "kms_connector_tx_sender_lane_paused", (), 1.0),
        ("unmined", "kms_connector_tx_sender_oldest_unmined_seconds", (), 121.0),
        ("lag", "kms_connector_listener_lag_blocks", ("a", "decryption"), 1001.0),
        ("queue_age", "kms_connector_queue_oldest_age_seconds", ("user_decryption", "request", "pending"), 601.0),
        ("quarantine", "kms_connector_quarantined", (), 1.0),
        ("unconfirmed", "kms_connector_ceremonies_unconfirmed", (), 1.0),
        ("event_loop", "kms_connector_event_loop_lag_seconds", (), 1.5),
        ("scan", "kms_connector_listener_scan_timestamp_seconds", ("a", "decryption"), 999_000.0),
    ],
)
def test_checks_over_metrics(view: View, check: str, metric: str, labels: tuple[str, ...], value: float) -> None:
    all_up(view)
    view.metrics.set(metric, value, *labels)
    assert failing(view) == {check}


def test_failed_rows_and_ceremonies_may_be_old(view: View) -> None:
    all_up(view)
    age = "kms_connector_queue_oldest_age_seconds"
    view.metrics.set(age, 1e6, "user_decryption", "request", "failed")
    view.metrics.set(age, 1e6, "keygen", "request", "pending")
    assert failing(view) == set()


def test_counters_that_must_stay_zero(view: View) -> None:
    all_up(view)
    view.metrics.inc("kms_connector_divergences", "keygen_request")
    view.health.alert("some alert", "do this")
    assert failing(view) == {"divergence", "alert"}
    assert "some alert: do this" in str(healthz(view)["details"])


def test_the_table_is_complete() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert {check.name for check in CHECKS if check.gates} == {"database", "gateway", "core"}
    for check in CHECKS:
        assert check.remedy.endswith(".")
        assert check.severity in Severity


@pytest.mark.guarantee("PR4")
def test_health_details_show_no_secret(view: View) -> None:
    from kmsd import redact

    redact.KNOWN.add("health-api-key-1234")
    view.health.fault("bucket http://b/health-api-key-1234", "GET http://x:pw@b/health-api-key-1234?sig=abcdef")
    view.health.alert("x", "health-api-key-1234")
    text = repr(healthz(view))
    assert "health-api-key-1234" not in text
    assert "pw@" not in text
    assert "abcdef" not in text
