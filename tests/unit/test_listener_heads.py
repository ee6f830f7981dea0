"""When the listener looks: pushed heads, their filters, polling as the floor (decisions.md 37)."""

from collections.abc import Callable

import pytest
import trio
import trio.testing
from listener_world import World, crsgen_request, public_request, world

from kmsd.chain.bloom import Interest
from kmsd.listening.decoding import topics_of
from kmsd.operations.kinds import Kind, Stream


async def _latency(w: World, mine: Callable[[], object], *numbers: int, kind: Kind = Kind.PUBLIC_DECRYPTION) -> float:
    started = trio.current_time()
    mine()
    await w.stored(*numbers, kind=kind)
    return trio.current_time() - started


async def test_a_pushed_head_with_our_logs_is_read_at_once(autojump_clock: trio.testing.MockClock) -> None:
    w = world(pushes=True)
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        for number in range(1, 20):
            took = await _latency(w, lambda n=number: node.push(w.chain.mine(public_request(n))), *range(1, number + 1))
            assert took < 0.05
            await trio.sleep(0.05)


async def test_a_ceremony_does_not_wait_for_its_slow_polling(autojump_clock: trio.testing.MockClock) -> None:
    w = world(pushes=True, key_management_polling=60.0)
    async with w.listening():
        await w.read_up_to(10)
        assert await _latency(w, lambda: w.nodes[0].push(w.chain.mine(crsgen_request(1))), 1, kind=Kind.CRSGEN) < 0.05


async def test_heads_without_our_logs_are_read_once_a_second(autojump_clock: trio.testing.MockClock) -> None:
    w = world(pushes=True)
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        await trio.sleep(2)
        node.ranges.clear()
        for _ in range(400):
            node.push(w.chain.mine())
            await trio.sleep(0.05)
        # 20 s: one range a second for decryptions, one each 5 s for key management.
        assert 18 <= len(node.ranges) <= 28
        await w.read_up_to(w.chain.head - 20)


async def test_a_head_that_hides_others_or_has_no_filter_is_looked_at(autojump_clock: trio.testing.MockClock) -> None:
    w = world(pushes=True)
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        node.push(w.chain.mine())
        await trio.sleep(0.1)
        w.chain.mine(public_request(1))  # not pushed
        assert await _latency(w, lambda: node.push(w.chain.mine()), 1) < 0.05
        w.chain.mine(public_request(2))
        assert await _latency(w, lambda: node.push(w.chain.mine(), with_bloom=False), 1, 2) < 0.05


async def test_a_chain_without_filters_is_read_all_the_same(autojump_clock: trio.testing.MockClock) -> None:
    """Some chains leave the filter zero: one second of latency, no loss."""
    w = world(pushes=True)
    async with w.listening():
        await w.read_up_to(10)
        for number in range(1, 10):
            block = w.chain.mine(public_request(number))
            w.chain.blocks[-1] = empty = type(block)(**{**_fields(block), "bloom": bytes(256)})
            assert await _latency(w, lambda b=empty: w.nodes[0].push(b), *range(1, number + 1)) < 1.1


def _fields(block: object) -> dict[str, object]:
    return {name: getattr(block, name) for name in ("number", "hash", "parent", "timestamp", "logs", "bloom")}


async def test_polling_goes_on_when_the_subscription_ends_and_it_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    w = world(pushes=True)
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        node.cut_subscriptions()
        assert await _latency(w, lambda: w.chain.mine(public_request(1)), 1) < 1.5
        await trio.sleep(10)
        assert await _latency(w, lambda: node.push(w.chain.mine(public_request(2))), 1, 2) < 0.05
    assert w.metrics.value("kms_connector_node_subscriptions_lost", "main") == 1


async def test_a_subscription_that_says_nothing_costs_ten_seconds(autojump_clock: trio.testing.MockClock) -> None:
    w = world(pushes=True)
    async with w.listening():
        await w.read_up_to(10)
        await trio.sleep(20)
        assert await _latency(w, lambda: w.chain.mine(public_request(1)), 1) < 12


async def test_polling_asks_little_of_an_idle_node(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        await trio.sleep(5)
        before = w.nodes[0].batches
        await trio.sleep(60)
        assert w.nodes[0].batches - before <= 61


async def test_polling_finds_a_request_within_a_second(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        for number in range(1, 20):
            await trio.sleep(0.37)
            assert await _latency(w, lambda n=number: w.chain.mine(public_request(n)), *range(1, number + 1)) < 1.1


# ---------------------------------------------------------------------------------------------------------------------


def test_without_a_filter_every_block_is_of_interest() -> None:
    assert Interest(b"\1" * 20, [b"\2" * 32]).may_be_in(None)


@pytest.mark.parametrize("stream", list(Stream))
def test_a_filter_with_our_log_is_of_interest(stream: Stream) -> None:
    w = world()
    address = w.settings.decryption_contract if stream is Stream.DECRYPTION else w.settings.kms_generation_contract
    interest = Interest(address.address, topics_of(stream))
    ours = public_request(1) if stream is Stream.DECRYPTION else crsgen_request(1)
    theirs = crsgen_request(1) if stream is Stream.DECRYPTION else public_request(1)
    assert interest.may_be_in(w.chain.mine(ours).bloom)
    assert not interest.may_be_in(w.chain.mine(theirs).bloom)
    assert not interest.may_be_in(w.chain.mine().bloom)
