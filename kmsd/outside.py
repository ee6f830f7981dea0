"""Opens the real outside world: nodes, store, Core, blobs, wallet, each while its dependency may be down."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import attrs

from kmsd.blobs.download import BlobsMisconfigured, open_blobs
from kmsd.chain.node import HttpNode
from kmsd.chain.wallet import WalletMisconfigured, open_wallet
from kmsd.clock import SystemEntropy, SystemTime
from kmsd.config import Settings
from kmsd.core.client import open_core
from kmsd.core.endpoints import BadEndpoint, parse_shards
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import OFF, Traces, open_traces
from kmsd.ports import Blobs, Core, Entropy, Node, Store, Time, Wallet
from kmsd.store.migrations import migrate
from kmsd.store.postgres import open_store
from kmsd.supervise import Fatal

EXIT_CONFIGURATION = 78
"""Configuration error or another network's database (sysexits EX_CONFIG)."""


@attrs.frozen
class Outside:
    """One set of ports for one daemon. `migrate` brings the database's schema up to date."""

    gateway: Sequence[Node]
    hosts: Mapping[int, Sequence[Node]]
    store: Store
    core: Core
    blobs: Blobs
    wallet: Wallet | None
    time: Time
    entropy: Entropy
    migrate: Callable[[], Awaitable[object]]
    traces: Traces = OFF


@asynccontextmanager
async def open_outside(settings: Settings, metrics: Metrics, health: Health) -> AsyncIterator[Outside]:
    """The ports that the configuration names; nothing is connected yet. Raises Fatal for unusable keys or endpoints."""
    time, entropy = SystemTime(), SystemEntropy()
    async with AsyncExitStack() as stack:
        traces = open_traces(settings, metrics, time, entropy)
        stack.push_async_callback(traces.close)
        gateway, hosts = nodes_of(settings, health, metrics)
        for node in (*gateway, *(node for nodes in hosts.values() for node in nodes)):
            stack.push_async_callback(node.close)
        try:
            wallet = open_wallet(settings) if "sender" in settings.roles else None
            core = await stack.enter_async_context(
                open_core(
                    parse_shards(settings.kms_core_endpoints),
                    tls=settings.kms_core_tls,
                    window=settings.core_window,
                    health_deadline=settings.healthcheck_timeout,
                )
            )
            blobs = await stack.enter_async_context(open_blobs(settings))
        except (WalletMisconfigured, BadEndpoint, BlobsMisconfigured) as error:
            raise Fatal(str(error), EXIT_CONFIGURATION) from None
        store = await stack.enter_async_context(
            open_store(
                settings.database_url,
                instance_name=settings.instance_name,
                pool_size=settings.database_pool_size,
                health=health,
                metrics=metrics,
            )
        )
        yield Outside(
            gateway,
            hosts,
            store,
            core,
            blobs,
            wallet,
            time,
            entropy,
            partial(migrate, settings.database_url),
            traces,
        )


def nodes_of(
    settings: Settings, health: Health, metrics: Metrics
) -> tuple[Sequence[HttpNode], Mapping[int, Sequence[HttpNode]]]:
    """The Gateway's nodes, and each host chain's node by chain id; nothing is connected yet, the caller closes them."""
    gateway = [
        HttpNode(node.name, settings.gateway_chain_id, (node.url, *node.backup_urls), node.ws_url, health, metrics)
        for node in settings.gateway_nodes
    ]
    hosts = {
        chain.chain_id: [
            HttpNode(
                str(chain.chain_id),
                chain.chain_id,
                (chain.url, *chain.backup_urls),
                None,
                health,
                metrics,
                dependency=f"host chain {chain.chain_id}",
            )
        ]
        for chain in settings.host_chains
    }
    return gateway, hosts
