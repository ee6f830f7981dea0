"""Two daemons with one wallet: the active one is killed under load again and again (TX1, TX2, TX4; issue 5).

Real processes, real Postgres, real chain. `KMSD_TAKEOVERS` says how often (default 3; the long form is 20).
"""

import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from sender_live import LiveGateway, Rows

from kmsd.sandbox.ports import free_port
from kmsd.sandbox.postgres import Postgres
from kmsd.wire.addresses import to_checksum

TAKEOVERS = int(os.environ.get("KMSD_TAKEOVERS", "3"))
PER_LIFE = 400
"""Responses that become due for each life of an active daemon."""


def unexpected(folder: Path) -> list[str]:
    """Lines of the daemons' logs that should not be there."""
    lines = [line for log in folder.glob("kmsd-*.log") for line in log.read_text().splitlines()]
    return [line[-2000:] for line in lines if re.search("failed unexpectedly|Traceback", line)]


def configuration(gateway: LiveGateway, url: str, name: str) -> dict[str, str]:
    """A sender and a collector of dead owners' rows, by variables alone."""
    deployment = gateway.deployment
    prefix = "KMS_CONNECTOR_"
    settings = {
        "DATABASE_URL": url,
        "GATEWAY_URL": gateway.anvil.url,
        "GATEWAY_CHAIN_ID": str(deployment.gateway_chain_id),
        "DECRYPTION_CONTRACT__ADDRESS": to_checksum(deployment.decryption),
        "KMS_GENERATION_CONTRACT__ADDRESS": to_checksum(deployment.kms_generation),
        "GATEWAY_CONFIG_CONTRACT__ADDRESS": to_checksum(deployment.gateway_config),
        "HOST_CHAINS": (
            f'[{{"url": "{gateway.anvil.url}", "chain_id": {deployment.host_chain_id},'
            f' "acl_address": "{to_checksum(deployment.acl)}"}}]'
        ),
        "KMS_CORE_ENDPOINTS": "http://127.0.0.1:9",
        "PRIVATE_KEY": "0x" + deployment.parties[0].tx.key.hex(),
        "ROLES": "sender,gc",
        "INSTANCE_NAME": name,
        "MONITORING_ENDPOINT": f"127.0.0.1:{free_port()}",
    }
    return {**os.environ, **{prefix + key: value for key, value in settings.items()}}


@pytest.mark.guarantee("TX1", "TX2", "TX4")
async def test_killed_senders_are_succeeded_without_loss_doubles_or_gaps(
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
    delays: list[float] = []

    async def start(name: str) -> trio.Process:
        log = (tmp_path / f"{name}.log").open("ab")
        environment = configuration(gateway, empty_database_url, name)
        return await spawn([sys.executable, "-m", "kmsd"], env=environment, stdout=log, stderr=log)

    first = 0

    async def inserted(count: int) -> None:
        nonlocal first
        records = await trio.to_thread.run_sync(gateway.ask_public, count)
        await trio.to_thread.run_sync(rows.insert, gateway, records)
        first += count

    active = await start("kmsd-0")
    exists = "SELECT to_regclass('kmsd_transactions') IS NOT NULL"
    await eventually(lambda: rows.ask(exists) == "t", seconds=60, what="the schema")
    for life in range(1, TAKEOVERS + 1):
        stand_by = await start(f"kmsd-{life}")
        enrolled = f"SELECT count(*) FROM kmsd_owners WHERE instance_name = 'kmsd-{life}'"
        await eventually(lambda enrolled=enrolled: rows.ask(enrolled) == "1", seconds=60, what="a stand-by")
        done = rows.count("status = 'completed'")
        await inserted(PER_LIFE)
        await eventually(lambda done=done: rows.count("status = 'completed'") > done, seconds=60, what="a response")
        done = rows.count("status = 'completed'")
        epoch = rows.ask("SELECT epoch FROM kmsd_lanes")
        active.kill()
        await active.wait()
        died = trio.current_time()
        await eventually(
            lambda epoch=epoch: rows.ask("SELECT epoch FROM kmsd_lanes") != epoch, seconds=15, what="a take-over"
        )
        delays.append(trio.current_time() - died)
        active = stand_by
    await eventually(lambda: rows.count("status <> 'completed'") == 0, seconds=90, what="the rest completed")
    print(f"take-overs after {', '.join(f'{delay:.1f}' for delay in delays)} s")

    wallet = gateway.deployment.parties[0].tx
    accepted = gateway.accepted(wallet.address)
    assert len(accepted) == len({row_id for row_id, _ in accepted}) == first
    assert (
        rows.ask(
            "SELECT count(*) FROM (SELECT nonce FROM kmsd_transactions WHERE kind IS NOT NULL"
            " GROUP BY nonce HAVING count(DISTINCT calldata_hash) > 1) doubles"
        )
        == "0"
    )
    mined = int(gateway.anvil.call("eth_getTransactionCount", wallet.text, "latest"), 16)
    assert mined == int(gateway.anvil.call("eth_getTransactionCount", wallet.text, "pending"), 16)
    assert int(rows.ask("SELECT count(DISTINCT nonce) FROM kmsd_transactions")) == mined
    assert int(rows.ask("SELECT max(nonce) FROM kmsd_transactions")) == mined - 1
    reverted = rows.ask("SELECT count(*) FROM kmsd_transactions WHERE receipt_status = 0")
    assert reverted == "0", "no response was sent a second time"
    active.terminate()
    assert await active.wait() == 0
    assert not unexpected(tmp_path)
