"""`kmsd rewind`: read the chain again."""

import sys
from typing import TYPE_CHECKING

import click
import trio

from kmsd.commands.options import EXIT_UNAVAILABLE, common, confirm, print_json, refuse, say, settings_for, yes_option
from kmsd.commands.progress import progress
from kmsd.config import Settings
from kmsd.operations.kinds import Stream
from kmsd.ports import BlockRef, DependencyDown

if TYPE_CHECKING:
    from kmsd.chain.node import HttpNode

STREAMS = (*(stream.value for stream in Stream), "both")


@click.command()
@click.option(
    "--to-block", required=True, type=click.IntRange(min=0), metavar="N", help="The first block to read again."
)
@click.option("--stream", default="both", show_default=True, type=click.Choice(STREAMS))
@click.option("--node", "node_names", multiple=True, metavar="NAME", help="Only this node's cursor; else every node's.")
@yes_option
@common
def rewind(
    config: str | None, as_json: bool, to_block: int, stream: str, node_names: tuple[str, ...], yes: bool
) -> None:
    """Move cursors back, so that a running or the next kmsd reads the chain again from block N.

    Nothing is done twice: requests that are stored, or were finished long ago, are recognised. Cursors before block N
    stay where they are.
    """
    from kmsd.commands.database import answer, operator_name
    from kmsd.store.postgres import PostgresStore

    settings = settings_for(config, as_json, ("database_url", "gateway_nodes", "gateway_chain_id")).settings
    if unknown := set(node_names) - {node.name for node in settings.gateway_nodes}:
        refuse(f"no node named {', '.join(sorted(unknown))} in gateway_nodes", as_json, 2)
    streams = list(Stream) if stream == "both" else [Stream(stream)]
    confirm(f"Read {' and '.join(one.value for one in streams)} again from block {to_block}?", yes)
    with progress("asking the nodes"):
        found, faults = trio.run(_blocks, settings, max(0, to_block - 1), node_names)
    for fault in faults:
        click.echo(f"warning: {fault}", err=True)
    if not found:
        refuse("no node could tell the hash of the block before; nothing was changed", as_json, EXIT_UNAVAILABLE)

    async def work(store: PostgresStore) -> dict[str, list[str]]:
        by = operator_name()
        return {one.value: list(await store.rewind_cursors(one, found, by=by)) for one in streams}

    moved = answer(settings, work, as_json)
    if as_json:
        print_json({"ok": not faults, "moved": moved, "not_asked": faults})
    else:
        for one, names in moved.items():
            say(f"{one}: {', '.join(names) or 'no cursor'} moved back to read from block {to_block}")
    sys.exit(1 if faults else 0)


async def _blocks(
    settings: Settings, number: int, node_names: tuple[str, ...]
) -> tuple[dict[str, BlockRef], list[str]]:
    """Block `number` as each node has it, and words about nodes that could not tell."""
    from kmsd.chain.scan import Unproven, block_hashes
    from kmsd.clock import SystemTime
    from kmsd.observe.health import Health
    from kmsd.observe.metrics import Metrics
    from kmsd.outside import nodes_of

    found: dict[str, BlockRef] = {}
    faults: list[str] = []

    async def one(node: "HttpNode") -> None:
        try:
            (block_hash,) = (await block_hashes(node, [number], deadline=settings.rpc_timeout)).values()
        except (DependencyDown, Unproven) as fault:
            faults.append(str(fault))
        else:
            if block_hash is None:
                faults.append(f"gateway node {node.name} has no block {number}")
            else:
                found[node.name] = BlockRef(number, block_hash)
        finally:
            await node.close()

    gateway, _ = nodes_of(settings, Health(SystemTime()), Metrics())
    async with trio.open_nursery() as nursery:
        for node in gateway:
            if not node_names or node.name in node_names:
                nursery.start_soon(one, node)
    return found, faults
