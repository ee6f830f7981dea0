"""`kmsd` as a process: starts with everything hanging, answers its probes at once, stops in time, tells no secret."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from chain_pair import Chains

from kmsd.sandbox.core_double_process import running_double
from kmsd.wire.addresses import to_checksum

KEY = "5ec2e75ec2e7" * 5 + "abcd"
API_KEY = "gateway-api-key-0123456789"
PASSWORD = "daemon-db-password"
ADDRESS = "0x" + "11" * 20

Environment = dict[str, str]


class Daemon:
    """A running kmsd: where it is monitored, and everything that it has written."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = bytearray()
        self.port = 0
        self.listening = trio.Event()
        self._more = trio.Event()

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Collect the output until it ends."""
        async for chunk in stream:
            self.output += chunk
            if not self.port and (
                match := re.search(rb"monitoring endpoint on http://127\.0\.0\.1:(\d+)", self.output)
            ):
                self.port = int(match[1])
                self.listening.set()
            self._more.set()
            self._more = trio.Event()

    async def says(self, words: bytes) -> None:
        """Wait until it has written `words`."""
        with trio.fail_after(30):
            while words not in self.output:
                await self._more.wait()

    async def get(self, path: str) -> tuple[int, Any, float]:
        """Status, JSON (or text) and seconds of a GET."""
        began = trio.current_time()
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = bytearray()
            async for chunk in stream:
                answer += chunk
        took = trio.current_time() - began
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        document = json.loads(body) if b"application/json" in head else body.decode()
        return int(head.split(b" ")[1]), document, took

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        with trio.fail_after(60):
            return await self.process.wait()


Start = Callable[..., Awaitable[Daemon]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts `kmsd` with variables and arguments; what still runs at the end is killed."""
    started: list[trio.Process] = []
    async with trio.open_nursery() as nursery:

        async def _start(variables: Environment, *arguments: str) -> Daemon:
            kept = {name: value for name, value in os.environ.items() if not name.startswith(("KMS", "PG"))}
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "kmsd", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=kept | {"KMS_CONNECTOR_MONITORING_ENDPOINT": "127.0.0.1:0"} | variables,
            )
            started.append(process)
            daemon = Daemon(process)
            assert process.stdout is not None
            assert process.stderr is not None
            nursery.start_soon(daemon.read, process.stdout)
            nursery.start_soon(daemon.read, process.stderr)
            return daemon

        yield _start
        for process in started:
            if process.returncode is None:
                process.kill()


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1000)
        yield listening.getsockname()[1]


def hanging(port: int) -> Environment:
    """A configuration all of whose dependencies are the black hole, with secrets in every place."""
    return {
        "KMS_CONNECTOR_DATABASE_URL": f"postgresql://kms:{PASSWORD}@127.0.0.1:{port}/db",
        "KMS_CONNECTOR_GATEWAY_NODES": json.dumps(
            [
                {
                    "name": "gateway",
                    "url": f"http://127.0.0.1:{port}/v3/{API_KEY}",
                    "ws_url": f"ws://127.0.0.1:{port}/v3/{API_KEY}",
                    "backup_urls": [f"http://127.0.0.1:{port}/backup/{API_KEY}"],
                }
            ]
        ),
        "KMS_CONNECTOR_GATEWAY_CHAIN_ID": "123456",
        "KMS_CONNECTOR_S3_FALLBACK_URLS": f"http://127.0.0.1:{port}/bucket",
        "KMS_CONNECTOR_DECRYPTION_CONTRACT__ADDRESS": ADDRESS,
        "KMS_CONNECTOR_KMS_GENERATION_CONTRACT__ADDRESS": ADDRESS,
        "KMS_CONNECTOR_GATEWAY_CONFIG_CONTRACT__ADDRESS": ADDRESS,
        "KMS_CONNECTOR_HOST_CHAINS": json.dumps(
            [{"url": f"http://127.0.0.1:{port}/{API_KEY}", "chainId": 12345, "aclAddress": ADDRESS}]
        ),
        "KMS_CONNECTOR_KMS_CORE_ENDPOINTS": f"http://127.0.0.1:{port}",
        "KMS_CONNECTOR_PRIVATE_KEY": KEY,
        "KMS_CONNECTOR_LOG_LEVEL": "debug",
        "KMS_CONNECTOR_HEALTHCHECK_TIMEOUT": "1s",
        "KMS_CONNECTOR_HEALTHCHECK_INTERVAL": "500ms",
    }


def assert_no_secret(daemon: Daemon) -> None:
    """Nothing that was written holds a secret."""
    for secret in (KEY, API_KEY, PASSWORD):
        assert secret.encode() not in daemon.output, daemon.output.decode()[-2000:]


@pytest.mark.guarantee("PR2")
@pytest.mark.guarantee("PR3")
@pytest.mark.guarantee("PR4")
async def test_it_starts_and_answers_at_once_while_every_dependency_hangs(start: Start, black_hole: int) -> None:
    daemon = await start(hanging(black_hole))
    with trio.fail_after(30):
        await daemon.listening.wait()
    waiting_for = {"database", "gateway node gateway", "host chain 12345", f"core http://127.0.0.1:{black_hole}"}
    with trio.fail_after(60):
        while waiting_for:
            for path, wanted in (("/liveness", 200), ("/healthz", 503), ("/overview", 200), ("/", 200)):
                status, document, _ = await daemon.get(path)
                assert status == wanted
                if path == "/healthz":
                    waiting_for -= {name for name, known in document["dependencies"].items() if known["up"] is False}
    assert document is not None
    assert daemon.process.returncode is None
    began = trio.current_time()
    status = await daemon.stop()
    assert status in (0, 75)  # nothing was ever leased
    assert trio.current_time() - began < 25.0
    for words in (b"gateway", b"database"):
        assert words in daemon.output
    assert_no_secret(daemon)


@pytest.mark.guarantee("PR1")
async def test_a_second_signal_ends_it_at_once(start: Start, black_hole: int) -> None:
    daemon = await start(hanging(black_hole))
    with trio.fail_after(30):
        await daemon.listening.wait()
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.says(b"SIGTERM")
    assert await daemon.stop() in (128 + signal.SIGTERM, 0, 75)


async def test_a_taken_port_ends_the_start_with_words(start: Start, black_hole: int) -> None:
    daemon = await start(hanging(black_hole) | {"KMS_CONNECTOR_MONITORING_ENDPOINT": f"127.0.0.1:{black_hole}"})
    with trio.fail_after(30):
        assert await daemon.process.wait() == 1
    await daemon.says(b"another program")
    assert f"monitoring_endpoint: cannot listen on 127.0.0.1:{black_hole}".encode() in daemon.output
    assert b"Traceback" not in daemon.output
    assert_no_secret(daemon)


def network(chains: Chains, database_url: str, core: str) -> Environment:
    """A configuration of the test's chains; the Gateway's URL carries a key."""
    deployed = chains.deployment
    return {
        "KMS_CONNECTOR_DATABASE_URL": database_url,
        "KMS_CONNECTOR_GATEWAY_URL": f"{chains.gateway.url}/?key={API_KEY}",
        "KMS_CONNECTOR_GATEWAY_CHAIN_ID": str(deployed.gateway_chain_id),
        "KMS_CONNECTOR_DECRYPTION_CONTRACT__ADDRESS": to_checksum(deployed.decryption),
        "KMS_CONNECTOR_KMS_GENERATION_CONTRACT__ADDRESS": to_checksum(deployed.kms_generation),
        "KMS_CONNECTOR_GATEWAY_CONFIG_CONTRACT__ADDRESS": to_checksum(deployed.gateway_config),
        "KMS_CONNECTOR_HOST_CHAINS": json.dumps(
            [{"url": chains.host.url, "chainId": deployed.host_chain_id, "aclAddress": to_checksum(deployed.acl)}]
        ),
        "KMS_CONNECTOR_KMS_CORE_ENDPOINTS": core,
        "KMS_CONNECTOR_PRIVATE_KEY": deployed.parties[0].tx.key.hex(),
        "KMS_CONNECTOR_LOG_LEVEL": "debug",
        "KMS_CONNECTOR_HEALTHCHECK_INTERVAL": "500ms",
        "KMS_CONNECTOR_GAUGE_UPDATE_INTERVAL": "500ms",
    }


@pytest.mark.guarantee("PR1")
@pytest.mark.guarantee("PR4")
async def test_it_becomes_healthy_stops_with_0_and_tells_no_secret(
    start: Start, chains: Chains, empty_database_url: str, eventually: Callable[..., Awaitable[Any]]
) -> None:
    async with running_double() as double:
        variables = network(chains, empty_database_url, double.endpoint)
        daemon = await start(variables)
        with trio.fail_after(30):
            await daemon.listening.wait()

        async def healthy() -> bool:
            return (await daemon.get("/healthz"))[0] == 200

        await eventually(healthy, seconds=60, what="healthy")

        async def enrolled() -> str | None:
            _, text, _ = await daemon.get("/metrics")
            return str(text) if "kms_connector_owner_epoch 1\n" in text else None

        metrics = await eventually(enrolled, what="an owner's epoch")
        assert f'kms_connector_dependency_up{{dependency="core {double.endpoint}"}} 1\n' in metrics
        status, document, _ = await daemon.get("/status")
        assert status == 200
        assert document["healthz"]["healthy"]
        assert await daemon.stop() == 0
        key, password = variables["KMS_CONNECTOR_PRIVATE_KEY"], empty_database_url.split(":")[2].split("@")[0]
        for secret in (key, password, API_KEY):
            assert secret.encode() not in daemon.output
            assert secret not in json.dumps(document) + metrics

        # The same once more for `--once`, beside nobody: nothing to do is a success.
        once = await start(variables, "--once", "--json")
        with trio.fail_after(60):
            assert await once.process.wait() == 0
        await once.says(b'"exit_status": 0')
        assert API_KEY.encode() not in once.output


async def test_another_networks_database_is_refused_by_name(
    start: Start, chains: Chains, database_url: str, sql: Callable[[str], str]
) -> None:
    sql(
        "INSERT INTO kmsd_meta (gateway_chain_id, decryption_contract, kms_generation_contract) "
        "VALUES (1, '\\x11', '\\x22')"
    )
    daemon = await start(network(chains, database_url, "http://127.0.0.1:1"))
    with trio.fail_after(60):
        assert await daemon.process.wait() == 78
