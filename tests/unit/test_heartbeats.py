"""Signs of life: what is stuck is noticed and starves the watchdog; what waits for a dependency is alive."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import listener_world
import pytest
import sender_world
import trio
import worker_world
from trio.testing import MockClock

from kmsd.clock import SystemTime
from kmsd.config import Settings
from kmsd.gc import Gc
from kmsd.observe.health import Health
from kmsd.observe.health_checks import View, evaluate
from kmsd.observe.heartbeats import PATIENCE, Heartbeats
from kmsd.observe.metrics import Metrics
from kmsd.observe.monitoring import Monitoring
from kmsd.operations.kinds import Kind
from kmsd.ports import DependencyDown
from kmsd.wakeups import WakeUps

LONG = 1.5 * PATIENCE


async def test_a_loop_is_silent_once_its_time_is_over(autojump_clock: MockClock) -> None:
    hearts = Heartbeats()
    assert hearts.silent() == ()
    hearts.beat("worker claims keygen", within=10.0)
    hearts.beat("gc", within=20.0)
    await trio.sleep(15.0)
    assert [one.loop for one in hearts.silent()] == ["worker claims keygen"]
    await trio.sleep(15.0)
    assert [(one.loop, round(one.overdue)) for one in hearts.silent()] == [("worker claims keygen", 20), ("gc", 10)]
    hearts.beat("gc")
    hearts.forget("worker")
    assert hearts.silent() == []
    hearts.rest("gc")
    await trio.sleep(LONG)
    assert hearts.silent() == ()


def test_what_is_stuck_is_a_critical_finding() -> None:
    async def findings() -> list[str]:
        health = Health(SystemTime())
        health.heartbeats.beat("worker claims keygen", within=-5.0)
        view = View(health, Metrics(), ())
        return [f"{found.check.severity} {found.check.name} {found.words}" for found in evaluate(view)]

    (found,) = [words for words in trio.run(findings) if "stuck" in words]
    assert found.startswith("critical stuck worker claims keygen: no sign of life for 5 s")


@asynccontextmanager
async def always(check: Callable[[], Any]) -> AsyncIterator[None]:
    """`check` holds every ten seconds of virtual time while the block runs."""

    async def look() -> None:
        while True:
            await trio.sleep(10.0)
            check()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        yield
        nursery.cancel_scope.cancel()


def alive(health: Health) -> Callable[[], None]:
    """Asserts that no loop is silent."""

    def check() -> None:
        assert not health.heartbeats.silent()

    return check


async def test_a_listener_that_waits_for_nodes_and_database_is_alive(autojump_clock: MockClock) -> None:
    world = listener_world.world(nodes=2)
    async with world.listening(), always(alive(world.health)):
        await world.read_up_to(5)
        await trio.sleep(LONG)  # a chain that stands still
        world.nodes[0].down = world.nodes[1].down = True
        await trio.sleep(LONG)
        world.nodes[0].down = world.nodes[1].down = False
        world.store.down = True
        await trio.sleep(LONG)


async def test_a_worker_that_waits_for_its_dependencies_is_alive(autojump_clock: MockClock) -> None:
    world = worker_world.World(task_limit=2)
    for number in range(1, 8):
        world.public(number)
    world.core.down = True
    async with world.running(), always(alive(world.health)):
        await trio.sleep(LONG)  # hands full, the Core away
        world.store.down = True
        await trio.sleep(LONG)


async def test_a_worker_with_full_hands_is_alive(autojump_clock: MockClock) -> None:
    world = worker_world.World(task_limit=1)
    for number in range(1, 4):
        world.public(number)

    async def for_long(*arguments: Any, **named: Any) -> Any:
        await trio.sleep_forever()

    world.core.call = for_long  # type: ignore[method-assign]
    async with world.running(), always(alive(world.health)):
        await trio.sleep(2 * LONG)
        assert sum(world.worker.in_flight.values()) == 1


async def test_a_sender_that_waits_for_its_dependencies_is_alive(autojump_clock: MockClock) -> None:
    world = sender_world.World()
    async with world.running(), always(alive(world.health)):
        await trio.sleep(LONG)
        world.nodes[0].down = True
        await trio.sleep(LONG)
        world.store.down = True
        await trio.sleep(LONG)


async def test_a_claim_that_never_comes_back_is_noticed(autojump_clock: MockClock) -> None:
    """A verb without its deadline: no dependency is waited for, something of ours is broken."""
    world = worker_world.World()

    async def for_ever(*arguments: Any) -> Any:
        await trio.sleep_forever()

    world.store.claim = for_ever  # type: ignore[method-assign]
    async with world.running():
        await trio.sleep(PATIENCE / 2)
        assert not world.health.heartbeats.silent()
        await trio.sleep(PATIENCE)
        stuck = {one.loop for one in world.health.heartbeats.silent()}
    assert stuck == {f"worker claims {kind.value}" for kind in (Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION)}


async def test_a_stuck_sender_and_a_stuck_reader_are_noticed(autojump_clock: MockClock) -> None:
    async def for_ever(*arguments: Any, **named: Any) -> Any:
        await trio.sleep_forever()

    sending, listening = sender_world.World(), listener_world.world()
    listening.store.record_range = for_ever  # type: ignore[method-assign]
    sending.nodes[0].batch = for_ever  # type: ignore[method-assign]
    async with sending.running(), listening.listening():
        await trio.sleep(PATIENCE + 60.0)
        assert any(one.loop.startswith("sender ") for one in sending.health.heartbeats.silent())
        assert {one.loop for one in listening.health.heartbeats.silent()} == {
            "listener main decryption",
            "listener main key_management",
        }


async def test_gc_is_heard_of(autojump_clock: MockClock) -> None:
    class Store:
        """Expires for ever, in batches."""

        async def reclaim(self, *, unowned_after: float) -> list[Any]:
            """The port's verb."""
            await trio.sleep(15.0)
            return []

        async def expire(self, **limits: float) -> int:
            """The port's verb; each batch takes long."""
            await trio.sleep(PATIENCE - 10.0)
            return 2_000

    hearts = Heartbeats()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Gc(Settings("postgresql://h/d"), Store(), WakeUps(), Metrics(), hearts).run)  # type: ignore[arg-type]
        for _ in range(100):
            await trio.sleep(60.0)
            assert not hearts.silent()
        nursery.cancel_scope.cancel()


async def test_the_watchdog_is_fed_while_dependencies_are_down_and_not_when_something_is_stuck(tmp_path: Path) -> None:
    """On a real socket, as systemd has it."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(10.0)
        health = Health(SystemTime())
        settings = Settings("postgresql://h/d", monitoring_endpoint="127.0.0.1:0")
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "100000"}
        made = Monitoring(settings, Metrics(), health, environment)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            health.fault("database", str(DependencyDown("database", "gone")))
            await _until_told(systemd, "WATCHDOG=1")
            await _until_told(systemd, "WATCHDOG=1")
            health.heartbeats.beat("worker claims keygen", within=-1.0)
            made.stopping()
            await _until_told(systemd, "STOPPING=1")
            # One that was on its way may still come; then none.
            systemd.setblocking(False)
            await trio.sleep(0.2)
            _told(systemd)
            for _ in range(4):
                await trio.sleep(0.1)
                assert "WATCHDOG=1" not in _told(systemd)
            health.heartbeats.forget("worker")
            systemd.settimeout(10.0)
            await _until_told(systemd, "WATCHDOG=1")
            nursery.cancel_scope.cancel()
        made.stopped()


async def _until_told(systemd: socket.socket, words: str) -> None:
    with trio.fail_after(20.0):
        while (await trio.to_thread.run_sync(systemd.recv, 4096)).decode() != words:
            pass


def _told(systemd: socket.socket) -> list[str]:
    """What was said since the last look."""
    lines = []
    try:
        while True:
            lines.append(systemd.recv(4096).decode())
    except BlockingIOError:
        return lines


@pytest.mark.parametrize("sibling", ["worker", "gc"])
async def test_a_sibling_that_ended_is_its_supervisors_business(sibling: str, autojump_clock: MockClock) -> None:
    hearts = Heartbeats()
    hearts.beat(f"{sibling} claims", 1.0)
    hearts.beat(sibling, 1.0)
    hearts.beat(f"{sibling}s", 1.0)
    hearts.forget(sibling)
    await trio.sleep(2.0)
    assert [one.loop for one in hearts.silent()] == [f"{sibling}s"]
