"""The sender killed between any two of its effects, as by a power failure, and started again (TX1)."""

import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from sender_live import LiveGateway, Rows
from test_sender_takeover import configuration, unexpected

from kmsd.sandbox.postgres import Postgres

FAILPOINTS = ("sender.signed", "sender.journaled", "sender.broadcast", "sender.resolved", "sender.settled")


@pytest.mark.guarantee("TX1", "TX2")
async def test_power_failure_between_any_two_effects(
    postgres_server: Postgres,
    empty_database_url: str,
    new_chains: Callable[..., Any],
    spawn: Callable[..., Awaitable[trio.Process]],
    eventually: Callable[..., Awaitable[Any]],
    tmp_path: Path,
) -> None:
    chains = new_chains(block_time=1)
    gateway = LiveGateway(chains.gateway, chains.deployment)
    gateway.prepare()
    rows = Rows(postgres_server, empty_database_url)
    log = await trio.to_thread.run_sync((tmp_path / "kmsd-0.log").open, "ab")
    environment = configuration(gateway, empty_database_url, "kmsd-0")

    async def start(**more: str) -> trio.Process:
        return await spawn([sys.executable, "-m", "kmsd"], env={**environment, **more}, stdout=log, stderr=log)

    asked = 0
    daemon = await start()
    exists = "SELECT to_regclass('kmsd_transactions') IS NOT NULL"
    await eventually(lambda: rows.ask(exists) == "t", seconds=60, what="the schema")
    daemon.kill()
    await daemon.wait()
    for failpoint in FAILPOINTS:
        rows.insert(gateway, gateway.ask_public(150))
        asked += 150
        daemon = await start(KMSD_FAILPOINT=f"{failpoint}:2")
        with trio.fail_after(90):
            assert await daemon.wait() == -signal.SIGKILL, failpoint
        assert rows.count("status <> 'completed'") > 0, failpoint
    daemon = await start()
    await eventually(lambda: rows.count("status <> 'completed'") == 0, seconds=90, what="all completed")
    daemon.terminate()
    assert await daemon.wait() == 0

    wallet = gateway.deployment.parties[0].tx
    accepted = gateway.accepted(wallet.address)
    assert len(accepted) == len({row_id for row_id, _ in accepted}) == asked
    mined = int(gateway.anvil.call("eth_getTransactionCount", wallet.text, "latest"), 16)
    assert mined == asked == int(rows.ask("SELECT count(DISTINCT nonce) FROM kmsd_transactions"))
    assert rows.ask("SELECT count(*) FROM kmsd_transactions WHERE receipt_status = 0") == "0"
    assert not unexpected(tmp_path)
