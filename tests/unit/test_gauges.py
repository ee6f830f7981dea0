"""The siblings that keep health and gauges true: counting the queue, asking dependencies that nobody uses."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from kmsd.config import Settings
from kmsd.core.pb.grpc.health.v1 import HealthCheckResponse, HealthCheckResponseServingStatus
from kmsd.observe.board import Board
from kmsd.observe.gauges import Gauges
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.probes import Probes
from kmsd.operations.kinds import Kind
from kmsd.ports import (
    Backlog,
    Core,
    CoreAnswer,
    CoreMethod,
    DependencyDown,
    Node,
    QueueCount,
    RpcAnswer,
    RpcCall,
    Shard,
    StatusCode,
    Store,
)

SETTINGS = Settings("postgresql://h/d")


class VirtualTime:
    """The mock clock as wall clock."""

    def now(self) -> float:
        """Unix seconds."""
        return 1e9 + trio.current_time()


@attrs.define
class CountingStore:
    """A store that only counts, and may be down."""

    backlog_now: Backlog
    is_down: bool = False
    asked: int = 0

    async def backlog(self) -> Backlog:
        """The port's verb."""
        self.asked += 1
        if self.is_down:
            raise DependencyDown("database", "connection refused")
        return self.backlog_now

    async def key_registry(self) -> Sequence[Mapping[str, Any]]:
        """The port's verb."""
        return [{"kind": "key", "id": f"{1:064x}", "state": "active"}]


@attrs.define
class BusySibling:
    """A worker or sender that has tasks in hand."""

    in_flight: dict[Kind, int]


async def test_gauges_publish_the_backlog_and_judge_the_database(autojump_clock: trio.testing.MockClock) -> None:
    counts = [
        QueueCount(Kind.PUBLIC_DECRYPTION, False, "pending", 5, 70.0),
        QueueCount(Kind.PUBLIC_DECRYPTION, False, "under_process", 2, 3.0),
        QueueCount(Kind.PUBLIC_DECRYPTION, False, "failed", 9, 99.0),
        QueueCount(Kind.PUBLIC_DECRYPTION, True, "pending", 1, 1.0),
        QueueCount(Kind.KEYGEN, False, "pending", 1, 2.0),
    ]
    store = CountingStore(Backlog(counts, quarantined=3, unconfirmed=1))
    metrics, health = Metrics(), Health(VirtualTime())
    worker, sender = BusySibling({Kind.PUBLIC_DECRYPTION: 4}), BusySibling({Kind.KEYGEN: 7})
    gauges = Gauges(SETTINGS, cast(Store, store), metrics, health, worker, sender, board := Board())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gauges.run)
        await trio.sleep(1)
        depth, age = "kms_connector_queue_depth", "kms_connector_queue_oldest_age_seconds"
        assert metrics.value(depth, "public_decryption", "request", "pending") == 5
        assert metrics.value(depth, "public_decryption", "request", "failed") == 9
        assert metrics.value(age, "public_decryption", "request", "pending") == 70
        assert metrics.value("kms_connector_pending_events", "public_decryption_request") == 7
        assert metrics.value("kms_connector_pending_responses", "public_decryption_response") == 1
        assert metrics.value("kms_connector_quarantined") == 3
        assert metrics.value("kms_connector_ceremonies_unconfirmed") == 1
        assert health.is_up("database")
        assert [key["state"] for key in board.keys or ()] == ["active"]
        assert board.keys_at == health.now() - 1
        metrics.refresh()
        assert metrics.value("kms_connector_sibling_in_flight", "worker", "public_decryption") == 4
        assert metrics.value("kms_connector_sibling_in_flight", "sender", "keygen") == 7

        store.is_down = True
        await trio.sleep(SETTINGS.gauge_update_interval)
        assert not health.is_up("database")
        assert metrics.value(depth, "public_decryption", "request", "pending") == 5  # the last known

        store.is_down = False
        store.backlog_now = Backlog([], 0, 0)
        await trio.sleep(SETTINGS.gauge_update_interval)
        assert health.is_up("database")
        assert metrics.value(depth, "public_decryption", "request", "pending") == 0
        assert metrics.value("kms_connector_pending_events", "public_decryption_request") == 0
        nursery.cancel_scope.cancel()
    assert store.asked == 3


@attrs.define
class ReportingNode:
    """A node that reports by itself, as HttpNode does; it may hang."""

    name: str
    dependency: str
    health: Health
    chain_id: int = 1
    hangs: bool = False
    asked: int = 0

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        """The port's verb."""
        self.asked += 1
        if self.hangs:
            await trio.sleep(deadline)
            self.health.fault(self.dependency, "no answer")
            raise DependencyDown(self.dependency, "no answer")
        self.health.ok(self.dependency)
        return [RpcAnswer("0x1") for _ in calls]


@attrs.define
class AnsweringCore:
    """A Core that answers the health question as told."""

    answer: CoreAnswer
    shards: tuple[Shard, ...] = (Shard(0, "http://c:1"),)

    async def call(self, shard: Shard, method: CoreMethod, request: Any, *, deadline: float) -> CoreAnswer:
        """The port's verb."""
        assert method is CoreMethod.HEALTH
        return self.answer


def serving(status: int) -> CoreAnswer:
    """An answer of the health protocol."""
    return CoreAnswer(StatusCode.OK, HealthCheckResponse(status=HealthCheckResponseServingStatus(status)))


async def run_probes(
    core: AnsweringCore, nodes: Mapping[str, bool], seconds: float
) -> tuple[Health, Metrics, list[ReportingNode]]:
    """Probes over nodes (name → hangs) and a Core for some virtual seconds."""
    health, metrics = Health(VirtualTime()), Metrics()
    gateway = [ReportingNode(name, f"gateway node {name}", health, hangs=hangs) for name, hangs in nodes.items()]
    host = ReportingNode("5", "host chain 5", health)
    probes = Probes(
        SETTINGS,
        cast(Sequence[Node], gateway),
        cast(Mapping[int, Sequence[Node]], {5: [host]}),
        cast(Core, core),
        metrics,
        health,
    )
    assert health.dependencies["core http://c:1"].up is None
    with trio.move_on_after(seconds):
        await probes.run()
    return health, metrics, [*gateway, host]


async def test_probes_ask_what_nobody_uses(autojump_clock: trio.testing.MockClock) -> None:
    health, metrics, (dead, alive, host) = await run_probes(
        AnsweringCore(serving(1)), {"dead": True, "alive": False}, 60.0
    )
    assert not health.is_up("gateway node dead")
    assert health.is_up("gateway node alive")
    assert health.dependencies["host chain 5"].up
    assert health.dependencies["core http://c:1"].up
    assert metrics.value("kms_connector_core_serving", "http://c:1") == 1
    assert alive.asked == host.asked == pytest.approx(60 / SETTINGS.healthcheck_interval, abs=1)
    assert dead.asked >= 5  # a node that hangs delays nobody else


async def test_probes_spare_what_is_in_use(autojump_clock: trio.testing.MockClock) -> None:
    health = Health(VirtualTime())
    node = ReportingNode("a", "gateway node a", health)
    core = AnsweringCore(serving(1))
    probes = Probes(SETTINGS, cast(Sequence[Node], [node]), {}, cast(Core, core), Metrics(), health)
    with trio.move_on_after(30.0):
        async with trio.open_nursery() as nursery:
            health.ok("gateway node a")
            nursery.start_soon(probes.run)
            while True:
                await trio.sleep(1.0)
                health.ok("gateway node a")
    assert node.asked == 0


@pytest.mark.parametrize(
    ("answer", "is_up", "is_serving"),
    [
        (serving(1), True, 1),
        (serving(2), True, 0),  # NOT_SERVING: degraded, never down
        (CoreAnswer(StatusCode.UNIMPLEMENTED, None), True, 0),
        (CoreAnswer(StatusCode.UNAVAILABLE, None, "connection refused"), False, 0),
        (CoreAnswer(StatusCode.DEADLINE_EXCEEDED, None), False, 0),
    ],
)
async def test_what_a_cores_health_answer_means(
    answer: CoreAnswer, is_up: bool, is_serving: int, autojump_clock: trio.testing.MockClock
) -> None:
    health, metrics, _ = await run_probes(AnsweringCore(answer), {}, 1.0)
    assert health.is_up("core http://c:1") is is_up
    assert metrics.value("kms_connector_core_serving", "http://c:1") == is_serving


async def test_a_key_whose_state_changed_is_told_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Registry(CountingStore):
        """A store whose only key changes its state."""

        state = "active"

        async def key_registry(self) -> Sequence[Mapping[str, Any]]:
            """The port's verb."""
            who = {"changed_by": "ann@vault", "reason": "audit"}
            return [{"kind": "key", "id": f"{4 << 248 | 1:064x}", "state": self.state, **who}]

    store = Registry(Backlog([], 0, 0))
    gauges = Gauges(SETTINGS, cast(Store, store), Metrics(), Health(VirtualTime()), None, None, Board())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gauges.run)
        await trio.sleep(3 * SETTINGS.gauge_update_interval)
        assert not caplog.records
        store.state = "suspended"
        await trio.sleep(3 * SETTINGS.gauge_update_interval)
        nursery.cancel_scope.cancel()
    (line,) = [record for record in caplog.records if record.name == "kmsd.gauges"]
    assert line.getMessage() == "key:1 is suspended now, it was active"
    assert (line.__dict__["by"], line.__dict__["reason"]) == ("ann@vault", "audit")
