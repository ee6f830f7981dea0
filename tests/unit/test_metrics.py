"""Metrics: the reference's names, the text format, bounds, cost."""

import math
import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import kmsd
from kmsd.observe import metric_table
from kmsd.observe.metrics import MAX_SERIES, METRICS, Metrics, MetricType
from kmsd.observe.process import Process, resident_bytes

REFERENCE_LABELS = {
    "kms_connector_gw_listener_event_received_counter": ("event_type",),
    "kms_connector_gw_listener_event_received_errors": ("event_type",),
    "kms_connector_worker_event_received_counter": ("event_type",),
    "kms_connector_worker_event_received_errors": ("event_type",),
    "kms_connector_worker_grpc_request_sent_counter": ("event_type",),
    "kms_connector_worker_grpc_request_sent_errors": ("event_type",),
    "kms_connector_worker_grpc_response_polled_counter": ("event_type",),
    "kms_connector_worker_grpc_response_polled_errors": ("event_type",),
    "kms_connector_worker_s3_ciphertext_retrieval_counter": (),
    "kms_connector_worker_s3_ciphertext_retrieval_errors": (),
    "kms_connector_worker_decryption_latency_seconds": ("event_type",),
    "kms_connector_tx_sender_response_received_counter": ("response_type",),
    "kms_connector_tx_sender_response_received_errors": ("response_type",),
    "kms_connector_tx_sender_gateway_tx_sent_counter": ("response_type",),
    "kms_connector_tx_sender_gateway_tx_sent_errors": ("response_type",),
    "kms_connector_tx_sender_response_forwarding_latency_seconds": ("response_type",),
    "kms_connector_pending_events": ("event_type",),
    "kms_connector_pending_responses": ("response_type",),
}
"""reference-connector.md 1.7, written down a second time on purpose."""


_SAMPLE = re.compile(r"([a-z0-9_]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Everything that a Prometheus server would read. (The library's parser renames counters, as its writer does.)"""
    text = metrics.text().decode()
    assert len(list(text_string_to_metric_families(text))) == len(METRICS)
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            labels = [
                (name, re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], value))
                for name, value in _LABEL.findall(match[2] or "")
            ]
            found[match[1], tuple(sorted(labels))] = float(match[3])
    return found


def test_the_references_families_have_its_names_labels_and_values() -> None:
    assert {name: metric.labels for name, metric in metric_table.REFERENCE_METRICS.items()} == REFERENCE_LABELS
    text = Metrics().text().decode()
    for name in REFERENCE_LABELS:
        kind = METRICS[name].type.value
        assert f"# TYPE {name} {kind}\n" in text  # no _total and no _created beside it
    for event in (
        "public_decryption_request",
        "user_decryption_request",
        "prep_keygen_request",
        "keygen_request",
        "crsgen_request",
        "prss_init",
        "key_reshare_same_set",
    ):
        assert f'kms_connector_gw_listener_event_received_counter{{event_type="{event}"}} 0\n' in text
    for response in ("public_decryption", "user_decryption", "prep_keygen", "keygen", "crsgen"):
        assert f'kms_connector_tx_sender_gateway_tx_sent_counter{{response_type="{response}_response"}} 0\n' in text
    assert METRICS["kms_connector_worker_decryption_latency_seconds"].buckets == (
        0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    )  # fmt: skip
    assert METRICS["kms_connector_tx_sender_response_forwarding_latency_seconds"].buckets == (
        0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0,
    )  # fmt: skip


def test_every_series_with_known_labels_is_there_from_the_start() -> None:
    metrics = Metrics({"node": ["main", "other"], "core": ["http://c:1"]})
    found = samples(metrics)
    assert found["kms_connector_listener_lag_blocks", (("node", "main"), ("stream", "decryption"))] == 0
    assert found["kms_connector_core_window", (("core", "http://c:1"),)] == 0
    assert found["kms_connector_retries", (("kind", "crsgen"), ("reason", "core busy"))] == 0
    assert found["kms_connector_stage_seconds_count", (("kind", "keygen"), ("stage", "await"))] == 0
    for name, metric in METRICS.items():
        if not metric.labels:
            suffix = "_count" if metric.type is MetricType.HISTOGRAM else ""
            assert (name + suffix, ()) in found


def test_values_arrive() -> None:
    metrics = Metrics({"node": ["a"]})
    metrics.inc("kms_connector_rpc_requests", "a")
    metrics.inc("kms_connector_rpc_requests", "a", by=2)
    metrics.inc("kms_connector_rpc_calls", "a", 'eth_"call"\n\\')
    metrics.set("kms_connector_tx_sender_balance_wei", 1.5e18)
    metrics.observe("kms_connector_rpc_seconds", 0.004, "a")
    metrics.observe("kms_connector_rpc_seconds", 0.005, "a")
    metrics.observe("kms_connector_rpc_seconds", 99.0, "a")
    found = samples(metrics)
    assert found["kms_connector_rpc_requests", (("node", "a"),)] == 3
    assert found["kms_connector_rpc_calls", (("method", 'eth_"call"\n\\'), ("node", "a"))] == 1
    assert found["kms_connector_tx_sender_balance_wei", ()] == 1.5e18
    bucket = "kms_connector_rpc_seconds_bucket"
    assert found[bucket, (("le", "0.0025"), ("node", "a"))] == 0
    assert found[bucket, (("le", "0.005"), ("node", "a"))] == 2
    assert found[bucket, (("le", "10"), ("node", "a"))] == 2
    assert found[bucket, (("le", "+Inf"), ("node", "a"))] == 3
    assert found["kms_connector_rpc_seconds_count", (("node", "a"),)] == 3
    assert found["kms_connector_rpc_seconds_sum", (("node", "a"),)] == pytest.approx(99.009)
    assert metrics.value("kms_connector_rpc_seconds", "a") == 3


def test_odd_numbers_are_written_as_prometheus_reads_them() -> None:
    metrics = Metrics()
    for value in (math.inf, -math.inf, math.nan, 0.1, 1e300, -2.0):
        metrics.set("kms_connector_tx_sender_nonce", value)
        found = samples(metrics)["kms_connector_tx_sender_nonce", ()]
        assert found == value or (math.isnan(found) and math.isnan(value))


def test_mistakes_raise() -> None:
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.inc("kms_connector_no_such")
    with pytest.raises(KeyError):
        metrics.set("kms_connector_rpc_requests", 1.0, "a")  # a counter
    with pytest.raises(KeyError):
        metrics.observe("kms_connector_rpc_requests", 1.0, "a")
    with pytest.raises(ValueError, match="labels"):
        metrics.inc("kms_connector_rpc_requests")
    with pytest.raises(ValueError, match="labels"):
        metrics.observe("kms_connector_rpc_seconds", 1.0)


def test_replacing_a_gauge_zeroes_what_is_not_named() -> None:
    metrics = Metrics()
    labels = ("keygen", "request", "pending")
    metrics.replace("kms_connector_queue_depth", {labels: 3.0})
    assert metrics.value("kms_connector_queue_depth", *labels) == 3
    metrics.replace("kms_connector_queue_depth", {("crsgen", "request", "pending"): 1.0})
    assert metrics.value("kms_connector_queue_depth", *labels) == 0
    assert ("keygen", "request", "pending") in metrics.series("kms_connector_queue_depth")


def test_series_are_bounded_and_the_overflow_is_counted() -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 10):
        metrics.inc("kms_connector_bucket_bytes", f"bucket-{number}")
        metrics.observe("kms_connector_bucket_seconds", 1.0, f"bucket-{number}")
    assert len(metrics.series("kms_connector_bucket_bytes")) == MAX_SERIES
    assert len(metrics.series("kms_connector_bucket_seconds")) == MAX_SERIES
    assert metrics.value("kms_connector_metric_series_dropped", "kms_connector_bucket_bytes") == 10
    metrics.forget("kms_connector_bucket_bytes", "bucket-0")
    metrics.inc("kms_connector_bucket_bytes", "newcomer")
    assert metrics.value("kms_connector_bucket_bytes", "newcomer") == 1


def test_hooks_run_before_the_text() -> None:
    metrics = Metrics()
    metrics.on_read(lambda: metrics.set("kms_connector_coalescer_depth", 7.0, "access"))
    assert samples(metrics)["kms_connector_coalescer_depth", (("coalescer", "access"),)] == 7


def test_process_metrics() -> None:
    metrics = Metrics()
    Process(metrics, "1.2.3")
    found = samples(metrics)
    assert found["process_resident_memory_bytes", ()] > 10_000_000
    assert found["process_resident_memory_bytes", ()] == pytest.approx(resident_bytes(), rel=0.2)
    assert found["process_cpu_seconds_total", ()] > 0
    assert found["process_open_fds", ()] >= 3
    assert abs(time.time() - found["process_start_time_seconds", ()]) < 3600
    assert any(name == "kms_connector_build_info" and ("version", "1.2.3") in labels for name, labels in found)


def test_every_metric_named_in_the_code_is_in_the_table() -> None:
    root = Path(kmsd.__file__).parent
    named = {
        name
        for path in root.rglob("*.py")
        if "pb" not in path.parts and path.name != "metric_table.py"
        for name in re.findall(r'"(kms_connector_[a-z0-9_]+)"', path.read_text())
    }
    assert named <= set(METRICS), sorted(named - set(METRICS))


def test_names_follow_prometheus_rules() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"(kms_connector|process)_[a-z0-9_]+", name)
        assert metric.help.endswith(".")
        assert (metric.type is MetricType.HISTOGRAM) == bool(metric.buckets)
        assert list(metric.buckets) == sorted(metric.buckets)
        assert set(metric.only) <= set(metric.labels)


def test_every_metric_of_the_table_is_used_somewhere() -> None:
    root = Path(kmsd.__file__).parent
    code = "".join(
        path.read_text() for path in root.rglob("*.py") if "pb" not in path.parts and path.name != "metric_table.py"
    )
    assert [name for name in METRICS if f'"{name}"' not in code] == []
