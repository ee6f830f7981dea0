"""Background checks: asks each node and each Core shard now and then, so that health knows of what nobody uses.

A dependency that was heard of within the interval is not asked: traffic is the best check. The database is asked by
`gauges.py`; buckets are judged by the worker's downloads.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import trio

from kmsd.config import Settings
from kmsd.core.methods import HEALTH_REQUEST
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import Core, CoreMethod, DependencyDown, Node, RpcCall, Shard, StatusCode

log = logging.getLogger("kmsd.probes")

SERVING = 1
"""`SERVING` of grpc.health.v1."""
BLOCK_NUMBER = (RpcCall("eth_blockNumber", ()),)


def core_dependency(shard: Shard) -> str:
    """The name of a shard as a dependency."""
    return f"core {shard.endpoint}"


class Probes:
    """One loop for each dependency, so that one that hangs delays no other."""

    def __init__(
        self,
        settings: Settings,
        gateway: Sequence[Node],
        hosts: Mapping[int, Sequence[Node]],
        core: Core,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._interval = settings.healthcheck_interval
        self._deadline = settings.healthcheck_timeout
        self._core = core
        self._metrics = metrics
        self._health = health
        self._probes: dict[str, Callable[[], Awaitable[None]]] = {
            f"gateway node {node.name}": partial(self._node, node) for node in gateway
        }
        if "worker" in settings.roles:
            for chain_id, nodes in hosts.items():
                self._probes |= {f"host chain {chain_id}": partial(self._node, node) for node in nodes}
            self._probes |= {core_dependency(shard): partial(self._shard, shard) for shard in core.shards}
        for name in self._probes:
            health.expect(name)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            for name, probe in self._probes.items():
                nursery.start_soon(self._every_interval, name, probe)

    async def _every_interval(self, name: str, probe: Callable[[], Awaitable[None]]) -> None:
        while True:
            known = self._health.dependencies.get(name)
            heard = known.last_report if known is not None else None
            if heard is None or self._health.now() - heard >= self._interval:
                await probe()
            await trio.sleep(self._interval)

    async def _node(self, node: Node) -> None:
        """The node reports by itself whether it answers."""
        try:
            await node.batch(BLOCK_NUMBER, deadline=self._deadline)
        except DependencyDown as down:
            log.debug("probe: %s", down)

    async def _shard(self, shard: Shard) -> None:
        """Any OK answer of the health protocol means reachable; NOT_SERVING means degraded, never down (design)."""
        name = core_dependency(shard)
        answer = await self._core.call(shard, CoreMethod.HEALTH, HEALTH_REQUEST, deadline=self._deadline)
        serving = answer.status is StatusCode.OK and int(answer.message.status) == SERVING
        self._metrics.set("kms_connector_core_serving", float(serving), shard.endpoint)
        if answer.status in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED):
            self._health.fault(name, f"{answer.status.name} {answer.detail}".rstrip())
        else:
            self._health.ok(name)
