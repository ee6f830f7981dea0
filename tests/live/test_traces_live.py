"""The daemon's traces as a collector sees them: one for each operation, whole, over a real world."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from collector_double import Collector, attributes, collecting

from kmsd.observe.traces import RECEIPT, STAGES, STORED, TRANSACTION
from kmsd.operations.kinds import Kind
from kmsd.sandbox.world import Plan, World

PUBLIC, USER = 3, 2
ALWAYS = {STORED, STAGES["check"], STAGES["send"], STAGES["store"]}
DECRYPTION = {*ALWAYS, STAGES["fetch"], STAGES["await"], TRANSACTION, RECEIPT}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        yield found


def test_each_operation_of_a_daemon_is_one_whole_trace(collector: Collector) -> None:
    with World(Plan(core_latency_ms=20, ceremony_ms=50)) as world:
        world.start_daemon()
        observer = world.observer()
        requester = world.requester()
        requester.prss_init()
        requester.keygen()
        deadline = time.monotonic() + 60.0
        while not observer.active_keys:
            observer.look()
            assert time.monotonic() < deadline, "no key"
            assert world.daemon.alive()
            time.sleep(0.1)
        requester.send(requester.calls(requester.prepare(PUBLIC, USER, observer.active_keys[0]), burst=True))
        collector.wait_for(RECEIPT, PUBLIC + USER + 2, 90.0)
        assert world.stop_daemon() == 0

    traces: dict[bytes, list[object]] = {}
    for span in collector.spans:
        traces.setdefault(span.trace_id, []).append(span)
    kinds: Counter[str] = Counter()
    for spans in traces.values():
        names = {span.name for span in spans}  # type: ignore[attr-defined]
        roots = [span for span in spans if not span.parent_span_id]  # type: ignore[attr-defined]
        assert [root.name for root in roots] == [STORED], names  # type: ignore[attr-defined]
        assert {span.parent_span_id for span in spans if span not in roots} == {roots[0].span_id}  # type: ignore[attr-defined]
        (kind,) = {attributes(span)["kmsd.kind"] for span in spans}
        (request,) = {attributes(span)["kmsd.id"] for span in spans}
        assert names >= ALWAYS, (kind, request, names)
        if kind.endswith("decryption"):
            assert names == DECRYPTION, (kind, request, names)
        kinds[kind] += 1
    assert kinds == {
        Kind.PUBLIC_DECRYPTION: PUBLIC,
        Kind.USER_DECRYPTION: USER,
        Kind.PRSS_INIT: 1,
        Kind.PREP_KEYGEN: 1,
        Kind.KEYGEN: 1,
    }
