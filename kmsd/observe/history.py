"""The last quarter of an hour of rates and latencies, for the plots of the status page.

A sample every few seconds in a ring: counters as what was counted since the sample before, latencies as quantiles of
the observations of a sliding window, read off the buckets of the histograms.
"""

import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kmsd.observe.metrics import Metrics
from kmsd.operations.table import DECRYPTIONS
from kmsd.ports import Time

STEP = 5.0
"""Seconds between samples."""
POINTS = 180
"""Samples kept."""
WINDOW = 6
"""Samples whose observations are taken together for a point of a latency plot."""
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

RATES: Mapping[str, tuple[str, ...]] = {
    "heard": ("kms_connector_gw_listener_event_received_counter",),
    "answered": ("kms_connector_worker_grpc_response_polled_counter",),
    "accepted": ("kms_connector_tx_sender_gateway_tx_sent_counter",),
    "retried": ("kms_connector_retries",),
    "failed": ("kms_connector_failures",),
}
"""Plotted rates, and the counters whose series are added up for each."""
LATENCIES: Mapping[str, str] = {
    "answer": "kms_connector_worker_decryption_latency_seconds",
    "forward": "kms_connector_tx_sender_response_forwarding_latency_seconds",
}
"""Plotted latencies, and their histograms."""
STAGES = "kms_connector_stage_seconds"

Counts = tuple[int, ...]


def quantile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """The q-quantile in seconds of observations in buckets (`counts` has one more, +Inf), linear within a bucket.

    None without observations; those beyond the last bound count as that bound.
    """
    total = sum(counts)
    if not total:
        return None
    rank = q * total
    running = list(itertools.accumulate(counts))
    index = bisect_left(running, rank)
    if index >= len(bounds):
        return float(bounds[-1])
    lower = bounds[index - 1] if index else 0.0
    before = running[index - 1] if index else 0
    share = (rank - before) / counts[index] if counts[index] else 1.0
    return float(lower + (bounds[index] - lower) * share)


class History:
    """A ring of samples of `metrics`; `sample` must be called every STEP seconds."""

    def __init__(self, metrics: Metrics, time: Time) -> None:
        self._metrics = metrics
        self._time = time
        self._last_totals = {name: self._total(families) for name, families in RATES.items()}
        self._rates: dict[str, deque[float]] = {name: deque(maxlen=POINTS) for name in RATES}
        self._histograms: dict[str, deque[Counts]] = {
            name: deque([self._counts(family)], maxlen=WINDOW + 1) for name, family in LATENCIES.items()
        }
        self._latencies: dict[str, dict[str, deque[float | None]]] = {
            name: {quantile_name: deque(maxlen=POINTS) for quantile_name in QUANTILES} for name in LATENCIES
        }
        self._stages: deque[Mapping[tuple[str, ...], Counts]] = deque([self._stage_counts()], maxlen=POINTS + 1)
        self._at = time.now()

    def sample(self) -> None:
        """Take a sample."""
        now = self._time.now()
        seconds = max(0.001, now - self._at)
        self._at = now
        for name, families in RATES.items():
            total = self._total(families)
            self._rates[name].append(max(0.0, total - self._last_totals[name]) / seconds)
            self._last_totals[name] = total
        for name, family in LATENCIES.items():
            ring = self._histograms[name]
            ring.append(self._counts(family))
            seen = _difference(ring[-1], ring[0])
            bounds, _ = self._metrics.buckets(family)
            for quantile_name, q in QUANTILES.items():
                self._latencies[name][quantile_name].append(quantile(bounds, seen, q))
        self._stages.append(self._stage_counts())

    def document(self) -> dict[str, Any]:
        """Samples for the page, oldest first: rates per second, latencies in seconds (null: nothing observed)."""
        return {
            "step_seconds": STEP,
            "points": POINTS,
            "at": self._at,
            "rates": {name: [round(value, 3) for value in ring] for name, ring in self._rates.items()},
            "latencies": {
                name: {
                    quantile_name: [None if value is None else round(value, 4) for value in ring]
                    for quantile_name, ring in rings.items()
                }
                for name, rings in self._latencies.items()
            },
            "stages": self._stage_document(),
        }

    def _stage_document(self) -> list[dict[str, Any]]:
        """Quantiles of each stage of the two kinds of decryption over everything that the ring covers."""
        bounds, _ = self._metrics.buckets(STAGES)
        newest, oldest = self._stages[-1], self._stages[0]
        found = []
        for labels, counts in newest.items():
            stage, kind = labels
            seen = _difference(counts, oldest.get(labels, (0,) * len(counts)))
            if sum(seen) and kind in _DECRYPTION_KINDS:
                quantiles = {name: round(quantile(bounds, seen, q) or 0.0, 4) for name, q in QUANTILES.items()}
                found.append({"stage": stage, "kind": kind, "observations": sum(seen), **quantiles})
        return found

    def _total(self, families: Iterable[str]) -> float:
        return sum(sum(self._metrics.series(family).values()) for family in families)

    def _counts(self, family: str) -> Counts:
        """Observations of all series of a histogram together."""
        bounds, series = self._metrics.buckets(family)
        together = [0] * (len(bounds) + 1)
        for counts in series.values():
            for index, count in enumerate(counts):
                together[index] += count
        return tuple(together)

    def _stage_counts(self) -> Mapping[tuple[str, ...], Counts]:
        _, series = self._metrics.buckets(STAGES)
        return {labels: tuple(counts) for labels, counts in series.items()}


_DECRYPTION_KINDS = frozenset(kind.value for kind in DECRYPTIONS)


def _difference(newer: Sequence[int], older: Sequence[int]) -> Counts:
    return tuple(max(0, new - old) for new, old in zip(newer, older, strict=True))
