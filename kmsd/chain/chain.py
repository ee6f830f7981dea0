"""The nodes of one chain as one thing to ask: whichever node answers, answers.

For questions whose answer any node may give (views, receipts, fees, sending). Reading logs is not one of them: the
listener asks each node by itself (decisions.md 7). A node that answers nothing but errors is passed over like one that
does not answer, unless all do so.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from kmsd.chain.jsonrpc import BadAnswer, data, to_data
from kmsd.observe.health import Health
from kmsd.ports import DependencyDown, Node, RpcAnswer, RpcCall

T = TypeVar("T")

REVERTED = 3
"""Code of an error that says how a call was reverted."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds that a node is asked after the others once it did not answer, doubling with each time."""


class Chain:
    """A group of nodes of one chain with failover; one node as well as several.

    `name` is how an error calls the group when several nodes are down; one node alone speaks for itself.
    """

    def __init__(self, nodes: Sequence[Node], health: Health, *, name: str | None = None) -> None:
        """Raises ValueError without nodes, or with nodes of different chains."""
        chain_ids = {node.chain_id for node in nodes}
        if len(chain_ids) != 1:
            raise ValueError(f"a chain needs nodes of one chain id, not {len(chain_ids)}")
        self._nodes = tuple(nodes)
        self._health = health
        self.chain_id = self._nodes[0].chain_id
        self.name = name or f"chain {self.chain_id}"
        self._paused_until = [-math.inf] * len(self._nodes)
        self._faults = [0] * len(self._nodes)

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes in configured order."""
        return self._nodes

    async def batch(
        self, calls: Sequence[RpcCall], *, deadline: float, prefer: str | None = None, avoid: str | None = None
    ) -> Sequence[RpcAnswer]:
        """Answers to `calls` in their order, all from one node, within `deadline` seconds.

        The node named `prefer` is asked first and the one named `avoid` last. Raises DependencyDown when none answers.
        """
        return await self._ask(calls, lambda answers: answers, deadline, prefer, avoid)

    async def read(self, calls: Sequence[RpcCall], read: Callable[[Sequence[RpcAnswer]], T], *, deadline: float) -> T:
        """What `read` makes of the answers of one node; a node whose answers it refuses by BadAnswer is passed over.

        Raises DependencyDown when no node answers usably within `deadline` seconds.
        """
        return await self._ask(calls, read, deadline, None, None)

    async def call_views(
        self,
        calls: Sequence[tuple[bytes, bytes]],
        *,
        deadline: float,
        block: str | int = "latest",
        prefer: str | None = None,
        avoid: str | None = None,
    ) -> Sequence[RpcAnswer]:
        """`eth_call` of each (contract address, calldata) at `block`: return data as bytes, or the call's own error.

        A node that answers with something else than data is passed over like one that does not answer.
        """
        tag = block if isinstance(block, str) else hex(block)
        requests = [RpcCall("eth_call", ({"to": to_data(to), "data": to_data(code)}, tag)) for to, code in calls]
        return await self._ask(requests, _return_data, deadline, prefer, avoid)

    def order(self, prefer: str | None = None, avoid: str | None = None) -> Sequence[int]:
        """Indices of the nodes in the order in which they would be asked now."""
        now = trio.current_time()

        def rank(index: int) -> tuple[bool, bool, float]:
            pause = self._paused_until[index]
            name = self._nodes[index].name
            return name == avoid, name != prefer, pause if pause > now else -math.inf

        return sorted(range(len(self._nodes)), key=rank)

    async def _ask(
        self,
        calls: Sequence[RpcCall],
        read: Callable[[Sequence[RpcAnswer]], T],
        deadline: float,
        prefer: str | None,
        avoid: str | None,
    ) -> T:
        end = trio.current_time() + deadline
        order = self.order(prefer, avoid)
        downs: list[DependencyDown] = []
        refusals: list[tuple[int, Sequence[RpcAnswer]]] = []
        for left, index in zip(range(len(order), 0, -1), order, strict=True):
            node = self._nodes[index]
            share = max(0.0, end - trio.current_time()) / left
            try:
                answers = await node.batch(calls, deadline=share)
                if _refuses_all(answers) and len(order) > 1:
                    refusals.append((index, answers))
                    continue
                result = read(answers)
            except DependencyDown as down:
                downs.append(down)
            except BadAnswer as bad:
                downs.append(DependencyDown(f"node {node.name}", str(bad)))
            else:
                self._faults[index], self._paused_until[index] = 0, -math.inf
                for refusing, _ in refusals:
                    self._pause(refusing)
                if len(self._nodes) > 1:
                    self._health.ok(self.name)
                return result
            self._pause(index)
        for index, answers in refusals:  # nobody knows better: so it may be the questions
            try:
                return read(answers)
            except BadAnswer as bad:
                downs.append(DependencyDown(f"node {self._nodes[index].name}", str(bad)))
        if len(downs) == 1:
            raise downs[0]
        detail = "; ".join(f"{down.name}: {down.detail}" for down in downs)
        self._health.fault(self.name, detail)
        raise DependencyDown(self.name, detail)

    def _pause(self, index: int) -> None:
        """Ask this node after the others for a while."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._faults[index], 10))
        self._faults[index] += 1
        self._paused_until[index] = trio.current_time() + pause


def _refuses_all(answers: Sequence[RpcAnswer]) -> bool:
    """Every answer is an error that is no revert: so perhaps the node is not well, whatever the questions are."""
    return bool(answers) and all(
        answer.error is not None and answer.error.code != REVERTED and not answer.error.data for answer in answers
    )


def _return_data(answers: Sequence[RpcAnswer]) -> Sequence[RpcAnswer]:
    return [
        answer if answer.error is not None else RpcAnswer(data(answer.result, None, "return data"))
        for answer in answers
    ]
