"""The whole examination: everything side by side, each with its deadline."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

import trio
import trio_asyncio

from kmsd.blobs.download import open_blobs
from kmsd.chain.chain import Chain
from kmsd.chain.views import ViewRefused, ask
from kmsd.chain.wallet import WalletMisconfigured, open_wallet
from kmsd.clock import SystemTime
from kmsd.config import NOWHERE, Settings
from kmsd.core.client import open_core
from kmsd.core.endpoints import BadEndpoint, parse_shards
from kmsd.doctor import chains, services
from kmsd.doctor.daemon import daemon
from kmsd.doctor.database import database
from kmsd.doctor.findings import Examination, Finding, error, guarded
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.outside import nodes_of
from kmsd.ports import DependencyDown, Wallet
from kmsd.wire.v0_11 import views

PATIENCE = 15.0
"""Seconds for one examination."""


async def examine(settings: Settings) -> Sequence[Finding]:
    """Findings about everything that the configuration names, in the order of the configuration."""
    time = SystemTime()
    metrics, health = Metrics(), Health(time)
    wallet, found = _wallet(settings)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(trio_asyncio.open_loop())
        gateway, hosts_nodes = nodes_of(settings, health, metrics)
        hosts = {chain_id: nodes[0] for chain_id, nodes in hosts_nodes.items()}
        for node in (*gateway, *hosts.values()):
            stack.push_async_callback(node.close)
        plan: list[tuple[str, Examination]] = [
            ("daemon", partial(daemon, settings)),
            ("database", partial(database, settings, time)),
        ]
        for node in gateway:
            subject = f"gateway node {node.name}"
            plan += [
                (subject, partial(chains.node, settings, node, subject, time)),
                (f"{subject} logs", partial(chains.logs, settings, node, f"{subject} logs")),
                (f"{subject} heads", partial(chains.heads, node, f"{subject} heads")),
            ]
        chain = Chain(gateway, health, name="gateway") if gateway else None
        if chain is not None:
            plan += _contracts(settings, chain)
            plan += await _wallet_plan(settings, chain, wallet)
        for chain_id, node in hosts.items():
            subject = f"host chain {chain_id}"
            plan.append((subject, partial(chains.node, settings, node, subject, time)))
        host_chains = {chain_id: Chain([node], health) for chain_id, node in hosts.items()}
        for host in settings.host_chains:
            check = partial(chains.host_acl, settings, host_chains, host.chain_id, host.acl_address)
            plan.append((f"ACL on host chain {host.chain_id}", check))
        if "worker" in settings.roles:
            plan += await _core_and_buckets(stack, settings, chain)
        return [*found, *await _run(plan)]


async def _run(plan: Sequence[tuple[str, Examination]]) -> list[Finding]:
    """All examinations side by side; their findings in the order of the plan."""
    results: dict[int, Sequence[Finding]] = {}

    async def one(number: int, subject: str, examination: Examination) -> None:
        results[number] = await guarded(subject, examination, PATIENCE)

    async with trio.open_nursery() as nursery:
        for number, (subject, examination) in enumerate(plan):
            nursery.start_soon(one, number, subject, examination)
    return [finding for number in range(len(plan)) for finding in results[number]]


def _wallet(settings: Settings) -> tuple[Wallet | None, list[Finding]]:
    if "sender" not in settings.roles:
        return None, []
    try:
        return open_wallet(settings), []
    except WalletMisconfigured as mistake:
        return None, [error("transaction key", str(mistake), "Correct the configuration.")]


def _contracts(settings: Settings, chain: Chain) -> list[tuple[str, Examination]]:
    plan: list[tuple[str, Examination]] = [
        (key, partial(chains.contract, settings, chain, key, one)) for key, one in chains.contracts(settings).items()
    ]
    if settings.gateway_config_contract.address != NOWHERE and settings.host_chains:
        plan.append(("host chains", partial(chains.host_registered, settings, chain)))
    return plan


async def _wallet_plan(settings: Settings, chain: Chain, wallet: Wallet | None) -> list[tuple[str, Examination]]:
    plan: list[tuple[str, Examination]] = []
    address = None
    if wallet is not None:
        plan.append(("transaction key", partial(services.signing_key, wallet)))
        try:
            address = await wallet.learn_address()
            plan.append(("wallet", partial(chains.funds, settings, chain, address)))
        except DependencyDown:
            address = None  # the examination of the key says why
    if settings.gateway_config_contract.address != NOWHERE:
        plan.append(("gateway_config_contract", partial(chains.gateway_config, settings, chain, address)))
    return plan


async def _core_and_buckets(
    stack: AsyncExitStack, settings: Settings, chain: Chain | None
) -> list[tuple[str, Examination]]:
    plan: list[tuple[str, Examination]] = []
    try:
        shards = parse_shards(settings.kms_core_endpoints)
        core = await stack.enter_async_context(open_core(shards, tls=settings.kms_core_tls))
    except BadEndpoint as mistake:
        words = str(mistake)

        async def misconfigured() -> Sequence[Finding]:
            return [error("core", words, "Correct the configuration.")]

        return [("core", misconfigured)]
    for shard in shards:
        plan.append((f"core {shard.endpoint}", partial(services.core, core, shard, settings.healthcheck_timeout)))
    blobs = await stack.enter_async_context(open_blobs(settings))
    for url in dict.fromkeys((*await _registered_buckets(settings, chain), *settings.s3_fallback_urls)):
        plan.append((f"bucket {url}", partial(services.bucket, blobs, url)))
    return plan


async def _registered_buckets(settings: Settings, chain: Chain | None) -> Sequence[str]:
    """Buckets of the registered coprocessors; none when they cannot be asked (their own examination says so)."""
    address = settings.gateway_config_contract.address
    if chain is None or address == NOWHERE:
        return ()
    try:
        (senders,) = await ask(chain, address, views.GET_COPROCESSOR_TX_SENDERS, [()], settings.rpc_timeout)
        arguments = [(sender,) for sender in senders]
        found = await ask(chain, address, views.GET_COPROCESSOR, arguments, settings.rpc_timeout)
    except (ViewRefused, DependencyDown):
        return ()
    return [one.s3_bucket_url for one in found if one.s3_bucket_url]
