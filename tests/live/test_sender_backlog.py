"""Responses that wait when the daemon starts, on a real chain with one-second blocks and a real journal (issue 5).

`KMSD_BACKLOG` says how many (default 600; the long form is 5000). Prints how the chain took them: block by block.
"""

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from sender_live import LiveGateway, LiveWorld, Rows
from test_sender_store import opened, owned

from kmsd.sandbox.postgres import Postgres

BACKLOG = int(os.environ.get("KMSD_BACKLOG", "600"))
BLOCK_GAS = 2_000_000_000
AT_ONCE = 250
"""Rows in one statement, which is an argument of psql."""


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.guarantee("TX1", "TX2")
async def test_a_backlog_lands_once_in_full_blocks(
    postgres_server: Postgres,
    empty_database_url: str,
    new_chains: Callable[..., Any],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    chains = new_chains(block_time=1)
    gateway = LiveGateway(chains.gateway, chains.deployment)
    gateway.prepare()
    gateway.anvil.call("evm_setBlockGasLimit", hex(BLOCK_GAS))
    rows = Rows(postgres_server, empty_database_url)
    async with opened(empty_database_url) as store, owned(store) as ownership:
        records = await trio.to_thread.run_sync(gateway.ask_public, BACKLOG)
        for start in range(0, BACKLOG, AT_ONCE):
            await trio.to_thread.run_sync(rows.insert, gateway, records[start : start + AT_ONCE])
        world = LiveWorld(gateway, store)
        started, chain_cpu, our_cpu = trio.current_time(), cpu_seconds(gateway.anvil.process.pid), time.process_time()
        first_block = gateway.anvil.block_number() + 1
        async with world.running(ownership):
            await eventually(lambda: rows.count("status <> 'completed'") == 0, seconds=150, what="all completed")
        seconds = trio.current_time() - started
        chain_cpu, our_cpu = cpu_seconds(gateway.anvil.process.pid) - chain_cpu, time.process_time() - our_cpu
    blocks = Counter(
        int(block) for block in rows.ask("SELECT block_number FROM kmsd_transactions WHERE receipt_status = 1").split()
    )
    times = {
        number: int(gateway.anvil.call("eth_getBlockByNumber", hex(number), False)["timestamp"], 16)
        for number in range(first_block, max(blocks) + 1)
    }
    span = max(times.values()) - min(times.values()) + 1
    print(
        f"{BACKLOG} responses: {BACKLOG / span:.0f}/s by the chain ({span} s), {BACKLOG / seconds:.0f}/s until all "
        f"rows are completed; CPU: {chain_cpu:.1f} s the chain, {our_cpu:.1f} s the sender; transactions by block: "
        f"{[blocks[number] for number in times]}"
    )
    accepted = gateway.accepted(world.wallet.address)
    assert len(accepted) == len({row_id for row_id, _ in accepted}) == BACKLOG
    assert sum(blocks.values()) == BACKLOG
    nonces = rows.ask("SELECT count(*), count(DISTINCT nonce), max(nonce) FROM kmsd_transactions")
    assert nonces == f"{BACKLOG}|{BACKLOG}|{BACKLOG - 1}", "no replacement, no filler, no gap"
