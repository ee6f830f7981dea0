"""What the status page is fed with: one document made of facts in memory, there at once whatever hangs (PR3)."""

from collections.abc import Mapping
from typing import Any

from kmsd.observe import status
from kmsd.observe.board import Board
from kmsd.observe.health_checks import View
from kmsd.observe.history import History
from kmsd.observe.recent import RECENT
from kmsd.redact import KNOWN
from kmsd.wire.ids import short

SHOWN = (
    *("node_head_block", "node_head_timestamp_seconds", "listener_cursor_block", "listener_lag_blocks"),
    *("listener_scan_timestamp_seconds", "queue_depth", "queue_oldest_age_seconds", "quarantined", "in_flight"),
    *("core_window", "core_in_flight", "core_paused", "core_serving", "ciphertext_budget_used_bytes"),
    *("ciphertext_budget_limit_bytes", "ceremonies_unconfirmed", "divergences", "tx_sender_balance_wei"),
    *("tx_sender_nonce", "tx_sender_chain_nonce", "tx_sender_in_flight", "tx_sender_window"),
    *("tx_sender_oldest_unmined_seconds", "tx_sender_lane_held", "tx_sender_lane_paused", "tx_sender_base_fee_wei"),
    *("tx_sender_replacements_counter", "tx_sender_gateway_tx_sent_counter", "sibling_in_flight", "retries"),
    *("failures", "event_loop_lag_seconds", "owner_epoch"),
)
"""Metrics that the page shows, without their prefix."""
PREFIX = "kms_connector_"
MAX_KEYS = 200
"""Keys and CRSs sent to the page, the newest."""


def document(view: View, board: Board, history: History) -> dict[str, Any]:
    """Health, metrics by their short names, plots, keys and last errors, without secrets. Instants in Unix seconds."""
    names = [PREFIX + name for name in SHOWN]
    now = view.health.now()
    keys = board.keys
    found: dict[str, Any] = {
        "now": now,
        "healthz": status.healthz(view),
        "metrics": {name.removeprefix(PREFIX): series for name, series in status.gauges(view, names).items()},
        "history": history.document(),
        "recent": RECENT.lines(),
        "wallet": board.wallet,
        "keys": None if keys is None else [{"name": short(int(key["id"], 16)), **key} for key in keys[-MAX_KEYS:]],
        "keys_age_seconds": None if board.keys_at is None else round(now - board.keys_at, 1),
    }
    cleaned = without_secrets(found)
    assert isinstance(cleaned, dict)
    return cleaned


def without_secrets(value: Any) -> Any:
    """JSON values of `value`, every text through the redactor; integers beyond 2^53 as hexadecimal text."""
    if isinstance(value, str):
        return KNOWN(value)
    if isinstance(value, Mapping):
        return {KNOWN(str(key)): without_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return hex(value)
    return value
