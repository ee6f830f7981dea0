"""Counters, gauges and histograms of the daemon, kept in plain dictionaries and written as Prometheus text.

An update costs well under two microseconds, so hot paths may count freely. The text is our own because the client
library appends `_total` to every counter, and the names of the Rust connector (reference-connector.md 1.7) have none.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kmsd.observe.metric_table import LABEL_VALUES, METRICS, Metric, MetricType

__all__ = ["CONTENT_TYPE", "LABEL_VALUES", "MAX_SERIES", "METRICS", "Metric", "MetricType", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What `Metrics.text` is."""

MAX_SERIES = 2_000
"""Series of one family: label values such as bucket names come from outside, and what grows has a bound."""

Labels = tuple[str, ...]


class _Histogram:
    """Observations of one series: a count per bucket (the last one is +Inf) and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0


class Metrics:
    """All series of the process. Unknown names, and `set` on a counter, raise KeyError; wrong label counts ValueError.

    `values` gives values of labels that only the configuration knows (`{"node": ["main"]}`), so that their series
    are exported from the start too.
    """

    def __init__(self, values: Mapping[str, Sequence[str]] | None = None) -> None:
        self._numbers: dict[str, dict[Labels, float]] = {}
        self._gauges: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, tuple[tuple[float, ...], dict[Labels, _Histogram]]] = {}
        self._hooks: list[Callable[[], None]] = []
        for name, metric in METRICS.items():
            if metric.type is MetricType.HISTOGRAM:
                self._histograms[name] = (metric.buckets, {})
            else:
                self._numbers[name] = {}
                if metric.type is MetricType.GAUGE:
                    self._gauges[name] = self._numbers[name]
        self.declare(values or {})

    def declare(self, values: Mapping[str, Sequence[str]], families: Iterable[str] = METRICS) -> None:
        """Export zero for every series of `families` whose labels have known values, here or in LABEL_VALUES."""
        for name in families:
            metric = METRICS[name]
            known = [metric.only.get(label) or values.get(label) or LABEL_VALUES.get(label) for label in metric.labels]
            for labels in itertools.product(*(choices or () for choices in known)):
                if metric.type is MetricType.HISTOGRAM:
                    buckets, series = self._histograms[name]
                    series.setdefault(labels, _Histogram(len(buckets)))
                else:
                    self._numbers[name].setdefault(labels, 0.0)

    def inc(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Add `by` to a counter or gauge (negative: gauges only)."""
        series = self._numbers[name]
        try:
            series[labels] += by
        except KeyError:
            if self._admit(name, labels, series):
                series[labels] = by

    def set(self, name: str, value: float, *labels: str) -> None:
        """Give a gauge its value."""
        series = self._gauges[name]
        if labels in series or self._admit(name, labels, series):
            series[labels] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add one observation (seconds, items) to a histogram."""
        buckets, series = self._histograms[name]
        histogram = series.get(labels)
        if histogram is None:
            if not self._admit(name, labels, series):
                return
            histogram = series[labels] = _Histogram(len(buckets))
        histogram.counts[bisect_left(buckets, value)] += 1
        histogram.total += value

    def replace(self, name: str, values: Mapping[Labels, float]) -> None:
        """Give all series of a gauge their values at once; series that `values` does not name become 0."""
        series = self._gauges[name]
        for labels in series:
            series[labels] = 0.0
        for labels, value in values.items():
            self.set(name, value, *labels)

    def forget(self, name: str, *labels: str) -> None:
        """Stop exporting one series (a bucket or node that is no longer used)."""
        if name in self._histograms:
            self._histograms[name][1].pop(labels, None)
        else:
            self._numbers[name].pop(labels, None)

    def total(self, name: str, value: float, *labels: str) -> None:
        """Give a counter the total that somebody else counts (CPU time, faults of a dependency)."""
        series = self._numbers[name]
        if labels in series or self._admit(name, labels, series):
            series[labels] = value

    def value(self, name: str, *labels: str) -> float:
        """Present value of a counter or gauge series, or the number of observations of a histogram's; 0 if absent."""
        if name in self._histograms:
            histogram = self._histograms[name][1].get(labels)
            return float(sum(histogram.counts)) if histogram else 0.0
        return self._numbers[name].get(labels, 0.0)

    def series(self, name: str) -> Mapping[Labels, float]:
        """All series of a counter or gauge; of a histogram the number of observations."""
        if name in self._histograms:
            return {labels: float(sum(h.counts)) for labels, h in self._histograms[name][1].items()}
        return self._numbers[name]

    def buckets(self, name: str) -> tuple[tuple[float, ...], Mapping[Labels, Sequence[int]]]:
        """Upper bounds of a histogram's buckets, and the observations in each (one more for +Inf) of every series."""
        bounds, series = self._histograms[name]
        return bounds, {labels: histogram.counts for labels, histogram in series.items()}

    def on_read(self, hook: Callable[[], None]) -> None:
        """Call `hook` before the text is written: for values that cost something or live elsewhere."""
        self._hooks.append(hook)

    def refresh(self) -> None:
        """Run the hooks of `on_read`."""
        for hook in self._hooks:
            hook()

    def text(self) -> bytes:
        """All families in Prometheus text format 0.0.4."""
        self.refresh()
        return "".join(self._lines()).encode()

    def _admit(self, name: str, labels: Labels, series: Mapping[Labels, object]) -> bool:
        """May a series of `labels` be added? Raises ValueError when their number is wrong."""
        if len(labels) != len(METRICS[name].labels):
            raise ValueError(f"{name} has the labels {METRICS[name].labels}, got {labels}")
        if len(series) < MAX_SERIES:
            return True
        self.inc("kms_connector_metric_series_dropped", name)
        return False

    def _lines(self) -> Iterator[str]:
        for name, metric in METRICS.items():
            yield f"# HELP {name} {_escape_help(metric.help)}\n# TYPE {name} {metric.type.value}\n"
            if metric.type is MetricType.HISTOGRAM:
                buckets, histograms = self._histograms[name]
                for labels, histogram in histograms.items():
                    yield from _histogram_lines(name, metric.labels, labels, buckets, histogram)
            else:
                for labels, value in self._numbers[name].items():
                    yield f"{name}{_braces(metric.labels, labels)} {_number(value)}\n"


def _histogram_lines(
    name: str, label_names: Labels, labels: Labels, buckets: tuple[float, ...], histogram: _Histogram
) -> Iterator[str]:
    plain = _pairs(label_names, labels)
    before = plain + "," if plain else ""
    running = 0
    for bound, count in zip((*map(_number, buckets), "+Inf"), histogram.counts, strict=True):
        running += count
        yield f'{name}_bucket{{{before}le="{bound}"}} {running}\n'
    braces = f"{{{plain}}}" if plain else ""
    yield f"{name}_sum{braces} {_number(histogram.total)}\n{name}_count{braces} {running}\n"


def _pairs(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escape(str(value))}"' for name, value in zip(names, values, strict=True))


def _braces(names: Labels, values: Labels) -> str:
    return f"{{{_pairs(names, values)}}}" if names else ""


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
