"""Every metric that kmsd exports, as one table: its type, its labels, what it says, its buckets.

The first block has the names, labels and buckets of the Rust connector (reference-connector.md 1.7): dashboards and
alerts go on working. The others are ours. A row here is all that a new metric needs; `docs/metrics.md` is generated
from this table. Counters keep their names as they stand here (nothing appends `_total`); instants are Unix seconds.

Labels with known values (`LABEL_VALUES`) are exported from the start as zero, so absent is never zero; values that
only the configuration or the chain knows (nodes, shards, buckets) appear when they are first named.
"""

from collections.abc import Mapping
from enum import StrEnum

import attrs

from kmsd.operations.kinds import Stream
from kmsd.operations.table import DECRYPTIONS, OPERATIONS
from kmsd.ports import BlobFault


class MetricType(StrEnum):
    """Types of the Prometheus text format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@attrs.frozen
class Metric:
    """One exported family. `only` narrows a label to fewer values than LABEL_VALUES has for it."""

    type: MetricType
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    only: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)


EVENT_TYPES = tuple(operation.label for operation in OPERATIONS.values())
DECRYPTION_EVENTS = tuple(OPERATIONS[kind].label for kind in DECRYPTIONS)
RESPONSE_TYPES = tuple(op.response.label for op in OPERATIONS.values() if op.response is not None)
DECRYPTION_RESPONSES = tuple(f"{kind.value}_response" for kind in DECRYPTIONS)

STAGES = ("check", "fetch", "send", "await", "store", "sign", "confirm")
"""What an operation can be in the middle of, in the order in which it passes them."""

REASONS = (
    "access denied",
    "malformed",
    "not visible",
    "host chain",
    "gateway",
    "ciphertext",
    "core busy",
    "core unreachable",
    "core unusable",
    "core not ready",
    "core refused",
    "core internal",
    "core rejected",
    "core forgot",
    "core aborted",
    "burnt",
    "key not there",
    "key not allowed",
    "key refused",
    "preparation",
    "result rejected",
    "attempts",
    "time budget",
    "reverted",
    "out of gas",
    "wallet",
    "database",
    "operator",
    "unexpected",
)
"""Classes of reasons for another try or for giving up."""

LABEL_VALUES: Mapping[str, tuple[str, ...]] = {
    "event_type": EVENT_TYPES,
    "response_type": RESPONSE_TYPES,
    "kind": tuple(kind.value for kind in OPERATIONS),
    "queue": ("request", "response"),
    "state": ("pending", "under_process", "failed"),
    "stream": tuple(stream.value for stream in Stream),
    "stage": STAGES,
    "reason": REASONS,
    "fault": tuple(fault.name.lower() for fault in BlobFault),
    "sibling": ("listener", "worker", "sender", "gc", "notifications", "gauges", "probes"),
    "verdict": ("allowed", "denied", "unknown"),
    "result": ("exported", "lost"),
}
"""Labels whose values are known beforehand."""

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: statements, RPC calls."""
SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds: stages of an operation; ceremonies take minutes."""
SIZES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)
"""Items of a batch."""


def _counter(help: str, *labels: str, **only: tuple[str, ...]) -> Metric:
    return Metric(MetricType.COUNTER, labels, help, only=only)


def _gauge(help: str, *labels: str, **only: tuple[str, ...]) -> Metric:
    return Metric(MetricType.GAUGE, labels, help, only=only)


def _histogram(help: str, buckets: tuple[float, ...], *labels: str, **only: tuple[str, ...]) -> Metric:
    return Metric(MetricType.HISTOGRAM, labels, help, buckets, only)


REFERENCE_METRICS: Mapping[str, Metric] = {
    "kms_connector_gw_listener_event_received_counter": _counter(
        "Requests heard on the Gateway and stored, counted once after their commit.", "event_type"
    ),
    "kms_connector_gw_listener_event_received_errors": _counter(
        "Logs of ours that could not be decoded and went to quarantine.", "event_type"
    ),
    "kms_connector_worker_event_received_counter": _counter("Requests leased for work.", "event_type"),
    "kms_connector_worker_event_received_errors": _counter("Claims of requests that failed.", "event_type"),
    "kms_connector_worker_grpc_request_sent_counter": _counter("Requests that the Core took.", "event_type"),
    "kms_connector_worker_grpc_request_sent_errors": _counter("Sends that the Core did not take.", "event_type"),
    "kms_connector_worker_grpc_response_polled_counter": _counter("Results received from the Core.", "event_type"),
    "kms_connector_worker_grpc_response_polled_errors": _counter(
        "Polls of the Core that ended in an error; not ready and busy are none.", "event_type"
    ),
    "kms_connector_worker_s3_ciphertext_retrieval_counter": _counter("Ciphertexts fetched and verified."),
    "kms_connector_worker_s3_ciphertext_retrieval_errors": _counter("Bucket requests without a usable ciphertext."),
    "kms_connector_worker_decryption_latency_seconds": _histogram(
        "From the creation of a decryption request to its stored response.",
        (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
        "event_type",
        event_type=DECRYPTION_EVENTS,
    ),
    "kms_connector_tx_sender_response_received_counter": _counter("Responses leased for sending.", "response_type"),
    "kms_connector_tx_sender_response_received_errors": _counter("Claims of responses that failed.", "response_type"),
    "kms_connector_tx_sender_gateway_tx_sent_counter": _counter("Responses accepted on the Gateway.", "response_type"),
    "kms_connector_tx_sender_gateway_tx_sent_errors": _counter(
        "Tries at sending a response that did not end in its acceptance.", "response_type"
    ),
    "kms_connector_tx_sender_response_forwarding_latency_seconds": _histogram(
        "From the creation of a response to its mined transaction.",
        (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0),
        "response_type",
    ),
    "kms_connector_pending_events": _gauge(
        "Decryption requests neither completed nor failed.", "event_type", event_type=DECRYPTION_EVENTS
    ),
    "kms_connector_pending_responses": _gauge(
        "Decryption responses neither completed nor failed.", "response_type", response_type=DECRYPTION_RESPONSES
    ),
}
"""Names, labels and buckets of the Rust connector v0.11."""

CHAIN_METRICS: Mapping[str, Metric] = {
    "kms_connector_node_head_block": _gauge("Highest block that the node has shown.", "node"),
    "kms_connector_node_head_timestamp_seconds": _gauge("When the node last showed a new head.", "node"),
    "kms_connector_listener_cursor_block": _gauge("Last block scanned and stored.", "node", "stream"),
    "kms_connector_listener_cursor_timestamp_seconds": _gauge("Timestamp of the last block scanned.", "node", "stream"),
    "kms_connector_listener_lag_blocks": _gauge("Blocks between the node's head and the cursor.", "node", "stream"),
    "kms_connector_listener_scan_timestamp_seconds": _gauge("When a range was last scanned.", "node", "stream"),
    "kms_connector_listener_strays": _counter("Logs answered that nobody had asked for.", "node"),
    "kms_connector_listener_range_blocks": _gauge("Blocks asked for in one range now.", "node", "stream"),
    "kms_connector_listener_scan_seconds": _histogram("Reading one range of blocks from a node.", FAST, "node"),
    "kms_connector_listener_events_duplicate": _counter("Events heard again, e.g. from a second node.", "event_type"),
    "kms_connector_listener_events_replaced": _counter("Requests replaced by a reorganisation.", "stream"),
    "kms_connector_listener_events_conflicting": _counter("Events that contradict a request sent.", "stream"),
    "kms_connector_listener_events_missed_by_node": _counter(
        "Events of a range that another node reported and this one did not.", "node"
    ),
    "kms_connector_listener_handed_over": _counter("Requests leased in the insert itself.", "event_type"),
    "kms_connector_listener_reorganisations": _counter("Reorganisations noticed.", "node", "stream"),
    "kms_connector_listener_withdrawn": _counter("Requests of orphaned blocks withdrawn.", "event_type"),
    "kms_connector_node_heads_pushed": _counter("Heads pushed over WebSocket.", "node"),
    "kms_connector_node_subscriptions_lost": _counter("WebSocket subscriptions that ended.", "node"),
    "kms_connector_rpc_requests": _counter("HTTP requests answered by the node.", "node"),
    "kms_connector_rpc_errors": _counter("HTTP requests that the node did not answer.", "node"),
    "kms_connector_rpc_calls": _counter("JSON-RPC calls, several of which share a request.", "node", "method"),
    "kms_connector_rpc_seconds": _histogram("One HTTP request to a node.", FAST, "node"),
}
"""Nodes and listener."""

QUEUE_METRICS: Mapping[str, Metric] = {
    "kms_connector_queue_depth": _gauge("Rows by kind, queue and state.", "kind", "queue", "state"),
    "kms_connector_queue_oldest_age_seconds": _gauge(
        "Age of the oldest row by kind, queue and state; 0 when there is none.", "kind", "queue", "state"
    ),
    "kms_connector_quarantined": _gauge("Logs and rows in quarantine."),
    "kms_connector_in_flight": _gauge("Operations in the middle of a stage now.", "stage", "kind"),
    "kms_connector_stage_seconds": _histogram("Time spent in a stage.", SLOW, "stage", "kind"),
    "kms_connector_retries": _counter("Operations put back to be tried again.", "kind", "reason"),
    "kms_connector_failures": _counter("Operations given up.", "kind", "reason"),
    "kms_connector_coalescer_depth": _gauge("Items waiting for a batch.", "coalescer"),
    "kms_connector_coalescer_batch": _histogram("Items of one batch.", SIZES, "coalescer"),
    "kms_connector_database_seconds": _histogram("One statement or transaction.", FAST, "verb"),
    "kms_connector_database_errors": _counter("Statements that the database did not answer.", "verb"),
    "kms_connector_database_connections": _gauge("Connections of the pool in use."),
    "kms_connector_notifications": _counter("Notifications of other processes.", "kind", "queue"),
    "kms_connector_gc_reclaimed_rows": _counter("Rows taken back from dead owners."),
    "kms_connector_gc_expired_rows": _counter("Finished rows past their retention, removed."),
}
"""Queue and store."""

WORKER_METRICS: Mapping[str, Metric] = {
    "kms_connector_core_calls": _counter("Calls of the Core by status of the answer.", "core", "method", "status"),
    "kms_connector_core_call_seconds": _histogram("One call of the Core; polls may wait 60 s.", SLOW, "method"),
    "kms_connector_core_window": _gauge("Requests allowed in flight at the Core now.", "core"),
    "kms_connector_core_in_flight": _gauge("Requests in flight at the Core.", "core"),
    "kms_connector_core_paused": _gauge("1 while the Core is not usable and nothing is sent to it.", "core"),
    "kms_connector_core_serving": _gauge("1 while the Core calls itself SERVING; usable ones may not.", "core"),
    "kms_connector_access_checks": _counter("Access checks on a host chain.", "chain", "verdict"),
    "kms_connector_bucket_downloads": _counter("Objects received from a bucket.", "bucket"),
    "kms_connector_bucket_faults": _counter("Requests that a bucket did not serve.", "bucket", "fault"),
    "kms_connector_bucket_bytes": _counter("Bytes received from a bucket.", "bucket"),
    "kms_connector_bucket_seconds": _histogram("One download.", SLOW, "bucket"),
    "kms_connector_ciphertext_budget_used_bytes": _gauge("Bytes of ciphertexts in memory or being fetched."),
    "kms_connector_ciphertext_budget_limit_bytes": _gauge("Bytes that ciphertexts may take (ciphertext_memory)."),
    "kms_connector_ciphertext_budget_waiting": _gauge("Downloads that wait for the budget."),
    "kms_connector_copro_registry_timestamp_seconds": _gauge("When the coprocessors' buckets were last read."),
    "kms_connector_results_rejected": _counter("Results of the Core that failed a check.", "event_type"),
    "kms_connector_already_finished": _counter("Requests that others had finished before.", "event_type"),
    "kms_connector_burnt_ids": _counter("Requests whose id the Core can no longer serve.", "event_type"),
    "kms_connector_divergences": _counter("Consensus on chain that differs from our own answer.", "event_type"),
    "kms_connector_ceremonies_unconfirmed": _gauge("Ceremonies that wait for a second node's word."),
}
"""Worker."""

SENDER_METRICS: Mapping[str, Metric] = {
    "kms_connector_tx_sender_balance_wei": _gauge("Balance of the wallet."),
    "kms_connector_tx_sender_nonce": _gauge("Next nonce that the sender will sign."),
    "kms_connector_tx_sender_chain_nonce": _gauge("Transactions of the wallet that are mined."),
    "kms_connector_tx_sender_in_flight": _gauge("Transactions signed and not yet final."),
    "kms_connector_tx_sender_window": _gauge("Transactions allowed in flight now."),
    "kms_connector_tx_sender_oldest_unmined_seconds": _gauge("Age of the oldest transaction not yet mined."),
    "kms_connector_tx_sender_lane_held": _gauge("1 while this daemon holds the wallet's lock."),
    "kms_connector_tx_sender_lane_paused": _gauge("1 while sending is paused for a mistake of the lane."),
    "kms_connector_tx_sender_replacements_counter": _counter("Transactions replaced with higher fees."),
    "kms_connector_tx_sender_fillers_counter": _counter("Empty transactions that fill a nonce."),
    "kms_connector_tx_sender_gas_used_counter": _counter("Gas of mined transactions."),
    "kms_connector_tx_sender_reverts": _counter("Reverted responses by the contract's error.", "error"),
    "kms_connector_tx_sender_base_fee_wei": _gauge("Base fee of the latest block."),
}
"""Sender."""

PROCESS_METRICS: Mapping[str, Metric] = {
    "kms_connector_dependency_up": _gauge("1 up, 0 down, -1 not asked yet.", "dependency"),
    "kms_connector_dependency_last_success_timestamp_seconds": _gauge("When it last answered.", "dependency"),
    "kms_connector_dependency_faults": _counter("Times it could not be asked.", "dependency"),
    "kms_connector_check_failing": _gauge("1 while the health check fails (docs/metrics.md).", "check", "severity"),
    "kms_connector_alerts": _gauge("Active alerts; their words stand in /healthz and the log."),
    "kms_connector_sibling_in_flight": _gauge("Tasks in hand.", "sibling", "kind"),
    "kms_connector_sibling_restarts": _counter("Restarts after an exception.", "sibling"),
    "kms_connector_owner_epoch": _gauge("Epoch under which this daemon leases rows, 0 while it has none."),
    "kms_connector_event_loop_lag_seconds": _gauge("Worst delay of the event loop since the last but one second."),
    "kms_connector_log_lines_suppressed": _counter("Repeated log lines counted instead of written."),
    "kms_connector_trace_spans": _counter("Trace spans that the collector took or that are lost.", "result"),
    "kms_connector_metric_series_dropped": _counter("Updates of series past the bound of a family.", "family"),
    "kms_connector_build_info": _gauge("Always 1.", "version", "python"),
    "process_cpu_seconds_total": _counter("User and system CPU time."),
    "process_resident_memory_bytes": _gauge("Resident memory."),
    "process_virtual_memory_bytes": _gauge("Virtual memory."),
    "process_open_fds": _gauge("Open file descriptors."),
    "process_max_fds": _gauge("Limit of open file descriptors."),
    "process_threads": _gauge("Threads."),
    "process_start_time_seconds": _gauge("When the process started."),
}
"""The process, its dependencies and its own health."""

GROUPS: Mapping[str, Mapping[str, Metric]] = {
    "As in the Rust connector": REFERENCE_METRICS,
    "Nodes and listener": CHAIN_METRICS,
    "Queue and database": QUEUE_METRICS,
    "Worker": WORKER_METRICS,
    "Sender": SENDER_METRICS,
    "Process and health": PROCESS_METRICS,
}
"""The table by chapter, for `docs/metrics.md`."""

METRICS: Mapping[str, Metric] = {name: metric for group in GROUPS.values() for name, metric in group.items()}
"""Every exported family by its full name."""
