"""Makes the tools of the flows from settings and ports, and runs what of them needs a task."""

from collections.abc import Mapping

import trio

from kmsd.blobs.budget import ByteBudget
from kmsd.blobs.ciphertexts import Ciphertexts
from kmsd.blobs.registry import BucketRegistry
from kmsd.chain.access import Access
from kmsd.chain.chain import Chain
from kmsd.config import Contract, Settings, host_chain_map
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import Traces
from kmsd.operations.core_desk import CoreDesk
from kmsd.operations.gateway import GatewayQuestions
from kmsd.operations.grants import Grants
from kmsd.operations.keys import Keys
from kmsd.operations.tools import Tools
from kmsd.operations.transitions import Transitions
from kmsd.ports import Blobs, Core, Entropy, Store, Time
from kmsd.wakeups import WakeUps
from kmsd.wire.eip712 import Domain


class Toolbox:
    """The tools of one worker. `run()` must be running while flows use them."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        wakeups: WakeUps,
        core: Core,
        blobs: Blobs,
        gateway: Chain,
        hosts: Mapping[int, Chain],
        metrics: Metrics,
        health: Health,
        time: Time,
        entropy: Entropy,
        traces: Traces,
    ) -> None:
        decryption = _domain(settings.decryption_contract, settings.gateway_chain_id)
        desk = CoreDesk(core, settings.kms_signer_address, metrics, health)
        questions = GatewayQuestions(gateway, settings, time)
        access = Access(
            gateway=gateway,
            hosts=hosts,
            acls={chain_id: chain.acl_address for chain_id, chain in host_chain_map(settings).items()},
            decryption=decryption,
            gateway_deadline=settings.rpc_timeout,
            host_deadline=settings.host_rpc_call_timeout,
            host_concurrency=settings.host_rpc_max_concurrent_calls,
            metrics=metrics,
            health=health,
        )
        registry = BucketRegistry(
            questions.bucket_urls, refresh=settings.copro_registry_refresh, metrics=metrics, time=time
        )
        budget = ByteBudget(settings.ciphertext_memory)
        ciphertexts = Ciphertexts(
            blobs,
            registry,
            budget,
            fallback_urls=settings.s3_fallback_urls,
            limit=settings.s3_max_ciphertext_size,
            patience=settings.s3_get_timeout,
            metrics=metrics,
            health=health,
        )
        transitions = Transitions(store, metrics, health, entropy)
        self.tools = Tools(
            settings=settings,
            store=store,
            core=desk,
            access=access,
            grants=Grants(),
            ciphertexts=ciphertexts,
            gateway=questions,
            keys=Keys(store, desk, questions, settings.healthcheck_timeout, refuse=settings.forbidden_key == "fail"),
            transitions=transitions,
            decryption=decryption,
            kms_generation=_domain(settings.kms_generation_contract, settings.gateway_chain_id),
            wakeups=wakeups,
            metrics=metrics,
            health=health,
            time=time,
            entropy=entropy,
            traces=traces,
        )
        self._services = (access.run, questions.run, registry.run, transitions.run)

        def publish() -> None:
            metrics.set("kms_connector_ciphertext_budget_used_bytes", float(budget.used))
            metrics.set("kms_connector_ciphertext_budget_limit_bytes", float(budget.limit))
            metrics.set("kms_connector_ciphertext_budget_waiting", float(budget.waiting))

        metrics.on_read(publish)

    async def run(self) -> None:
        """Flush the coalescers and refresh the registry, for ever."""
        async with trio.open_nursery() as nursery:
            for service in self._services:
                nursery.start_soon(service)


def _domain(contract: Contract, chain_id: int) -> Domain:
    """The EIP-712 domain of a contract's answers."""
    return Domain(contract.domain_name, contract.domain_version, chain_id, contract.address)
