"""Traces: one for each operation over listener, worker and sender, in the collector; and what happens without one."""

import logging
from collections.abc import Iterator
from typing import Any

import listener_world
import pytest
import sender_world
import worker_world
from collector_double import Collector, attributes, collecting
from listener_world import public_request
from trio.testing import MockClock

from kmsd.clock import SystemEntropy, SystemTime
from kmsd.commands.show import tell
from kmsd.config import Settings
from kmsd.observe import traces
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import OFF, RECEIPT, STAGES, STORED, TRANSACTION, Traces, open_traces
from kmsd.operations.kinds import Kind
from kmsd.redact import KNOWN
from kmsd.store.operator import Story
from kmsd.wire import otlp

HEADER = "secret-of-the-collector"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-api-key={HEADER}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        yield found


def opened(metrics: Metrics | None = None) -> Traces:
    """Traces as the daemon opens them."""
    settings = Settings(database_url="postgresql://unused", gateway_chain_id=1, instance_name="one")
    return open_traces(settings, metrics or Metrics(), SystemTime(), SystemEntropy())


def flush(found: Traces) -> None:
    """Send what there is."""
    assert found._provider is not None
    found._provider.force_flush()


def ids(context: bytes) -> tuple[bytes, bytes]:
    """Trace and span of an `otlp_context`."""
    _, trace_id, span_id, _ = otlp.decode(context)["traceparent"].split("-")
    return bytes.fromhex(trace_id), bytes.fromhex(span_id)


async def test_one_trace_from_the_event_to_the_receipt(collector: Collector, autojump_clock: MockClock) -> None:
    """Each sibling knows the operation by the column alone, so they may be three daemons; each gets its own Traces."""
    listening = listener_world.world()
    listening.traces = opened()
    async with listening.listening():
        await listening.read_up_to(10)
        listening.chain.mine(public_request(1))
        await listening.stored(1)
        await listening.read_up_to(11)
    context = listening.store.rows[Kind.PUBLIC_DECRYPTION, 1 << 248 | 1].arrival.otlp_context

    working = worker_world.World(traces=opened())
    row = working.public(1)
    row.otlp_context = context
    async with working.running():
        await working.until_settled()
    assert row.status == "completed"

    sending = sender_world.World()
    sending.store.add(Kind.PUBLIC_DECRYPTION, sender_world.PUBLIC_BASE + 1).otlp_context = context
    sender_traces = opened()
    async with sending.running(traces=sender_traces):
        await sending.until(sending.all_completed)

    for found in (listening.traces, working.worker._tools.traces, sender_traces):
        flush(found)
    trace_id, root_id = ids(context)
    assert {span.name for span in collector.spans} == {STORED, *STAGES.values(), TRANSACTION, RECEIPT}
    assert len(collector.spans) == 8, "no span twice"
    for span in collector.spans:
        assert span.trace_id == trace_id, span.name
        assert (span.span_id == root_id) == (span.name == STORED)
        assert span.parent_span_id == (b"" if span.name == STORED else root_id), span.name
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert attributes(span)["kmsd.kind"] == "public_decryption"
        assert span.status.code == 0, span.status
    assert attributes(collector.named(STAGES["store"])[0])["kmsd.outcome"] == "Answered"
    assert attributes(collector.named(RECEIPT)[0])["kmsd.tx"].startswith("0x")
    assert attributes(collector.named(STORED)[0])["kmsd.block"] == 11
    assert collector.paths == ["/v1/traces"] * len(collector.paths)
    assert collector.headers[0]["x-api-key"] == HEADER
    assert collector.resources[0]["service.name"] == "kmsd"
    assert collector.resources[0]["service.instance.id"] == "one"


async def test_no_payload_leaves_in_a_span(collector: Collector, autojump_clock: MockClock) -> None:
    working = worker_world.World(traces=opened())
    row = working.user(1)
    row.otlp_context = opened().begin(SystemEntropy())
    async with working.running():
        await working.until_settled()
    flush(working.worker._tools.traces)
    assert row.fields is not None
    sent = b"".join(collector.bodies)
    assert len(collector.spans) == 5
    for name, value in row.fields.items():
        assert (
            not isinstance(value, bytes) or len(value) < 8 or (value not in sent and value.hex().encode() not in sent)
        ), name
    assert row.event.public_key not in sent
    assert worker_world.USER not in sent


async def test_a_failed_stage_says_why_without_secrets(collector: Collector, autojump_clock: MockClock) -> None:
    KNOWN.add("hunter2-hunter2")
    found = opened()
    working = worker_world.World(traces=found, max_decryption_attempts=1)
    row = working.public(1, allowed=False)
    row.otlp_context = found.begin(SystemEntropy())
    async with working.running():
        await working.until_settled()
    found.span(row.otlp_context, TRANSACTION, 0.1, {}, "the node says: no such key hunter2-hunter2")
    flush(found)
    assert row.status == "failed"
    (check,) = collector.named(STAGES["check"])
    assert check.status.code == 2
    assert "not allowed" in check.status.message or "denied" in check.status.message
    assert attributes(collector.named(STAGES["store"])[0])["kmsd.outcome"] == "Failed"
    assert collector.named(TRANSACTION)[0].status.message == "the node says: no such key ***"


async def test_duplicates_begin_no_trace(collector: Collector, autojump_clock: MockClock) -> None:
    """What a second node reports again is stored once, and has one first span."""
    listening = listener_world.world(nodes=2)
    listening.traces = opened()
    async with listening.listening():
        await listening.read_up_to(10)
        listening.chain.mine(public_request(1), public_request(2))
        await listening.read_up_to(11)
    flush(listening.traces)
    contexts = [row.arrival.otlp_context for row in listening.store.rows.values()]
    assert {(span.trace_id, span.span_id) for span in collector.spans} == set(map(ids, contexts))
    assert len(collector.spans) == 2


def test_the_sampler_decides_at_the_event(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    found = opened()
    contexts = [found.begin(SystemEntropy()) for _ in range(400)]
    for context in contexts:
        found.root(context, 0.1, {})
        found.span(context, TRANSACTION, 0.1, {})
    flush(found)
    chosen = {ids(context) for context in contexts if otlp.decode(context)["traceparent"].endswith("-01")}
    assert 40 < len(chosen) < 200
    assert {(span.trace_id, span.span_id) for span in collector.named(STORED)} == chosen
    assert {(span.trace_id, span.parent_span_id) for span in collector.named(TRANSACTION)} == chosen


@pytest.mark.parametrize("context", [otlp.EMPTY, b"", b"trace", otlp.encode({"traceparent": "00-zz-1-01"})])
def test_rows_without_a_readable_trace_make_no_span(context: bytes, collector: Collector) -> None:
    found = opened()
    found.span(context, TRANSACTION, 0.1, {})
    found.root(context, 0.1, {})
    flush(found)
    assert collector.spans == []


async def test_a_collector_that_refuses_costs_spans_and_is_counted(collector: Collector) -> None:
    collector.status = 400
    metrics = Metrics()
    found = opened(metrics)
    context = found.begin(SystemEntropy())
    found.root(context, 0.1, {})
    await found.close()
    metrics.refresh()
    assert metrics.value("kms_connector_trace_spans", "lost") == 1
    assert metrics.value("kms_connector_trace_spans", "exported") == 0


def test_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert opened() is OFF
    assert not OFF.on
    OFF.span(OFF.begin(SystemEntropy()), TRANSACTION, 0.1, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
)
def test_switched_off(name: str, value: str, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert opened() is OFF


def test_without_the_extra_it_says_so_and_goes_on(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*arguments: Any) -> Any:
        raise ImportError("No module named 'opentelemetry'")

    monkeypatch.setattr(traces, "_provider", missing)
    with caplog.at_level(logging.WARNING, "kmsd.traces"):
        assert opened() is OFF
    assert "pip install 'kmsd[traces]'" in caplog.text


def test_the_port_of_grpc_is_warned_about(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    with caplog.at_level(logging.WARNING, "kmsd.traces"):
        opened()
    assert "4318" in caplog.text


def test_the_collectors_key_is_a_known_secret(collector: Collector) -> None:
    opened()
    assert HEADER not in KNOWN(f"refused: {HEADER}")


@pytest.mark.parametrize(
    ("request_context", "response_context", "told"),
    [
        (
            "0x" + otlp.encode({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}).hex(),
            None,
            True,
        ),
        (
            None,
            "0x" + otlp.encode({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}).hex(),
            True,
        ),
        ("0x" + otlp.EMPTY.hex(), "0x" + otlp.EMPTY.hex(), False),
        ("0x6e6f", None, False),
    ],
)
def test_the_story_of_a_request_names_its_trace(
    request_context: str | None, response_context: str | None, told: bool
) -> None:
    def row(context: str | None) -> dict[str, Any] | None:
        return None if context is None else {"status": "pending", "last_error": None, "otlp_context": context}

    story = Story(
        Kind.PUBLIC_DECRYPTION,
        1 << 248 | 1,
        row(request_context),
        row(response_context),
        transactions=(),
        rejected=(),
        sightings=(),
        withdrawn=(),
        quarantined=(),
        divergence=None,
        key_changes=(),
        actions=(),
        finished_long_ago=False,
    )
    assert ("  trace 4bf92f3577b34da6a3ce929d0e0e4736" in tell(story, everything=False)) is told
