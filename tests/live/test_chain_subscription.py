"""Heads over a real WebSocket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from faulty_node import FaultySocket
from listener_world import CHAIN_ID, Chain, block_json

from kmsd.chain import subscription
from kmsd.chain.node import HttpNode
from kmsd.clock import SystemTime
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import DependencyDown


@pytest.fixture
async def socket() -> AsyncIterator[FaultySocket]:
    async with FaultySocket(CHAIN_ID).serving() as server:
        yield server


def _node(ws_url: str | None) -> HttpNode:
    return HttpNode("main", CHAIN_ID, ["http://127.0.0.1:1"], ws_url, Health(SystemTime()), Metrics())


async def test_heads_until_the_connection_ends(socket: FaultySocket) -> None:
    chain = Chain(3)
    heads = _node(socket.url).heads()
    assert heads is not None
    with trio.fail_after(10):
        async with heads as pushed:
            seen = []
            for _ in range(3):
                block = chain.mine()
                await socket.push(block_json(block))
                seen.append(await pushed.__anext__())
                assert seen[-1] == (block.number, block.hash, block.parent, block.bloom)
            await socket.cut()
            with pytest.raises(StopAsyncIteration):
                await pushed.__anext__()


def test_without_a_url_there_is_no_subscription() -> None:
    assert _node(None).heads() is None


@pytest.mark.guarantee("EV8")
async def test_another_chain_is_refused(socket: FaultySocket) -> None:
    socket.chain_id = 5
    heads = _node(socket.url).heads()
    assert heads is not None
    with pytest.raises(DependencyDown) as down:
        async with heads:
            pass
    assert f"it is on chain 5, but the configuration says {CHAIN_ID}" in str(down.value)
    assert "gateway node main" in str(down.value)
    assert "secret" not in str(down.value)
    assert "eth_subscribe" not in socket.asked


async def test_nobody_there_and_nobody_answering(socket: FaultySocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "CONNECT_TIMEOUT", 0.3)
    socket.mute = True
    for url in ("ws://127.0.0.1:1/secret", socket.url):
        heads = _node(url).heads()
        assert heads is not None
        with trio.fail_after(5), pytest.raises(DependencyDown) as down:
            async with heads:
                pass
        assert "secret" not in str(down.value)


async def test_a_quiet_connection_is_asked_for_life_and_a_dead_one_ends(
    socket: FaultySocket, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Awaitable[Any]]
) -> None:
    monkeypatch.setattr(subscription, "QUIET", 0.1)
    heads = _node(socket.url).heads()
    assert heads is not None
    with trio.fail_after(10):
        async with heads as pushed, trio.open_nursery() as nursery:
            ended = trio.Event()

            async def read() -> None:
                async for _ in pushed:
                    pass
                ended.set()

            nursery.start_soon(read)
            await eventually(lambda: socket.asked.count("eth_blockNumber") > 4, what="probes")
            assert not ended.is_set(), "answers are life"
            socket.mute = True
            await ended.wait()


@pytest.mark.parametrize("nonsense", ["<html>", "[]", '{"params":{"subscription":"0xs","result":{"number":7}}}'])
async def test_nonsense_ends_the_subscription(
    socket: FaultySocket, nonsense: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "QUIET", 0.1)
    heads = _node(socket.url).heads()
    assert heads is not None
    with trio.fail_after(10):
        async with heads as pushed:
            socket.raw_reply = nonsense
            with pytest.raises(StopAsyncIteration):
                await pushed.__anext__()


async def test_messages_larger_than_a_mebibyte(socket: FaultySocket) -> None:
    chain = Chain(1)
    heads = _node(socket.url).heads()
    assert heads is not None
    with trio.fail_after(10):
        async with heads as pushed:
            await socket.push({**block_json(chain.mine()), "withdrawals": ["x" * 1000] * 2000})
            assert (await pushed.__anext__()).number == 2


async def test_errors_of_the_body_are_its_own(socket: FaultySocket) -> None:
    heads = _node(socket.url).heads()
    assert heads is not None
    with pytest.raises(ZeroDivisionError):
        async with heads:
            raise ZeroDivisionError
