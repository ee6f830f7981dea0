"""One OpenTelemetry trace for each operation, from the stored event to the receipt, over all daemons that touch it.

The trace travels in the column `otlp_context` of requests and responses, as the Rust connector's does: a trace that
one of the two began goes on in the other. Spans are made when they are over, so nothing is held open in between.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) is set and `kmsd[traces]` is installed:
the libraries are imported only then, and until then a span costs one look at `Traces.on`. Every other OTEL_ variable
means what the OpenTelemetry specification says (headers, certificates, sampler, queue, resource attributes). Spans go
out as OTLP over HTTP from a thread with a bounded queue: a collector that is down costs spans, never work.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from kmsd import version
from kmsd.config import Settings
from kmsd.observe.metrics import Metrics
from kmsd.ports import Entropy, Time
from kmsd.redact import KNOWN, url_secrets
from kmsd.wire import otlp
from kmsd.wire.errors import WireError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext

log = logging.getLogger("kmsd.traces")

STORED = "event stored"
"""The root: from the decoded log to the commit."""
TRANSACTION = "transaction"
"""From the claim of a response to its signed, journaled transaction."""
RECEIPT = "receipt"
"""From the signed transaction to the settled receipt."""
STAGES: Mapping[str, str] = {
    "check": "access check",
    "fetch": "download",
    "send": "core send",
    "await": "core poll",
    "store": "response stored",
}
"""Span of each stage of the worker. `response stored` says in `kmsd.outcome` how the try ended: not all have one."""

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
GRPC_PORT = ":4317"
"""Where collectors expect OTLP over gRPC, which kmsd does not speak; OTLP over HTTP has port 4318."""
FLUSH = 2.0
"""Seconds that the last spans get when the daemon ends."""
MAX_WORDS = 300
"""Characters of an error in a span."""


class Traces:
    """Makes spans; without a provider it makes none."""

    def __init__(self, time: Time | None = None, provider: "TracerProvider | None" = None) -> None:
        self._time = time
        self._provider = provider
        self._tracer = provider.get_tracer("kmsd", version.VERSION) if provider is not None else None
        self.on = provider is not None
        """Are spans wanted at all?"""

    def begin(self, entropy: Entropy) -> bytes:
        """The `otlp_context` of a new operation: a W3C `traceparent` with random ids; the sampler sets its flag."""
        token = entropy.token(24)
        sampled = True
        if self._provider is not None:
            trace_id = int.from_bytes(token[:16], "big")
            sampled = self._provider.sampler.should_sample(None, trace_id, STORED).decision.name != "DROP"
        return otlp.encode({"traceparent": f"00-{token[:16].hex()}-{token[16:].hex()}-{'01' if sampled else '00'}"})

    def root(self, context: bytes, seconds: float, facts: Mapping[str, Any]) -> None:
        """The first span of an operation, which `context` names; it ends now and took `seconds`."""
        parent = _span_context(context) if self.on else None
        if parent is None or not parent.trace_flags.sampled:
            return
        from opentelemetry.context import Context

        self._provider.id_generator.preset = parent  # type: ignore[union-attr]
        self._emit(STORED, Context(), seconds, facts, "")

    def span(self, context: bytes, name: str, seconds: float, facts: Mapping[str, Any], error: str = "") -> None:
        """A span of the operation that `context` names; it ends now, took `seconds`, and failed if `error` says so."""
        parent = _span_context(context) if self.on else None
        if parent is None or not parent.trace_flags.sampled:
            return
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        self._emit(name, set_span_in_context(NonRecordingSpan(parent)), seconds, facts, error)

    async def close(self) -> None:
        """Send what is left, for a moment at most."""
        if self._provider is not None:
            with trio.move_on_after(FLUSH, shield=True):
                await trio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)

    def _emit(self, name: str, context: Any, seconds: float, facts: Mapping[str, Any], error: str) -> None:
        assert self._tracer is not None
        assert self._time is not None
        end = int(self._time.now() * 1e9)
        attributes = {f"kmsd.{key}": value for key, value in facts.items() if value is not None}
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=end - int(seconds * 1e9))
        if error:
            from opentelemetry.trace import Status, StatusCode

            span.set_status(Status(StatusCode.ERROR, KNOWN(error)[:MAX_WORDS]))
        span.end(end)


OFF = Traces()
"""No traces."""


def open_traces(
    settings: Settings, metrics: Metrics, time: Time, entropy: Entropy, environment: Mapping[str, str] = os.environ
) -> Traces:
    """What the OTEL_ variables ask for. Never raises: traces are not worth a daemon that does not start."""
    endpoint = _first(environment, ENDPOINTS)
    if not endpoint or "none" in environment.get("OTEL_TRACES_EXPORTER", "") or _is_disabled(environment):
        return OFF
    KNOWN.add(*url_secrets(endpoint), *_header_values(environment))
    protocol = _first(environment, PROTOCOLS)
    if protocol == "grpc" or (not protocol and endpoint.rstrip("/").endswith(GRPC_PORT)):
        log.warning(
            "traces are sent as OTLP over HTTP, not gRPC: the endpoint must be the collector's HTTP receiver, "
            "usually port 4318 (set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf to say that it is)"
        )
    try:
        provider = _provider(settings, metrics, entropy, environment)
    except ImportError as error:
        log.warning("an OTLP endpoint is set, but no traces are sent (pip install 'kmsd[traces]'): %s", error)
        return OFF
    except Exception as error:
        log.warning("no traces are sent: the OTEL_ variables cannot be used: %s", error)
        return OFF
    log.info("traces are sent")
    return Traces(time, provider)


def _provider(
    settings: Settings, metrics: Metrics, entropy: Entropy, environment: Mapping[str, str]
) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class Counted(SpanExporter):
        """Counts what the collector took and what is lost, in the exporting thread; `/metrics` reads the numbers."""

        def __init__(self) -> None:
            self._to = OTLPSpanExporter()
            self.exported = self.lost = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = self._to.export(spans)
            if result is SpanExportResult.SUCCESS:
                self.exported += len(spans)
            else:
                self.lost += len(spans)
            return result

        def shutdown(self) -> None:
            self._to.shutdown()  # type: ignore[no-untyped-call]

    class Ids(IdGenerator):
        """Ids from the daemon's entropy, but those of `preset` for the next root."""

        preset: "SpanContext | None" = None

        def generate_trace_id(self) -> int:
            return self.preset.trace_id if self.preset is not None else int.from_bytes(entropy.token(16), "big")

        def generate_span_id(self) -> int:
            preset, self.preset = self.preset, None
            return preset.span_id if preset is not None else int.from_bytes(entropy.token(8), "big")

    resource = Resource.create(
        {
            "service.name": environment.get("OTEL_SERVICE_NAME") or settings.service_name,
            "service.version": version.VERSION,
            "service.instance.id": settings.instance_name,
        }
    )
    provider = TracerProvider(resource=resource, id_generator=Ids(), shutdown_on_exit=False)
    exporter = Counted()
    provider.add_span_processor(BatchSpanProcessor(exporter))

    def publish() -> None:
        metrics.total("kms_connector_trace_spans", float(exporter.exported), "exported")
        metrics.total("kms_connector_trace_spans", float(exporter.lost), "lost")

    metrics.on_read(publish)
    return provider


def _span_context(column: bytes) -> "SpanContext | None":
    """The context in an `otlp_context`; None where a row has none, or none that can be read."""
    from opentelemetry.trace import SpanContext, TraceFlags

    try:
        _, trace_id, span_id, flags = otlp.decode(column).get("traceparent", "").split("-")[:4]
        found = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    except (WireError, ValueError):
        return None
    return found if found.is_valid else None


def _first(environment: Mapping[str, str], names: Sequence[str]) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _is_disabled(environment: Mapping[str, str]) -> bool:
    return environment.get("OTEL_SDK_DISABLED", "").lower() == "true"


def _header_values(environment: Mapping[str, str]) -> list[str]:
    pairs = ",".join(environment.get(name, "") for name in HEADERS).split(",")
    return [pair.partition("=")[2] for pair in pairs if "=" in pair]
