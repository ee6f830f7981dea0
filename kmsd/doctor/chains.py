"""The doctor's look at nodes and contracts."""

from collections.abc import Mapping, Sequence

from kmsd.chain.chain import Chain
from kmsd.chain.jsonrpc import BadAnswer, block, data, quantity, to_data, to_quantity
from kmsd.chain.views import ViewRefused, ask, eip712_domain, kms_node
from kmsd.config import NOWHERE, Contract, Settings
from kmsd.doctor.findings import Finding, error, ok, warning
from kmsd.ports import DependencyDown, Node, RpcCall, Time
from kmsd.sending.funds import LOW_RESPONSES, USUAL_GAS
from kmsd.wire.addresses import to_checksum
from kmsd.wire.v0_11 import views

OLD_HEAD = 120.0
"""Seconds that a node's newest block may be old before its clock, ours, or the node is suspected."""
AHEAD = 15.0
"""Seconds that a block may come from the future."""


async def node(settings: Settings, one: Node, subject: str, time: Time) -> Sequence[Finding]:
    """Chain id (checked on connecting), head, the clocks, and a range of logs if the listener will ask for some."""
    answers = await one.batch(
        (RpcCall("eth_chainId", ()), RpcCall("eth_getBlockByNumber", ("latest", False))), deadline=settings.rpc_timeout
    )
    try:
        chain_id = quantity(answers[0].result)
        latest = block(answers[1].result)
    except BadAnswer as bad:
        return [error(subject, f"answers nonsense: {bad}", "Is this the URL of a JSON-RPC endpoint?")]
    if latest is None:
        return [error(subject, "has no latest block", "The node is still starting or broken.")]
    age = time.now() - latest.timestamp
    words = f"chain {chain_id}, block {latest.number}, {age:.0f} s old"
    if age < -AHEAD:
        return [error(subject, words, "The block is from the future: correct this machine's clock (NTP).")]
    if age > OLD_HEAD:
        return [warning(subject, words, "The node lags or the chain is quiet; compare with a block explorer.")]
    return [ok(subject, words)]


async def logs(settings: Settings, one: Node, subject: str) -> Sequence[Finding]:
    """Does the node serve logs of our contracts over a whole range?"""
    (head,) = await one.batch((RpcCall("eth_blockNumber", ()),), deadline=settings.rpc_timeout)
    to_block = quantity(head.result)
    from_block = max(0, to_block - settings.get_logs_batch_size + 1)
    wanted = {
        "address": [
            to_data(settings.decryption_contract.address),
            to_data(settings.kms_generation_contract.address),
        ],
        "fromBlock": to_quantity(from_block),
        "toBlock": to_quantity(to_block),
    }
    (answer,) = await one.batch((RpcCall("eth_getLogs", (wanted,)),), deadline=settings.rpc_timeout)
    size = to_block - from_block + 1
    if answer.error is not None:
        return [
            warning(
                subject,
                f"refuses logs of {size} blocks (code {answer.error.code})",
                "kmsd asks for fewer by itself; lower get_logs_batch_size to spare it the tries.",
            )
        ]
    return [ok(subject, f"{len(answer.result)} logs of our contracts in the last {size} blocks")]


async def heads(one: Node, subject: str) -> Sequence[Finding]:
    """Can we subscribe to new heads?"""
    subscription = one.heads()
    if subscription is None:
        return [ok(subject, "no ws_url: polling only")]
    async with subscription:
        return [ok(subject, "subscribed to new heads")]


async def contract(settings: Settings, chain: Chain, key: str, configured: Contract) -> Sequence[Finding]:
    """Is there code at the address, and does its EIP-712 domain agree with ours?"""
    subject = f"{key} {to_checksum(configured.address)}"
    (code,) = await chain.batch(
        (RpcCall("eth_getCode", (to_data(configured.address), "latest")),), deadline=settings.rpc_timeout
    )
    if code.error is not None or not data(code.result):
        return [error(subject, "no contract lives there", f"Correct {key}.address, or the nodes' chain.")]
    try:
        domain = await eip712_domain(chain, configured.address, deadline=settings.rpc_timeout)
    except ViewRefused as refused:
        return [error(subject, str(refused), f"Another contract lives at {key}.address?")]
    expected = (configured.domain_name, configured.domain_version, settings.gateway_chain_id, configured.address)
    found = (domain.name, domain.version, domain.chain_id, domain.verifying_contract)
    if expected != found:
        return [
            error(
                subject,
                f"its EIP-712 domain is {domain.name!r} version {domain.version!r} on chain {domain.chain_id} at "
                f"{to_checksum(domain.verifying_contract)}",
                f"Set {key}.domain_name, domain_version and gateway_chain_id so; else every signature is refused.",
            )
        ]
    return [ok(subject, f"EIP-712 domain {domain.name!r} version {domain.version!r}")]


async def gateway_config(settings: Settings, chain: Chain, wallet: bytes | None) -> Sequence[Finding]:
    """Is this party registered, with which signer; are there coprocessors with buckets?"""
    address = settings.gateway_config_contract.address
    subject = f"gateway_config_contract {to_checksum(address)}"
    try:
        (senders,) = await ask(chain, address, views.GET_COPROCESSOR_TX_SENDERS, [()], settings.rpc_timeout)
        found = [*await _buckets(settings, chain, address, senders)]
        if wallet is not None:
            found += await _registration(settings, chain, address, wallet)
    except ViewRefused as refused:
        return [error(subject, str(refused), "Correct gateway_config_contract.address.")]
    return found


async def _buckets(settings: Settings, chain: Chain, address: bytes, senders: Sequence[bytes]) -> Sequence[Finding]:
    arguments = [(sender,) for sender in senders]
    registered = await ask(chain, address, views.GET_COPROCESSOR, arguments, settings.rpc_timeout) if arguments else []
    without = [to_checksum(one.tx_sender_address) for one in registered if not one.s3_bucket_url]
    if not registered:
        return [error("coprocessors", "none is registered", "Is gateway_config_contract the right one?")]
    if without:
        return [warning("coprocessors", f"no bucket known of {', '.join(without)}", "Tell their operators.")]
    return [ok("coprocessors", f"{len(registered)} with buckets: {', '.join(one.s3_bucket_url for one in registered)}")]


async def _registration(settings: Settings, chain: Chain, address: bytes, wallet: bytes) -> Sequence[Finding]:
    subject = f"registration of {to_checksum(wallet)}"
    node = await kms_node(chain, address, wallet, deadline=settings.rpc_timeout)
    if node is None:
        return [
            error(
                subject,
                "this wallet is not registered as a KMS node",
                "Have it registered in GatewayConfig, or configure the registered wallet's key. Responses wait.",
            )
        ]
    signer = to_checksum(node.signer_address)
    if settings.kms_signer_address not in (None, node.signer_address):
        return [
            error(
                subject,
                f"registered with signer {signer}, kms_signer_address is {to_checksum(settings.kms_signer_address)}",
                "Correct kms_signer_address, or have the registration changed.",
            )
        ]
    return [ok(subject, f"registered, signer {signer}")]


async def funds(settings: Settings, chain: Chain, wallet: bytes) -> Sequence[Finding]:
    """Is there enough for some time, and is nothing stuck?"""
    subject = f"wallet {to_checksum(wallet)}"
    calls = [
        RpcCall("eth_getBalance", (to_data(wallet), "latest")),
        RpcCall("eth_gasPrice", ()),
        RpcCall("eth_getTransactionCount", (to_data(wallet), "latest")),
        RpcCall("eth_getTransactionCount", (to_data(wallet), "pending")),
    ]
    answers = await chain.batch(calls, deadline=settings.rpc_timeout)
    balance, price, mined = (quantity(answer.result) for answer in answers[:3])
    pending = quantity(answers[3].result) if answers[3].error is None else mined
    left = balance // max(1, USUAL_GAS * 2 * price)  # a node asks for limit × highest fee, which is twice today's
    words = f"{balance / 1e18:.6g} ETH, enough for some {left} responses at the fees that a node reckons with today"
    found = []
    if balance == 0:
        found.append(error(subject, "has no funds", "Fund it: every response is a transaction."))
    elif left < LOW_RESPONSES:
        found.append(warning(subject, words, "Fund it before it is empty; a node asks for limit × fee in advance."))
    else:
        found.append(ok(subject, words))
    waiting = pending - mined
    nonces = f"nonce {mined}" + (f", {waiting} transactions wait to be mined" if waiting > 0 else "")
    found.append(ok(f"{subject} nonces", nonces))
    return found


async def host_acl(settings: Settings, hosts: Mapping[int, Chain], chain_id: int, acl: bytes) -> Sequence[Finding]:
    """Does the ACL contract of a host chain answer?"""
    subject = f"ACL {to_checksum(acl)} on host chain {chain_id}"
    try:
        await ask(hosts[chain_id], acl, views.IS_ALLOWED_FOR_DECRYPTION, [(bytes(32),)], settings.host_rpc_call_timeout)
    except ViewRefused as refused:
        return [error(subject, str(refused), f"Correct acl_address of host chain {chain_id}.")]
    return [ok(subject, "answers")]


async def host_registered(settings: Settings, chain: Chain) -> Sequence[Finding]:
    """Are the configured host chains those of the Gateway?"""
    address = settings.gateway_config_contract.address
    try:
        (registered,) = await ask(chain, address, views.GET_HOST_CHAINS, [()], settings.rpc_timeout)
    except (ViewRefused, DependencyDown):
        return []  # GatewayConfig's own examination says why
    known = {one.chain_id for one in registered}
    configured = {one.chain_id for one in settings.host_chains}
    found = [
        error(
            f"host chain {chain_id}",
            "registered at the Gateway and not configured",
            "Add it to host_chains: decryptions of its handles wait.",
        )
        for chain_id in sorted(known - configured)
    ]
    found += [
        warning(f"host chain {chain_id}", "configured and not registered at the Gateway", "Remove it, or wait for it.")
        for chain_id in sorted(configured - known)
    ]
    return found or [ok("host chains", f"{', '.join(map(str, sorted(known)))} as registered at the Gateway")]


def contracts(settings: Settings) -> Mapping[str, Contract]:
    """The contracts whose domain matters, by key."""
    found = {
        "decryption_contract": settings.decryption_contract,
        "kms_generation_contract": settings.kms_generation_contract,
    }
    return {key: one for key, one in found.items() if one.address != NOWHERE}
