"""Fixtures of all tests: real Postgres, real chains with deployed contracts, processes, waiting with a deadline.

What is expensive lives as long as the session and is cleaned between tests: each test has a database of its own, and
the shared chains go back to the state after deployment.
"""

import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from chain_pair import Chains

from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.contracts import committee, coprocessors, deploy
from kmsd.sandbox.postgres import Postgres

pytest_plugins = ["guarantee_plugin", "store_world"]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One Postgres for the whole session. Tests that stop, kill or pause a server start their own (`new_postgres`)."""
    with Postgres() as server:
        yield server


@pytest.fixture
def new_postgres() -> Iterator[Callable[[], Postgres]]:
    """Starts servers of the test's own, for faults; they end with the test."""
    servers: list[Postgres] = []

    def start(**options: Any) -> Postgres:
        server = Postgres(**options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def empty_database_url(postgres_server: Postgres) -> Iterator[str]:
    """The address of an empty database of the test's own."""
    name = f"test_{next(_numbers)}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def _session_chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chains]:
    logs = tmp_path_factory.mktemp("chains")
    with Anvil(123456, logs, name="gateway") as gateway, Anvil(12345, logs, name="host") as host:
        buckets = [f"http://127.0.0.1:9/bucket-{number}" for number in (1, 2)]
        yield Chains(gateway, host, deploy(gateway, host, copros=coprocessors(buckets)))


@pytest.fixture
def chains(_session_chains: Chains) -> Iterator[Chains]:
    """The session's chains as they were after deployment: four parties, thresholds of three, two coprocessors."""
    pair = (_session_chains.gateway, _session_chains.host)
    snapshots = [chain.snapshot() for chain in pair]
    yield _session_chains
    for chain, snapshot in zip(pair, snapshots, strict=True):
        chain.set_automine(True)
        chain.revert(snapshot)


@pytest.fixture
def new_chains(tmp_path: Path) -> Iterator[Callable[..., Chains]]:
    """Starts chains of the test's own, for faults, other block times or another committee; they end with the test.

    `new_chains(block_time=0.25, parties=13, bucket_urls=[…], thresholds=…)`.
    """
    started: list[Anvil] = []

    def start(
        *, block_time: float | None = None, parties: int = 4, bucket_urls: list[str] | None = None, **more: Any
    ) -> Chains:
        number = len(started)
        gateway = Anvil(123456, tmp_path, name=f"gateway-{number}", block_time=block_time)
        host = Anvil(12345, tmp_path, name=f"host-{number}", block_time=block_time)
        started.extend((gateway, host))
        gateway.start()
        host.start()
        copros = coprocessors(bucket_urls or ["http://127.0.0.1:9/bucket-1"])
        return Chains(gateway, host, deploy(gateway, host, parties=committee(parties), copros=copros, **more))

    yield start
    for chain in started:
        chain.close()


@pytest.fixture
async def spawn() -> AsyncIterator[Callable[..., Awaitable[trio.Process]]]:
    """Starts programs; what still runs at the end of the test is killed by its own pid.

    `process = await spawn([sys.executable, "-m", "kmsd", …], stdout=subprocess.PIPE)`.
    """
    async with AsyncExitStack() as stack:

        async def start(argv: list[str | os.PathLike[str]], **options: Any) -> trio.Process:
            return await stack.enter_async_context(_running(argv, options))

        yield start


@asynccontextmanager
async def _running(argv: list[str | os.PathLike[str]], options: dict[str, Any]) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(argv, **({"stdin": subprocess.DEVNULL} | options))
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
                await process.wait()


Condition = Callable[[], Any] | Callable[[], Awaitable[Any]]


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """Waits until a condition gives something true, and returns that.

    `await eventually(lambda: chain.block_number() > 3, seconds=5, what="a fourth block")`. For what happens in another
    process and has no signal of its own; inside one process wait for the event itself. The condition may be async;
    a blocking one delays the loop. Raises AssertionError that says what did not happen.
    """

    async def wait(condition: Condition, *, seconds: float = 10.0, what: str = "") -> Any:
        with trio.move_on_after(seconds):
            while True:
                result = condition()
                if isinstance(result, Awaitable):
                    result = await result
                if result:
                    return result
                await trio.sleep(0.02)
        raise AssertionError(f"not within {seconds:g} s: {what or getattr(condition, '__name__', condition)}")

    return wait
