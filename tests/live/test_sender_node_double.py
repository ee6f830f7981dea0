"""The node double behind HTTP, and the sender on it: the rules that anvil does not follow, over a real connection."""

from typing import Any

import pytest
import trio
from sender_world import CHAIN_ID, PUBLIC_BASE, Chance, Clock, FixedOwnership, World

from kmsd.chain.chain import Chain
from kmsd.chain.node import HttpNode
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.ports import RpcCall
from kmsd.sandbox.node_double_pool import Rules
from kmsd.sandbox.node_double_server import NodeDoubleServer
from kmsd.sender import Sender


def over_http(world: World, url: str) -> tuple[Sender, HttpNode]:
    node = HttpNode("double", CHAIN_ID, [url], None, world.health, Metrics())
    sender = Sender(
        world.settings,
        world.store,  # type: ignore[arg-type]
        FixedOwnership(),  # type: ignore[arg-type]
        world.wakeups,
        Chain([node], world.health),
        world.wallet,
        world.metrics,  # type: ignore[arg-type]
        world.health,
        Clock(),
        Chance(),
    )
    return sender, node


@pytest.mark.guarantee("TX2")
@pytest.mark.parametrize("rules", list(Rules))
async def test_sender_over_http_by_either_rules(rules: Rules) -> None:
    world = World(rules, database_polling_timeout=0.2)
    for i in range(400):
        world.store.add(Kind.PUBLIC_DECRYPTION, PUBLIC_BASE + i)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(NodeDoubleServer(world.chain, 0.25).run)
        sender, _ = over_http(world, url)
        nursery.start_soon(sender.run)
        await world.until(world.all_completed, timeout=60)
        world.store.add(Kind.USER_DECRYPTION, PUBLIC_BASE + 1000)
        await world.until(world.all_completed, timeout=10)
        nursery.cancel_scope.cancel()
    world.check_votes(401)
    world.check_one_calldata_per_nonce()
    assert len(world.store.journal) == 401


async def test_directions_and_errors_over_http() -> None:
    world = World()

    async def ask(node: HttpNode, method: str, *params: Any) -> Any:
        (answer,) = await node.batch([RpcCall(method, params)], deadline=5)
        return answer.error if answer.error is not None else answer.result

    async with trio.open_nursery() as nursery:
        url = await nursery.start(NodeDoubleServer(world.chain, None).run)
        _, node = over_http(world, url)
        assert await ask(node, "eth_blockNumber") == "0x0"
        await ask(node, "double_mine", 3)
        assert await ask(node, "eth_blockNumber") == "0x3"
        await ask(node, "double_setBaseFee", 777)
        await ask(node, "double_setBalance", "0x" + "01" * 20, "5")
        assert await ask(node, "eth_getBalance", "0x" + "01" * 20, "latest") == "0x5"
        before = await ask(node, "eth_getBlockByNumber", "0x2", False)
        await ask(node, "double_reorganise", 2)
        after = await ask(node, "eth_getBlockByNumber", "0x2", False)
        assert before["hash"] != after["hash"]
        assert (await ask(node, "eth_unknown")).code == -32601
        assert (await ask(node, "eth_sendRawTransaction", "0x02c0")).code == -32000
        assert (await ask(node, "eth_getBalance")).code == -32602
        calls = await ask(node, "double_calls")
        assert calls["eth_blockNumber"] == 2
        nursery.cancel_scope.cancel()
