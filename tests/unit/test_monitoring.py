"""The monitoring endpoint on a real socket, and systemd's notifications on a real one (PR3)."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kmsd.clock import SystemTime
from kmsd.config import GatewayNode, Settings
from kmsd.observe import http
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.monitoring import Monitoring
from kmsd.observe.systemd import Notifier
from kmsd.supervise import Fatal


def settings(**more: Any) -> Settings:
    return Settings(
        "postgresql://u:p@h/d",
        monitoring_endpoint=more.pop("monitoring_endpoint", "127.0.0.1:0"),
        gateway_nodes=(GatewayNode("main", "http://h/secret-key-1"),),
        kms_core_endpoints=("http://core:1|http://standby:1",),
        service_name="kms-connector-kms-worker",
        **more,
    )


@asynccontextmanager
async def monitoring(environment: dict[str, str] | None = None) -> AsyncIterator[tuple[Monitoring, Health, Metrics]]:
    metrics, health = Metrics(), Health(SystemTime())
    made = Monitoring(settings(), metrics, health, environment or {})
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made, health, metrics
        nursery.cancel_scope.cancel()
    made.stopped()


async def ask(made: Monitoring, request: bytes) -> tuple[int, dict[str, str], bytes]:
    assert made.address is not None
    stream = await trio.open_tcp_stream(*made.address)
    async with stream:
        await stream.send_all(request)
        data = b""
        while chunk := await stream.receive_some(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split(" ")[1]), headers, body


async def get(made: Monitoring, path: str) -> tuple[int, Any]:
    status, headers, body = await ask(made, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert int(headers["content-length"]) == len(body)
    return status, json.loads(body) if headers["content-type"] == "application/json" else body.decode()


@pytest.mark.guarantee("PR3")
async def test_bodies_of_the_reference() -> None:
    async with monitoring() as (made, health, _):
        assert await get(made, "/liveness") == (200, {"status_code": "200", "status": "alive"})
        status, version = await get(made, "/version")
        assert status == 200
        assert version["name"] == "kms-connector-kms-worker"
        assert set(version) == {"name", "version", "build"}
        status, document = await get(made, "/healthz")
        assert status == 503
        assert document["healthy"] is False
        assert {"database_connected", "gateway_connected", "kms_core_connected", "details"} <= set(document)
        for name in ("database", "gateway node main", "core http://core:1"):
            health.ok(name)
        status, document = await get(made, "/healthz")
        assert (status, document["healthy"], document["details"]) == (200, True, "")
        assert document["dependencies"]["database"]["last_ok_age_seconds"] < 5
        health.fault("database", "refused")
        status, document = await get(made, "/healthz")
        assert status == 503
        assert document["database_connected"] is False
        assert document["gateway_connected"] is True
        assert "database: refused" in document["details"]


async def test_metrics_have_the_configurations_labels_and_health() -> None:
    async with monitoring() as (made, health, _):
        health.ok("database")
        _, text = await get(made, "/metrics")
        assert 'kms_connector_listener_lag_blocks{node="main",stream="decryption"} 0\n' in text
        assert 'kms_connector_core_window{core="http://core:1"} 0\n' in text
        assert 'kms_connector_dependency_up{dependency="database"} 1\n' in text
        assert 'kms_connector_dependency_up{dependency="gateway node main"} -1\n' in text
        assert 'kms_connector_check_failing{check="gateway",severity="critical"} 1\n' in text
        assert 'kms_connector_check_failing{check="database",severity="critical"} 0\n' in text
        assert "secret-key-1" not in text


async def test_the_status_document() -> None:
    async with monitoring() as (made, _, metrics):
        metrics.set("kms_connector_tx_sender_nonce", 7.0)
        _, document = await get(made, "/status")
        assert document["metrics"]["kms_connector_tx_sender_nonce"] == [[[], 7.0]]
        assert document["roles"] == ["listener", "worker", "sender", "gc"]
        assert document["healthz"]["healthy"] is False
        assert document["resident_bytes"] > 0


async def test_any_method_and_strange_requests() -> None:
    async with monitoring() as (made, _, _):
        status, _, body = await ask(made, b"POST /liveness?x=y HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert (status, json.loads(body)["status"]) == (200, "alive")
        status, headers, body = await ask(made, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 1000
        assert (await ask(made, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 404
        assert (await ask(made, b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"))[0] in (400, 404)
        assert (await ask(made, b"\0\1\2 nonsense\r\n\r\n"))[0] == 400
        assert (await ask(made, b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n"))[0] == 431
        assert (await get(made, "/liveness"))[0] == 200


async def test_a_handler_that_fails_is_a_500(monkeypatch: pytest.MonkeyPatch) -> None:
    async with monitoring() as (made, _, metrics):

        def fail() -> None:
            raise RuntimeError("hook")

        metrics.on_read(fail)
        assert (await get(made, "/metrics"))[0] == 500
        assert (await get(made, "/liveness"))[0] == 200


async def test_connections_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)
    async with monitoring() as (made, _, _):
        assert made.address is not None
        idle = [await trio.open_tcp_stream(*made.address) for _ in range(3)]
        for stream in idle:
            await stream.send_all(b"GET /live")  # never finished
        while made_open(made) < 3:
            await trio.lowlevel.checkpoint()
        extra = await trio.open_tcp_stream(*made.address)
        with trio.fail_after(2.0):
            try:
                assert await extra.receive_some(10) == b""
            except trio.BrokenResourceError:
                pass
        await idle[0].send_all(b"ness HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await idle[0].receive_some(65536)).startswith(b"HTTP/1.1 200")
        for stream in (*idle, extra):
            await stream.aclose()


def made_open(made: Monitoring) -> int:
    """Connections that the server holds now."""
    return made.server.open_connections


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DEADLINE", 0.05)
    async with monitoring() as (made, _, _):
        assert made.address is not None
        stream = await trio.open_tcp_stream(*made.address)
        with trio.fail_after(5.0):
            try:
                assert await stream.receive_some(10) == b""
            except trio.BrokenResourceError:
                pass
        await stream.aclose()


@pytest.mark.guarantee("PR3")
async def test_answers_come_at_once_while_everything_is_down() -> None:
    async with monitoring() as (made, health, _):
        for number in range(100):
            health.fault(f"bucket {number}", "hangs " * 50)
        for name in ("database", "gateway node main", "core http://core:1"):
            health.fault(name, "no answer")
        for path in ("/liveness", "/healthz", "/version"):
            with trio.fail_after(0.1):
                await get(made, path)


async def test_a_taken_port_is_a_startup_error_with_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        made = Monitoring(settings(monitoring_endpoint=f"127.0.0.1:{port}"), Metrics(), Health(SystemTime()), {})
        with pytest.raises(Fatal, match=rf"cannot listen on 127.0.0.1:{port}.*another program"):
            await made.run()
        # `kmsd --once` beside a running daemon goes on without an endpoint.
        busy = settings(monitoring_endpoint=f"127.0.0.1:{port}")
        beside = Monitoring(busy, Metrics(), Health(SystemTime()), {}, required=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(beside.run)
            assert beside.address is None
            nursery.cancel_scope.cancel()
    made = Monitoring(settings(monitoring_endpoint="192.0.2.1:9100"), Metrics(), Health(SystemTime()), {})
    with pytest.raises(Fatal, match="address of this machine"):
        await made.run()


async def test_ipv6() -> None:
    metrics, health = Metrics(), Health(SystemTime())
    made = Monitoring(settings(monitoring_endpoint="[::1]:0"), metrics, health, {})
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(made.run)
        except* Fatal:
            pytest.skip("no IPv6 here")
        assert (await get(made, "/liveness"))[0] == 200
        nursery.cancel_scope.cancel()


async def test_systemd_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(5.0)
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
        async with monitoring(environment) as (made, health, _):
            for name in ("database", "gateway node main", "core http://core:1"):
                health.ok(name)
            made.ready()
            made.stopping()
            told = set()
            with trio.fail_after(5.0):
                while len(told) < 4:
                    told.add((await trio.to_thread.run_sync(listening.recv, 4096)).decode())
            assert {"READY=1", "STOPPING=1", "WATCHDOG=1"} <= told
            assert any(line.startswith("STATUS=") for line in told)


def test_systemd_over_an_abstract_socket_and_without_one() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0kmsd-test-notify")
        listening.settimeout(5.0)
        notifier = Notifier({"NOTIFY_SOCKET": "@kmsd-test-notify"})
        notifier.ready()
        assert listening.recv(100) == b"READY=1"
        assert notifier.watchdog_interval is None
        notifier.close()
        notifier.ready()
    Notifier({}).ready()
    gone = Notifier({"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"})
    gone.ready()
    assert gone.watchdog_interval is None
    gone.close()


@pytest.mark.guarantee("PR3")
async def test_the_status_page_and_its_document() -> None:
    async with monitoring() as (made, health, _):
        health.fault("database", "<script>alert(1)</script>")
        status, headers, body = await ask(made, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert headers["x-frame-options"] == "DENY"
        assert body.startswith(b"<!doctype html>")
        status, document = await get(made, "/overview")
        assert status == 200
        assert document["healthz"]["dependencies"]["database"]["detail"] == "<script>alert(1)</script>"
        assert document["keys"] is None
        assert document["instance_name"] == "kmsd"
